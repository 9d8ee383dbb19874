"""The kernel refuses a write, an fsync or a rename of a real training on two ranks while it saves.

strace answers in its place, whoever calls: Python, or safetensors, which is Rust. Nothing is lost by it.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from distributed_support import run_workers
from same_training import assert_same, outcome, prepared
from traced_save import Place, log_of, refusals

from tracestill.trainer.checkpoint.files import damaged, path_of

WORKER = Path(__file__).with_name("refused_worker.py")
CODES = {"ENOSPC": 5, "EIO": 2}
SAID = {"ENOSPC": "No space left on device", "EIO": "Input/output error"}
FAULT = "a call of a training's save answered with {} by the kernel"
OUTCOME = "one clear error, the older checkpoint whole, going on changes no bit"


@pytest.fixture(scope="module", autouse=True)
def strace() -> None:
    if reason := why_impossible():
        pytest.skip(f"NO CALL CAN BE REFUSED HERE: {reason}")


def why_impossible() -> str:
    """Why strace cannot attach to a process of ours; empty if it can."""
    if shutil.which("strace") is None:
        return "strace is not installed (apt-get install strace)"
    sleeper = subprocess.Popen(["sleep", "60"])
    probe = subprocess.Popen(["strace", "-p", str(sleeper.pid)], stderr=subprocess.PIPE, text=True)
    assert probe.stderr is not None
    said = probe.stderr.readline().strip()
    for process in (sleeper, probe):
        process.kill()
        process.wait()
    probe.stderr.close()
    return "" if said.endswith("attached") else said


def names_the_save(line: str, place: Place, error: str, step: int) -> bool:
    """Whether an error says what could not be written, or deleted once it was written, on which rank, and why."""
    what = rf"/checkpoints(?:/tmp-{step:06d}-\w+: cannot .*|: cannot delete old checkpoints )"
    return bool(re.search(rf"{what}\(rank {place.rank}: .*{SAID[error]}", line))


def test_a_call_of_native_code_that_is_refused_costs_nothing(tmp_path, counted):
    """The first write of rank 1 in a save is that of its tensors, in Rust. The ranks end; new ones go on."""
    place, error, step = Place(1, "write", 1), "ENOSPC", 4
    (run,) = prepared(tmp_path, 8, "refused")
    printed = run_workers(WORKER, "main", run, *place, error, step, ranks=2, code=CODES[error])
    assert refusals(run, 1) == 1
    assert ".safetensors" not in log_of(run, 1).read_text(), "they did not get their name"
    (line,) = re.findall(r"^error: .*", printed, re.MULTILINE)
    assert names_the_save(line, place, error, step)
    checkpoints = run / "arms/traces/train/checkpoints"
    assert [path.name for path in checkpoints.iterdir()] == ["step-000002"]
    assert damaged(path_of(checkpoints, 2)) == []
    before, _ = outcome(run, 2)
    assert len(before) >= step
    run_workers(WORKER, "main", run, *place, error, 0, ranks=2)
    after, _ = outcome(run, 8)
    assert [step for step, *_ in after] == [*range(1, 9)]
    assert after[: len(before)] == before, "what was done again is bit for bit the same"
    counted(FAULT.format(error), 1, OUTCOME)


@pytest.mark.soak
def test_each_call_of_a_save_is_refused_in_turn_and_nothing_is_lost(tmp_path, counted):
    """In one training: each attempt goes on from what the refused save of the one before left."""
    steps = 240
    undisturbed, refused = prepared(tmp_path, steps, "undisturbed", "refused")
    run_workers(WORKER, "sweep", tmp_path, ranks=2, timeout=500)
    *found, last = json.loads((tmp_path / "found.json").read_text())
    names = Counter(case["place"][1] for case in found if case["error"] == "EIO")
    assert names["write"] >= 4, "tensors of two ranks, state.json, manifest.json"
    assert names["fsync"] >= 8
    assert names["rename"] + names["renameat"] + names["renameat2"] >= 6
    for case in found:
        assert case["refused"] == 1, case
        assert case["code"] == CODES[case["error"]], case
        assert names_the_save(case["said"], Place(*case["place"]), case["error"], case["step"]), case
        assert case["older is whole"], case
        assert case["left"] == [], case
    for case, following in zip(found, [*found[1:], last], strict=True):
        assert case["newest"] == f"step-{following['begun']:06d}", (case, following)
        assert case["begun"] < following["begun"] < steps, (case, following)
    assert (last["code"], last["newest"]) == (0, f"step-{steps:06d}")
    assert_same(outcome(undisturbed, steps), outcome(refused, steps), steps)
    for error in CODES:
        counted(FAULT.format(error), sum(case["error"] == error for case in found), OUTCOME)
