"""What people's scripts and recipes depend on: the command line and the recipe's keys, frozen."""

import inspect
import json
import os
from pathlib import Path
from typing import get_args

import pytest

from tracestill.launch import cli
from tracestill.trainer.recipe.recipe import Recipe

SNAPSHOTS = Path(__file__).parent / "snapshots"
RENEW = "if the change is meant: RENEW_SNAPSHOTS=1 python -m pytest tests/launch/commands/test_surface.py"


def surface() -> str:
    """Commands, and their parameters with type, default and help, as text."""
    lines = []
    for command in cli.app.registered_commands:
        assert command.callback is not None
        documented = inspect.getdoc(command.callback) or ""
        lines.append(f"{command.name or command.callback.__name__}: {documented.splitlines()[0]}")
        for name, parameter in inspect.signature(command.callback, eval_str=True).parameters.items():
            kind, info = get_args(parameter.annotation)
            declared = [text for text in (info.default, *(info.param_decls or ())) if isinstance(text, str)]
            names = " ".join(declared) or name.upper()
            shown = kind.__name__ if isinstance(kind, type) else str(kind)
            default = "required" if parameter.default is parameter.empty else f"default {parameter.default!r}"
            lines.append(f"    {names} ({shown.replace('pathlib.', '')}, {default}): {info.help}")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("name", "current"),
    [
        ("cli.txt", surface),
        ("recipe_schema.json", lambda: json.dumps(Recipe.model_json_schema(), indent=1, sort_keys=True) + "\n"),
    ],
)
def test_snapshot(name, current):
    """People's scripts and recipes depend on these; a change has to be meant, and stands in the diff."""
    path = SNAPSHOTS / name
    if os.environ.get("RENEW_SNAPSHOTS"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(current(), encoding="utf-8")
    assert current() == path.read_text(encoding="utf-8"), f"{name} has changed; {RENEW}"
