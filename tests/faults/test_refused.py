"""The kernel refuses a write, an fsync or a rename of a real training on two ranks while it saves.

strace answers in its place, whoever calls: Python, or safetensors, which is Rust. Nothing is lost by it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest
from distributed_support import run_workers
from same_training import assert_same, outcome, prepared

from tracestill.trainer.checkpoint_files import committed, damaged, path_of

WORKER = Path(__file__).with_name("refused_worker.py")
CODES = {"ENOSPC": 5, "EIO": 2}
SAID = {"ENOSPC": "No space left on device", "EIO": "Input/output error"}
NEVER = 1_000_000  # a step that no save is after
FAULT = "a call of a training's save answered with {} by the kernel"
OUTCOME = "one clear error and exit code, the older checkpoint whole, going on changes no bit"
PRUNES = 6  # the first step after which a save deletes an older one


class Place(NamedTuple):
    """One call of a save: the ``nth`` of its name that a rank makes."""

    rank: int
    call: str
    nth: int


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


def places(run: Path, rank: int) -> list[Place]:
    """The calls of a rank's traced save."""
    names = re.findall(r"^(\w+)\(.*checkpoints/", (run / f"calls-{rank}").read_text(), re.MULTILINE)
    seen: Counter[str] = Counter()
    found = []
    for name in names:
        seen[name] += 1
        found.append(Place(rank, name, seen[name]))
    return found


def train(run: Path, step: int = NEVER, place: Place | None = None, error: str = "") -> str:
    """Train on. With ``place``, its call is refused with ``error`` in the save after ``step``; then all ranks end."""
    inject = f"{place.call}:error={error}:when={place.nth}" if place else "none"
    words = (run, step, place.rank if place else 0, inject)
    return run_workers(WORKER, *words, ranks=2, code=CODES[error] if place else 0)


def refuse(run: Path, place: Place, error: str) -> None:
    """Refuse one call of the next save but one: it is named, and what was there before is whole."""
    checkpoints = run / "arms/traces/train/checkpoints"
    newest = [int(path.name.removeprefix("step-")) for path in committed(checkpoints)][-1:] or [0]
    step = max(newest[0] + 4, PRUNES)
    printed = train(run, step, place, error)
    case = f"{place} of the save after step {step}:\n{printed}"
    (line,) = re.findall(r"^error: .*", printed, re.MULTILINE)
    assert re.search(rf"/checkpoints/tmp-{step:06d}-\w+: cannot .*\(rank {place.rank}: .*{SAID[error]}", line), case
    assert (run / f"calls-{place.rank}").read_text().count("(INJECTED)") == 1, case
    assert damaged(path_of(checkpoints, step - 2)) == [], case
    assert not list(checkpoints.glob("tmp-*")), case


def test_a_call_of_native_code_that_is_refused_costs_nothing(tmp_path, counted):
    """The first write of rank 1 in a save is that of its tensors, in Rust."""
    (run,) = prepared(tmp_path, 8, "refused")
    refuse(run, Place(1, "write", 1), "ENOSPC")
    assert ".safetensors" not in (run / "calls-1").read_text(), "they did not get their name"
    before, _ = outcome(run, 4)
    assert len(before) >= 6, "the steps up to the save that failed"
    train(run)
    after, _ = outcome(run, 8)
    assert [step for step, *_ in after] == [*range(1, 9)]
    assert after[: len(before)] == before, "what was done again is bit for bit the same"
    counted(FAULT.format("ENOSPC"), 1, OUTCOME)


@pytest.mark.soak
@pytest.mark.timeout(3 * 3600)
@pytest.mark.parametrize("error", CODES)
def test_each_call_of_a_save_is_refused_in_turn_and_nothing_is_lost(tmp_path, error, counted):
    """In one training: each attempt goes on from what the refused save of the one before left."""
    steps = 100
    undisturbed, refused = prepared(tmp_path, steps, "undisturbed", "refused")
    train(undisturbed, PRUNES)
    all_places = [*places(undisturbed, 0), *places(undisturbed, 1)]
    names = Counter(place.call for place in all_places)
    assert names["write"] >= 4, "tensors of two ranks, state.json, manifest.json"
    assert names["fsync"] >= 8
    assert names["rename"] + names["renameat"] + names["renameat2"] >= 6
    assert PRUNES + 4 * len(all_places) < steps
    for place in all_places:
        refuse(refused, place, error)
    train(refused)
    assert_same(outcome(undisturbed, steps), outcome(refused, steps), steps)
    counted(FAULT.format(error), len(all_places), OUTCOME)
