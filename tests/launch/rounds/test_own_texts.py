"""Rounds of a student that goes on with texts of its own: what each is as a recipe, their order, how they end."""

from __future__ import annotations

import re

import pytest
from fake_run import build
from rich.console import Console
from rounds_support import begin, fake, recipe

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.schema import Question, write_rows
from tracestill.data_pipeline.base.stage import Stage, identity, write_manifest
from tracestill.data_pipeline.rounds.questions import training_questions
from tracestill.data_pipeline.sampling.teachers.digit_sum import Teacher, TeacherOptions
from tracestill.launch.report.rounds_page import rounds as page_of
from tracestill.launch.rounds.recipes import recipe_of
from tracestill.launch.rounds.show import ending, show
from tracestill.launch.run import student_stages
from tracestill.launch.run.student_stages import by_own_texts
from tracestill.trainer.on_policy.texts import TEXT_SCHEMA

OWN = {"teacher": "none", "questions": 4, "refresh": 2}
ROUNDS = {"kind": "on_policy", "count": 2, "samples": 4, "on_policy": OWN, "changes": {"train": {"steps": 6}}}
TOLD = {
    **{"refreshes": 3, "in": 24, "out": 23, "right": 5, "cut_off": 2, "tokens": 99, "rejected": {"overlong": 1}},
    **{"right_first": 0.25, "right_last": 0.5, "time": {"writing": 0.5, "teacher": 0.1, "training": 0.4}},
    "ended": None,
}


def changed(changes):
    return recipe({**ROUNDS, "changes": changes})


def test_a_later_round_goes_on_with_the_student_of_the_one_before(tmp_path):
    asked = recipe(ROUNDS, train={"epochs": 2, "ranks": 1, "lr": 1e-2})
    first, found = (recipe_of(tmp_path, asked, number) for number in (0, 2))
    assert first.train.on_policy is None
    assert (found.train.steps, found.train.epochs, found.train.lr) == (6, None, 1e-2)
    assert found.train.on_policy == asked.rounds.on_policy
    assert found.student.pretrained == tmp_path / "rounds/1/arms/traces/train/export"
    assert found.encode.tokenizer.path == tmp_path / "rounds/0/tokenizer"
    assert found.rounds is None
    assert found.sample == first.sample


def test_a_later_round_has_its_teacher_where_the_recipe_says(tmp_path):
    for teacher in ({"model": "there", "zero": 3}, {"model": "large", "server": {"url": "http://localhost:8000/v1"}}):
        found = recipe_of(tmp_path, recipe({**ROUNDS, "on_policy": {**OWN, "teacher": teacher}}), 1)
        held = found.train.on_policy.teacher.model_dump(exclude_defaults=True)
        assert held == teacher


@pytest.mark.parametrize(
    ("said", "rounds"),
    [
        ("on_policy and kind: on_policy belong together", {"kind": "rejection", "on_policy": OWN}),
        ("changes: is for kind: on_policy", {"kind": "rejection", "changes": {"train": {}}}),
        ("floor: is for rounds of traces", {**ROUNDS, "floor": 0.5}),
        ("teacher: is for rounds of traces", {**ROUNDS, "teacher": "mixture"}),
        ("keep: is for rounds of traces", {**ROUNDS, "keep": 0.1}),
    ],
)
def test_keys_of_another_kind_of_rounds_are_refused(said, rounds):
    with pytest.raises(InputError, match=f"rounds: {said}"):
        recipe(rounds)


def test_bounds_of_texts_are_those_of_traces_and_none_where_an_earlier_version_recorded_none():
    asked = recipe({**ROUNDS, "stop": {"accuracy": False}})
    assert (asked.rounds.stop.coverage, asked.rounds.stop.differ) == (0.5, 0.5)
    told = asked.model_dump(mode="json")
    assert build(told, where="again") == asked
    told["rounds"]["stop"] |= {"coverage": None, "differ": None}
    assert build(told, where="earlier").rounds.stop.differ is None


