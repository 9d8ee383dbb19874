"""``tracestill yield``: what came of what teachers were asked, and what could come of more."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tracestill.launch.commands.options import OneArmOption


def show_yield(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Directory of a run whose records have been selected.")],
    arm: OneArmOption = "traces",
    by: Annotated[
        str | None,
        typer.Option(
            "--by",
            metavar="WHAT",
            help="Tables by teacher, temperature, style, difficulty, question, or by several at once: "
            "teacher,teacher+temperature. Default: what has more than one value.",
        ),
    ] = None,
    json_path: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write all of it as JSON, too.")
    ] = None,
) -> None:
    """Show how many samples were right, sound, distinct and kept; pass@k; what no teacher solves; what got lost.

    Example: [cyan]tracestill yield runs/demo --by teacher,question --json yield.json[/]
    """
    from tracestill.data_pipeline.base.errors import InputError
    from tracestill.data_pipeline.base.stage import write_json
    from tracestill.data_pipeline.guards.secret import mask_data
    from tracestill.data_pipeline.yields.report import yield_report
    from tracestill.launch.commands.execution import looking
    from tracestill.launch.report.yields.text import show
    from tracestill.trainer.ranks.console import Terminal
    from tracestill.trainer.recipe.run_directory import RunDirectory

    if json_path is not None and not json_path.absolute().parent.is_dir():
        raise InputError(f"--json {json_path}: its folder is not there")
    with looking():
        opened = RunDirectory.open(run)
        if arm not in opened.recipe.arm_names():
            raise InputError(f"--arm {arm}: no arm of this run; it has {', '.join(opened.recipe.arm_names())}")
        places = opened.stage(arm, "sample"), opened.stage(arm, "select")
        found = yield_report(*places, by.split(",") if by else None)
    if found is None:
        raise InputError(f"{places[0]}: no training question was asked; there is no yield to show")
    found = mask_data(found)
    show(found, Terminal())
    if json_path is not None:
        write_json(json_path, found)
