"""Selection: each verdict, conservation, and the ablation that filters nothing."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from tracestill.data_pipeline.answers import Verdict, Verifier, VerifyConfig, expression
from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.schema import QUESTION_SCHEMA, RECORD_SCHEMA, REJECTED_SCHEMA, read_rows, write_rows
from tracestill.data_pipeline.base.stage import read_manifest, stage
from tracestill.data_pipeline.sampling.questions import QuestionsConfig
from tracestill.data_pipeline.sampling.sample import SampleConfig
from tracestill.data_pipeline.sampling.sample import run as run_sample
from tracestill.data_pipeline.selection.selection import SelectConfig, run

UNFILTERED = {"answer": False, "equations": False, "unique_paths": False}


def record(record_id: str, trace: str, answer: str = "7", question: str = "q1") -> dict:
    return {
        **{"record_id": record_id, "question_id": question, "question": "What is 3 + 4?", "gold": "7"},
        **{"trace": trace, "answer": answer, "spans": [], "weight": 1.0},
        **{"teacher": "t", "style": "", "temperature": 1.0, "index": 0},
    }


def judged(tmp_path: Path, rows: list[dict], **select: object) -> tuple[list[str], dict[str, str]]:
    """Ids kept, and reason by id of the others."""
    with stage(tmp_path / "sample", "sample", {}, {}) as work:
        write_rows(work.path / "records.parquet", rows, RECORD_SCHEMA)
    run(SelectConfig.model_validate(select), directory=tmp_path / "select", sample=tmp_path / "sample")
    kept = read_rows(tmp_path / "select" / "records.parquet", RECORD_SCHEMA)
    rejected = read_rows(tmp_path / "select" / "rejected.parquet", REJECTED_SCHEMA)
    assert all(row["detail"] for row in rejected)
    return [row["record_id"] for row in kept], {row["record_id"]: row["reason"] for row in rejected}


ROWS = [
    record("a", "3 + 4 = 7."),
    record("b", "So 3 plus 4 = 7, done."),
    record("c", "4 + 3 = 7."),
    record("d", "3 + 4 = 8, no, 7."),
    record("e", "3 + 4 = 7.", answer="8"),
    record("f", "3 + 4 = 7.", answer=" "),
    record("g", "Obviously."),
    record("h", "obviously. "),
    record("i", "3 + 4 = 7.", question="q2", answer="7.0"),
]


def test_each_verdict(tmp_path: Path) -> None:
    kept, rejected = judged(tmp_path, ROWS)
    assert kept == ["a", "c", "g", "i"]
    assert rejected == {
        "b": "same_path",
        "d": "false_equation",
        "e": "wrong_answer",
        "f": "no_answer",
        "h": "same_path",
    }
    manifest = read_manifest(tmp_path / "select")
    assert manifest is not None
    assert manifest["counts"] == {
        "in": 9,
        "out": 4,
        "rejected": {"false_equation": 1, "no_answer": 1, "same_path": 2, "wrong_answer": 1},
        "questions_in": 2,
        "questions_out": 2,
    }


@pytest.mark.parametrize(("off", "back"), [("answer", {"e"}), ("equations", {"d"}), ("unique_paths", {"b", "h"})])
def test_each_check_can_be_left_out(tmp_path: Path, off: str, back: set[str]) -> None:
    kept, _ = judged(tmp_path, ROWS, **{off: False})
    expected = {"a", "c", "g", "i"} | back
    if off == "answer":  # the wrong answer's path is that of a kept record
        expected -= {"e"}
    assert set(kept) == expected


def test_unfiltered_keeps_every_record_with_an_answer_in_order(tmp_path: Path) -> None:
    kept, rejected = judged(tmp_path, ROWS, **UNFILTERED)
    assert kept == [row["record_id"] for row in ROWS if row["answer"].strip()]
    assert rejected == {"f": "no_answer"}


def test_a_maximum_keeps_the_smallest_ids_whatever_the_order(tmp_path: Path) -> None:
    rows = [record(str(at), f"{at} + 0 = {at}", question=f"q{at % 2}") for at in range(8)]
    kept, rejected = judged(tmp_path, rows[::-1], max_per_question=2)
    assert kept == ["3", "2", "1", "0"]
    assert set(rejected.values()) == {"over_maximum"}
    again, _ = judged(tmp_path, rows, max_per_question=2)
    assert set(again) == set(kept)


def test_nothing_left_is_an_error_with_counts_and_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        judged(tmp_path, [ROWS[4], ROWS[5], {**ROWS[4], "record_id": "z"}])
    message = str(error.value)
    assert (
        "no record of 3 survives selection (wrong_answer 2, no_answer 1); a better teacher or more samples" in message
    )
    assert not (tmp_path / "select").exists()
    with pytest.raises(InputError, match=r"no record of 0 survives selection \(there were none to select from\)"):
        judged(tmp_path, [])


def test_real_traces_are_judged_as_an_independent_reading_judges_them(tmp_path: Path) -> None:
    run_sample(
        QuestionsConfig(source="digit_sum", train=100, test=20),
        SampleConfig.model_validate(
            {
                "teachers": [{"name": "t", "options": {"error_rate": 0.2}}],
                "samples": 12,
                "temperatures": [0, 1],
                "test_samples": 0,
            }
        ),
        seed=0,
        directory=tmp_path / "sample",
        journal=tmp_path / "journal.sqlite",
    )
    seen: list[tuple[int, int]] = []
    report = lambda done, total: seen.append((done, total))  # noqa: E731
    run(SelectConfig(), directory=tmp_path / "select", sample=tmp_path / "sample", progress=report)
    assert seen == [(done, 2400) for done in range(1, 2401)]
    kept = read_rows(tmp_path / "select" / "records.parquet", RECORD_SCHEMA)
    rejected = read_rows(tmp_path / "select" / "rejected.parquet", REJECTED_SCHEMA)
    assert len(kept) + len(rejected) == 2400
    paths = defaultdict(set)
    for row in kept:
        assert row["answer"] == row["gold"]
        assert all(int(a) + int(b) == int(c) for a, b, c in re.findall(r"(\d+)\+(\d+)=(\d+)", row["trace"]))
        assert all(int(a) % 10 == int(b) for a, b in re.findall(r"(\d+) mod 10=(\d+)", row["trace"]))
        path = tuple(re.findall(r"\d+\+\d+=\d+", row["trace"]))
        assert path not in paths[row["question_id"]]
        paths[row["question_id"]].add(path)
    for row in rejected:
        false = any(int(a) + int(b) != int(c) for a, b, c in re.findall(r"(\d+)\+(\d+)=(\d+)", row["trace"]))
        false |= any(int(a) % 10 != int(b) for a, b in re.findall(r"(\d+) mod 10=(\d+)", row["trace"]))
        expected = "wrong_answer" if row["answer"] != row["gold"] else "false_equation" if false else "same_path"
        assert row["reason"] == expected
        if expected == "same_path":
            assert tuple(re.findall(r"\d+\+\d+=\d+", row["trace"])) in paths[row["question_id"]]
    counts = Counter(row["reason"] for row in rejected)
    assert min(counts["wrong_answer"], counts["false_equation"], counts["same_path"]) > 40


def test_answers_that_cannot_be_told_are_rejected_by_reasons_of_their_own(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(expression, "compared", lambda pairs: [Verdict("timeout", "", "", "expression")] * len(pairs))
    rows = [
        {**record("a", "one", answer="7"), "gold": "7"},
        {**record("b", "two", answer="1.500"), "gold": "1500"},
        {**record("c", "three", answer="(x+1)^2"), "gold": "x^2+2x+1"},
        {**record("d", "four", answer="8"), "gold": "7"},
    ]
    kept, rejected = judged(tmp_path, rows, equations=False)
    assert kept == ["a"]
    assert rejected == {"b": "unverified", "c": "verify_timeout", "d": "wrong_answer"}
    details = {
        row["record_id"]: row["detail"] for row in read_rows(tmp_path / "select/rejected.parquet", REJECTED_SCHEMA)
    }
    assert details["b"] == "1.500 may or may not be 1500 (number: equal if point and comma are read the other way)"


def test_questions_name_their_verifiers(tmp_path: Path) -> None:
    rows = [
        {**record("a", "one", answer="3, 2"), "gold": "2, 3"},
        {**record("b", "two", answer="3, 2", question="q2"), "gold": "2, 3"},
        {**record("c", "three", answer="3, 2", question="q3"), "gold": "2, 3"},
    ]
    named = {"q1": '{"verifier": "set"}', "q2": '{"verifier": "text"}', "q3": "{}"}
    question = {"question": "?", "gold": "2, 3", "split": "train", "group": ""}
    with stage(tmp_path / "sample", "sample", {}, {}) as work:
        write_rows(work.path / "records.parquet", rows, RECORD_SCHEMA)
        questions = [{"question_id": one, **question, "metadata": metadata} for one, metadata in named.items()]
        write_rows(work.path / "questions.parquet", questions, QUESTION_SCHEMA)
    config = SelectConfig(equations=False)
    run(config, directory=tmp_path / "select", sample=tmp_path / "sample")
    assert [row["record_id"] for row in read_rows(tmp_path / "select" / "records.parquet", RECORD_SCHEMA)] == ["a"]
    rejected = read_rows(tmp_path / "select" / "rejected.parquet", REJECTED_SCHEMA)
    assert {row["record_id"]: row["reason"] for row in rejected} == {"b": "wrong_answer", "c": "unverified"}
    run(config, directory=tmp_path / "all", sample=tmp_path / "sample", verifier=Verifier(VerifyConfig(use="set")))
    assert read_manifest(tmp_path / "all")["config"]["verify"] == {"use": "set"}
    assert read_manifest(tmp_path / "all")["counts"]["out"] == 2, "q2 keeps its own"
