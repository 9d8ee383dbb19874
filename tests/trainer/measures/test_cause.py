"""Students that read their traces and students that do not are told apart."""

from __future__ import annotations

import re

import pyarrow.parquet as pq
import pytest
from scripted_asker import Scripted, context_of, question, record

from tracestill.launch.report.evaluation.cause import cause as section
from tracestill.trainer.evaluation.parts import measured
from tracestill.trainer.measures.cause import cause

QUESTIONS = [question(n, f"How much is {n} + {n}?", str(2 * n)) for n in (2, 3, 4, 5)]


def own_trace(n: int) -> str:
    return f"We add.\n{n} + {n} = {2 * n}. So it is {2 * n}."


def asked(query) -> int:
    return int(re.search(r"\d+", query.question)[0])


def reads(query, sample):
    """Goes on from what has begun, and answers what stands last in its trace."""
    whole, begun = own_trace(asked(query)), query.begun
    if begun.closed:
        trace = begun.trace
    else:
        steps = len(re.findall(r"[.\n]+\s*", begun.trace.strip() + " ")) if begun.trace else 0
        rest = re.split(r"(?<=\.)\s", whole)[steps:]
        trace = " ".join(filter(None, [begun.trace.strip(), *rest[:-1]]))
        last = re.findall(r"= (\d+)", trace)
        trace += f" So it is {last[-1]}." if last else ""
    numbers = re.findall(r"= (\d+)", trace)
    return trace, numbers[-1] if numbers else None


def ignores(query, sample):
    return query.begun.trace or own_trace(asked(query)), str(2 * asked(query))


def test_the_answer_of_a_student_that_ignores_its_trace_never_changes(tmp_path) -> None:
    found = cause(context_of(tmp_path, Scripted(ignores), QUESTIONS, cause={}))
    assert (found["questions"], found["traces"]) == (4, 4)
    assert {way: row["share"] for way, row in found["ways"].items()} == dict.fromkeys(
        ["same", "cut", "corrupt", "swap", "blank"], 0.0
    )
    assert found["no_trace"]["share"] == 1.0
    assert found["inapplicable"]["corrupt"] == 4  # "We add." holds no number


def test_a_student_that_reads_its_trace_is_moved_by_a_number(tmp_path) -> None:
    context = context_of(tmp_path, Scripted(reads), QUESTIONS, cause={"ways": ["cut", "corrupt"]})
    found = cause(context)
    assert found["ways"]["same"]["share"] == 0.0
    corrupt = {row["step"]: row for row in found["by_step"]["corrupt"]}
    assert corrupt[2]["share"] == 1.0  # n + n = 2n: the number that the answer is read from
    assert corrupt[2]["other"] == 4
    assert (corrupt[2]["was_right"], corrupt[2]["right"]) == (4, 0)
    assert corrupt[3]["share"] == 0.0  # what is said after it is read by nobody
    assert found["by_kind"]["corrupt"]["derive"]["share"] == 1.0
    # cut before the second step nothing is known: no answer; before the third one, all
    assert [(row["left"], row["share"]) for row in found["early"]] == [(0.0, 1.0), (0.5, 1.0), (0.75, 0.0)]
    assert found["ways"]["cut"]["none"] == 8
    assert found["no_trace"] == {"count": 4, "share": 0.0, "low": 0.0, "own": 4, "same": 0, "asked": 4,
                                 "high": pytest.approx(0.49, abs=0.01)}  # fmt: skip
    rows = pq.read_table(tmp_path / "cause.parquet").to_pylist()
    assert len(rows) == sum(row["count"] for row in found["ways"].values()) + 4
    one = next(row for row in rows if row["way"] == "corrupt" and row["step"] == 1)
    assert one["outcome"] == "other"
    assert one["before"] != one["answer"]
    assert one["begun"] in one["trace"]


def test_the_teachers_first_steps_mend_a_student_that_derails(tmp_path) -> None:
    def derails(query, sample):
        n, right = asked(query), "= " in query.begun.trace
        return query.begun.trace or "It is a lot.", str(2 * n if right else 99)

    records = [record(each, "We add.\nx = 1. Wrong.", "1") for each in QUESTIONS]  # a wrong one is not begun with
    records += [record(each, own_trace(n), str(2 * n)) for n, each in zip((2, 3, 4), QUESTIONS, strict=False)]
    found = cause(context_of(tmp_path, Scripted(derails), QUESTIONS, records, cause={"ways": ["blank"]}))
    assert [(row["given"], row["count"], row["share"], row["own"]) for row in found["teacher"]] == [
        (1, 3, 0.0, 0),
        (2, 3, 1.0, 0),
    ]


