"""What runs in processes apart: algebra under a limit, programs under limits, a judge that is asked once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tracestill.data_pipeline.answers import Case, Verifier, VerifyConfig, programs
from tracestill.data_pipeline.answers.apart import workers
from tracestill.data_pipeline.answers.expression import before_algebra, compared
from tracestill.data_pipeline.answers.judge import Judge
from tracestill.data_pipeline.answers.verdict import Verdict
from tracestill.data_pipeline.answers.verifier import how_of
from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.sampling.asking.desk import NotAsked
from tracestill.data_pipeline.sampling.asking.kept import Kept
from tracestill.data_pipeline.sampling.teachers import Said

needs_algebra = pytest.mark.skipif(not workers.is_there(), reason=workers.REMEDY)


@needs_algebra
def test_a_hostile_pair_times_out_and_holds_no_other_up():
    hostile = [("9^{9^{9^9}}", "x"), ("(" * 300 + "1" + ")" * 300, "x")]
    plain = [(f"{n}(x+1)", f"{n}x+{n}") for n in range(2, 8)]
    workers.WORKERS.compare([("x+1", "1+x")])
    start = time.monotonic()
    found = workers.WORKERS.compare([*hostile[:1], *plain, *hostile[1:]], 1.5)
    assert [one["outcome"] for one in found] == ["timeout", *["right"] * len(plain), "timeout"]
    assert time.monotonic() - start < 8
    again = time.monotonic()
    assert workers.WORKERS.compare(hostile, 1.5)[0]["outcome"] == "timeout"
    assert time.monotonic() - again < 0.5, "what is known is not compared again"


@needs_algebra
def test_workers_import_no_torch_and_end_with_a_parent_that_is_killed():
    script = (
        "from tracestill.data_pipeline.answers.apart.workers import WORKERS\n"
        "import os, psutil, sys\n"
        "WORKERS.compare([('x+1', '1+x')])\n"
        "mine = [str(p.pid) for p in psutil.Process().children(recursive=True)]\n"
        "print('torch' in sys.modules, *mine, flush=True)\n"
        "WORKERS.compare([('9^{9^{9^9}}', 'x')], 60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    torch, *pids = process.stdout.readline().split()
    assert torch == "False"
    assert len(pids) >= 3, "the program and two workers"
    maps = [Path(f"/proc/{pid}/maps") for pid in pids]
    assert not any("libtorch" in one.read_text() for one in maps if one.exists())
    time.sleep(0.5)  # one of them is busy in the middle of an operation that cannot be interrupted
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    end = time.monotonic() + 10
    while (left := [pid for pid in pids if alive(int(pid))]) and time.monotonic() < end:
        time.sleep(0.05)
    assert left == []


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@needs_algebra
def test_a_program_that_died_is_started_again():
    workers.WORKERS.compare([("x+1", "1+x")])
    process = workers.WORKERS._process
    assert process is not None
    process.kill()
    process.wait()
    found = workers.WORKERS.compare([("2(x+5)", "2x+10")])
    assert found[0]["outcome"] in ("right", "cannot_tell")
    assert workers.WORKERS.compare([("3(x+5)", "3x+15")])[0]["outcome"] == "right"


@pytest.mark.parametrize("answer", ["- 7", "7e4", "1{,}000", "14:30", "7–9", "12 apples", "the root of two"])
def test_what_math_verify_misreads_never_reaches_it(answer: str):
    """It reads these as 7, 7, 1, 14, 7, 12 and as a product of letters."""
    given = before_algebra(answer, r"\sqrt{2}")
    plain = {"- 7": "-7", "7e4": "70000", "1{,}000": "1000"}
    if answer in plain:
        assert given == (plain[answer], r"\sqrt{2}")
    else:
        assert isinstance(given, Verdict)
        assert given.outcome in ("wrong", "cannot_tell")


def test_without_algebra_expressions_cannot_be_told_and_the_remedy_is_named(monkeypatch):
    monkeypatch.setattr(workers, "NEEDS", ("no_such_module",))
    (found,) = compared([("x+1", "1+x")])
    assert found.outcome == "cannot_tell"
    assert "pip install" in found.detail
    assert Verifier()("x^2", "x^2").outcome == "right", "written alike needs none"


TESTS = "assert add(2, 3) == 5\nassert add(-1, 1) == 0"
ALLOWED = VerifyConfig(use="code", allow_code=True)


@pytest.mark.parametrize(
    ("program", "outcome", "detail"),
    [
        ("Here:\n```python\ndef add(a, b):\n    return a + b\n```\nDone.", "right", ""),
        ("python\ndef add(a, b):\n    return a + b\n", "right", ""),
        ("def add(a, b):\n    return a - b", "wrong", "AssertionError"),
        ("def add(a, b:\n", "wrong", "SyntaxError"),
        ("import sys\nsys.exit(0)", "wrong", "ended before its tests"),
        ("import os\nos._exit(0)", "wrong", "ended before its tests"),
        ("x = bytearray(3 << 30)", "wrong", "MemoryError"),
        ("import os\nassert os.listdir() == ['x']", "wrong", "AssertionError"),
        ("open('big', 'wb').write(b'0' * (4 << 20))", "wrong", ""),
    ],
)
def test_programs_are_judged_by_their_tests(program: str, outcome: str, detail: str):
    found = Verifier(ALLOWED)(program, TESTS)
    assert found.outcome == outcome, found
    assert detail in found.detail


def test_a_program_without_end_times_out_and_leaves_nothing_behind(tmp_path):
    mark = tmp_path / "child"
    program = (
        "import subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"open({str(mark)!r}, 'w').write(str(child.pid))\n"
        "while True: pass\n"
    )
    assert programs.verify_code(program, TESTS, seconds=1.0).outcome == "timeout"
    if mark.exists():
        time.sleep(0.2)
        assert not alive(int(mark.read_text()))


def test_code_and_a_judge_are_off_unless_asked_for():
    with pytest.raises(ValueError, match="allow_code: true"):
        VerifyConfig(use="code")
    with pytest.raises(ValueError, match=r"name one of sample\.teachers"):
        VerifyConfig(use="judge")
    with pytest.raises(InputError, match="allow_code"):
        Verifier()("print(1)", "assert True", how="code")
    with pytest.raises(InputError, match=r"unknown.*expected one of auto"):
        Verifier().verdicts([Case("1", "1", how="os:system")])


class Teacher:
    """Says right if the answer holds the gold one; counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def solve(self, question, *, style, temperature, seed):
        self.asked += 1
        answer = question.question.split("Answer given:\n")[1].split("\n")[0]
        if answer == "odd":
            return Said("RIGHT or WRONG")
        if answer == "denied":
            return Said("The answer is not RIGHT.")
        return Said("Let me see.\nRIGHT" if "feline" in answer else "It is not.\n**WRONG**")


