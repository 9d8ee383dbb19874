"""Checkers of what is carried along: values, the answer, units; and a teacher as a judge."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.soundness.checkers.chain import CheckConfig, Checks
from tracestill.data_pipeline.soundness.checkers.conclusion import conclusion
from tracestill.data_pipeline.soundness.checkers.finding import Trace
from tracestill.data_pipeline.soundness.checkers.units import units
from tracestill.data_pipeline.soundness.checkers.values import values


@pytest.mark.parametrize(
    ("question", "text", "outcomes"),
    [
        ("1000 bees, 20% fewer, 2.8 liters", "1000 * 0.8 = 800 bees\n2.8 * 700 = 1960", ["false"]),
        ("1000 bees, 20% fewer, 2.8 liters", "1000 * 0.8 = 800 bees\n2.8 * 800 = 2240", []),
        ("345 and 678", "345 + 678 = 1023\n1032 * 2 = 2064", ["false"]),
        ("345 and 678", "345 + 678 = 1023\n1023 * 77 = 78771", ["cannot_tell"]),
        ("345 and 678", "345 + 678 = 1023\n1023 * 77 = 78771\n4567 * 2 = 9134", ["cannot_tell"] * 2),
        ("15 and 3", "15 + 2 = 17\n45 - 5 = 40", ["cannot_tell"]),  # 15 * 3, in the head
        ("a dozen at $5", "12 * 5 = 60", []),
        ("30% of 250", "250 * 0.3 = 75, and 250 * 0.7 = 175", []),
        ("coins 10:45", "10 + 45 = 55", []),
    ],
)
def test_values(question: str, text: str, outcomes: list[str]) -> None:
    assert [one.outcome for one in values(Trace(text, question))] == outcomes


@pytest.mark.parametrize(
    ("text", "answer", "outcome"),
    [
        ("3 + 4 = 7\n7 * 2 = 14", "14", "holds"),
        ("3 + 4 = 7\n7 * 2 = 14", "$14.00", "holds"),
        ("3 + 4 = 7\n7 * 2 = 14", "13", "false"),
        ("3 + 4 = 7\n7 * 2 = 14", "3", "cannot_tell"),
        ("3 + 4 = 7\nThen it is doubled.", "14", "cannot_tell"),
        ("80 000 + 20 000 = 100 000", "100,000", "holds"),
        ("7 / 8 = 0.875", "87.5%", "holds"),
        ("10 / 3 = 3.33", "3", "holds"),
        ("3 + 4 = 7", "Monday", None),
    ],
)
def test_conclusion(text: str, answer: str, outcome: str | None) -> None:
    assert [one.outcome for one in conclusion(Trace(text, "", answer))] == ([outcome] if outcome else [])


@pytest.mark.parametrize(
    ("text", "outcomes"),
    [
        ("$14,000 - 1600 gallons = $12,400", ["false"]),
        ("5 hours + 3 miles = 8", ["false"]),
        ("2 hours + 30 minutes = 150 minutes", ["holds"]),
        ("$5 + $3 = $8", ["holds"]),
        ("$5 + 3 hours * $2 = $11", []),
        ("$5 per hour + 3 hours = x", []),
        ("3 apples + 4 pears = 7", []),
        ("1 hour for 4 miles + 1 hour for 2 more = 2 hours", []),
        ("10-3 hours = 7", []),
    ],
)
def test_units(text: str, outcomes: list[str]) -> None:
    assert [one.outcome for one in units(Trace(text))] == outcomes


JUDGE = """
from pydantic import BaseModel
from tracestill.data_pipeline.sampling.teachers import Said

class TeacherOptions(BaseModel):
    says: str
    desk: bool = False

class Solving:
    def __init__(self, options):
        self.options = options
    def solve(self, question, *, style, temperature, seed):
        assert "Step 2: 7 * 2 = 15" in question.question and "How much?" in question.question
        if self.options.says == "fail":
            raise OSError("gone")
        return Said(self.options.says)

class Desk(Solving):
    def answer(self, desk):
        for ask in desk:
            desk.give(ask, self.solve(ask.question, style="", temperature=0, seed=0))

def Teacher(options):
    return Desk(options) if options.desk else Solving(options)
"""


@pytest.mark.parametrize("desk", [False, True])
@pytest.mark.parametrize(
    ("says", "fault"),
    [
        ("Step 2 is odd.\\nFirst wrong step: 2", ("false_step", "judge, step 2: 7 * 2 = 15")),
        ("First wrong step: none", None),
        ("I do not know", None),
        ("First wrong step: 9", None),
    ],
)
def test_a_judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str, fault: object, desk: bool) -> None:
    (tmp_path / "my_judge.py").write_text(JUDGE)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("my_judge", None)
    options = {"use": "my_judge", "options": {"says": says.replace("\\n", "\n"), "desk": desk}}
    checks = Checks((CheckConfig(use="judge", options=options),), "select.checks")
    assert checks.fault(Trace("3 + 4 = 7\n7 * 2 = 15", "How much?")) == fault


def test_a_judge_that_fails_lets_nothing_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_judge.py").write_text(JUDGE)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("my_judge", None)
    options = {"use": "my_judge", "options": {"says": "fail"}, "attempts": 2}
    checks = Checks((CheckConfig(use="judge", options=options),), "select.checks")
    with pytest.raises(InputError, match=r"the judge does not answer \(.*gone"):
        checks.fault(Trace("3 + 4 = 7\n7 * 2 = 15", "How much?"))
