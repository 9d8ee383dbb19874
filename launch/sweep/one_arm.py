"""One arm of a sweep in a process of its own: trains and evaluates it, whose data is there, under the sweep's lock.

    python -m tracestill.launch.sweep.one_arm --run-dir runs/demo-sweep --arm lr-0.001_seed-0 [--cores 0,1]

Started by ``tracestill sweep``, which holds the run directory. Ends as the command line does: 0, or an exit code that
tells why not.
"""

from __future__ import annotations

if __name__ == "__main__":  # before anything else is imported: `python -m` has put the working directory first
    from tracestill.data_pipeline.guards.working_directory import leave_working_directory

    leave_working_directory()

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.room import told_of
from tracestill.data_pipeline.guards.secret import mask
from tracestill.launch.run.runner import run_stages
from tracestill.launch.run.stage_spec import Work
from tracestill.launch.run.stages import plan_works, stage_position
from tracestill.launch.start.deepspeed_command import TrainingFailed, TrainingStopped
from tracestill.trainer.ranks.console import Terminal, say
from tracestill.trainer.recipe.run_directory import RunDirectory

ENTRY_POINT = "tracestill.launch.sweep.one_arm"


def own_works(run: RunDirectory, works: Sequence[Work], arm: str) -> list[Work]:
    """What is done for this arm alone, from its training on."""
    first = stage_position("train", run.recipe)
    return [work for work in works if work.arm == arm and work.position >= first and not work.spec.always]


def do(root: Path, arm: str) -> int:
    """Train and evaluate an arm; the exit code."""
    try:
        run = RunDirectory.open(root)
        run_stages(own_works(run, plan_works(run), arm), Terminal(stderr=True))
    except (InputError, TrainingFailed) as error:
        told = told_of(error, root) or error
        for line in mask(str(told)).split("\n"):
            say(line if line.startswith(" ") else f"error: {line}", err=True)
        return told.exit_code
    except TrainingStopped as stop:
        say(str(stop), err=True)
        return 3
    except KeyboardInterrupt as interrupt:
        say(f"error: {interrupt or 'interrupted'}", err=True)
        return 130
    except Exception as error:
        full = told_of(error, root)
        say(f"error: {full}" if full else mask(traceback.format_exc()), err=True)
        return full.exit_code if full else 1
    return 0


def terminate(number: int, frame: FrameType | None) -> None:
    """SIGTERM unwinds the stack, so that no rank is left behind."""
    raise SystemExit(128 + number)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--arm", required=True)
    parser.add_argument("--cores", help="numbers of the cores that it may use, such as 0,1")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, terminate)
    if options.cores:
        os.sched_setaffinity(0, {int(core) for core in options.cores.split(",")})
    return do(options.run_dir, options.arm)


if __name__ == "__main__":
    sys.exit(main())
