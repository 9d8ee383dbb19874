"""The norm to clip by is computed once, by the trainer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny_step
from distributed_support import run_workers


def test_deepspeed_clips_by_the_norm_that_it_is_given(tmp_path):
    run_workers(Path(__file__).with_name("norm_worker.py"), tmp_path / "found.json")
    found = json.loads((tmp_path / "found.json").read_text())
    assert len(found) == 7
    for case, (norm, seen) in found.items():
        rough = 0.02 if case.endswith("bf16") else 1e-5
        assert norm == pytest.approx(tiny_step.exact_norm(seed=0), rel=rough), case
        assert seen == pytest.approx(0.25, rel=1e-3), case
