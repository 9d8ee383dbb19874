"""Selection: each verdict, conservation, and the ablation that filters nothing."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fake_run import summary
from pydantic import ValidationError
from selecting import judged, record

from tracestill.data_pipeline.answers import Verdict, Verifier, VerifyConfig, expression
from tracestill.data_pipeline.base import batches, schema
from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.schema import QUESTION_SCHEMA, RECORD_SCHEMA, REJECTED_SCHEMA, read_rows, write_rows
from tracestill.data_pipeline.base.stage import read_manifest, stage
from tracestill.data_pipeline.sampling.questions import QuestionsConfig
from tracestill.data_pipeline.sampling.sample import SampleConfig
from tracestill.data_pipeline.sampling.sample import run as run_sample
from tracestill.data_pipeline.selection import judgements
from tracestill.data_pipeline.selection.config import SelectConfig
from tracestill.data_pipeline.selection.selection import run

UNFILTERED = {"policy": "none", "paths": {"same": "off"}}


ROWS = [
    record("a", "3 + 4 = 7."),
    record("b", "So 3 plus 4 = 7, done."),
    record("c", "4 + 3 = 7."),
    record("d", "3 + 4 = 8, so it is 7."),
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
        "policies": {"strict": 4, "answer": 5, "none": 5},
        "questions_in": 2,
        "questions_out": 2,
    }
    told = "rejected: same path 2, false equation 1, no answer 1, wrong answer 1; by policy: strict 4, answer 5, none 5"
    assert summary("select", tmp_path / "select") == f"kept 4 of 9 records; {told}"


@pytest.mark.parametrize(
    ("select", "expected"),
    [
        ({"policy": "answer"}, "a c d g i"),
        ({"policy": "none"}, "a c d g i"),  # the path of e, whose answer is wrong, is that of a
        ({"policy": "answer", "paths": {"same": "off"}}, "a b c d g h i"),
        ({"paths": {"same": "off"}}, "a b c g h i"),
        ({"paths": {"same": "commuted"}}, "a g i"),
        ({"paths": {"same": "text"}}, "a b c g i"),
    ],
)
def test_each_policy_keeps_what_it_says(tmp_path: Path, select: dict, expected: str) -> None:
    kept, _ = judged(tmp_path, ROWS, **select)
    assert kept == expected.split()
    counts = (read_manifest(tmp_path / "select") or {})["counts"]
    assert counts["policies"][select.get("policy", "strict")] == counts["out"] == len(kept)
    for policy in ("strict", "answer", "none"):
        other, _ = judged(tmp_path, ROWS, **{**select, "policy": policy})
        assert counts["policies"][policy] == len(other)


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ({"answer": True, "equations": True, "unique_paths": True}, {}),
        ({"answer": True, "equations": False, "unique_paths": True}, {"policy": "answer"}),
        ({"equations": False}, {"policy": "answer"}),
        ({"paths": {"same": False}}, {"paths": {"same": "off"}}),  # as YAML reads it
        ({"answer": False, "equations": False, "unique_paths": False}, UNFILTERED),
        (
            {"policy": "strict", "paths": {"choose": "long"}, "unique_paths": False},
            {"paths": {"choose": "long", "same": "off"}},
        ),
    ],
)
def test_recipes_of_earlier_versions_mean_what_they_meant(before: dict, now: dict) -> None:
    assert SelectConfig.model_validate(before) == SelectConfig.model_validate(now)


def test_what_no_policy_says_is_an_error_that_names_the_policy_to_take() -> None:
    with pytest.raises(ValidationError, match="answer: false is now policy: none"):
        SelectConfig.model_validate({"answer": False})


def test_the_table_of_verdicts_tells_of_every_record_how_far_it_came(tmp_path: Path) -> None:
    judged(tmp_path, ROWS, max_per_question=2)
    table = pq.read_table(tmp_path / "select" / "verdicts.parquet")
    assert table.column_names == [
        *("record_id", "question_id", "teacher", "style", "temperature"),
        *("read", "answered", "right", "sound", "distinct", "kept", "reason"),
    ]
    steps = {
        row["record_id"]: "".join(step[0] for step in ("answered", "right", "sound", "distinct", "kept") if row[step])
        for row in table.to_pylist()
    }
    assert list(steps) == [row["record_id"] for row in ROWS]
    assert steps == {
        **{"a": "arsdk", "b": "ars", "c": "arsdk", "d": "ar", "e": "as", "f": "s", "g": "arsd", "h": "ars"},
        "i": "arsdk",
    }
    reasons = dict(zip(*(table[name].to_pylist() for name in ("record_id", "reason")), strict=True))
    assert {name for name, reason in reasons.items() if not reason} == {"a", "c", "i"}
    assert reasons["g"] == "over_maximum"


def test_any_number_of_workers_writes_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judgements, "AT_ONCE", 7)
    rows = [
        record(f"{at:03}", f"So {at % 9} + {at % 5} = {at % 9 + at % 5}. " + "word " * (at % 40), question=f"q{at % 6}")
        for at in range(100)
    ]
    select = {"paths": {"choose": "different"}, "max_per_question": 4, "weight": "per_question"}
    judged(tmp_path, rows, **select, workers=1)
    files = (read_manifest(tmp_path / "select") or {})["files"]
    assert len(files) == 3
    judged(tmp_path, rows, **select, workers=2)
    manifest = read_manifest(tmp_path / "select") or {}
    assert manifest["files"] == files
    assert "workers" not in manifest["config"], "how many there are is no reason to select again"


def test_rows_come_back_in_order_from_a_file_of_many_row_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the records of a question stand far apart, and a function of the user's needs them together."""
    monkeypatch.setattr(schema, "AT_A_TIME", 5)
    monkeypatch.setattr(batches, "GROUPS", 2)
    rows = [record(f"{at:03}", f"{at} + 0 = {at}", question=f"q{at % 10}") for at in range(60)]
    kept, rejected = judged(tmp_path, rows, weight="per_question", max_per_question=5)
    assert kept == [f"{at:03}" for at in range(50)]
    assert len(rejected) == 10
    found = read_rows(tmp_path / "select" / "records.parquet", RECORD_SCHEMA)
    assert [row["trace"] for row in found] == [row["trace"] for row in rows[:50]]
    assert all(row["weight"] == pytest.approx(0.2) for row in found)


