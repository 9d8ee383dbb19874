"""The readers against what was published of real outputs. The files lie in ``shared/data``; without them: skipped."""

from __future__ import annotations

import json

import pytest
from real_data import DATA, benchmark, needs_data


@pytest.fixture(scope="module")
def readers():
    with benchmark("readers") as script:
        yield script


@needs_data
def test_published_accuracies_and_flags_are_reproduced(readers):
    for model, (accuracy, none) in readers.PUBLISHED.items():
        found = readers.of_teacher(DATA / "gsm8k_teachers" / f"{model}.jsonl")
        assert found["texts"] == 1319
        assert abs(found["accuracy"] - accuracy) <= 0.4
        assert abs(found["no answer"] - none) <= 0.5
    flags = readers.flags(DATA / "gsm8k" / "example_model_solutions.jsonl")
    assert (flags["solutions"], flags["same"], flags["differ"]) == (5276, 5276, [])


def test_outputs_of_other_models_are_read_whatever_their_fields_are_called(readers, tmp_path):
    fenced = '```json\n{"reasoning": "a", "answer": "%s"}\n```'
    outputs = [fenced % 7, fenced % "35/7 = 5", "no JSON: 7", fenced % "none", '{"answer": "7"} {"answer": "8"}']
    path = tmp_path / "other.jsonl"
    rows = [{"prompt": f"q{n}", "model_output": [text], "correct_answer": "#### 7"} for n, text in enumerate(outputs)]
    path.write_text("\n".join(map(json.dumps, rows)))
    found = readers.of_teacher(path)
    assert (found["texts"], found["accuracy"], found["no answer"]) == (5, 40.0, 20.0)
    assert found["accuracy by default"] == 40.0, "the last of two answers, and the last number of prose"
