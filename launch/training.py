"""Training of one arm as a stage: DeepSpeed's launcher on this host, watched through the log that the ranks write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console

from tracestill.data_pipeline.errors import InputError
from tracestill.data_pipeline.kinds import Kinds
from tracestill.data_pipeline.stage import identity, is_current, read_manifest
from tracestill.launch import deepspeed_command
from tracestill.launch.progress import Bar, bar
from tracestill.trainer.run_directory import RunDirectory

CONSOLE_LOG = "console.log"


def train_arm(run: RunDirectory, arm: str, label: str, console: Console, *, resume: bool) -> None:
    """Start the ranks, show what they log, and make sure that they finished.

    Goes on from the newest checkpoint if ``resume``, or if one of exactly this training is there. Raises
    InputError for what the ranks refuse, TrainingFailed if they end otherwise before the training has finished.
    """
    own = run.recipe.for_arm(arm)
    directory = run.stage(arm, "train")
    gpus = deepspeed_command.count_gpus()
    resume = resume or can_resume(run, arm)
    arguments = deepspeed_command.command(
        run.root, arm, ranks=own.train.ranks, resume=resume, port=deepspeed_command.free_port()
    )
    log = directory / CONSOLE_LOG
    console.print(
        f"  {label}: {'resuming' if resume else 'starting'} {own.train.ranks} rank(s) on "
        f"{'GPU' if gpus else 'CPU'}, output in {log}",
        style="dim",
        highlight=False,
        soft_wrap=True,
    )
    with bar(label, console) as progress:
        total = total_steps(own.train.steps, own.train.epochs, run.stage(arm, "plan"))
        watch = Watch(directory, total, own.span_kinds(), progress, console)
        deepspeed_command.run(arguments, log, deepspeed_command.child_environment(gpus), watch.poll)
    config, inputs = run.train_stage(arm)
    if not is_current(directory, "train", config, inputs):  # the launcher ends with 0 if a signal ends what it started
        raise deepspeed_command.TrainingFailed(f"training ended before its last step; the whole output is in {log}")


def total_steps(steps: int | None, epochs: int | None, plan: Path) -> int:
    if steps is not None:
        return steps
    manifest = read_manifest(plan) or {}
    return int(epochs or 0) * int(manifest.get("steps_per_epoch", 0))


def can_resume(run: RunDirectory, arm: str) -> bool:
    """Whether the newest whole checkpoint of the arm belongs to exactly the training that is wanted."""
    checkpoints = run.stage(arm, "train") / "checkpoints"
    whole = sorted(path for path in checkpoints.glob("step-*") if (path / "manifest.json").exists())
    if not whole:
        return False
    config, inputs = run.train_stage(arm)
    try:
        state = json.loads((whole[-1] / "state.json").read_text(encoding="utf-8"))
        return bool(state.get("identity") == identity("train", config, inputs))
    except (OSError, ValueError, InputError):
        return False


class Watch:
    """Reads what rank 0 writes as it trains, and shows it."""

    def __init__(self, directory: Path, total: int, kinds: Kinds, progress: Bar, console: Console) -> None:
        self.directory, self.total, self.kinds, self.progress, self.console = directory, total, kinds, progress, console
        self.read = 0  # bytes of log.jsonl
        self.previewed = mark(directory / "preview.json")
        self.before = mark(directory / "log.jsonl")
        progress.set(0, total, "starting")

    def poll(self) -> None:
        """Show the preview of the weighting once, then the newest line of the log."""
        preview = self.directory / "preview.json"
        if mark(preview) not in (None, self.previewed):
            self.previewed = mark(preview)
            show_preview(preview, self.kinds, self.console)
        log = self.directory / "log.jsonl"
        if mark(log) in (None, self.before):
            return
        self.before = None
        line = self.newest(log)
        if line:
            note = f"loss {line['loss']:.4f}  {line['tokens_per_second']:,.0f} tokens/s"
            self.progress.set(line["step"], self.total, note)

    def newest(self, log: Path) -> dict[str, Any] | None:
        """The last whole line about a step since the last call."""
        with log.open("rb") as handle:
            handle.seek(self.read)
            data = handle.read()
        whole = data[: data.rfind(b"\n") + 1]
        self.read += len(whole)
        found = None
        for text in whole.splitlines():
            line = json.loads(text)
            if "event" not in line and "loss" in line:
                found = line
        return found


def mark(path: Path) -> tuple[int, int] | None:
    """Tells whether a file was written since: its time and inode."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino


def show_preview(path: Path, kinds: Kinds, console: Console) -> None:
    from tracestill.trainer.preview import show

    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return  # caught while it is written; it is in the train directory for later
    show(found, kinds, console)
