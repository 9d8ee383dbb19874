"""One interface of checkers: named, built in or anybody's; what they find, in which step, and what rejects a record."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.selection.selection import SelectConfig, stage_config
from tracestill.data_pipeline.soundness.checkers.chain import BUILT_IN, DEFAULT, CheckConfig, Checks
from tracestill.data_pipeline.soundness.checkers.finding import Finding, Trace

WRONG = Trace("First, 3 + 4 = 7.\nThen 7 * 2 = 15.\nSo x + 5 = 9, which gives x = 5.", "3, 4 and 2")

OWN = """
def shouting(trace):
    for at, step in enumerate(trace.steps):
        if step.isupper():
            yield trace.starts[at], trace.ends[at], "false", "it shouts"
        else:
            yield (trace.starts[at], trace.ends[at], "holds")

def breaks(trace):
    return 1 / 0

def outside(trace):
    return [(0, 10_000, "false")]

def unknown(trace):
    return [(0, 1, "wrong")]
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_checks.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("my_checks", None)


def test_findings_say_by_whom_and_in_which_step() -> None:
    found = list(Checks(DEFAULT, "select.checks").findings(WRONG))
    assert [(one.checker, one.step, one.outcome) for one in found] == [
        ("equations", 0, "holds"), ("equations", 1, "false"), ("algebra", 2, "false"),
    ]  # fmt: skip
    assert WRONG.text[found[1].start : found[1].end] == "7 * 2 = 15"


def test_what_is_false_rejects_with_reason_and_detail() -> None:
    assert Checks(DEFAULT, "c").fault(WRONG) == ("false_equation", "7 * 2 = 15")
    assert Checks(("algebra",), "c").fault(WRONG) == ("false_step", "algebra, step 3: x is 5 by this, and 4 before")
    assert Checks((), "c").fault(WRONG) is None
    assert Checks(DEFAULT, "c").fault(Trace("Words alone, 3 of them.")) is None


def test_a_checker_of_the_users(own: None) -> None:
    checks = Checks(("my_checks:shouting",), "c")
    assert checks.fault(Trace("It is so.\nIT IS.\n")) == ("false_step", "my_checks:shouting, step 2: it shouts")
    assert checks.fault(Trace("It is so.")) is None
    found = next(checks.findings(Trace("It is so.")))
    assert found == Finding(0, 9, "holds", "", "my_checks:shouting", 0)
    select = SelectConfig.model_validate({"checks": ["equations", "my_checks:shouting"]})
    assert list(stage_config(select)["contents"]["select.checks"]) == ["my_checks.py"], "an edit selects anew"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "breaks",
            r"select.checks: my_checks:breaks failed on the trace 'It\.' \(.*my_checks.py:10: ZeroDivisionError",
        ),
        ("outside", r"select.checks: my_checks:outside gave \(0, 10000, 'false'\); expected .* within the 3 char"),
        ("unknown", r"select.checks: my_checks:unknown gave \(0, 1, 'wrong'\); expected \(start, end, one of holds"),
    ],
)
def test_a_checker_of_the_users_that_fails(own: None, name: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Checks((f"my_checks:{name}",), "c").fault(Trace("It."))


@pytest.mark.parametrize(
    ("check", "said"),
    [
        ("equation", r"c\.0: unknown checker 'equation'; did you mean 'equations'\?; or give an import path"),
        ("my_checks:none", r"c\.0: my_checks has no function 'none'"),
        ("no_such_module:check", r"c\.0: cannot import 'no_such_module'"),
        (CheckConfig(use="values", options={"a": 1}), r"c\.0\.options: 'values' takes none"),
        (CheckConfig(use="judge", options={}), r"c\.0\.options\.use: Field required"),
    ],
)
def test_a_checker_that_is_none(own: None, check: str | CheckConfig, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Checks((check,), "c")


def test_given_steps_are_kept() -> None:
    trace = Trace("one\ntwo. three", given_ends=[4, 14])
    assert trace.steps == ["one\n", "two. three"]
    assert [trace.step_at(at) for at in (0, 3, 4, 13, 99)] == [0, 0, 1, 1, 1]
    assert Trace("").steps == []


HOSTILE = ["", " \n", "=" * 3000, "(" * 3000, "x" * 4000 + " = ", "1 " * 3000, "x = " * 1500, '"a" < ' * 2000,
           "- 1" * 2000, "[ ; stack: [\n" * 400, "2(" * 900 + "x = 1"]  # fmt: skip


@pytest.mark.parametrize("name", BUILT_IN)
def test_no_checker_chokes(name: str) -> None:
    for text in HOSTILE:
        trace = Trace(text, question=text, answer="5")
        assert trace.equations is not None  # their own reading is another test's
        start = time.process_time()
        list(BUILT_IN[name](trace))
        assert time.process_time() - start < 2, (name, text[:20])
