"""``tracestill report``: the page of a run, or one page of several."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tracestill.data_pipeline.base.errors import InputError

SEVERAL = "compared.html"


def report_several(places: Sequence[Path], to: Path | None) -> None:
    """Write one page of several runs. Raises InputError if one of them is none, or a file cannot be read."""
    from tracestill.data_pipeline.base.stage import write_whole
    from tracestill.data_pipeline.guards.secret import mask_data
    from tracestill.launch.report.diff_runs import diff_runs
    from tracestill.launch.report.report import gather, sections_of
    from tracestill.launch.report.several import page
    from tracestill.launch.run.stages import compared, plan_works
    from tracestill.trainer.ranks.console import say
    from tracestill.trainer.recipe.run_directory import RunDirectory

    for place in places:
        if not place.is_dir():
            raise InputError(f"{place}: one page of several runs needs the directory of each; this is none")
    runs = [RunDirectory.open(place) for place in places]
    found = []
    for place, run in zip(places, runs, strict=True):
        works = plan_works(run)
        found.append((str(place), mask_data(gather(run, works)), sections_of(works)))
    diffs = [diff_runs(runs[0], other, *compared(runs[0].recipe)) for other in runs[1:]]
    to = to or places[0].parent / SEVERAL
    write_whole(to, page(found, diffs))
    say(f"report: {to}")