def test_a_file_that_somebody_wrote_anew_is_read_whatever_wrote_it(tmp_path: Path) -> None:
    """Large texts, texts by number, doubles: pandas and others write so. One that lacks a column is refused."""
    with stage(tmp_path / "sample", "sample", {}, {}) as work:
        path = work.path / "records.parquet"
        write_rows(path, ROWS, RECORD_SCHEMA)
        table = pq.read_table(path)
        for name, other in (("question_id", pa.dictionary(pa.int32(), pa.string())), ("trace", pa.large_string())):
            table = table.set_column(table.column_names.index(name), name, table[name].cast(other))
        table = table.set_column(table.column_names.index("weight"), "weight", table["weight"].cast(pa.float64()))
        pq.write_table(table.drop_columns(["raw", "reader"]), path)
    run(SelectConfig(), directory=tmp_path / "select", sample=tmp_path / "sample")
    kept = read_rows(tmp_path / "select" / "records.parquet", RECORD_SCHEMA)
    assert [row["record_id"] for row in kept] == ["a", "c", "g", "i"]
    pq.write_table(table.drop_columns(["gold"]), tmp_path / "sample" / "records.parquet")
    with pytest.raises(InputError, match=r"records\.parquet: lacks the columns gold"):
        run(SelectConfig(), directory=tmp_path / "again", sample=tmp_path / "sample")
    (tmp_path / "sample" / "records.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(InputError, match="not a readable Parquet file"):
        run(SelectConfig(), directory=tmp_path / "again", sample=tmp_path / "sample")


@pytest.mark.parametrize(("policy", "kept"), [("reject", []), ("count", ["a"]), ("ignore", ["a"])])
def test_repetition_is_rejected_counted_or_ignored(tmp_path: Path, policy: str, kept: list[str]) -> None:
    looped = record("a", "We add the numbers once more and see what comes out of it. " * 5 + "3 + 4 = 7")
    found, rejected = judged(tmp_path, [looped, record("i", "3 + 4 = 7.")], repeats=policy)
    assert found == [*kept, *["i"] * (policy == "reject")]
    assert rejected == ({"a": "repeats"} if policy == "reject" else {"i": "same_path"})
    counts = (read_manifest(tmp_path / "select") or {})["counts"]
    assert counts.get("noted") == ({"repeats": 1} if policy == "count" else None)


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
    assert seen == sorted(seen)
    assert seen[-1] == (2400, 2400)
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


def test_the_detail_of_a_long_answer_is_cut(tmp_path: Path) -> None:
    judged(tmp_path, [ROWS[0], record("e", "3 + 4 = 7", answer="nine " * 10_000)])
    (row,) = read_rows(tmp_path / "select" / "rejected.parquet", REJECTED_SCHEMA)
    assert row["detail"].startswith("nine nine")
    assert len(row["detail"]) == 300
    assert len(row["answer"]) == 50_000, "the record itself is not"


def test_answers_that_cannot_be_told_are_rejected_by_reasons_of_their_own(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(expression, "compared", lambda pairs: [Verdict("timeout", "", "", "expression")] * len(pairs))
    rows = [
        {**record("a", "one", answer="7"), "gold": "7"},
        {**record("b", "two", answer="1.500"), "gold": "1500"},
        {**record("c", "three", answer="(x+1)^2"), "gold": "x^2+2x+1"},
        {**record("d", "four", answer="8"), "gold": "7"},
    ]
    kept, rejected = judged(tmp_path, rows, policy="answer")
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
    config = SelectConfig(policy="answer")
    run(config, directory=tmp_path / "select", sample=tmp_path / "sample")
    assert [row["record_id"] for row in read_rows(tmp_path / "select" / "records.parquet", RECORD_SCHEMA)] == ["a"]
    rejected = read_rows(tmp_path / "select" / "rejected.parquet", REJECTED_SCHEMA)
    assert {row["record_id"]: row["reason"] for row in rejected} == {"b": "wrong_answer", "c": "unverified"}
    run(config, directory=tmp_path / "all", sample=tmp_path / "sample", verifier=Verifier(VerifyConfig(use="set")))
    assert read_manifest(tmp_path / "all")["config"]["verify"] == {"use": "set"}
    assert read_manifest(tmp_path / "all")["counts"]["out"] == 2, "q2 keeps its own"


def test_general_text_is_judged_by_nobody(tmp_path: Path) -> None:
    """It may be anything: a program to the verifier `code`, a bill from a judge."""
    asked = []

    class Strict(Verifier):
        def verdicts(self, cases):
            asked.extend(case.answer for case in cases)
            return [Verdict("wrong", "", "", "strict") for _ in cases]

    general = {**record("g", "", answer="import os", question="q9"), "reader": schema.GENERAL}
    with stage(tmp_path / "sample", "sample", {}, {}) as work:
        write_rows(work.path / "records.parquet", [record("a", "3 + 4 = 7."), general], RECORD_SCHEMA)
    run(SelectConfig(), directory=tmp_path / "select", sample=tmp_path / "sample", verifier=Strict())
    assert [row["record_id"] for row in read_rows(tmp_path / "select" / "records.parquet", RECORD_SCHEMA)] == ["g"]
    assert asked == ["7"]
