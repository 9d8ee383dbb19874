"""One rank fails in a refresh: all ranks say so, and none waits for another."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from distributed_support import run_workers
from own_texts import TRAIN, copied, prepared, recipe

WAYS = ("writes", "begins", "forgets")


@pytest.fixture(scope="module")
def failed(tmp_path_factory):
    root = tmp_path_factory.mktemp("failing")
    data, teacher = prepared(root)
    runs = [copied(data, root / how, recipe(teacher)).root for how in WAYS]
    worker = Path(__file__).with_name("failing_worker.py")
    run_workers(worker, root / "said.json", *(f"{run}:{run.name}" for run in runs), ranks=2, timeout=150)
    return root, json.loads((root / "said.json").read_text())


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("writes", "the student cannot write its own texts (rank 1: a broken tokenizer)"),
        ("begins", "000000/teacher: cannot be begun (rank 0: [Errno 28] No space left on device)"),
        ("forgets", "teacher: cannot be deleted (rank 0: [Errno 28] No space left on device)"),
    ],
)
def test_all_ranks_end_with_the_error_of_the_one_that_failed(failed, how, said):
    _, found = failed
    assert len(found[how]) == 2
    assert all(said in one for one in found[how]), found[how]


def test_the_others_leave_what_they_had_begun(failed):
    root, _ = failed
    assert list((root / "writes" / TRAIN / "refreshes/000000/.parts").iterdir()) == [], "rank 0 was not done"
