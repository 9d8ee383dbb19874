"""Does a sweep: the data once for all arms that share it, then arms side by side, then the tables and the report."""

from __future__ import annotations

import math
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from tracestill.data_pipeline.base.errors import InputError, NoRoomError
from tracestill.data_pipeline.guards.secret import mask
from tracestill.launch.hosts.start_module import module_command
from tracestill.launch.run.progress import Bar, bar, line
from tracestill.launch.run.runner import is_due, remark, run_stages
from tracestill.launch.run.stage_spec import Work
from tracestill.launch.run.stages import stage_position
from tracestill.launch.start.deepspeed_command import TrainingFailed, TrainingStopped
from tracestill.launch.sweep import outcome
from tracestill.launch.sweep.grid import Grid, Point
from tracestill.launch.sweep.machine import Place
from tracestill.launch.sweep.one_arm import ENTRY_POINT, own_works
from tracestill.launch.sweep.side_by_side import STOPPED, Process, run_all
from tracestill.trainer.faults.failure import EXIT_FAILED
from tracestill.trainer.lock.run_lock import token_of
from tracestill.trainer.metrics.headway import Estimate, read_headway
from tracestill.trainer.ranks.join_ranks import OWNER
from tracestill.trainer.recipe.run_directory import RunDirectory

TRAINED = 0.9  # of an arm's time, for how long it takes still: the evaluation follows
LOGS = "sweep"  # folder of a run: what each arm's process prints


