"""Every line of a file, every question of a module and everything a teacher says is used, or counted with a reason."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest
from fake_run import summary
from their_tasks.hostile import SAID, deep

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.schema import QUESTION_SCHEMA, RECORD_SCHEMA, read_rows
from tracestill.data_pipeline.base.stage import read_manifest
from tracestill.data_pipeline.guards.well_formed import MAX_DEPTH, json_fault
from tracestill.data_pipeline.sampling.files import lines
from tracestill.data_pipeline.sampling.files.rejected import SCHEMA
from tracestill.data_pipeline.sampling.questions import QuestionsConfig, make_questions
from tracestill.data_pipeline.sampling.sample import SampleConfig, run
from tracestill.launch.report.page import accounts

HERE = Path(__file__).parent

HOSTILE: dict[bytes, tuple[str, str]] = {
    b'{"question": "caf\xe9", "gold": 1}': ("not_utf8", "not UTF-8 (byte 0xe9 at position 17)"),
    b'{"question": "Half \\ud83d?", "gold": 1}': ("not_text", "question holds half a character: the surrogate U+D83D"),
    b'{"question": "Gold?", "gold": "\\udc00"}': ("not_text", "gold holds half a character: the surrogate U+DC00"),
    b'{"question": "Group?", "gold": 1, "group": "\\ud800"}': ("not_text", "group holds half"),
    b'{"question": "Key?", "gold": 1, "\\ud800": 2}': ("not_text", "a key of the object holds half"),
    b'{"question": "Below?", "gold": 1, "a": [{"b": "\\ud800"}]}': ("not_text", "a.0.b holds half"),
    b'{"question": "Deep?", "gold": 1, "x": ' + b"[" * 900 + b"]" * 900 + b"}": (
        "nested",
        "x is nested deeper than 64",
    ),
    b'{"question": "Abyss?", "gold": ' + b"[" * 99999 + b"]" * 99999 + b"}": ("nested", "nested deeper"),
    b'{"question": "NaN?", "gold": NaN}': ("not_finite", "'gold' must be a text or a finite number, got nan"),
    b'{"question": "Infinite?", "gold": -Infinity}': ("not_finite", "got -inf"),
    b'{"question": "Huge?", "gold": 1e999}': ("not_finite", "got inf"),
    b'{"question": "Long?", "gold": ' + b"9" * 5000 + b"}": ("not_json", "not valid JSON"),
    b'{"question": "Twice?", "gold": 1, "gold": 2}': ("not_json", "the key 'gold' stands twice in an object"),
    b'{"question": "Cut off?", "go': ("not_json", "not valid JSON"),
    b'"Just a text"': ("not_an_object", "expected an object with question and gold, got str"),
    b'{"question": ["What?"], "gold": 1}': ("no_question", "'question' must be a text, got ['What?']"),
    b'{"question": "List?", "gold": [1]}': ("no_gold", "'gold' must be a text or a number, got [1]"),
}


def good(count: int) -> list[bytes]:
    return [json.dumps({"question": f"How much is {n} and {n}?", "gold": 2 * n}).encode() for n in range(count)]


def config(path: Path, train: int, **more: object) -> QuestionsConfig:
    return QuestionsConfig.model_validate({"source": str(path), "train": train, "test": 5, **more})


def adds_up(counts: dict) -> bool:
    left = counts["used"] + counts["duplicates"] + counts["unused"] + sum(counts["rejected"].values())
    return counts["in"] == left


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_bad_line_stops_nothing_and_is_kept_with_its_place_and_reason(tmp_path: Path, end: bytes) -> None:
    path = tmp_path / "q.jsonl"
    lines = [*good(30)[:10], b"", *HOSTILE, b"  ", *good(30)[10:], good(30)[3]]
    path.write_bytes(b"\xef\xbb\xbf" + end.join(lines))
    posed = make_questions(config(path, 20, max_rejected=1), 0)
    assert {q.question for q in posed.questions} <= {json.loads(line)["question"] for line in good(30)}
    reasons = [reason for reason, _ in HOSTILE.values()]
    assert posed.counts == {
        **{"in": 31 + len(HOSTILE), "used": 25, "duplicates": 1, "unused": 5},
        "rejected": {reason: reasons.count(reason) for reason in sorted(set(reasons))},
    }
    assert adds_up(posed.counts)
    for at, (each, (line, (reason, detail))) in enumerate(zip(posed.rejected, HOSTILE.items(), strict=True), start=12):
        assert (each.where, each.reason) == (f"{path}:{at}", reason)
        assert detail in each.detail
        assert "\n" not in each.detail
        assert each.text == line.decode(errors="backslashreplace")
    mended = path.with_name("mended.jsonl")
    mended.write_bytes(end.join(good(30)))
    assert make_questions(config(mended, 20), 0).questions == posed.questions, "bad lines move no good one"


def test_a_stated_share_of_bad_lines_ends_with_the_first_of_them(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_bytes(b"\n".join([*good(38), *list(HOSTILE)[:2]]))
    assert len(make_questions(config(path, 20), 0).rejected) == 2, "5 % is not more than 5 %"
    path.write_bytes(b"\n".join([*good(37), *list(HOSTILE)[:6]]))
    with pytest.raises(InputError) as error:
        make_questions(config(path, 20), 0)
    assert str(error.value) == (
        f"{path}:38: not UTF-8 (byte 0xe9 at position 17); so are {path}:39, {path}:40, {path}:41 and others. 6 of 43 "
        "lines cannot be used (not_text 5, not_utf8 1), more than questions.max_rejected = 0.05 allows: mend them, or "
        "raise it to go on without them"
    )
    with pytest.raises(InputError, match=r"of lines|lines cannot be used"):
        make_questions(config(path, 20, max_rejected=0), 0)


def test_a_question_with_two_gold_answers_is_rejected_in_all_its_lines(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    said = [{"question": text, "gold": gold} for text, gold in (("Other?", 1), ("Other? ", 1.0), ("\nOther?", 2))]
    path.write_bytes(b"\n".join([*good(30), *(json.dumps(line).encode() for line in said)]))
    posed = make_questions(config(path, 20, max_rejected=0.1), 0)
    assert [each.where.rpartition(":")[2] for each in posed.rejected] == ["31", "32", "33"]
    assert posed.counts["rejected"] == {"other_gold": 3}
    assert "the question of line 31 with another gold answer in line 33 ('2', not '1')" in posed.rejected[0].detail
    assert adds_up(posed.counts)


def test_a_line_of_any_length_costs_bounded_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "LONGEST", 200)
    path = tmp_path / "q.jsonl"
    path.write_bytes(b"\n".join([good(1)[0], b"x" * 1234, *good(30)[1:], b"y" * 200, b"z" * 201]))
    posed = make_questions(config(path, 20, max_rejected=0.2), 0)
    assert [(each.where.rpartition(":")[2], each.reason) for each in posed.rejected] == [
        ("2", "too_long"),
        ("32", "not_json"),
        ("33", "too_long"),
    ]
    assert [len(each.text) for each in posed.rejected] == [201, 200, 201]


def test_a_long_key_costs_its_own_length_once() -> None:
    held = {"k" * 1_000_000: [0] * 20_000, "x": {"y" * 100_000: ["\ud800"]}}
    tracemalloc.start()
    fault = json_fault(held)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert fault == ("not_text", f"x.{'y' * 40}.0 holds half a character: the surrogate U+D800 at position 0")
    assert peak < 20e6


def test_depth_is_counted_in_values_and_not_in_what_python_can_bear() -> None:
    assert json_fault(deep(MAX_DEPTH)) is None
    assert json_fault({"x": deep(MAX_DEPTH)}) == ("nested", f"x is nested deeper than {MAX_DEPTH}")
    assert json_fault({"x": float("nan"), "y": [None, True, 1]}) is None


def sampled(tmp_path: Path, says: list[str], train: int = 20, *, bad: bool = False, **sample: object) -> dict:
    calls = tmp_path / "calls"
    teacher = {"name": "t", "options": {"calls": str(calls), "says": says}}
    run(
        QuestionsConfig(source="their_tasks.hostile", train=train, test=0, options={"bad": bad}, max_rejected=0.5),
        SampleConfig.model_validate({"teachers": [teacher], **sample}),
        seed=0,
        directory=tmp_path / "sample",
        journal=tmp_path / "journal.sqlite",
    )
    manifest = read_manifest(tmp_path / "sample")
    assert manifest is not None
    return manifest["counts"]


@pytest.fixture(autouse=True)
def _tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(HERE.parents[1])


def asked(tmp_path: Path) -> int:
    return len((tmp_path / "calls").read_text().splitlines())


def test_whatever_a_teacher_says_is_a_record_or_a_rejected_one_and_is_asked_once(tmp_path: Path) -> None:
    counts = sampled(tmp_path, list(SAID), max_rejected=0.5)
    expected = {"bad_spans": 3, "not_a_solution": 2, "not_text": 3}
    assert (counts["asked"], counts["out"], counts["rejected"]) == (20, 12, expected)
    rejected = read_rows(tmp_path / "sample/rejected.parquet", SCHEMA)
    assert [row["text"] for row in rejected] == [ascii(said) for said in SAID.values()]
    assert [row["detail"] for row in rejected[:4]] == [
        "expected a Solution, got NoneType",
        "expected a Solution, got dict",
        "its trace holds half a character: the surrogate U+D83D at position 8",
        "its answer holds half a character: the surrogate U+DC00 at position 0",
    ]
    assert all(row["where"].startswith("teacher 't' on question ") for row in rejected)
    assert {row["trace"] for row in read_rows(tmp_path / "sample/records.parquet", RECORD_SCHEMA)} == {
        f"I think {n}" for n in range(8, 20)
    }
    again = sampled(tmp_path, list(SAID), max_rejected=0.5)
    assert (again["asked"], again["from_journal"], again["rejected"]) == (0, 20, expected)
    assert read_rows(tmp_path / "sample/rejected.parquet", SCHEMA) == rejected
    assert asked(tmp_path) == 20


def test_a_teacher_that_says_nothing_usable_is_not_asked_to_the_end(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^teacher 't' on question \w+: expected a Solution, got NoneType; so are"):
        sampled(tmp_path, ["none"] * 100, train=100)
    assert asked(tmp_path) == 6, "the first that is more than 5 % of 100"
    counts = sampled(tmp_path, ["none"] * 100, train=100, max_rejected=1)
    assert (counts["from_journal"], counts["rejected"]) == (6, {"not_a_solution": 100})


def test_questions_of_a_module_that_cannot_be_kept_make_their_split_smaller(tmp_path: Path) -> None:
    counts = sampled(tmp_path, [], bad=True)
    assert counts["train_questions"] == counts["out"] == 12
    assert counts["source"] == {
        **{"in": 20, "used": 12, "duplicates": 0, "unused": 0},
        "rejected": {"nested": 1, "not_json": 3, "not_text": 4},
    }
    rows = read_rows(tmp_path / "sample/rejected.parquet", SCHEMA)
    assert "question holds half a character" in rows[0]["detail"]
    assert rows[0]["text"].startswith("Question(question_id='', question='Half \\ud83d?'")
    assert len(read_rows(tmp_path / "sample/questions.parquet", QUESTION_SCHEMA)) == 12


def test_summary_and_report_say_what_was_left_out(tmp_path: Path) -> None:
    counts = sampled(tmp_path, ["none", "number"], bad=True, max_rejected=0.5)
    line = summary("sample", tmp_path / "sample")
    assert line.endswith(
        "; rejected: not a solution 1, not text 1; questions rejected: not text 4, not json 3, nested 1"
    )
    said = accounts(counts)
    assert "Of 20 questions in the source 12 are used" in said
    assert "8 are rejected (nested 1, not json 3, not text 4)" in said
    assert "2 samples of teachers are rejected (not a solution 1, not text 1)" in said
    assert accounts({"out": 3}) == "", "runs from before know no counts"
