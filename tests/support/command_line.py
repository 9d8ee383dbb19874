"""Runs commands as people do: in the repository root, as processes of their own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from tracestill.launch.start.deepspeed_command import GRACE_SECONDS

ROOT = Path(__file__).parents[2]
SECONDS = 240  # that a command may take on a busy machine


def start(*command: object) -> subprocess.CompletedProcess[str]:
    """Run a command in the repository root, with the root on PYTHONPATH as DeepSpeed's launcher puts it."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    process = subprocess.Popen(
        [str(part) for part in command],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        process.terminate()  # the command line ends the launcher, which has a group of its own, and its ranks
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=GRACE_SECONDS + 5)
        raise
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def program(name: str) -> Path:
    """A console command of the environment that runs the tests."""
    return Path(sys.executable).with_name(name)


def unfinish(run: Path, folder: Path) -> Path:
    """A copy of a run as if it had been killed after the second of three steps."""
    shutil.copytree(run, folder / "run")
    train = folder / "run/arms/traces/train"
    (train / "manifest.json").unlink()
    shutil.rmtree(train / "export")
    shutil.rmtree(train / "checkpoints/step-000003")
    return folder / "run"