@pytest.mark.parametrize(
    ("said", "asked"),
    [
        ("rounds.changes.questions: all rounds share it", recipe({**ROUNDS, "changes": {"questions": {}}})),
        ("rounds.changes.evaluate: rounds are compared by it", changed({"evaluate": {"max_new_tokens": 8}})),
        ("rounds.changes.distil: later rounds follow", changed({"distil": {"channel": "t.topk"}})),
        ("rounds.changes.student.pretrained: the student is", changed({"student": {"pretrained": "elsewhere"}})),
        ("rounds.changes.train: expected a mapping of its keys, got 5", changed({"train": 5})),
        ("rounds.changes.encode: expected a mapping of its keys, got None", changed({"encode": None})),
        ("rounds.changes.train.on_policy: that is rounds.on_policy", changed({"train": {"on_policy": OWN}})),
        ("on_policy does not go with weighting.use: dft", recipe(ROUNDS, weighting="dft")),
        ("only decoders write here", recipe(ROUNDS, student={"config": {"model_type": "t5"}})),
        ("train.on_policy.teacher: nowhere", recipe({**ROUNDS, "on_policy": {**OWN, "teacher": "nowhere"}})),
    ],
)
def test_what_later_rounds_cannot_be_is_said_before_the_first(tmp_path, monkeypatch, said, asked):
    fake(monkeypatch)
    with pytest.raises(InputError, match=said):
        begin(tmp_path / "run", asked).check()


def write_refresh(run, arm, number, spread):
    """Texts of a student that solves as the teacher does, at this temperature: 4 to each training question."""
    solver, rows = Teacher(TeacherOptions()), []
    for place, row in enumerate(training_questions(run.stage(arm, "sample"), run.recipe.sample)):
        digits = [int(digit) for digit in re.findall(r"\d", row["question"].partition(")")[0])]
        posed = Question("", row["question"], "", "train", "", {"digits": digits, "modulus": 10})
        for sample in range(4):
            found = solver.solve(posed, style="", temperature=spread, seed=1000 * number + 4 * place + sample)
            told = {key: row[key] for key in ("question_id", "question", "gold")}
            told |= {"trace": found.trace, "answer": found.answer, "correct": found.answer == row["gold"]}
            about = {"place": place, "sample": sample, "text": "", "verdict": "", "finished": True, "reason": ""}
            rows.append({**told, **about, "tokens": 20 + number, "prompt": 1, "ids": [1], "logprobs": [0.0]})
    folder = run.stage(arm, "train") / f"refreshes/{number:06d}/written"
    folder.mkdir(parents=True)
    write_rows(folder / "texts.parquet", rows, TEXT_SCHEMA)


def rounds_of(monkeypatch, tmp_path, ended=None, skill=lambda number: 0.5, spreads=(), **stop):
    """``spreads``: of each refresh of a training, the temperature at which its texts are drawn."""
    told = fake(monkeypatch, skill=skill)
    plain = student_stages.train_arm

    def train(run, arm, label, console, **more):
        plain(run, arm, label, console, **more)
        if run.recipe.train.on_policy is not None:
            (run.stage(arm, "train") / "export" / "config.json").write_text(f'{{"round": {run.root.name}}}')
            for number, spread in enumerate(spreads):
                write_refresh(run, arm, number, spread)
            extra = {"on_policy": {**TOLD, "ended": ended if run.root.name == "1" else None}}
            who = identity("train", *run.train_stage(arm))
            write_manifest(run.stage(arm, "train"), who, Stage(run.stage(arm, "train"), {"steps": 6}, extra), 1.0)

    monkeypatch.setattr(student_stages, "train_arm", train)
    rounds = begin(tmp_path / "run", recipe({**ROUNDS, "stop": stop}))
    return rounds.run(), told


