"""What the monitor says of a round's student beside its accuracy: calibration, other forms, other tasks."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console
from rounds_support import begin, fake, recipe

from tracestill.data_pipeline.base.schema import write_rows
from tracestill.launch.report.rounds_page import rounds as page_of
from tracestill.launch.rounds.monitor import beyond_accuracy, sampled_paths, samples_apart
from tracestill.launch.rounds.show import show
from tracestill.trainer.evaluation import evaluate
from tracestill.trainer.measures.calibration import calibration
from tracestill.trainer.measures.matrix import Form, Row, matrix
from tracestill.trainer.measures.samples import SAMPLE_SCHEMA


def parts(varied: float, plain: float, other: float, confidence: float) -> dict:
    """What ``evaluate`` writes of 100 questions by the shares that are right in two other forms, plainly and of another
    task; and of as many votes of one ``confidence``."""

    def rows(task, form, share):
        told = ("right" if at < 100 * share else "wrong" for at in range(100))
        return [Row(task, form, f"q{at}", each, "7") for at, each in enumerate(told)]

    asked = [
        ("held_out", "plain", plain),
        ("held_out", "a", varied),
        ("held_out", "b", varied),
        ("svamp", "plain", other),
    ]
    forms = {"a": Form("a", True), "b": Form("b", False)}
    right = np.array([at < 100 * plain for at in range(100)], float)
    votes = calibration(np.full(100, confidence), right, 10)
    return {
        "transfer": matrix([row for one in asked for row in rows(*one)], forms),
        "samples": {"calibration": {"votes": votes}, "curve": []},
    }


def test_what_parts_of_an_evaluation_say():
    found = beyond_accuracy(parts(0.5, 0.6, 0.2, 0.9))
    varied = found["variations"]
    assert (varied["share"], varied["plain"], varied["questions"]) == (0.5, 0.6, 100)
    assert found["variations"]["low"] < 0.5 < found["variations"]["high"]
    assert found["tasks"].keys() == {"svamp"}
    assert found["tasks"]["svamp"]["share"] == 0.2
    assert found["ece"]["share"] == pytest.approx(0.3)
    assert found["ece"]["low"] < 0.3 < found["ece"]["high"]
    assert beyond_accuracy({}) == beyond_accuracy({"samples": None, "transfer": None}) == {}
    assert beyond_accuracy({"samples": {"calibration": {}}}) == {}
    (before,) = beyond_accuracy({"samples": {"calibration": {"votes": {"count": 9, "ece": 0.1}}}}).values()
    assert (before["share"], before["low"]) == (0.1, None), "of an evaluation by an earlier version"


def test_how_often_a_students_own_samples_differ(tmp_path):
    ways = {"a": ["1+2=3. 3+4=7.", "2+1=3. 3+4=7."], "b": ["1+2=3. 3+4=7."] * 2, "c": ["5+5=10."], "d": ["1+1=2."] * 2}
    rows = [
        {"question_id": key, "trace": trace, "correct": True, "sound": key != "d"} | dict.fromkeys(OTHERS)
        for key, own in ways.items()
        for trace in own
    ]
    rows.append({**rows[-3], "correct": False})  # of c
    run = SimpleNamespace(stage=lambda arm, name: tmp_path / name)
    (tmp_path / "evaluate").mkdir()
    file = tmp_path / "evaluate/samples.parquet"
    assert samples_apart(sampled_paths(run)) is None
    write_rows(file, rows, SAMPLE_SCHEMA)
    found = samples_apart(sampled_paths(run))
    assert (found["share"], found["questions"]) == (0.5, 2), (
        "a: always, b: never; c has one that is right, d none sound"
    )
    assert (found["low"], found["high"]) == (0.0, 1.0)
    write_rows(file, rows[:2], SAMPLE_SCHEMA)
    assert samples_apart(sampled_paths(run)) is None, "one question has no spread"


SAME, OTHER = ["1+2=3. 3+4=7."] * 3, ["1+2=3. 3+4=7.", "2+1=3. 3+4=7.", "3+4=7. 7+0=7."]
SOLVED = [
    {**dict.fromkeys(range(4), OTHER), 4: SAME, 5: SAME},
    {4: SAME, 5: SAME, 6: SAME, 7: OTHER},
    dict.fromkeys(range(5), SAME),
]


def test_samples_of_a_round_stand_beside_round_0s_of_the_same_questions(tmp_path, monkeypatch):
    """Round 1 solves other questions twice, which have fewer ways; round 2 gives ways of the same ones up."""
    fake(monkeypatch)
    plain = evaluate.run

    def evaluated(run, arm, progress=None):
        plain(run, arm, progress)
        own = SOLVED[int(run.root.name)]
        rows = [
            {"question_id": f"q{key}", "trace": trace, "correct": True, "sound": True} | dict.fromkeys(OTHERS)
            for key, traces in own.items()
            for trace in traces
        ]
        write_rows(run.stage(arm, "evaluate") / "samples.parquet", rows, SAMPLE_SCHEMA)

    monkeypatch.setattr(evaluate, "run", evaluated)
    result = begin(tmp_path, recipe({})).run()
    kept = json.loads((tmp_path / "rounds.json").read_text())["rounds"]
    assert [row["apart"]["share"] for row in kept] == [pytest.approx(2 / 3), 0.25, 0.0]
    assert "apart_beside" not in kept[0]
    beside = [tuple(row["apart_beside"][key] for key in ("now", "first", "questions")) for row in kept[1:]]
    assert beside == [(0, 0, 2), (0, 0.8, 5)]
    said = ["take different paths" in "".join(row.get("warnings", ())) for row in kept]
    assert said == [False, False, True]
    assert "same questions (round 0)" in page_of({"rounds": result})
    assert "0% (80%)" in page_of({"rounds": result})


OTHERS = set(SAMPLE_SCHEMA.names) - {"question_id", "trace", "correct", "sound"}
ROUNDS = [parts(0.5, 0.6, 0.4, 0.6), parts(0.3, 0.7, 0.2, 0.7), parts(0.3, 0.5, 0.4, 0.95)]


def test_rounds_keep_show_and_doubt_them(tmp_path, monkeypatch):
    fake(monkeypatch, skill=lambda number: (0.6, 0.7, 0.6)[number], parts=lambda number: ROUNDS[number])
    result = begin(tmp_path, recipe({})).run()
    kept = json.loads((tmp_path / "rounds.json").read_text())["rounds"]
    assert [row["variations"]["share"] for row in kept] == [0.5, 0.3, 0.3]
    assert [round(row["ece"]["share"], 2) for row in kept] == [0.0, 0.0, 0.45]
    said = ["\n".join(row.get("warnings", ())) for row in kept]
    assert "other forms of the questions: right in 30.0%, below round 0's 4" in said[1]
    assert "the plain ones in 70.0%, not in 60.0%" in said[1]
    assert "the task svamp: right in 20.0%, below round 0's" in said[1]
    assert "confidence is off" not in said[1]
    assert "other forms" not in said[2], "the plain ones fell, too"
    assert "its confidence is off by 45.0% (ECE of votes), above round 0's" in said[2]
    page = page_of({"rounds": result})
    for text in ("other forms (95 %)", "ECE of votes (95 %)", "svamp 20.0% (13%-29%)", "round 1: the task svamp"):
        assert text in page
    console = Console(width=100, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
    show(tmp_path, result, console)
    told = console.export_text()
    assert "their students" in told
    assert "45.0%" in told
    assert begin(tmp_path, recipe({})).run() == result, "found again"


def test_without_them_nothing_of_it_is_shown(tmp_path, monkeypatch):
    fake(monkeypatch)
    result = begin(tmp_path, recipe({"count": 1})).run()
    assert not {"ece", "variations", "tasks"} & result["rounds"][1].keys()
    assert "other forms" not in page_of({"rounds": result})
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    show(tmp_path, result, console)
    assert "their students" not in console.export_text()
