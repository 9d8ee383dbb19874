"""In a step the host waits for the device once, in our own sum; beside that only where DeepSpeed makes it wait."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from distributed_support import run_workers

CPU_ONLY = "kernels/loss/"  # looks at what it is given, on a CPU
OURS = "trainer/engine/engine.py"
CASES = [f"{stage}-{accumulation}" for stage in range(4) for accumulation in (1, 3)]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    path = tmp_path_factory.mktemp("waits") / "found.json"
    run_workers(Path(__file__).with_name("waits_worker.py"), path)
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", CASES)
def test_a_step_waits_once(found: dict[str, list[str]], case: str) -> None:
    check(found, case)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_step_waits_once_on_a_gpu(tmp_path: Path) -> None:
    """There torch itself says who makes the host wait."""
    path, here = tmp_path / "found.json", Path(__file__)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here.parents[2] / "support"), *sys.path])}
    worker = here.with_name("waits_worker.py")
    subprocess.run([sys.executable, worker, path], env=environment, check=True, timeout=100)
    for case in (found := json.loads(path.read_text(encoding="utf-8"))):
        check(found, case)


def check(found: dict[str, list[str]], case: str) -> None:
    waits = Counter(where for where in found[case] if CPU_ONLY not in where)
    theirs = {where: waits.pop(where) for where in [*waits] if where.startswith(("deepspeed/", "runtime/"))}
    assert waits == {OURS: 1}, "neither transformers nor we look at numbers of the device elsewhere"
    assert sum(theirs.values()) <= (0 if case[0] == "0" else 3), theirs  # DeepSpeed's norms, once a step