def test_answers_are_the_same_by_what_they_say(tmp_path) -> None:
    def other_words(query, sample):
        n = asked(query)
        return own_trace(n), f"{2 * n}.0" if query.begun.trace else str(2 * n)

    found = cause(context_of(tmp_path, Scripted(other_words), QUESTIONS, cause={"ways": ["blank"], "teacher": False}))
    assert found["ways"]["blank"]["share"] == 0.0
    assert found["teacher"] == []


def test_questions_without_a_gold_answer_have_a_column_and_no_part_in_shares_right(tmp_path) -> None:
    questions = [*QUESTIONS[:3], question(5, "How much is 5 + 5?", "")]
    found = cause(context_of(tmp_path, Scripted(ignores), questions, cause={"ways": ["cut"]}))
    assert (found["questions"], found["without_gold"], found["traces"]) == (4, 1, 4)
    cut = found["ways"]["cut"]
    assert (cut["count"], cut["judged"], cut["was_right"], cut["right"]) == (12, 9, 9, 9)
    alone = found["no_trace"]
    assert (alone["asked"], alone["same"], alone["count"], alone["share"], alone["own"]) == (4, 4, 3, 1.0, 3)
    rows = pq.read_table(tmp_path / "cause.parquet").to_pylist()
    assert {row["question_id"] for row in rows if not row["judged"]} == {questions[3]["question_id"]}
    html = section({"arms": {"a": {"evaluation": {"cause": found}}}, "models": {}})
    assert html.count("100.0%") >= 6


def test_what_cannot_be_asked_and_students_without_traces(tmp_path) -> None:
    questions = [question(1, "How much is 1 + 1?\0", "2"), question(2, "How much is 2 + 2?", "4")]
    found = cause(context_of(tmp_path, Scripted(lambda query, sample: ("", "4")), questions, cause={"questions": 1}))
    assert (found["questions"], found["traces"], found["ways"], found["no_trace"]["count"]) == (1, 0, {}, 0)
    assert found["not_asked"] == 1


def test_draws_do_not_depend_on_the_other_questions(tmp_path) -> None:
    many, few = Scripted(ignores), Scripted(ignores)
    cause(context_of(tmp_path, many, QUESTIONS, cause={"ways": ["corrupt"]}))
    cause(context_of(tmp_path, few, QUESTIONS[1:], cause={"ways": ["corrupt"]}))
    assert {query for query in few.queries if query.begun.trace} <= set(many.queries)


def test_of_a_model_that_closes_no_trace_all_that_it_wrote_is_one(tmp_path) -> None:
    context = context_of(tmp_path, Scripted(ignores), QUESTIONS, cause={"ways": ["cut"]})
    context.predictions[0]["in_form"] = False
    assert cause(context)["traces"] == 3
    for row in context.predictions:
        row["in_form"] = False
    assert cause(context)["traces"] == 4


def test_a_layout_without_traces_has_no_place_for_one_whatever_its_student_writes(tmp_path) -> None:
    """In such a layout a trace that is begun is refused."""
    asker = Scripted(lambda query, sample: ("It rambles. On and on.", "4"), lambda query, sample: -1.0)
    records = [record(each, own_trace(n), str(2 * n)) for n, each in zip((2, 3, 4, 5), QUESTIONS, strict=True)]
    parts = {"cause": {}, "samples": {"count": 1}, "budgets": [2]}
    context = context_of(tmp_path, asker, QUESTIONS, records, **parts)
    encode = context.recipe.encode.model_copy(update={"trace": "drop"})
    context.recipe = context.recipe.model_copy(update={"encode": encode})
    found = measured(context)
    assert (found["cause"]["traces"], found["cause"]["teacher"], found["cause"]["no_trace"]["count"]) == (0, [], 4)
    assert found["samples"]["calibration"]["answer"]["count"] == 0
    assert asker.queries
    assert not any(query.begun.trace for query in asker.queries)
