"""A judge of steps among the checks of selection: whom it is asked about, what it costs, what is kept of it."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from fake_run import summary
from selecting import judged, record

from tracestill.data_pipeline.base.schema import REJECTED_SCHEMA, read_rows
from tracestill.data_pipeline.base.stage import read_manifest
from tracestill.data_pipeline.selection import judgements
from tracestill.data_pipeline.soundness.checkers.chain import Checks
from tracestill.data_pipeline.soundness.checkers.finding import Finding, Trace

STEPS = """
from pydantic import BaseModel
from tracestill.data_pipeline.sampling.asking.desk import NotAsked
from tracestill.data_pipeline.sampling.teachers import Said

class TeacherOptions(BaseModel):
    pass

class Teacher:
    price, asked = 1.0, []
    def __init__(self, options):
        pass
    def answer(self, desk):
        for ask in desk:
            if not desk.ledger.reserve(1.0, lambda drawn: desk.note("budget", repr(drawn))):
                desk.give(ask, NotAsked())
                continue
            text = ask.question.question
            Teacher.asked.append(text)
            desk.give(ask, Said("First wrong step: " + ("2" if "by magic" in text else "none")))
            desk.ledger.settle(1.0, 1.0)
"""


@pytest.fixture
def my_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "my_steps.py").write_text(STEPS)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("my_steps", None)
    return importlib.import_module("my_steps").Teacher


def judging_steps(**options: object) -> dict:
    return {
        "checks": ["equations", {"use": "judge", "options": {"use": "my_steps", **options}}],
        "paths": {"same": "off"},
    }


@pytest.mark.parametrize(
    ("select", "row"),
    [
        ({}, record("a", "3 + 4 = 7.", "8")),
        ({}, record("a", "3 + 4 = 7.", " ")),
        ({}, record("a", "3 + 4 = 8, so 7.")),
        ({"policy": "answer"}, record("a", "3 + 4 = 7.")),
    ],
)
def test_nobody_is_asked_about_a_record_that_is_rejected_anyway(tmp_path, my_steps, select, row) -> None:
    """A judge costs money: it sees right answers alone, and only where soundness decides."""
    judged(tmp_path, [row, record("b", "By 4 + 3 = 7.")], **judging_steps(), **select)
    assert len(my_steps.asked) == (0 if select else 1)
    assert not any(row["trace"] in text for text in my_steps.asked)


@pytest.mark.parametrize("at_once", [2, 256])
def test_a_judge_of_steps_rejects_within_its_budget_and_is_asked_once(tmp_path, my_steps, monkeypatch, at_once) -> None:
    monkeypatch.setattr(judgements, "AT_ONCE", at_once)
    rows = [
        record(f"{at}", f"We add {at}. Then by magic, 7." if at % 2 else f"We add {at}. It is 7.") for at in range(8)
    ]
    kept, rejected = judged(tmp_path, rows, **judging_steps(budget=5.0))
    assert rejected == {"1": "false_step", "3": "false_step"}
    assert kept == ["0", "2", "4", "5", "6", "7"], "those that nobody was paid to judge stay"
    counts = read_manifest(tmp_path / "select")["counts"]
    assert counts["unjudged"] == {"answers": 0, "traces": 3}
    assert counts["in"] == counts["out"] + sum(counts["rejected"].values())
    assert "; not judged, the budget does not pay for it: traces 3;" in summary("select", tmp_path / "select")
    detail = read_rows(tmp_path / "select" / "rejected.parquet", REJECTED_SCHEMA)[0]["detail"]
    assert detail == "judge, step 2: Then by magic, 7."
    flags = pq.read_table(tmp_path / "select" / "verdicts.parquet")["sound"].to_pylist()
    assert flags == [True, False, True, False, True, True, True, True]
    assert len(my_steps.asked) == 5
    assert judged(tmp_path, rows, **judging_steps(budget=8.0))[0] == ["0", "2", "4", "6"]
    assert len(my_steps.asked) == 8, "only what was missing"
    assert "unjudged" not in read_manifest(tmp_path / "select")["counts"]


def test_checks_that_ask_nobody() -> None:
    checks = Checks((), "select.checks")
    checks.named = [("judge", lambda trace: [Finding(0, 1, "false")])]
    assert checks.fault(Trace("3")) is not None
    assert checks.fault(Trace("3"), ask=False) is None
