"""``--decontaminate FILE``, of commands that sample: one more setting of the recipe."""

from __future__ import annotations

import json
from typing import Annotated

import typer

DecontaminateOption = Annotated[
    list[str] | None,
    typer.Option(
        "--decontaminate",
        metavar="FILE",
        help="Leave out what shares 13 words in a row with this benchmark. Repeatable; as questions.decontaminate.",
    ),
]


def with_benchmarks(settings: list[str] | None, files: list[str] | None) -> list[str] | None:
    """Settings, and what ``--decontaminate`` says as one more of them."""
    return [*(settings or []), f"questions.decontaminate={json.dumps(files)}"] if files else settings
