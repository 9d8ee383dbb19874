"""A real model as it comes, asked by our evaluation and by plain transformers: prompts, texts and counts are the same,
question by question. Without SmolLM2-135M or ``shared/data``: skipped."""

from __future__ import annotations

from pathlib import Path

import pytest
from forked_command import command
from real_data import DATA, STUDENT, benchmark, needs_data, needs_student

SETS = ("gsm8k", "svamp", "multiarith")


@pytest.mark.soak
@needs_data
@needs_student
@pytest.mark.parametrize(("questions", "limit"), [(1, 24), (10, 256)])
def test_smollm2_is_asked_as_plain_transformers_ask_it(tmp_path: Path, questions: int, limit: int) -> None:
    with benchmark("smollm2_transfer") as script:
        for words in script.commands(tmp_path / "run", DATA, STUDENT, questions, limit, questions):
            command(*words)
        found = script.compare(script.evaluated(tmp_path / "run"), DATA, STUDENT, questions, limit)
    assert tuple(found) == SETS
    for of in found.values():
        assert (of["questions"], of["unknown"], of["other_prompts"]) == (questions, [], 0)
        assert of["texts"]["equal"] + of["texts"]["near_ties"] == questions
        assert of["texts"]["near_ties"] <= questions // 5
        assert [each for each in of["apart"] if each["ours_right"] != each["theirs_right"]] == []
        assert of["right"] == of["right_by_the_other"]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("2 + 2 = 4. The answer is $1,204.50.", "1204.50"),
        ("So -3.", "-3"),
        ("18 eggs... and no more.", "18"),
        ("none", None),
    ],
)
def test_the_other_reading_takes_the_last_number(text: str, answer: str | None) -> None:
    with benchmark("plain_answers") as plain:
        found = plain.answer_in(text, finished=True)
        assert found == (None if answer is None else plain.value(answer))
        assert plain.answer_in(text, finished=False) is None
