"""The report of a run, made in memory whenever the run has changed and somebody wants to see it."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tracestill.data_pipeline.base import own_modules
from tracestill.data_pipeline.base.content import remembering_nothing
from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.guards.secret import mask, mask_data
from tracestill.data_pipeline.guards.visible import in_html
from tracestill.launch.report.page import page
from tracestill.launch.report.records.section import records_section
from tracestill.launch.report.report import gather, read_json, sections_of
from tracestill.launch.report.rounds_page import RESULT as ROUNDS
from tracestill.launch.report.sweep_page import SWEEP
from tracestill.launch.rounds.recipes import folder_of
from tracestill.launch.run.stages import plan_works
from tracestill.launch.watch.follow import mark_of
from tracestill.launch.watch.rounds import at_hand
from tracestill.trainer.metrics.log import LOG
from tracestill.trainer.recipe.run_directory import RECIPE, RunDirectory

LEAST_SECONDS = 5.0  # between two pages
SHARE = 10  # of this process's time, one part at most makes pages: a training wants its cores
PLACES = "*", "arms/*/*", "arms/*/score/*", "arms/*/harness/*", "models/*"
WATCHED = (RECIPE, SWEEP, ROUNDS, *(f"{place}/manifest.json" for place in PLACES))
LOGS = f"arms/*/train/{LOG}"
EMPTY = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{0}</title></head><body><p>{0}</p></body></html>'
)


class LiveReport:
    """Made for ``serve``: several requests may ask at once, one makes the page."""

    def __init__(self, root: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.root, self.clock = root, clock
        self.lock = threading.Lock()
        self.text, self.made_of = "", ""
        self.due = clock()  # no page is made before

    def token(self) -> str:
        """That of the page that there would be now; of the one there is while it is too early for another."""
        return self.made_of if self.made_of and self.clock() < self.due else self.signature()

    def page(self) -> tuple[str, str]:
        with self.lock:
            token = self.token()
            if token != self.made_of:
                begun = self.clock()
                self.text, self.made_of = self.make(), token
                ended = self.clock()
                self.due = ended + max(LEAST_SECONDS, SHARE * (ended - begun))
            return self.text, self.made_of

    def signature(self) -> str:
        """Changes when a stage has finished, a sweep or a round is summed up, or a log has grown."""
        at = at_hand(self.root)
        roots = [self.root] if at is None else [self.root, folder_of(self.root, at)]
        paths = sorted(path for root in roots for pattern in (*WATCHED, LOGS) for path in root.glob(pattern))
        marks = [(str(path), mark_of(path)) for path in paths if not path.parent.name.startswith(".")]
        return hashlib.sha256(repr(marks).encode()).hexdigest()[:16]

    def make(self) -> str:
        """The page; while nothing can be shown, or a file is caught while it is replaced, or is damaged, the last one,
        or why."""
        try:
            with own_modules.looking(), remembering_nothing():
                return made(self.root)
        except (InputError, OSError) as error:
            return self.text or EMPTY.format(in_html(mask(f"nothing to report yet: {error}")))
        except Exception as error:  # of another version, or damaged: made anew only once something changes
            told = f"nothing to report: a file of this run is not as expected ({type(error).__name__})"
            return self.text or EMPTY.format(told)


def made(root: Path) -> str:
    """The page of a run; of one with rounds all of them, and below them all of the round at hand."""
    run = RunDirectory.open(root)
    at = at_hand(root) if run.recipe.rounds is not None else None
    shown = run if at is None else RunDirectory.open(folder_of(root, at))
    works = plan_works(shown)
    found = gather(shown, works)
    if at is not None and run.recipe.rounds is not None:
        found |= {"name": f"{run.recipe.name}: round {at} of {run.recipe.rounds.count}"}
        found |= {"rounds": read_json(root / ROUNDS)}
    return page(mask_data(found), [*sections_of(works), records_section(shown, workers=1)])
