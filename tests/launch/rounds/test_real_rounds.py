"""Rejection rounds with students that are trained, write and are asked: nothing is a formula here."""

from __future__ import annotations

import pyarrow.parquet as pq
import pytest
from forked_command import command
from small_rounds import WAYS, outcome, write_small_rounds


@pytest.mark.soak
def test_a_student_teaches_the_next_one(tmp_path, monkeypatch):
    write_small_rounds(tmp_path)
    monkeypatch.chdir(tmp_path)
    said = command("rounds", "small.yaml", "--run-dir", "run", "--set", "rounds.count=1").output
    result, digests = outcome(tmp_path / "run")
    first, second = result["rounds"]
    assert (result["stopped"], first["trained"], second["trained"]) == (None, True, True)
    assert second["written"]["right"] > 32, "more than half of 64"
    rows = pq.read_table(tmp_path / "run/rounds/1/written/traces.parquet").to_pylist()
    own = {row["reasoning"] for row in rows if row["accepted"]}
    assert len(own & {*WAYS}) > 1, "as it was taught"
    learnt = pq.read_table(tmp_path / "run/rounds/1/select/records.parquet").to_pylist()
    assert {row["teacher"] for row in learnt} == {"book", "student-0"}
    assert 0 < second["traces"]["differ_same"] <= 1 == second["traces"]["differ_first"]
    assert second["apart"]["questions"] > 1, "of test questions, at temperature 1"
    exports = [digests[f"rounds/{at}/arms/traces/train/export/model.safetensors"] for at in (0, 1)]
    assert exports[0] != exports[1], "trained anew, on other traces"
    assert "best: round" in said
