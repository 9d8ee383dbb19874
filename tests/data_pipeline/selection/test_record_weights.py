"""A record's weight: from a question file and a teacher, through the journal, to what `select` makes of it."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import pytest
from fake_run import summary
from pydantic import ValidationError

from tracestill.data_pipeline.base import own_modules
from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.schema import (
    RECORD_SCHEMA,
    REJECTED_SCHEMA,
    Question,
    read_rows,
    weight_fault,
    write_rows,
)
from tracestill.data_pipeline.base.stage import is_current, read_manifest, stage
from tracestill.data_pipeline.sampling.files.gather import FileConfig, gather
from tracestill.data_pipeline.sampling.files.rejected import SCHEMA
from tracestill.data_pipeline.sampling.heard import Unusable, heard
from tracestill.data_pipeline.sampling.journal import Journal, Key
from tracestill.data_pipeline.sampling.journal_pages import readable
from tracestill.data_pipeline.sampling.questions import QuestionsConfig, question_fault
from tracestill.data_pipeline.sampling.sample import SampleConfig
from tracestill.data_pipeline.sampling.sample import run as run_sample
from tracestill.data_pipeline.sampling.teachers import Solution
from tracestill.data_pipeline.selection.config import SelectConfig
from tracestill.data_pipeline.selection.selection import run, stage_config

TEACHER = """
from pathlib import Path
from pydantic import BaseModel
from tracestill.data_pipeline.sampling.teachers import Solution
class TeacherOptions(BaseModel):
    weights: list[float] = []
class Teacher:
    def __init__(self, options):
        self.options = options
    def solve(self, question, *, style, temperature, seed):
        with Path(__file__).with_name("calls").open("a") as calls:
            calls.write("asked\\n")
        a, b = question.question.split(" + ")
        trace = f"{a} + {b} = {question.gold}" if style == "" else f"{b} + {a} = {question.gold}"
        return Solution(trace, question.gold, weight=self.options.weights[style == "turned"])
