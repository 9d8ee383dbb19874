"""Sampling: what is asked, what a crash costs, and what reaches the records."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from pydantic import ValidationError

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.base.schema import QUESTION_SCHEMA, RECORD_SCHEMA, Span, read_rows
from tracestill.data_pipeline.base.stage import is_current, read_manifest
from tracestill.data_pipeline.sampling.ask_all import Asking
from tracestill.data_pipeline.sampling.asking import crew
from tracestill.data_pipeline.sampling.questions import QuestionsConfig
from tracestill.data_pipeline.sampling.sample import SampleConfig, make_teachers, run, stage_config

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def _task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(HERE.parents[1])
    monkeypatch.setattr(crew, "pause", 0.0)


def go(tmp_path: Path, name: str = "run", questions: dict | None = None, seed: int = 0, **sample: object) -> list[dict]:
    asked = {"source": "their_tasks.noted", "train": 6, "test": 3, **(questions or {})}
    run(
        QuestionsConfig.model_validate(asked),
        SampleConfig.model_validate({"teachers": [{"name": "t"}], "samples": 2, "test_samples": 0, **sample}),
        seed=seed,
        directory=tmp_path / name / "sample",
        journal=tmp_path / name / "journal.sqlite",
    )
    return read_rows(tmp_path / name / "sample" / "records.parquet", RECORD_SCHEMA)


def calls(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_every_teacher_style_temperature_and_index_is_asked_once_of_each_training_question(tmp_path: Path) -> None:
    teachers = [{"name": "a"}, {"name": "b", "options": {"spans": "check"}}]
    rows = go(tmp_path, teachers=teachers, styles=["", "brief "], temperatures=[0, 1.5])
    keys = Counter((r["question_id"], r["teacher"], r["style"], r["temperature"], r["index"]) for r in rows)
    assert len(keys) == len(rows) == 6 * 2 * 2 * 2 * 2
    assert len({r["record_id"] for r in rows}) == len({r["trace"] for r in rows}) == 96
    questions = read_rows(tmp_path / "run/sample/questions.parquet", QUESTION_SCHEMA)
    assert Counter(q["split"] for q in questions) == {"train": 6, "test": 3}
    held_out = {q["question_id"] for q in questions if q["split"] == "test"}
    assert not held_out & {r["question_id"] for r in rows}
    for row in rows:
        spans = [Span(**span) for span in row["spans"]]
        assert [s.kind for s in spans] == (["check"] if row["teacher"] == "b" else []), "the others come when encoded"
        assert row["weight"] == 1.0
    manifest = read_manifest(tmp_path / "run/sample")
    assert manifest is not None
    assert manifest["counts"] == {
        "source": {"in": 9, "used": 9, "duplicates": 0, "unused": 0, "rejected": {}},
        "rejected": {},
        "train_questions": 6,
        "test_questions": 3,
        "out": 96,
        "asked": 96,
        "from_journal": 0,
    }


def test_held_out_questions_get_their_own_number_of_traces_at_the_first_style_and_temperature(tmp_path: Path) -> None:
    rows = go(tmp_path, styles=["", "brief "], temperatures=[0.5, 1.5], test_samples=3)
    split = {
        q["question_id"]: q["split"] for q in read_rows(tmp_path / "run/sample/questions.parquet", QUESTION_SCHEMA)
    }
    test = [row for row in rows if split[row["question_id"]] == "test"]
    assert len(rows) - len(test) == 6 * 2 * 2 * 2
    assert Counter(row["question_id"] for row in test) == {key: 3 for key, value in split.items() if value == "test"}
    assert {(row["style"], row["temperature"]) for row in test} == {("", 0.5)}


def test_validation_questions_are_held_out_too(tmp_path: Path) -> None:
    rows = go(tmp_path, temperatures=[0.5, 1.5], test_samples=1, questions={"validation": 2})
    split = {
        q["question_id"]: q["split"] for q in read_rows(tmp_path / "run/sample/questions.parquet", QUESTION_SCHEMA)
    }
    assert Counter(split.values()) == {"train": 6, "test": 3, "validation": 2}
    asked = Counter((split[row["question_id"]], row["temperature"]) for row in rows)
    assert asked["validation", 0.5] == 2
    assert asked["validation", 1.5] == 0


def test_a_second_run_asks_for_what_is_missing_and_changed_teachers_anew(tmp_path: Path) -> None:
    log = tmp_path / "calls"
    teachers = [{"name": "t", "options": {"calls": str(log)}}]
    first = go(tmp_path, teachers=teachers)
    assert calls(log) == 12
    assert go(tmp_path, teachers=teachers) == first
    assert calls(log) == 12
    more = go(tmp_path, teachers=teachers, samples=3)
    assert calls(log) == 18
    assert [row for row in more if row["index"] < 2] == first
    wider = go(tmp_path, teachers=teachers, samples=3, questions={"train": 8})
    assert calls(log) == 24
    assert wider[:18] == more
    go(tmp_path, teachers=[{"name": "t", "options": {"calls": str(log), "spans": "plan"}}])
    assert calls(log) == 36
    assert go(tmp_path, teachers=teachers, seed=1) != first
    assert calls(log) == 48
    assert go(tmp_path, teachers=teachers) == first
    assert calls(log) == 48


def test_equal_recipes_give_equal_bytes_in_any_order_of_asking(tmp_path: Path) -> None:
    go(tmp_path, "one", samples=3)
    go(tmp_path, "two", samples=1)
    go(tmp_path, "two", samples=3)
    files = [(tmp_path / name / "sample" / "records.parquet").read_bytes() for name in ("one", "two")]
    assert files[0] == files[1]


CHILD = """
import sys
from pathlib import Path
from tracestill.data_pipeline.sampling.questions import QuestionsConfig
from tracestill.data_pipeline.sampling.sample import SampleConfig, run
where = Path(sys.argv[1])
teacher = {"name": "t", "options": {"calls": str(where / "calls"), "seconds": 0.005}}
run(QuestionsConfig(source="their_tasks.noted", train=60, test=3),
    SampleConfig.model_validate({"teachers": [teacher], "samples": 4, "test_samples": 0}),
    seed=0, directory=where / "sample", journal=where / "journal.sqlite")
