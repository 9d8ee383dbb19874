"""``tracestill report``: the page of a run, or one page of several."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tracestill.data_pipeline.base.errors import InputError
from tracestill.launch.commands.execution import looking, single
from tracestill.launch.commands.options import Changes, Place

if TYPE_CHECKING:
    from tracestill.launch.report.records.held_out import Key
    from tracestill.launch.run.stage_spec import Work
    from tracestill.trainer.recipe.run_directory import RunDirectory

SEVERAL = "compared.html"


def report(
    place: Place,
    changes: Changes,
    others: Annotated[
        list[Path] | None, typer.Argument(metavar="RUN", help="Directories of further runs, for one page of all.")
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option(
            "--to", metavar="FILE", help="Of several runs: the page. Default: compared.html beside the first."
        ),
    ] = None,
) -> None:
    """Write report/report.html and report/report.json from whatever stages have run; or one page of several runs.

    Example: [cyan]tracestill report runs/demo[/], [cyan]tracestill report runs/demo runs/hot --to hot.html[/]
    """
    if to is not None and not others:
        raise typer.BadParameter("--to belongs to the page of several runs")
    if others and (changes.settings or changes.replace or place.run_dir):
        raise typer.BadParameter("a page of several runs takes their directories as they are: no --set, no --run-dir")
    with looking():
        if others:
            report_several([place.recipe, *others], to)
        else:
            single("report", place, changes)


def report_several(places: Sequence[Path], to: Path | None) -> None:
    """Write one page of several runs. Raises InputError if one of them is none, a file cannot be read, or there is no
    place for the page."""
    from tracestill.data_pipeline.base.stage import write_whole
    from tracestill.data_pipeline.guards.secret import mask_data
    from tracestill.launch.report.diff_runs import diff_runs
    from tracestill.launch.report.records.held_out import Source
    from tracestill.launch.report.records.section import records_of_several
    from tracestill.launch.report.report import gather, sections_of
    from tracestill.launch.report.several.page import Shown, page
    from tracestill.launch.report.several.pairs import right_of
    from tracestill.launch.run.stages import compared, plan_works
    from tracestill.trainer.ranks.console import say
    from tracestill.trainer.recipe.run_directory import RunDirectory

    for place in places:
        if not place.is_dir():
            raise InputError(f"{place}: one page of several runs needs the directory of each; this is none")
    to = place_of(places, to)
    runs = [RunDirectory.open(place) for place in places]
    shown = []
    for name, run in zip(names_of(places), runs, strict=True):
        works = plan_works(run)
        found = mask_data(gather(run, works))
        own = questions_of(run, works), right_of(Source(run, found)), *known_by(run)
        shown.append(Shown(name, found, sections_of(works), *own))
    diffs = [diff_runs(runs[0], other, *compared(runs[0].recipe)) for other in runs[1:]]
    each = zip(runs, shown, strict=True)
    records = records_of_several([Source(run, one.found, one.name) for run, one in each])
    write_whole(to, page(shown, diffs, records))
    say(f"report: {to}")


def known_by(run: RunDirectory) -> tuple[dict[str, str], str]:
    """Arm -> what changes with its tokenizer; and what changes with a run's held-out questions."""
    from tracestill.data_pipeline.base.schema import QUESTION_SCHEMA, read_rows
    from tracestill.data_pipeline.base.stage import output_digest, read_manifest
    from tracestill.trainer.recipe.recipe import MAIN_ARM

    places = {arm: run.stage(arm, "tokenizer") for arm in run.recipe.arm_names()}
    digests = {arm: output_digest(place) if read_manifest(place) else "" for arm, place in places.items()}
    path = run.stage(MAIN_ARM, "sample") / "questions.parquet"
    rows = read_rows(path, QUESTION_SCHEMA, [("split", "==", "test")]) if path.exists() else []
    return digests, json.dumps(sorted(row["question_id"] for row in rows))


def place_of(places: Sequence[Path], to: Path | None) -> Path:
    """Where the page goes: outside of the runs, in which only they themselves write. Raises InputError if it cannot."""
    to = to or Path(os.path.abspath(places[0])).parent / SEVERAL  # a place such as `.` has a parent, too
    if to.is_dir():
        raise InputError(f"--to {to}: a directory; expected a file in it, such as {to / SEVERAL}")
    if not to.absolute().parent.is_dir():
        raise InputError(f"--to {to}: its folder is not there")
    for place in places:
        if to.resolve().is_relative_to(place.resolve()):
            raise InputError(f"--to {to}: lies in the run {place}, which its page leaves as it is; name another file")
    return to


def names_of(places: Sequence[Path]) -> list[str]:
    """The runs' own folders, with as many of those around them as tell runs apart; a name that is there already, as of
    one run given twice, has a number."""
    paths = [place.resolve() for place in places]
    depth = next(
        depth
        for depth in range(1, max(len(path.parts) for path in paths) + 1)
        if len({path.parts[-depth:] for path in paths}) == len(set(paths))
    )
    names = [str(Path(*path.parts[-depth:])) for path in paths]
    found: list[str] = []
    for name in names:
        numbered = (f"{name} ({number})" for number in itertools.count(2))
        found.append(name if name not in found else next(one for one in numbered if one not in (*found, *names)))
    return found


def questions_of(run: RunDirectory, works: Sequence[Work]) -> frozenset[Key]:
    """The held-out questions that its first evaluated arm was asked, as ``keys_of`` tells them apart; empty without
    one."""
    from tracestill.data_pipeline.base.stage import read_manifest
    from tracestill.launch.report.records.held_out import keys_of, predictions_in

    for work in works:
        if work.stage == "evaluate" and read_manifest(work.directory) is not None:
            rows = predictions_in(work.directory, ["question_id", "question", "gold"])
            return frozenset(keys_of(rows).values())
    return frozenset()
