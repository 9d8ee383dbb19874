"""The task gsm_symbolic, and the equation checker on its recorded solutions, some of which are wrong."""

from __future__ import annotations

import random
import re
from collections import Counter
from fractions import Fraction

import pytest

from tracestill.data_pipeline.answers.verify import same_answer
from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.base.schema import Question, span_fault
from tracestill.data_pipeline.sampling.teachers.gsm_symbolic import (
    Options,
    Teacher,
    TeacherOptions,
    clean_numbers,
    draw,
    questions,
)
from tracestill.data_pipeline.segmentation.parts import spans_of
from tracestill.data_pipeline.segmentation.rules import rules
from tracestill.data_pipeline.soundness import equations


@pytest.fixture(scope="module")
def posed() -> list[Question]:
    return questions({"train": 700, "test": 150}, Options(), 0)


@pytest.fixture(scope="module")
def traces(posed: list[Question]) -> list[str]:
    teacher = Teacher(TeacherOptions())
    solutions = [teacher.solve(question, style="", temperature=1.0, seed=0) for question in posed]
    assert all(same_answer(s.answer, q.gold) for s, q in zip(solutions, posed, strict=True))
    return [solution.trace for solution in solutions]


def test_splits_share_no_template_and_templates_are_taken_evenly(posed: list[Question]) -> None:
    groups = {split: Counter(q.group for q in posed if q.split == split) for split in ("train", "test")}
    assert len(groups["test"]) == 15
    assert len(groups["train"]) == 70
    assert not set(groups["train"]) & set(groups["test"])
    assert set(groups["train"].values()) == {10}
    assert len({question.question_id for question in posed}) == 850


def test_validation_templates_are_apart_and_leave_the_test_as_it_is(posed: list[Question]) -> None:
    found = questions({"train": 700, "test": 150, "validation": 24}, Options(), 0)
    groups = {split: {q.group for q in found if q.split == split} for split in ("train", "test", "validation")}
    assert [q for q in found if q.split == "test"] == [q for q in posed if q.split == "test"]
    assert {split: len(held) for split, held in groups.items()} == {"train": 62, "test": 15, "validation": 8}
    assert not groups["validation"] & (groups["train"] | groups["test"])
    with pytest.raises(InputError, match=r"questions\.train: the 0 templates"):
        questions({"train": 1, "validation": 1}, Options(test_templates=80, validation_templates=5), 0)


def test_equal_seeds_give_equal_questions(posed: list[Question]) -> None:
    assert questions({"train": 700, "test": 150}, Options(), 0) == posed
    assert questions({"train": 700, "test": 150}, Options(), 1) != posed


def test_traces_are_clean_and_segmented_into_every_kind(traces: list[str]) -> None:
    kinds = Counter()
    for trace in traces:
        assert "####" not in trace
        assert trace == trace.strip()
        spans = spans_of(rules("", trace))
        assert span_fault(trace, spans, Kinds().members("trace")) is None
        kinds.update(span.kind for span in spans)
    assert kinds["derive"] > 700
    assert kinds["plan"] > 100
    assert kinds["prose"] > 20


def test_every_flagged_equation_is_false_by_plain_arithmetic(traces: list[str]) -> None:
    """All false equations of this source are one operation on two numbers, checked here with a regular expression."""
    false = [e for trace in traces for e in equations(trace) if not e.holds]
    assert 10 <= len(false) <= 30
    for equation in false:
        numbers = [Fraction(n) for n in re.findall(r"\d+(?:\.\d+)?", equation.path)]
        *operands, stated = numbers
        if equation.path.count("/") == 2:  # 15÷2/5=37: by two fifths or by two and then by five
            readings = [operands[0] / (operands[1] / operands[2]), operands[0] / operands[1] / operands[2]]
        else:
            a, b = operands
            readings = [a * b if "*" in equation.path else a / b if "/" in equation.path else a - b]
        assert all(abs(reading - stated) > Fraction(1, 10) for reading in readings), equation


def test_most_equations_are_read_and_a_changed_result_is_noticed(traces: list[str]) -> None:
    signs = sum(trace.count("=") for trace in traces)
    found = [(trace, e) for trace in traces for e in equations(trace)]
    assert len(found) > 0.9 * signs
    rng, noticed, changed = random.Random(0), 0, 0
    for trace, equation in rng.sample([pair for pair in found if pair[1].holds], 400):
        match = re.search(r"\d+$", trace[: equation.end].removesuffix("%"))
        if match is None:
            continue
        corrupt = trace[: match.start()] + str(int(match[0]) + rng.choice([1, 2, 10])) + trace[match.end() :]
        changed += 1
        noticed += sum(not e.holds for e in equations(corrupt)) > sum(not e.holds for e in equations(trace))
    assert changed > 380
    assert noticed > 0.95 * changed


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("13.249999999999998 hours", "13.25 hours"),
        ("47.0 minutes, £3120.0.", "47 minutes, £3120."),
        ("48 * 0.3333333333333333 = 16", "48 * 0.3333333333333333 = 16"),
        ("£11.00 and 10.05 and 2.0.1", "£11.00 and 10.05 and 2.0.1"),
    ],
)
def test_noise_of_floating_point_is_cleaned_and_nothing_else(text: str, cleaned: str) -> None:
    assert clean_numbers(text) == cleaned


def test_too_few_questions_and_foreign_questions_are_refused() -> None:
    example = {"answer": "1", "metadata": {"answer_cot": "#### 1"}}
    few = {7: lambda rng, difficulty: {**example, "question": f"Why {rng.randrange(3)}?"}}
    assert len(draw(few, [7], 3, "test", 0)) == 3
    with pytest.raises(InputError, match=r"questions\.test: the 1 templates of this split have only 3 different"):
        draw(few, [7], 4, "test", 0)
    with pytest.raises(InputError, match="replays questions of its own source only"):
        Teacher(TeacherOptions()).solve(Question("x", "Why?", "1", "train"), style="", temperature=1, seed=0)