def test_each_is_trained_and_asked_and_nothing_is_done_twice(tmp_path, monkeypatch):
    result, told = rounds_of(monkeypatch, tmp_path, skill=lambda number: 0.5 + 0.1 * number)
    assert told == ["train 0", "evaluate 0", "train 1", "evaluate 1", "train 2", "evaluate 2"]
    assert result["best"] == 2
    assert [row["teachers"] for row in result["rounds"]] == [["solver"], ["student-0"], ["student-1"]]
    assert result["rounds"][1]["own_texts"]["in"] == 24
    assert "student-1" in page_of({"rounds": result})
    again = begin(tmp_path / "run", recipe(ROUNDS)).run()
    assert again == result
    assert len(told) == 6


def test_a_student_that_says_one_way_in_the_end_is_doubted_and_the_last(tmp_path, monkeypatch):
    result, told = rounds_of(monkeypatch, tmp_path, spreads=(1.0, 0.5, 0.0))
    assert told[-1] == "evaluate 1", "no round follows"
    assert (result["stopped"]["round"], result["stopped"]["rule"]) == (1, "differ")
    assert "two of its traces of a question differ in" in result["stopped"]["why"]
    first, last = result["rounds"][1]["first_texts"], result["rounds"][1]["traces"]
    assert (first["refresh"], last["refresh"], last["tokens"]) == (0, 2, 22.0)
    assert first["differ_same"] > 0.5 > 0.2 > last["differ_same"] >= 0
    assert last["traces"] == last["kept"] == 120
    assert first["entropy"] > 1.5 > last["entropy"]
    assert first["self_bleu"] < last["self_bleu"]
    assert first["coverage"] > last["coverage"]
    assert last["gone"]["count"] > first["gone"]["count"]
    warned = "\n".join(result["rounds"][1]["warnings"])
    assert "two traces of a question differ in" in warned
    assert "of round 0's rare strategies" in warned
    shown = page_of({"rounds": result})
    for text in ("1, first texts", "1, last texts", "<td>50%</td>", "strategies are not seen any more"):
        assert text in shown
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    show(tmp_path, result, console)
    said = console.export_text()
    for text in ("1, last texts", f"{last['gone']['count']} of {last['gone']['of']}", "22.0"):
        assert text in said, "nothing is cut off at 80 characters"
    assert begin(tmp_path / "run", recipe(ROUNDS)).run() == result, "found again"


def test_bounds_of_texts_may_be_lifted_and_a_student_that_stays_wide_is_not_doubted(tmp_path, monkeypatch):
    result, _ = rounds_of(monkeypatch, tmp_path / "narrow", spreads=(1.0, 0.0), differ=None, coverage=None)
    assert result["stopped"] is None
    assert result["rounds"][2]["trained"]
    assert result["rounds"][1]["warnings"], "it is said all the same"
    result, _ = rounds_of(monkeypatch, tmp_path / "coverage", spreads=(1.0, 0.0), differ=None)
    assert (result["stopped"]["round"], result["stopped"]["rule"]) == (1, "coverage")
    result, _ = rounds_of(monkeypatch, tmp_path / "wide", spreads=(1.0, 1.0))
    assert result["stopped"] is None
    assert not any(row.get("warnings") for row in result["rounds"])


def test_texts_that_have_grown_end_rounds(tmp_path, monkeypatch):
    result, told = rounds_of(monkeypatch, tmp_path, ended={"rule": "length", "why": "the texts have grown"})
    assert told[-1] == "evaluate 1", "its student is asked all the same"
    assert result["stopped"] == {"round": 1, "rule": "length", "why": "the texts have grown"}
    assert "stopped after round 1 (length): the texts have grown" in ending(tmp_path, result)


def test_the_summary_says_what_was_written_and_where_the_time_went():
    assert by_own_texts(None) == ""
    told = by_own_texts({**TOLD, "ended": {"rule": "length", "why": "they grew"}})
    assert "23 of 24 texts of its own, overlong 1 in 3 refreshes, right 25% in the first and 50% in the last" in told
    assert "time: writing 50%, teacher 10%, training 40%" in told
    assert told.endswith("ended early: they grew")
