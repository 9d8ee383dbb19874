"""A model whose parameters lie on two ranks says what a whole one says, bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from distributed_support import run_workers

from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.tokens.store import TokenStoreWriter

WORKER = Path(__file__).with_name("partitioned_worker.py")
LAYOUT = [("prompt", 0), ("plan", 0), ("derive", 1), ("control", 0), ("answer", 0)]


def test_ranks_with_parts_of_a_model_and_unequal_work_read_what_one_reads_with_all_of_it(tmp_path):
    draw, kinds = np.random.default_rng(3), Kinds()
    with TokenStoreWriter(tmp_path / "tokens.arrow", kinds) as writer:
        for at in range(7):
            sizes = draw.integers(1, 9, len(LAYOUT))
            of = np.repeat([kinds.id(name) for name, _ in LAYOUT], sizes)
            steps = np.repeat([step for _, step in LAYOUT], sizes)
            writer.add(f"r{at}", "q", draw.integers(3, 24, len(of)), of, steps)
    said = run_workers(WORKER, tmp_path / "tokens.arrow", ranks=2)
    assert "rank 0 agrees" in said
    assert "rank 1 agrees" in said
