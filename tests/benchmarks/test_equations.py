"""The traces that a person judged, against the reading of equations; without ``shared/data``: skipped."""

from __future__ import annotations

import csv
import json

import pytest
from real_data import DATA, benchmark, needs_data

from tracestill.data_pipeline.soundness import equations

MISSED = {("gsm8k/train", 6405)}  # 150 minutes / 5 minutes/100 meters = 3
WRONGLY = {("gsm8k/train", 716)}  # called false: cents told as dollars


@pytest.fixture(scope="module")
def bench():
    with benchmark("equations") as script:
        yield script


@needs_data
def test_human_solutions_are_called_false_where_a_person_says_so(bench):
    lines = {
        name: (DATA / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        for name in ("gsm8k/train", "gsm8k/test")
    }
    with bench.LABELS.open(encoding="utf-8", newline="") as file:
        labels = [row for row in csv.DictReader(file, delimiter="\t") if row["source"] in lines]
    assert len(labels) > 70
    for row in labels:
        trace = json.loads(lines[row["source"]][int(row["row"])])["answer"].split("####")[0].strip()
        assert bench.digest(trace) == row["sha256"]
        false = any(not one.holds for one in equations(trace))
        wrong = row["verdict"] == "wrong" and (row["source"], int(row["row"])) not in MISSED
        assert false == (wrong or (row["source"], int(row["row"])) in WRONGLY), row


def test_the_exact_evaluation_knows_what_is_surely_false(bench):
    places = bench.surely_false(
        "so 0.68*40 = 27 students, 88 pages x 1/2 = 44, 3 + 4 * 2 = 11 and (1 + 2) * 3 = $10, 10/3 = 3.33"
    )
    assert len(places) == 2
