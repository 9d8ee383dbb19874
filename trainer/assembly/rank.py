"""One rank from its command line to its exit code: what all entry points that a launcher starts have in common."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.guards.secret import mask
from tracestill.trainer.faults.failure import EXIT_FAILED
from tracestill.trainer.faults.stopping import ends_at_once
from tracestill.trainer.faults.watchdog import Watchdog
from tracestill.trainer.lock.run_lock import held
from tracestill.trainer.ranks.console import say
from tracestill.trainer.ranks.join_ranks import is_first, is_owned
from tracestill.trainer.ranks.rendezvous import NotMet
from tracestill.trainer.recipe.recipe import MAIN_ARM, imports_of
from tracestill.trainer.recipe.run_directory import RECIPE, RunDirectory

Begun = tuple[Watchdog, Callable[[Watchdog], int]]
"""A watchdog that has not started, and the work that it is to watch, which says how it ended."""


def parser_of(description: str, until: str, **more: Any) -> argparse.ArgumentParser:
    """The command line of an entry point, which may take further words: a run whose stages up to ``until`` have run, an
    arm, and what the launcher adds."""
    parser = argparse.ArgumentParser(description=description, **more)
    parser.add_argument("--run-dir", type=Path, required=True, help=f"directory whose stages up to {until} have run")
    parser.add_argument("--arm", default=MAIN_ARM, help="arm of the recipe (default: %(default)s)")
    parser.add_argument("--local_rank", type=int, default=0, help="given by the launcher")
    return parser


def as_rank(run_dir: Path, begin: Callable[[RunDirectory], Begun | None]) -> int:
    """Open a run, ``begin`` by meeting the other ranks, and work until the end; the exit code. None: nothing is to do.

    An InputError of ``begin`` is this rank's alone: another one may have a reason of its own.
    """
    with contextlib.ExitStack() as until_the_end:
        try:
            with ends_at_once():
                RunDirectory.check(run_dir)
                for line in imports_of(run_dir / RECIPE) if is_first() else ():
                    say(line)
                run = RunDirectory.open(run_dir)
                if is_first() and not is_owned():  # ranks that people start have one lock
                    until_the_end.enter_context(held(run.root, say=lambda text: say(text, err=True)))
                begun = begin(run)
        except InputError as error:
            say(f"error: {mask(str(error))}", err=True)
            return error.exit_code
        except NotMet as error:
            say(f"failed: {error}", err=True)
            return EXIT_FAILED
        if begun is None:
            return 0
        watchdog, work = begun
        with watchdog as watch:
            return watch.over(lambda: work(watch))