"""

UNUSABLE = [-1, -1e-9, float("nan"), float("inf"), 1e39, 1e-60, 10**400, "3", None, True, [1]]


@pytest.mark.parametrize("weight", UNUSABLE)
def test_what_is_no_finite_number_from_0_on_is_no_weight(weight: object) -> None:
    assert weight_fault(weight).startswith("expected a finite number >= 0")
    said = heard(Solution("t", "1", None, weight))  # type: ignore[arg-type]
    assert isinstance(said, Unusable)
    assert said.reason == "bad_weight"
    question = Question("q", "q", "1", "train", weight=weight)  # type: ignore[arg-type]
    reason, detail = question_fault(question) or ("", "")
    assert reason == "bad_weight"
    assert detail.startswith("'weight': expected a finite number >= 0")


def test_lines_of_a_file_may_have_a_weight_and_those_of_a_question_the_same(tmp_path: Path) -> None:
    path, unusable = tmp_path / "q.jsonl", [value for value in UNUSABLE if value is not None]
    lines = [
        *({"question": f"good {n}", "gold": 1, "weight": w} for n, w in enumerate([0, 3, 0.25])),
        {"question": "none", "gold": 1},
        {"question": "null", "gold": 1, "weight": None},  # which tables leave out
        *({"question": f"bad {n}", "gold": 1, "weight": w} for n, w in enumerate(unusable)),
        {"question": "twice", "gold": 1, "weight": 1},
        {"question": "twice ", "gold": 1, "weight": 2},
        {"question": "same", "gold": 1, "weight": 2},
        {"question": "same", "gold": 1, "weight": 2.0},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = gather([FileConfig(path=str(path))], lambda said: None, with_traces=False)
    assert {q.question: q.weight for q in found.questions} == {
        **{"good 0": 0, "good 1": 3, "good 2": 0.25, "none": 1, "null": 1, "same": 2}
    }
    assert all(q.metadata == {} for q in found.questions)
    last = len(lines) - 4
    assert [(each.where.rpartition(":")[2], each.reason) for each in found.rejected] == [
        *((str(6 + n), "bad_weight") for n in range(len(unusable))),
        *((str(last + n), "other_weight") for n in (1, 2)),
    ]
    assert found.rejected[-1].detail == (
        f"the question of line {last + 1} with another weight in line {last + 2} (2.0, not 1.0); keep one of them"
    )
    assert found.total == len(found.questions) + found.duplicates + len(found.rejected)


def test_the_journal_keeps_what_weight_a_teacher_gave_and_a_damaged_one_too(tmp_path: Path) -> None:
    keys = [Key(f"q{n}", "t", "", 1.0, 0) for n in range(3)]
    said = [heard(Solution("3 + 4 = 7", "7", None, weight)) for weight in (1, 0.0, 2.5)]
    path = tmp_path / "journal.sqlite"
    with Journal(path) as book:
        for key, one in zip(keys, said, strict=True):
            book.add(key, "b" * 16, one)
        spans = [row[0] for row in book.database.execute("SELECT spans FROM samples")]
        assert sorted(text[0] for text in spans) == ["[", "{", "{"], "a row without a weight is as it ever was"
        assert [one for _, one in book.rows([(key, "b" * 16) for key in keys])] == said
    assert readable(path).count == 3
    with Journal(path) as book:
        book.database.execute("UPDATE samples SET spans = '{}'")
        book.database.execute("DELETE FROM digests")
        with pytest.raises(InputError, match="the journal is damaged"):
            list(book.rows([(keys[0], "b" * 16)]))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "weighing_teacher.py").write_text(TEACHER)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def sampled(folder: Path, weights: dict[str, float], teacher: list[float]) -> dict[str, list[float]]:
    """Question -> weights of its records, of both styles."""
    lines = [{"question": q, "gold": 10, "weight": w} for q, w in weights.items()]
    (folder / "q.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    one = {"name": "t", "use": "weighing_teacher", "options": {"weights": teacher}}
    run_sample(
        QuestionsConfig(source=str(folder / "q.jsonl"), train=len(weights), test=0, max_rejected=1),
        SampleConfig.model_validate({"teachers": [one], "styles": ["", "turned"], "max_rejected": 1}),
        seed=0,
        directory=folder / "sample",
        journal=folder / "journal.sqlite",
    )
    found = defaultdict(list)
    for row in read_rows(folder / "sample" / "records.parquet", RECORD_SCHEMA):
        found[row["question"]].append(row["weight"])
    return dict(found)


def test_a_record_weighs_what_its_question_times_its_teacher_says(folder: Path) -> None:
    assert sampled(folder, {"4 + 6": 3, "3 + 7": 1, "2 + 8": 0}, [0.5, 2]) == {
        "4 + 6": [1.5, 6],
        "3 + 7": [0.5, 2],
        "2 + 8": [0, 0],
    }
    calls = (folder / "calls").read_text()
    assert sampled(folder, {"4 + 6": 1, "3 + 7": 2, "2 + 8": 0}, [0.5, 2])["4 + 6"] == [0.5, 2]
    assert (folder / "calls").read_text() == calls, "a question's weight asks nobody anew"


def test_a_product_that_is_no_weight_is_rejected_and_counted(folder: Path) -> None:
    assert sampled(folder, {"4 + 6": 1e30, "3 + 7": 1}, [1, 1e30]) == {"4 + 6": [pytest.approx(1e30)],
                                                                         "3 + 7": [1, pytest.approx(1e30)]}  # fmt: skip
    counts = (read_manifest(folder / "sample") or {})["counts"]
    assert (counts["out"], counts["rejected"]) == (3, {"bad_weight": 1})
    (row,) = read_rows(folder / "sample" / "rejected.parquet", SCHEMA)
    assert row["detail"].startswith("its weight 1e+30 times its question's: expected a finite number >= 0")


def rows(**weights: list[float | None]) -> list[dict]:
    """Records of questions with these weights; each trace its own."""
    return [
        {
            **{"record_id": f"{question}{n}", "question_id": question, "question": "?", "gold": "7"},
            **{"trace": f"{n} + {7 - n} = 7", "answer": "7", "spans": [], "weight": weight},
            **{"teacher": f"t{n}", "style": "", "temperature": 1.0, "index": 0},
        }
        for question, of_question in weights.items()
        for n, weight in enumerate(of_question)
    ]


def selected(folder: Path, given: list[dict], weight: str, **more: object) -> dict[str, float]:
    with stage(folder / "sample", "sample", {}, {}) as work:
        write_rows(work.path / "records.parquet", given, RECORD_SCHEMA)
    config = SelectConfig.model_validate({"weight": weight, **more})
    run(config, directory=folder / "select", sample=folder / "sample")
    counts = (read_manifest(folder / "select") or {})["counts"]
    assert counts["in"] == counts["out"] + sum(counts["rejected"].values())
    return {r["record_id"]: r["weight"] for r in read_rows(folder / "select" / "records.parquet", RECORD_SCHEMA)}


def test_given_weights_stay_and_none_is_rejected_for_its_size(folder: Path) -> None:
    assert selected(folder, rows(a=[0, 3], b=[0.5, None, -1]), "given") == {"a0": 0, "a1": 3, "b0": 0.5}
    counts = (read_manifest(folder / "select") or {})["counts"]
    assert (counts["weightless"], counts["rejected"]) == (1, {"bad_weight": 2})
    assert summary("select", folder / "select") == "kept 3 of 5 records, 1 of weight 0; rejected: bad weight 2"
    rejected = read_rows(folder / "select" / "rejected.parquet", REJECTED_SCHEMA)
    assert [row["detail"] for row in rejected] == [
        "its weight: expected a finite number >= 0, got None",
        "its weight: expected a finite number >= 0 that 32 bits can hold, got -1.0",
    ]


def test_per_question_shares_a_questions_weight_among_what_is_kept_of_it(folder: Path) -> None:
    given = rows(a=[1, 1, 1, 1], b=[1], c=[3, 3], d=[1, 0], e=[0])
    given[3]["answer"] = "8"  # one of a's four is wrong
    found = selected(folder, given, "per_question")
    assert found == {
        **{f"a{n}": pytest.approx(1 / 3) for n in range(3)},
        **{"b0": 1, "c0": 1.5, "c1": 1.5, "d0": 1, "d1": 0, "e0": 0},
    }


def test_where_few_may_stay_those_that_weigh_something_do(folder: Path) -> None:
    """Else a record that trains nothing would take the place of one that does."""
    given = rows(a=[0, 3, 1], b=[0, 0], c=[0, None])
    assert selected(folder, given, "given", max_per_question=1) == {"a1": 3, "b0": 0, "c0": 0}
    assert read_rows(folder / "select" / "rejected.parquet", REJECTED_SCHEMA)[0]["reason"] == "over_maximum"
    for row in given:
        row["trace"] = "3 + 4 = 7"
    assert selected(folder, given, "given") == {"a1": 3, "b0": 0, "c0": 0}


OWN = """
def by_teacher(records):
    return [{"t0": 2, "t1": 0.5}.get(record.teacher, float("nan")) * record.weight for record in records]