"""


def child(where: Path) -> subprocess.Popen[bytes]:
    where.mkdir(exist_ok=True)
    path = os.pathsep.join(filter(None, [str(HERE.parents[1]), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.Popen([sys.executable, "-c", CHILD, str(where)], env=environment)


def test_a_killed_process_loses_nothing_and_doubles_nothing(tmp_path: Path) -> None:
    where, kills = tmp_path / "killed", 3
    for kill in range(1, kills + 1):
        process = child(where)
        deadline = time.monotonic() + 60
        while calls(where / "calls") < kill * 60 and time.monotonic() < deadline:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not (where / "sample").exists()
        with sqlite3.connect(where / "journal.sqlite") as database:
            rows = database.execute("SELECT count(*) FROM samples").fetchone()[0]
        assert calls(where / "calls") - kill <= rows < 240
    assert child(where).wait() == 0
    assert 240 <= calls(where / "calls") <= 240 + kills  # at most the one in work at each kill is asked again
    with sqlite3.connect(where / "journal.sqlite") as database:
        assert database.execute("SELECT count(*) FROM samples").fetchone() == (240,)
    options = {"calls": str(where / "calls"), "seconds": 0.005}
    undisturbed = tmp_path / "undisturbed"
    teachers = [{"name": "t", "options": options}]
    rows = go(undisturbed, teachers=teachers, samples=4, questions={"train": 60})
    assert rows == read_rows(where / "sample" / "records.parquet", RECORD_SCHEMA)
    assert sorted(p.name for p in where.iterdir() if p.is_dir()) == ["sample"]


def test_a_failing_teacher_is_asked_again_and_then_reported_with_its_samples_kept(tmp_path: Path) -> None:
    log = tmp_path / "calls"
    patient = [{"name": "t", "options": {"calls": str(log), "failures": 2}}]
    go(tmp_path, "patient", teachers=patient)
    assert calls(log) == 12 + 2
    good, bad = {"name": "good"}, {"name": "bad", "options": {"failures": 100}}
    with pytest.raises(InputError) as error:
        go(tmp_path, "broken", teachers=[good, bad])
    message = str(error.value)
    assert message.startswith("teacher 'bad' failed 3 times on question ")
    kept = re.search(r"\(ConnectionError: gone\); (\d+) samples are kept in ", message)
    assert kept is not None
    assert "\n" not in message
    assert not (tmp_path / "broken" / "sample").exists()
    mended = go(tmp_path, "broken", teachers=[good, {"name": "bad", "options": {"failures": 0}}])
    manifest = read_manifest(tmp_path / "broken" / "sample")
    assert manifest is not None
    assert manifest["counts"]["from_journal"] >= int(kept[1]) > 0, "what was on its way is kept as well"
    assert len(mended) == 24


def test_spans_of_a_teacher_are_checked_against_the_kinds_of_the_recipe(tmp_path: Path) -> None:
    for spans, message in (("short", "spans end at"), ("answer", "span kind 'answer' is no kind of the trace")):
        with pytest.raises(InputError, match=f"teacher 't' on question .*{message}"):
            go(tmp_path, spans, teachers=[{"name": "t", "options": {"spans": spans}}])
    run(
        QuestionsConfig(source="their_tasks.noted", train=1, test=0),
        SampleConfig.model_validate({"teachers": [{"name": "t", "options": {"spans": "humour"}}]}),
        seed=0,
        directory=tmp_path / "own" / "sample",
        journal=tmp_path / "own" / "journal.sqlite",
        kinds=Kinds.with_extra({"humour": "trace"}),
    )


def test_progress_counts_what_the_journal_had_and_ends_at_the_total(tmp_path: Path) -> None:
    go(tmp_path, samples=1)
    seen: list[tuple[int, int, str]] = []
    run(
        QuestionsConfig(source="their_tasks.noted", train=6, test=3),
        SampleConfig.model_validate({"teachers": [{"name": "t"}], "samples": 2, "test_samples": 0}),
        seed=0,
        directory=tmp_path / "run" / "sample",
        journal=tmp_path / "run" / "journal.sqlite",
        progress=lambda *told: seen.append(told),
    )
    assert [told[:2] for told in seen] == [(done, 12) for done in range(6, 13)]
    assert (seen[0][2], seen[-1][2]) == ("", "100% usable")


def test_progress_tells_which_share_of_what_was_asked_gives_a_record() -> None:
    told: list[tuple[int, int, str]] = []
    asking = SimpleNamespace(at=12, asked=10, useless=1, read=9, unread=3, course=SimpleNamespace(count=20))
    asking.progress = lambda *now: told.append(now)
    Asking.tell(asking)  # type: ignore[arg-type]
    assert told == [(12, 20, "60% usable")], "nine of ten can be read, and of nine that were read six passed"


def test_the_stage_is_current_for_its_own_config_only(tmp_path: Path) -> None:
    go(tmp_path)
    questions = QuestionsConfig(source="their_tasks.noted", train=6, test=3)
    config = SampleConfig.model_validate({"teachers": [{"name": "t"}], "samples": 2, "test_samples": 0})
    assert is_current(tmp_path / "run/sample", "sample", stage_config(questions, config, 0), {})
    assert not is_current(tmp_path / "run/sample", "sample", stage_config(questions, config, 1), {})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"teachers": []}, "at least 1 item"),
        ({"teachers": [{"name": "t"}, {"name": "t"}]}, "'t' occurs twice"),
        ({"temperatures": [1, 1.0]}, "occurs twice"),
        ({"temperatures": [-1]}, "a temperature is a number >= 0"),
        ({"temperatures": [float("nan")]}, "a temperature is a number >= 0"),
        ({"samples": 0}, "greater than or equal to 1"),
        ({"sample": 3}, "Extra inputs are not permitted"),
    ],
)
def test_bad_configs_are_refused(config: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SampleConfig.model_validate({"teachers": [{"name": "t"}], **config})


def test_a_file_of_questions_needs_a_named_teacher() -> None:
    config = SampleConfig.model_validate({"teachers": [{"name": "t"}]})
    with pytest.raises(InputError, match=r"sample\.teachers\.0\.use: the questions come from a file"):
        make_teachers(config, QuestionsConfig(source="q.jsonl", train=1, test=0))