def test_a_judge_is_asked_once_for_each_pair_and_what_it_said_is_kept(tmp_path):
    config, teacher = VerifyConfig(use="judge", judge="wise"), Teacher()
    cases = [Case(answer, "a cat", "Who?", "judge") for answer in ("a feline", "a dog", "a feline", "odd")]
    first = Verifier(config, Judge(Kept(teacher, "wise", tmp_path / "judge.jsonl"))).verdicts(cases)
    assert [one.outcome for one in first] == ["right", "wrong", "right", "cannot_tell"]
    assert teacher.asked == 3
    again = Teacher()
    with (tmp_path / "judge.jsonl").open("a") as file:
        file.write('{"id": "torn')  # by a kill
    more = [*cases, Case("another dog", "a cat", "Who?", "judge")]
    second = Verifier(config, Judge(Kept(again, "wise", tmp_path / "judge.jsonl"))).verdicts(more)
    assert second[:4] == first
    assert again.asked == 1
    (denied,) = Judge(Kept(Teacher(), "wise", tmp_path / "other.jsonl")).verdicts([("denied", "a cat", "Who?")])
    assert denied.outcome == "cannot_tell"
    third = Kept(Teacher(), "wise", tmp_path / "judge.jsonl")
    assert len(third.known) == 4, "the torn line hurts none after it"
    other = Teacher()
    another = Kept(other, "wise", tmp_path / "judge.jsonl", {"model": "another"})
    Judge(another).verdicts([("a dog", "a cat", "Who?")])
    assert other.asked == 1, "another model's words do not count"