def few(records):
    return [1.0]
def failing(records):
    return [1 / 0 for _ in records]
number = 3
"""


def test_a_function_of_ones_own_weighs_and_is_known_by_its_content(folder: Path) -> None:
    (folder / "their_weights.py").write_text(OWN)
    use = "their_weights:by_teacher"
    assert selected(folder, rows(a=[1, 1, 1], b=[4]), use) == {"a0": 2, "a1": 0.5, "b0": 8}
    counts = (read_manifest(folder / "select") or {})["counts"]
    assert counts["rejected"] == {"bad_weight": 1}, "nan"
    config, inputs = SelectConfig(weight=use), {"sample": folder / "sample"}
    assert is_current(folder / "select", "select", stage_config(config), inputs)
    assert not is_current(folder / "select", "select", stage_config(SelectConfig()), inputs)
    (folder / "their_weights.py").write_text(OWN + "\n")
    assert not is_current(folder / "select", "select", stage_config(config), inputs)
    with pytest.raises(InputError, match=r"^select\.weight: their_weights:few gave 1 weights for the 2 records of"):
        selected(folder, rows(a=[1], b=[1, 1]), "their_weights:few")
    where = r"their_weights\.py:7: ZeroDivisionError: division by zero\)$"
    with pytest.raises(InputError, match=rf"^select\.weight: their_weights:failing failed on question a \(.*{where}"):
        selected(folder, rows(a=[1]), "their_weights:failing")


def test_unknown_ways_are_refused_with_the_nearest_and_looking_imports_none(folder: Path) -> None:
    (folder / "their_other_weights.py").write_text(OWN)
    for weight, message in {
        "per_questions": "unknown way to weigh 'per_questions'; did you mean 'per_question'?",
        "their_other_weights:surest": "their_other_weights has no function 'surest'",
        "their_other_weights:number": "their_other_weights has no function 'number'",
        "no_such_weights:f": "cannot import 'no_such_weights'",
    }.items():
        with pytest.raises(ValidationError) as error:
            SelectConfig(weight=weight)
        assert message in str(error.value)
    with own_modules.looking():
        assert SelectConfig(weight="no_such_weights:f").weight == "no_such_weights:f"
