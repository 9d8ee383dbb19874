"""Chat templates of strangers: whatever one does, it ends within its limits, and the error says what it did."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import chat_templates as made
import pytest
from encode_cases import KINDS, record

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.documents import chat_template, template_process
from tracestill.data_pipeline.documents.ask import AskLayout
from tracestill.data_pipeline.documents.chat import ChatLayout
from tracestill.data_pipeline.documents.encode import load_layout
from tracestill.data_pipeline.documents.template_process import Asked, Failed, Limits, render
from tracestill.data_pipeline.tokens.layout import LayoutConfig

ASKED = [Asked([{"role": "user", "content": "1 + 1?"}], True, {})]
FILE = Path("some/chat_template.jinja")
LOOPS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"


@pytest.fixture
def small(monkeypatch):
    """Limits that are soon reached."""
    monkeypatch.setattr(template_process, "LIMITS", Limits(cpu_seconds=1, memory_mib=256, characters=10_000))


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (LOOPS, "computes for more than 1 s of the CPU, on one of 1 conversations"),
        ("{{ 10**(10**9) }}", "computes for more than 1 s of the CPU, while it is compiled"),
    ],
    ids=["nested loops", "a power"],
)
def test_a_template_that_does_not_end_is_ended(small, source, said) -> None:
    begun = time.monotonic()
    with pytest.raises(InputError, match=f"some/chat_template.jinja: the chat template {said}"):
        render(FILE, source, ASKED if "compiled" not in said else ())
    assert time.monotonic() - begun < 20
    assert render(FILE, "{{ messages[0].content }}", ASKED).results == ["1 + 1?"], "the next one is served"


@pytest.mark.parametrize(
    ("source", "error", "said"),
    [
        ("\n{{ 1/0 }}", "ZeroDivisionError", "division by zero"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError", "recursion"),
        ("{{ nothing.at.all }}", "UndefinedError", "'nothing' is undefined"),
        ("{{ raise_exception('no system here') }}", "TemplateError", "no system here"),
        ("{{ messages.__class__.__mro__ }}", "SecurityError", "unsafe"),
        ("{{ range(10**7) | list }}", "OverflowError", "too big"),
        ("{{ 'a' * 10**5 * (messages | length) }}", "TooLong", "writes more than 10,000 characters"),
        ("{% for i in range(9999) %}abc{% endfor %}", "TooLong", "writes more than 10,000 characters"),
        ("{{ 'a' * 10**10 * (messages | length) }}", "MemoryError", "it needs more than 256 MiB"),
        ("{{ messages[0].content | int + 'a' }}", "TypeError", "unsupported operand"),
        ("{{ '%c' % 99999999 * (messages | length) }}", "OverflowError", "%c"),
    ],
)
def test_what_a_template_raises_is_told_by_name(small, source, error, said) -> None:
    (found,) = render(FILE, source, ASKED).results
    assert isinstance(found, Failed)
    assert found.error == error
    assert said in found.text
    if source.startswith("\n"):
        assert str(found) == "ZeroDivisionError: division by zero, line 2"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("one\n{% if", "TemplateSyntaxError: .*line 2"),
        ("{{ messages | no_such_filter }}", "no_such_filter"),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "RecursionError|ended the process"),
        ("a" * (template_process.SOURCE_BYTES + 1), "expected at most"),
    ],
    ids=["syntax", "filter", "nesting", "size"],
)
def test_a_template_that_cannot_be_compiled_is_refused_by_name(small, source, said) -> None:
    with pytest.raises(InputError, match=said) as caught:
        render(FILE, source, ASKED)
    assert str(caught.value).startswith(str(FILE))
    assert "\n" not in str(caught.value)


def test_one_process_serves_all_and_sees_no_secret(monkeypatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "canary-55")
    template_process.stop()
    assert render(FILE, "{{ messages[0].role }}", ASKED * 3).results == ["user"] * 3
    first = template_process._process.running.pid
    assert b"canary-55" not in Path(f"/proc/{first}/environ").read_bytes()
    assert render(FILE, "{{ messages[0].content }}", ASKED).results == ["1 + 1?"]
    assert template_process._process.running.pid == first
    os.kill(first, 9)
    template_process._process.running.wait()
    assert render(FILE, "{{ messages[0].content }}", ASKED).results == ["1 + 1?"]
    assert template_process._process.running.pid != first


def test_a_process_that_does_not_start_is_told(monkeypatch) -> None:
    template_process.stop()
    monkeypatch.setattr(template_process, "PACKAGES", ())
    with pytest.raises(InputError, match=r"template_worker.py .* does not start \(ended .*exit code 1"):
        render(FILE, "{{ messages[0].role }}", ASKED)
    monkeypatch.undo()
    assert render(FILE, "{{ messages[0].role }}", ASKED).results == ["user"]


def test_text_comes_back_as_it_was_given() -> None:
    text = 'é漢😀\ud800 \u2028 \x00 "quoted" \\ \n\t {{ x }}'
    asked = [Asked([{"role": "user", "content": text}], False, {"flag": True, "bos_token": "<s>"})]
    source = "{{ bos_token }}{{ messages[0].content }}{{ messages | tojson }}{{ flag }}"
    wanted = f"<s>{text}" + json.dumps([{"role": "user", "content": text}], ensure_ascii=False) + "True"
    assert render(FILE, source, asked).results == [wanted]


def test_long_texts_go_in_portions(monkeypatch) -> None:
    monkeypatch.setattr(template_process, "REQUEST_CHARACTERS", 100)
    texts = ["a" * 60, "b" * 60, "c" * 300, "d", "e"]
    asked = [Asked([{"role": "user", "content": text}], True, {}) for text in texts]
    assert [len(part) for part in template_process.portions(asked)] == [1, 1, 1, 2]
    assert render(FILE, "{{ messages[0].content }}", asked).results == texts


def test_a_forked_child_has_a_process_of_its_own() -> None:
    render(FILE, "{{ messages[0].content }}", ASKED)
    before = template_process._process.running.pid
    child = os.fork()
    if child == 0:
        good = template_process._process is None and render(FILE, "{{ messages[0].content }}", ASKED).results == [
            "1 + 1?"
        ]
        own = template_process._process.running.pid
        template_process.stop()
        os._exit(0 if good and own != before else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert render(FILE, "{{ messages[0].content }}", ASKED).results == ["1 + 1?"]
    assert template_process._process.running.pid == before


@pytest.fixture
def stopped(monkeypatch):
    """The process stands still, as where a machine is far too busy."""
    template_process.stop()
    render(FILE, "{{ messages[0].content }}", ASKED)
    pid = template_process._process.running.pid
    os.kill(pid, signal.SIGSTOP)
    yield pid
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


LONG = [Asked([{"role": "user", "content": "x" * (1 << 20)}], True, {})]  # more than a pipe holds


def test_a_child_forked_while_a_request_is_written_has_a_process_of_its_own_too(stopped) -> None:
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.extend(render(FILE, "{{ messages[0].content }}", LONG).results))
    thread.start()
    time.sleep(0.2)  # it waits until the pipe takes the rest
    child = os.fork()
    if child == 0:
        good = render(FILE, "{{ messages[0].content }}", ASKED).results == ["1 + 1?"]
        template_process.stop()
        os._exit(0 if good else 1)
    killer = threading.Timer(15, os.kill, [child, signal.SIGKILL])  # it hung in the fork itself
    killer.start()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    killer.cancel()
    os.kill(stopped, signal.SIGCONT)
    thread.join(20)
    assert code == 0
    assert found == ["x" * (1 << 20)], "and the child wrote nothing into the parent's request"


@pytest.mark.parametrize("asked", [ASKED, LONG], ids=["nothing is answered", "not all is taken"])
def test_a_process_that_stands_still_is_waited_for_no_longer_than_told(stopped, monkeypatch, asked) -> None:
    monkeypatch.setattr(template_process, "WALL_SECONDS", 0.2)
    with pytest.raises(InputError, match="does not end within 0 s, on one of 1 conversations"):
        render(FILE, "{{ messages[0].content }}", asked)
    monkeypatch.undo()
    assert render(FILE, "{{ messages[0].content }}", ASKED).results == ["1 + 1?"], "the next one is served"


def test_it_is_served_where_many_files_are_open() -> None:
    template_process.stop()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(2048, hard), hard))
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(1024)]
    try:
        assert render(FILE, "{{ messages[0].content }}", ASKED).results == ["1 + 1?"]
        assert template_process._process.running.stdout.fileno() >= 1024
    finally:
        template_process.stop()
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_it_ends_with_the_program_that_started_it(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path;"
        "from tracestill.data_pipeline.documents import template_process as t;"
        "t.render(Path('x'), 'hi'); print(t._process.running.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    pid = int(done.stdout)
    for _ in range(100):
        if (
            not Path(f"/proc/{pid}").exists()
            or Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        ):
            return
        time.sleep(0.05)
    raise AssertionError("it outlives the program")


@pytest.mark.parametrize("load", [lambda path: ChatLayout(path, LayoutConfig(template="chat")), AskLayout])
def test_forms_meet_the_limits(small, monkeypatch, tmp_path: Path, load) -> None:
    asked = []
    monkeypatch.setattr(chat_template, "render", lambda *a, **k: asked.append(a) or render(*a, **k))
    made.save(tmp_path, made.CHATML)
    load(tmp_path)
    assert asked, "nothing is rendered elsewhere"
    made.save(tmp_path, None, chat_template=made.CHATML + "\n{{ 1/0 }}")
    (tmp_path / "chat_template.jinja").unlink()
    with pytest.raises(InputError, match=r"refuses the messages user \(ZeroDivisionError: division by zero, line 5\)"):
        load(tmp_path)


def test_a_text_that_makes_the_template_write_too_much_is_a_rejected_record(small, tmp_path: Path) -> None:
    template = made.CHATML.replace("m.content", "m.content * (20000 if 'long' in m.content else 1)")
    layout = load_layout(LayoutConfig(template="chat"), made.save(tmp_path, template))
    bad, good = layout.encode([record("a long one"), record()], KINDS)
    assert bad.refused[0] == "template_refuses"
    assert "more than 10,000 characters" in bad.refused[1]
    assert good.refused is None
