"""A training of two ranks that is over in seconds, or never, and what it has logged so far."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from cluster_support import Hosts
from fake_run import mini_recipe, run_data_stages

from tracestill.trainer.recipe.recipe import Recipe
from tracestill.trainer.recipe.run_directory import RunDirectory

TRAIN = "arms/traces/train"
BEGIN_SECONDS = 150  # on a busy machine
ENDLESS = 4000  # steps: a minute or more, and planned in seconds


def recipe_of(steps: int) -> Recipe:
    return mini_recipe(arms={}, train={"steps": steps, "zero": 2, "log_every": 1, "warmup": 1, "ranks": 2})


def make_run(root: Path, steps: int = 4) -> Path:
    """A run whose data is ready."""
    run_data_stages(RunDirectory.create(root, recipe_of(steps)))
    return root


def losses(run: Path) -> list[float]:
    """One a step; none while nothing has begun."""
    path = run / TRAIN / "log.jsonl"
    if not path.exists():
        return []
    lines = [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return [line["loss"] for line in lines if "event" not in line and "loss" in line]


@contextlib.contextmanager
def begun(hosts: Hosts, run: Path, command: Sequence[object], **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A command on the first host, once the training that it starts has begun; ended with the block."""
    process = subprocess.Popen(
        hosts.on(hosts.names[0], [str(word) for word in command]),
        cwd=hosts.folder,
        env=hosts.environment(**environment),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + BEGIN_SECONDS
        while len(losses(run)) < 3:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
