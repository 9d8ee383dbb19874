"""What follows from what was said: rounds until enough is right, criticism and rewriting; and styles."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import openai  # noqa: F401 (it takes a while, which is none of the teachers')
import pyarrow.parquet as pq
import pytest
from api_cases import go, sql, teacher
from odd_server import OddServer, served
from pydantic import ValidationError

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.schema import QUESTION_SCHEMA, RECORD_SCHEMA, read_rows
from tracestill.data_pipeline.base.stage import read_manifest
from tracestill.data_pipeline.sampling.asking.styles import BUILT_IN
from tracestill.data_pipeline.sampling.questions import QuestionsConfig
from tracestill.data_pipeline.sampling.sample import SampleConfig, run


@pytest.fixture(autouse=True)
def _task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[3])


def asked_in(body: dict[str, Any]) -> str:
    return next(message["content"] for message in body["messages"] if message["role"] == "user")


def number_of(body: dict[str, Any]) -> int:
    return int(asked_in(body).partition("How much is ")[2].split()[0])


def sometimes_right(body: dict[str, Any], index: int) -> str:
    """Question 0: always right, by one path; 1: by another path each time; 2: never; 3: every other time."""
    number, seed = number_of(body), body["seed"]
    right = number in (0, 1) or (number == 3 and seed % 2)
    path = f"{seed} + 0 = {seed}. " if number in (1, 3) else ""
    return f"{path}The answer is {2 * number if right else 77}."


def test_questions_without_right_traces_are_asked_more(tmp_path: Path) -> None:
    until = {"distinct_right": 3, "at_most": 8}
    with served(OddServer(say=sometimes_right)) as server:
        two = [teacher(server.url, "a"), teacher(server.url, "b")]
        rows = go(tmp_path, two, train=4, until=until)
        asked = Counter(number_of(request.body) for request in server.requests)
        assert asked[0] == 8, "one path is not three"
        assert asked[1] == 3
        assert asked[2] == 8
        assert 3 < asked[3] <= 8
        assert len(rows) == sum(asked.values())
        begun = len(server.requests)
        assert go(tmp_path, two, train=4, until=until) == rows
        assert len(server.requests) == begun, "what the journal tells is not asked again"
        wider = go(
            tmp_path, [teacher(server.url, "a"), teacher(server.url, "b")], train=4, until={**until, "at_most": 9}
        )
        assert Counter(number_of(request.body) for request in server.requests[begun:])[2] == 1
        assert len(wider) > len(rows)
    held = Counter((row["question_id"], row["teacher"]) for row in rows)
    assert max(held.values()) == 4, "teachers take turns"
    with pytest.raises(ValidationError, match="samples says how often"):
        SampleConfig.model_validate({"teachers": [{"name": "a"}], "samples": 2, "until": until})
    with pytest.raises(ValidationError, match="must be at least distinct_right"):
        SampleConfig.model_validate({"teachers": [{"name": "a"}], "until": {"distinct_right": 3, "at_most": 2}})


def test_a_style_may_be_a_tag_that_the_student_sees(tmp_path: Path) -> None:
    styles = ["terse", {"name": "plan_first", "tag": "[plan]"}, {"prompt": "Be kind.", "tag": "[kind]"}, "Be brief."]
    with served(OddServer()) as server:
        rows = go(tmp_path, [teacher(server.url)], train=2, styles=styles)
    begun = {BUILT_IN["terse"]: "", BUILT_IN["plan_first"]: "[plan]\n", "Be kind.": "[kind]\n", "Be brief.": ""}
    assert Counter(row["style"] for row in rows) == dict.fromkeys(begun, 2)
    for row in rows:
        assert row["question"].startswith(f"{begun[row['style']]}How much")
    assert {request.body["messages"][0]["content"] for request in server.requests} == set(begun)
    with pytest.raises(ValidationError, match="unknown style 'tersee'; did you mean 'terse'"):
        SampleConfig.model_validate({"teachers": [{"name": "a"}], "styles": [{"name": "tersee"}]})


def test_the_tag_of_the_first_style_stands_before_held_out_questions(tmp_path: Path) -> None:
    with served(OddServer()) as server:
        styles = [{"prompt": "Be kind.", "tag": "[kind]"}, ""]
        config = {"teachers": [teacher(server.url)], "styles": styles}
        run(
            QuestionsConfig(source="their_tasks.noted", train=2, test=1),
            SampleConfig.model_validate(config),
            seed=0,
            directory=tmp_path / "sample",
            journal=tmp_path / "journal.sqlite",
        )
    questions = read_rows(tmp_path / "sample/questions.parquet", QUESTION_SCHEMA)
    assert [q["question"].startswith("[kind]\n") for q in questions] == [q["split"] == "test" for q in questions]
    held_out = {q["question_id"] for q in questions if q["split"] == "test"}
    rows = read_rows(tmp_path / "sample/records.parquet", RECORD_SCHEMA)
    assert {r["question"] for r in rows if r["question_id"] in held_out} == {
        q["question"] for q in questions if q["split"] == "test"
    }


def criticised(body: dict[str, Any], index: int) -> str:
    asked = asked_in(body)
    number = number_of(body)
    if "Principles of a good solution" in asked:
        return f"It breaks principle 1. ({number})"
    if "Criticism:\nIt breaks principle 1." in asked:
        return f"Better: {number} + {number} = {2 * number}\nThe answer is {2 * number}."
    return f"{number} + {number} = {2 * number}\nThe answer is {2 * number}."


def test_traces_are_criticised_and_rewritten_and_both_are_kept(tmp_path: Path) -> None:
    with served(OddServer(say=criticised)) as server:
        teachers = [teacher(server.url, "a", prefill="So, "), teacher(server.url, "editor") | {"only_revises": True}]
        revise = {"teacher": "editor", "principles": ["Be right."]}
        rows = go(tmp_path, teachers, train=3, revise=revise)
        begun = len(server.requests)
        assert begun == 9
        assert go(tmp_path, teachers, train=3, revise=revise) == rows
        assert len(server.requests) == begun
        go(tmp_path, teachers, train=3, revise={**revise, "principles": ["Be kind."]})
        assert len(server.requests) == begun + 3, "other principles ask anew, the same criticism leads to the same"
    assert Counter(row["teacher"] for row in rows) == {"a": 3, "editor": 3}
    links = pq.read_table(tmp_path / "sample/revisions.parquet").to_pylist()
    by_id = {row["record_id"]: row for row in rows}
    for link in links:
        assert link["critique"].startswith("It breaks principle 1.")
    first = {row["question_id"]: row for row in rows if row["teacher"] == "a"}
    links_of_rows = [row for row in rows if row["teacher"] == "editor"]
    for row in links_of_rows:
        assert row["raw"].startswith("Better: ")
        assert row["style"] == f"revision of {first[row['question_id']]['record_id']}"
    assert len(by_id) == 6
    manifest = read_manifest(tmp_path / "sample")
    assert manifest is not None
    assert manifest["counts"]["out"] == 6


def test_a_criticism_that_fails_is_counted_and_its_trace_stays(tmp_path: Path) -> None:
    def act(request: Any, number: int) -> str | None:
        return "500" if "Principles" in json.dumps(request.body) and number_of(request.body) == 1 else None

    with served(OddServer(say=criticised, act=act)) as server:
        rows = go(tmp_path, [teacher(server.url, "a")], train=3, revise={"teacher": "a"}, attempts=1, max_failed=0.5)
    assert len(rows) == 5
    manifest = read_manifest(tmp_path / "sample")
    assert manifest is not None
    assert manifest["counts"]["rejected"] == {"failed": 1}
    assert sql(tmp_path, "SELECT reason FROM rejected") == [("failed",)]


@pytest.mark.parametrize("paid", [4, 5, 7])
def test_what_the_budget_does_not_pay_for_is_counted_of_every_part(tmp_path: Path, paid: int) -> None:
    with served(OddServer(say=criticised)) as server:
        one = teacher(server.url, "a", price={"input": 0.0, "output": 1e6 / 5}, max_tokens=5, concurrency=1)  # 1 each
        rows = go(tmp_path, [one], train=3, revise={"teacher": "a"}, budget=float(paid))
    assert len(server.requests) == paid
    manifest = read_manifest(tmp_path / "sample")
    assert manifest is not None
    assert manifest["counts"]["out"] + manifest["counts"]["rejected"]["budget"] == 6
    assert len(rows) == manifest["counts"]["out"] >= 3


def test_teachers_are_asked_at_the_same_time(tmp_path: Path) -> None:
    with served(OddServer(seconds=0.15)) as one, served(OddServer(seconds=0.15)) as other:
        go(tmp_path, [teacher(one.url, "a", concurrency=1), teacher(other.url, "b", concurrency=1)], train=4)
    first, second = ([request.at for request in server.requests] for server in (one, other))
    assert max(first[0], second[0]) < min(first[-1], second[-1])


def test_what_a_teacher_raises_ends_sampling_and_what_others_said_is_kept(tmp_path: Path) -> None:
    with served(OddServer()) as server:
        bad = {"name": "bad", "use": "their_tasks.noted", "options": {"failures": 99, "seconds": 0.5}}
        with pytest.raises(InputError, match="teacher 'bad' failed 1 times"):
            go(tmp_path, [teacher(server.url), bad], attempts=1)
    assert sql(tmp_path, "SELECT count(*) FROM samples")[0][0] >= 1


def test_revise_names_teachers_of_the_recipe() -> None:
    one = {"name": "a", "use": "their_tasks.noted"}
    with pytest.raises(ValidationError, match="revise names 'b', which is no teacher"):
        SampleConfig.model_validate({"teachers": [one], "revise": {"teacher": "b"}})
    with pytest.raises(ValidationError, match="every teacher has only_revises"):
        SampleConfig.model_validate({"teachers": [{**one, "only_revises": True}]})