class Priced(Teacher):
    """As a teacher behind a server: puts aside 2 for each request, which costs 1, as long as there is the money."""

    def answer(self, desk):
        for ask in desk:
            if not desk.ledger.reserve(2.0, lambda drawn: desk.note("budget", repr(drawn))):
                desk.give(ask, NotAsked())
                continue
            desk.give(ask, self.solve(ask.question, style="", temperature=0.0, seed=0))
            desk.ledger.settle(2.0, 1.0)


def test_a_judge_is_asked_within_its_budget_and_told_apart_is_what_it_does_not_pay_for(tmp_path):
    path = tmp_path / "judge.jsonl"
    cases = [(f"a feline {at}", "a cat", "Who?") for at in range(8)]
    judge = Judge(Kept(Priced(), "wise", path, budget=5.0))
    found = judge.verdicts(cases)
    assert [one.outcome for one in found] == ["right"] * 4 + ["cannot_tell"] * 4, (
        "the fourth costs 1, after 2 put aside"
    )
    assert found[4].detail == "verify.budget = 5.0 does not pay for asking wise"
    assert len(judge.kept.unpaid) == 4
    again = Priced()
    assert Judge(Kept(again, "wise", path, budget=5.0)).verdicts(cases) == found
    assert again.asked == 0, "what was spent counts in every later run"
    more = Judge(Kept(again, "wise", path, budget=7.0)).verdicts(cases)
    assert [one.outcome for one in more] == ["right"] * 6 + ["cannot_tell"] * 2
    assert again.asked == 2, "and only what is missing is asked"
    assert Kept(again, "wise", path).spent == 6.0


def test_a_judge_that_is_killed_has_counted_what_was_under_way(tmp_path):
    path = tmp_path / "judge.jsonl"

    class Killed(Priced):
        def solve(self, question, **more):
            if self.asked == 2:
                raise KeyboardInterrupt
            return super().solve(question, **more)

    kept = Kept(Killed(), "wise", path, budget=100.0)
    with pytest.raises(KeyboardInterrupt):
        Judge(kept).verdicts([(f"a feline {at}", "a cat", "Who?") for at in range(8)])
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert "spent" in lines[0], "on disk before the first request"
    assert lines[0]["spent"] >= 2.0
    assert Kept(Killed(), "wise", path).spent >= 4.0


def test_a_question_names_its_verifier():
    assert how_of("{}", "auto") == "auto"
    assert how_of(json.dumps({"verifier": "set"}), "auto") == "set"
    assert how_of(json.dumps({"verifier": None}), "text") == "text"


def test_a_verifier_of_the_users_own(tmp_path, monkeypatch):
    (tmp_path / "my_verifier.py").write_text(
        "def loose(answer, gold, question):\n"
        "    if answer == 'bad':\n        return 3\n"
        "    if answer == 'worse':\n        raise KeyError('x')\n"
        "    return 'right' if gold in answer else 'cannot_tell'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    verifier = Verifier(VerifyConfig(use="my_verifier:loose"))
    assert verifier("the cat sat", "cat") == ("right", "the cat sat", "cat", "my_verifier:loose", "")
    assert verifier("dog", "cat").outcome == "cannot_tell"
    with pytest.raises(InputError, match=r"gave 3; expected a Verdict"):
        verifier("bad", "cat")
    with pytest.raises(InputError, match=r"failed on the answer 'worse' .*KeyError"):
        verifier("worse", "cat")
    with pytest.raises(ValueError, match="has no function 'nothing'"):
        VerifyConfig(use="my_verifier:nothing")