class Sweep:
    """The work of a sweep in a run directory, which is held meanwhile."""

    def __init__(self, run: RunDirectory, works: Sequence[Work], grid: Grid, console: Console) -> None:
        """``works`` is all the work of the run."""
        self.run, self.grid, self.console = run, grid, console
        self.every = list(works)
        self.works = wanted(run, works, grid)
        self.first = stage_position("train", run.recipe)
        self.failed: dict[str, str] = {}  # arm -> why
        self.codes: dict[str, int] = {}  # arm, or label of other work -> exit code of what failed
        self.stopped: list[str] = []  # arms that ended because they were asked to, or by train.stop_after
        self.begun: dict[str, int] = {}  # arm -> where in its log its process began

    def do(self, places: Sequence[Place], *, fail_fast: bool) -> int:
        """Do what is not up to date; the exit code: 0, or the largest of an arm that failed.

        Raises as a stage does for what all arms share, TrainingStopped if it was asked to stop, and KeyboardInterrupt
        if it was asked again.
        """
        self.write()  # so that the directory alone tells how to go on
        self.make_data(fail_fast=fail_fast)
        stops = self.do_arms(places, fail_fast=fail_fast)
        self.write()
        if stops or (self.stopped and not self.codes):
            left = len(self.grid.points) - len(self.evaluated()) - len(self.failed)
            told = f"sweep stopped: {left} of {len(self.grid.points)} arms are not finished, and what was saved is kept"
            told += f"; go on with `tracestill sweep {self.run.root}`"
            raise TrainingStopped(told) if stops < 2 else KeyboardInterrupt(told)
        rest = [work for work in self.works if work.position >= self.first and work.arm is None]
        run_stages(rest, self.console)  # the report, and stages of one's own that all arms share
        return max(self.codes.values(), default=0)

    def make_data(self, *, fail_fast: bool) -> None:
        """All stages before the training, one after the other; arms whose data cannot be made have failed."""
        lacking: dict[Path, tuple[str, int]] = {}
        for at, work in enumerate(self.works):
            if work.position >= self.first:
                break
            reason = next((lacking[path] for path in work.inputs.values() if path in lacking), None)
            if reason is None and not is_due(work, self.works[at + 1 :]):
                self.say(work.label, f"up to date, skipped{remark(work)}", "dim")
            elif reason is None:
                try:
                    run_stages([work], self.console)
                except (InputError, TrainingFailed) as error:
                    if fail_fast or work.arm is None or isinstance(error, NoRoomError):
                        raise
                    reason = f"{work.label}: {error}", error.exit_code
                    self.say(work.label, f"failed: {error}", "red")
            if reason is not None:
                lacking[work.directory] = reason
                self.codes[work.label] = reason[1]
        for point in self.grid.points if lacking else ():
            read = {path for work in own_works(self.run, self.works, point.arm) for path in work.inputs.values()}
            if found := next((lacking[path] for path in lacking if path in read), None):
                self.failed[point.arm] = found[0]

    def do_arms(self, places: Sequence[Place], *, fail_fast: bool) -> int:
        """Train and evaluate what is not up to date; how often this was asked to stop."""
        due: list[str] = []
        for point in self.grid.points:
            mine = own_works(self.run, self.works, point.arm)
            if point.arm in self.failed:
                self.say(point.arm, "left out: its data could not be made", "red")
            elif any(is_due(work, mine[at + 1 :]) for at, work in enumerate(mine)):
                due.append(point.arm)
            else:
                self.say(point.arm, f"up to date, skipped: {mine[-1].summary() if mine else ''}", "dim")
        if not due:
            return 0
        done = 0
        with bar("sweep", self.console, "arms", estimate=Estimate(window=math.inf)) as progress:

            def ended(arm: str, code: int) -> None:
                nonlocal done
                done += 1
                self.ended(arm, code)

            def asked(number: int) -> None:
                what = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
                self.console.print(f"{what}: arms that run save and stop; no further one starts", soft_wrap=True)

            self.show(progress, 0, len(due), [])
            _, stops = run_all(
                due,
                places,
                self.start,
                fail_fast=fail_fast,
                began=lambda arm, place: self.say(arm, f"starts on {place}, output in {self.log(arm)}", "dim"),
                ended=ended,
                asked=asked,
                on_poll=lambda running: self.show(progress, done, len(due), running),
            )
        return stops

    def start(self, arm: str, place: Place) -> Process:
        """The process of an arm, in a session of its own: signals reach it through us alone."""
        command = [*module_command(ENTRY_POINT), "--run-dir", str(self.run.root.absolute()), "--arm", arm]
        command += ["--cores", ",".join(map(str, place.cores))] if place.cores is not None else []
        environment = dict(os.environ) | ({"CUDA_VISIBLE_DEVICES": place.gpus} if place.gpus is not None else {})
        if (token := token_of(self.run.root)) is not None:  # who takes over a dead owner's lock ends what bears it
            environment[OWNER] = token
        self.log(arm).parent.mkdir(parents=True, exist_ok=True)
        with self.log(arm).open("ab") as log:
            self.begun[arm] = log.tell()
            return subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def ended(self, arm: str, code: int) -> None:
        """Say what came of an arm."""
        if code == 0:
            mine = own_works(self.run, self.works, arm)
            self.say(arm, "; ".join(filter(None, (work.summary() for work in mine))), "green")
        elif code in STOPPED:
            self.stopped.append(arm)
            self.say(arm, f"stopped: {reason_in(self.log(arm), self.begun.get(arm, 0), code)}", "yellow")
        else:
            self.failed[arm] = reason_in(self.log(arm), self.begun.get(arm, 0), code)
            self.codes[arm] = code if code > 1 else EXIT_FAILED
            self.say(arm, f"failed: {self.failed[arm]}; its output is in {self.log(arm)}", "red")

    def show(self, progress: Bar, done: int, total: int, running: Sequence[str]) -> None:
        """How far the arms are that run."""
        notes, begun = [], 0.0
        for arm in running:
            now = read_headway(self.run.stage(arm, "train"))
            notes.append(f"{arm} {now.step}/{now.steps}" if now is not None else arm)
            begun += TRAINED * now.step / max(1, now.steps) if now is not None else 0.0
        progress.set(done, total, ", ".join(notes), begun)

    def evaluated(self) -> dict[str, Path]:
        """Arm -> where its evaluation lies, of those that are up to date."""
        arms = {point.arm for point in self.grid.points}
        found = (work for work in self.works if work.stage == "evaluate" and work.arm in arms)
        return {str(work.arm): work.directory for work in found if work.is_current()}

    def write(self) -> None:
        outcome.write(self.run.root, outcome.gather(self.run, self.grid, self.failed, self.evaluated()))

    def log(self, arm: str) -> Path:
        return self.run.root / LOGS / f"{arm}.log"

    def say(self, label: str, text: str, style: str) -> None:
        self.console.print(line(label, text, style), soft_wrap=True)


def wanted(run: RunDirectory, works: Sequence[Work], grid: Grid) -> list[Work]:
    """The work that the grid's arms need, shared or their own."""
    shared = {work.place for work in works if work.arm is not None}
    needed = {run.stage(point.arm, place) for point in grid.points for place in shared}
    return [work for work in works if work.arm is None or work.directory in needed]


def reason_in(log: Path, begun: int, code: int) -> str:
    """What a process said last that says why it ended: its first error, or the last line it wrote; else its exit code.

    ``begun``: where in its log it began.
    """
    try:
        lines = log.read_bytes()[begun:].decode("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    told = [text.removeprefix("error: ") for text in lines if text.startswith("error: ")]
    said = [text.strip() for text in lines if text.strip()]
    return mask(told[0] if told else said[-1] if said else f"exit code {code}")


def what_decides(run: RunDirectory, points: Sequence[Point]) -> Mapping[str, Any]:
    """Arm -> config and data of its training and its evaluation: equal for arms that come to the same."""
    found: dict[str, Any] = {}
    for point in points:
        own, (config, inputs) = run.for_arm(point.arm), run.evaluate_stage(point.arm)
        trained = run.train_stage(point.arm) if own.train.trains else None
        found[point.arm] = [config, trained, {name: path for name, path in inputs.items() if name != "train"}]
    return found
