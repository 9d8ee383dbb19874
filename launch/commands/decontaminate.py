"""``--decontaminate FILE``, of commands that sample: one more setting of the recipe."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Annotated

import typer

from tracestill.launch.commands.options import Changes

DecontaminateOption = Annotated[
    list[str] | None,
    typer.Option(
        "--decontaminate",
        metavar="FILE",
        help="Leave out what shares 13 words in a row with this benchmark. Repeatable; as questions.decontaminate.",
    ),
]


def with_benchmarks(changes: Changes, files: list[str] | None) -> Changes:
    """Changes of a recipe, and what ``--decontaminate`` says as one more setting."""
    if not files:
        return changes
    return replace(changes, settings=[*(changes.settings or []), f"questions.decontaminate={json.dumps(files)}"])
