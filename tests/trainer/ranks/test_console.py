"""Names and texts of others on a terminal: neither rich nor the terminal obeys them."""

import ast
import io
import re
from pathlib import Path

import pytest
from rich.progress import Progress
from rich.style import Style
from rich.table import Table
from rich.text import Text

from tracestill.trainer.ranks.console import Terminal, plain_column, say

ROOT = Path(__file__).parents[3]
HOSTILE = "[red]x[/red] [/] [link=http://x]y :smile: \x1b[2J\x9b1m\u202e"
SHOWN = "[red]x[/red] [/] [link=http://x]y :smile: \\x1b[2J\\x9b1m\\u202e"


def terminal(**more):
    return Terminal(file=io.StringIO(), width=200, **more)


@pytest.mark.parametrize("make", [str, Text, lambda text: Text.assemble((text, "bold"), " and more")])
@pytest.mark.parametrize("colours", [True, False])
def test_a_line(make, colours):
    console = terminal(force_terminal=colours, color_system=None)
    console.print(make(HOSTILE), soft_wrap=True)
    assert console.file.getvalue().startswith(SHOWN)


def test_a_table_and_its_headings():
    console = terminal()
    table = Table(HOSTILE, title=HOSTILE, box=None)
    table.add_row(HOSTILE)
    console.print(table)
    assert console.file.getvalue().replace(" ", "").count(SHOWN.replace(" ", "")) == 3


def test_a_bar_and_a_status():
    console = terminal(force_terminal=True, color_system=None)
    with Progress(plain_column("{task.description}"), console=console) as progress:
        progress.add_task(HOSTILE)
    with console.status(Text(HOSTILE)):
        pass
    assert "[red]x[/red]" in console.file.getvalue()
    assert "\x1b[2J\x9b" not in console.file.getvalue()


def test_a_style_that_is_a_link_and_a_title():
    console = terminal(force_terminal=True, color_system="truecolor", _environ={})
    console.print(Text("here", Style(link="http://x\x1b\\\x1b[2J", color="red")))
    assert console.file.getvalue() == "\x1b[31mhere\x1b[0m\n"
    console = terminal(force_terminal=True, _environ={"TERM": "xterm"})
    console.set_window_title("name\x07\x1b[2J")
    assert console.file.getvalue() == "\x1b]0;name\\x07\\x1b[2J\x07"


def test_a_plain_print(capsys):
    say(HOSTILE)
    say(HOSTILE, err=True, end="")
    assert capsys.readouterr() == (SHOWN + "\n", SHOWN)


# rich reads markup in the first four; Control and from_ansi hold what a terminal obeys
FORBIDDEN = {"Console", "TextColumn", "Panel", "from_markup", "echo", "Control", "from_ansi"}
HARMLESS = {  # prints of constants, and of answers to our own processes
    *("collective.py", "end_run.py", "probe.py", "rehearsal.py", "recipe_keys.py", "stopping.py", "template_worker.py"),
}


def faults(path):
    """Calls in a file by which a text of others could reach a terminal as it is."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        said, plain = ast.unparse(node), isinstance(node.func, ast.Name)
        name = node.func.id if plain else getattr(node.func, "attr", "")
        if name == "echo" and "importlib.metadata" in said:  # our version
            continue
        printed = plain and name == "print" and path.name not in HARMLESS
        bar = name == "Progress" and "console=" in said and "*columns" not in said  # its own columns read markup
        status = name == "status" and "console" in said and not re.search(r"status\((Text\(|'[a-z ]*'\))", said)
        if name in FORBIDDEN or printed or bar or status or "markup=True" in said:
            yield f"{path.name}: {said}"


def test_nothing_reaches_a_terminal_another_way():
    files = [path for folder in ("data_pipeline", "trainer", "launch") for path in (ROOT / folder).rglob("*.py")]
    assert [fault for path in files if path != ROOT / "trainer/ranks/console.py" for fault in faults(path)] == []
