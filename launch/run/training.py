"""Training of one arm as a stage: DeepSpeed's launcher on this host, watched through the log that the ranks write."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.base.stage import MANIFEST, identity, is_current, same
from tracestill.launch.hosts.cluster import Cluster, what_is_left
from tracestill.launch.report.wall_time import add_seconds
from tracestill.launch.run.progress import Bar, bar
from tracestill.launch.run.restarts import Restarts, beginning, explained, newest
from tracestill.launch.run.stop_signals import StoppedEarly, stop_on_signals, what_is_saved
from tracestill.launch.start import deepspeed_command, multinode
from tracestill.trainer.checkpoint.files import CHECKPOINTS, STATE, committed, complete
from tracestill.trainer.checkpoint.train_place import claim_train
from tracestill.trainer.faults import stopping
from tracestill.trainer.faults.failure import FAILURE, read_failure
from tracestill.trainer.metrics.headway import PROGRESS, read_headway
from tracestill.trainer.metrics.log import LOG, Tail, is_of_steps
from tracestill.trainer.metrics.refreshing import REFRESHING, read_refreshing
from tracestill.trainer.recipe.run_directory import RunDirectory

CONSOLE_LOG = "console.log"


def train_arm(
    run: RunDirectory,
    arm: str,
    label: str,
    console: Console,
    *,
    resume: str,
    cluster: Cluster | None = None,
    max_restarts: int = 0,
) -> None:
    """Train, and start again from the newest checkpoint, up to ``max_restarts`` times, after a rank has failed; where
    the cluster is elastic, on the hosts that are left.

    SIGTERM, and Ctrl-C, is turned into a request to save and stop; a second one ends the ranks, and so does the first
    one before there is anything to save. Raises as ``attempt`` does, and KeyboardInterrupt; what is said then tells
    what is saved. Raises as ``claim_train`` before anything is written or deleted.
    """
    directory = run.stage(arm, "train")
    claim_train(directory)
    restarts = Restarts(directory, max_restarts, begun=newest(directory) if can_resume(run, arm) else 0)

    def saved() -> str:
        return what_is_saved(directory, resumes=can_resume(run, arm))

    try:
        with stop_on_signals(directory, console):
            while True:
                try:
                    return attempt(run, arm, label, console, resume=resume, cluster=cluster)
                except deepspeed_command.TrainingFailed as error:
                    try:
                        text = f"  {label}: {restarts.next(error)}"
                    except deepspeed_command.TrainingFailed as last:
                        raise deepspeed_command.TrainingFailed(f"{last}\n  {arm}: {saved()}") from None
                    stopping.clear(directory, PROGRESS)  # no rank runs that could save on a signal
                    if cluster is not None and cluster.elastic:
                        cluster = what_is_left(cluster, run.root)
                        text += f" on {', '.join(cluster.names)}"
                    console.print(text, style="yellow", soft_wrap=True)
    except StoppedEarly as stop:
        when = "before the first step" if read_headway(directory) is None else "after the last step"
        told = f"training of {arm} stopped {when} ({stop}): {saved()}"
        raise deepspeed_command.TrainingStopped(told) from None
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted in the training of {arm}: {saved()}") from None


def attempt(
    run: RunDirectory, arm: str, label: str, console: Console, *, resume: str, cluster: Cluster | None = None
) -> None:
    """Start the ranks, here or on a cluster's hosts, show what they log, and make sure that they finished.

    ``resume`` is as in ``trainer.train``. Raises InputError for what the ranks refuse, TrainingStopped if they stopped
    on request, StoppedEarly if there was nothing to save then, TrainingFailed if they end otherwise before the training
    has finished.
    """
    own = run.recipe.for_arm(arm)
    directory = run.stage(arm, "train")
    stopping.clear(directory, FAILURE, PROGRESS, REFRESHING)
    if cluster is None:
        start = deepspeed_command.start_here(own, run.root, arm, resume)
    else:
        start = multinode.start_on(cluster, run.root, arm, resume)
    log, resumed, before = directory / CONSOLE_LOG, can_resume(run, arm), mark(directory / MANIFEST)
    if resume == "auto" and not resumed and committed(directory / CHECKPOINTS):
        reason = f"  {label}: no whole checkpoint of this training in {directory / CHECKPOINTS}; it begins anew"
        console.print(reason, style="yellow", highlight=False, soft_wrap=True)
    console.print(
        f"  {label}: {f'resuming from {beginning(directory)}, ' if resumed else 'starting '}{start.ranks} rank(s) on "
        f"{'GPU' if start.gpus else 'CPU'}{start.where}, output in {log}",
        style="dim",
        highlight=False,
        soft_wrap=True,
    )
    with bar(label, console, "tokens", directory) as progress:
        watch = Watch(directory, own.span_kinds(), progress, console)
        started = time.perf_counter()
        try:
            deepspeed_command.run(start.arguments, log, start.environment, watch.poll, start.watch)
        except (deepspeed_command.TrainingFailed, InputError) as error:
            raise_if_stopped(run, arm, directory)  # the launcher does not keep the ranks' exit code in every case
            code = None if isinstance(error, InputError) else error.of_launcher
            if code == stopping.EXIT_STOPPED and read_failure(directory) is None:
                raise StoppedEarly("SIGTERM to a rank") from None
            raise explained(error, directory, log) from None
        finally:
            with contextlib.suppress(OSError):  # on a full disk there is more to tell than this
                add_seconds(directory, time.perf_counter() - started)
    raise_if_stopped(run, arm, directory)
    written = mark(directory / MANIFEST) not in (None, before)  # though an input may have been changed meanwhile
    if not written and not is_current(directory, "train", *run.train_stage(arm)):
        # the launcher ends with 0 if a signal ends what it started
        cut = deepspeed_command.TrainingFailed(f"training ended before its last step; the whole output is in {log}")
        raise explained(cut, directory, log)


def raise_if_stopped(run: RunDirectory, arm: str, directory: Path) -> None:
    """Raise TrainingStopped if the ranks left word that they saved and stopped."""
    try:
        found = json.loads((directory / stopping.MARKER).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    at = f"after step {found['step']} of {found['steps']}" if found["step"] else "before its first step"
    saved = " and is saved" if found["step"] else ""
    raise deepspeed_command.TrainingStopped(
        f"training of {arm} stopped {at} ({found['reason']}){saved}; "
        f"go on with `tracestill train {run.root} --arm {arm} --resume auto`"
    )


def can_resume(run: RunDirectory, arm: str) -> bool:
    """Whether the newest complete checkpoint of the arm belongs to exactly the training that is wanted.

    Looks at the files' sizes only: the ranks will read them, share the work, and pass over a damaged one.
    """
    whole = next(filter(complete, reversed(committed(run.stage(arm, "train") / CHECKPOINTS))), None)
    if whole is None:
        return False
    try:
        config, inputs = run.train_stage(arm)
        state = json.loads((whole / STATE).read_text(encoding="utf-8"))
        return same(state["identity"], identity("train", config, inputs))
    except (OSError, ValueError, KeyError, InputError):
        return False


class Watch:
    """Reads what rank 0 writes as it trains, and shows it."""

    def __init__(self, directory: Path, kinds: Kinds, progress: Bar, console: Console) -> None:
        self.directory, self.kinds, self.progress, self.console = directory, kinds, progress, console
        self.log = Tail(directory / LOG)
        self.note = ""  # its newest line
        self.previewed = mark(directory / "preview.json")
        self.before = mark(self.log.path)
        progress.set(0, 0, "starting")

    def poll(self) -> None:
        """Show the preview of the weighting once, then how far training is and the newest line of the log."""
        preview = self.directory / "preview.json"
        if mark(preview) not in (None, self.previewed):
            self.previewed = mark(preview)
            show_preview(preview, self.kinds, self.console)
        if mark(self.log.path) not in (None, self.before):
            self.before = None
            for line in filter(is_of_steps, self.log.new()):
                self.note = note_of(line)
        now = read_headway(self.directory)
        refreshing = read_refreshing(self.directory)
        note = self.note if refreshing is None else str(refreshing)
        if now is not None:
            self.progress.set(now.tokens, now.total, f"step {now.step}/{now.steps}  {note}".rstrip())
        elif refreshing is not None:
            self.progress.set(0, 0, note)


def note_of(line: dict[str, Any]) -> str:
    """A line of the log in a few words; older logs say less. A loss is null where no label was looked at, as in few
    steps under a teacher's term alone, or where none is finite."""
    parts = [] if line["loss"] is None else [f"loss {line['loss']:.4f}"]
    answer = line.get("kinds", {}).get("answer") or {}
    if answer.get("loss") is not None:
        parts.append(f"answer {answer['loss']:.3f}")
    parts.append(f"{line['tokens_per_second']:,.0f} tokens/s")
    if line.get("mfu") is not None:
        parts.append(f"MFU {line['mfu']:.1%}")
    if line.get("data_wait", 0.0) > 0.05 * line.get("seconds", 0.0):
        parts.append(f"waits for data {line['data_wait'] / line['seconds']:.0%}")
    if (time := line.get("time")) is not None:
        parts.append(f"writes {time['writing']:.0%} teacher {time['teacher']:.0%} of the time")
    return "  ".join(parts)


def mark(path: Path) -> tuple[int, int] | None:
    """Tells whether a file was written since: its time and inode."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino


def show_preview(path: Path, kinds: Kinds, console: Console) -> None:
    from tracestill.trainer.preview.preview import show

    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return  # caught while it is written; it is in the train directory for later
    show(found, kinds, console)
