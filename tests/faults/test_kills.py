"""Kills at any instant cost nothing but time: the training ends bit for bit as if nobody had disturbed it.

A long chain, with a report:  KILLS=200 KILLS_JSON=faults.json python -m pytest -m soak tests/faults/test_kills.py
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from forked_command import command
from kill_chain import Chain, Kill, random_kills
from same_training import assert_same, outcome, prepared

from tracestill.data_pipeline.base.stage import read_manifest

SEED = 7
FULL = 200
SHORT = [Kill("in a save", "rank 0"), Kill("in a step", "everything")]


def survive(root: Path, kills: list[Kill], restarts: int) -> dict[str, Any]:
    """Train twice, once with these kills, and compare; what was counted."""
    steps, begun = 8 + 8 * len(kills), time.perf_counter()
    undisturbed, killed = prepared(root, steps, "undisturbed", "killed")
    chain = Chain(killed, restarts, SEED)
    try:
        for kill in kills:
            assert chain.kill(kill), "it was done before all kills were"
        counts = chain.finish()
    finally:
        chain.close()
    command("train", undisturbed)
    expected = log, tensors = outcome(undisturbed, steps)
    assert_same(expected, outcome(killed, steps), steps)
    return {
        "kills": len(kills),
        "steps": steps,
        "seconds": round(time.perf_counter() - begun, 1),
        "counts": counts,
        "tensors compared, and equal bit for bit": len(tensors),
        "lines of the log compared, and equal bit for bit": len(log),
    }


def test_killed_twice_it_ends_bit_for_bit_like_the_undisturbed_run(tmp_path, counted):
    """The first time --max-restarts goes on; then the launcher's parent is killed too."""
    counts = survive(tmp_path, SHORT, restarts=1)["counts"]
    planned = read_manifest(tmp_path / "undisturbed/arms/traces/plan") or {}
    assert len(set(planned["steps_of_epochs"])) > 1, "its epochs are of a mixture, and differ"
    assert planned["statistics"]["mixture"]["hard"]["repeats"] > 0
    assert counts["restarts by --max-restarts"] == 1
    assert counts["times it was started by hand"] == 2
    counted("SIGKILL of a rank or of everything", len(SHORT), "going on changes no bit")


@pytest.mark.soak
@pytest.mark.timeout(5 * 3600)
def test_a_long_chain_of_kills_ends_bit_for_bit_like_the_undisturbed_run(tmp_path):
    kills = int(os.environ.get("KILLS", FULL))
    found = survive(tmp_path, random_kills(kills, SEED), restarts=2 * kills)
    if where := os.environ.get("KILLS_JSON"):
        sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
        from machine import describe

        about = {
            "what": "SIGKILL at random instants in one chain of kill and resume: two gloo ranks on a CPU, a tiny "
            "student with dropout, a checkpoint every second step in the background",
            "command": f"KILLS={kills} python -m pytest -m soak tests/faults/test_kills.py",
            "seed": SEED,
            "kills of the full chain": FULL,
        }
        Path(where).write_text(json.dumps({**about, **found, "machine": describe()}, indent=2) + "\n")
