"""The table of verdicts out of what stages wrote, of this version and of earlier ones, and the whole report from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.schema import QUESTION_SCHEMA, RECORD_SCHEMA, REJECTED_SCHEMA, write_rows
from tracestill.data_pipeline.base.stage import stage
from tracestill.data_pipeline.sampling.files.rejected import SCHEMA, Rejected, write_rejected
from tracestill.data_pipeline.yields.report import yield_report
from tracestill.data_pipeline.yields.table import FLAGS, VERDICTS, costs, operations, votes, yield_table

QUESTIONS = ("easy", "hard", "held out")
LOST = {"r5": "no_answer", "r4": "wrong_answer", "r3": "false_equation", "r2": "same_path", "r1": "over_maximum"}


def record(at: int, question: str = "easy", answer: str = "7", trace: str = "3 + 4 = 7.") -> dict[str, Any]:
    return {
        **{"record_id": f"r{at}", "question_id": question, "question": question, "gold": "7", "trace": trace},
        **{"answer": answer, "spans": [], "weight": 1.0, "teacher": "t", "style": "", "temperature": 1.0, "index": at},
    }


def refused(at: int, question: str, reason: str = "unread") -> Rejected:
    return Rejected("", reason, "", "", record_id=f"r{at}", question_id=question, teacher="t", temperature=1.0)


def made(
    root: Path,
    records: list[dict],
    lost: dict[str, str],
    unread: list[Rejected] = (),
    config: dict | None = None,
    **more: Any,
) -> tuple[Path, Path]:
    """The directories of `sample` and `select`; ``lost``: record id -> reason; ``more``: of the sample, and why."""
    places = root / "sample", root / "select"
    with stage(places[0], "sample", more.get("sampled", {}), {}) as work:
        write_rows(work.path / "records.parquet", records, RECORD_SCHEMA)
        write_rejected(work.path / "rejected.parquet", unread)
        rows = [{**dict.fromkeys(QUESTION_SCHEMA.names, ""), "question_id": name, "question": name, "gold": "7",
                 "split": "test" if name == "held out" else "train"} for name in QUESTIONS]  # fmt: skip
        write_rows(work.path / "questions.parquet", rows, QUESTION_SCHEMA)
        work.counts = more.get("counts", {})
    with stage(places[1], "select", config or {}, {"sample": places[0]}) as work:
        kept = [row for row in records if row["record_id"] not in lost]
        gone = [{**row, "reason": lost[row["record_id"]], "detail": more.get("detail", "")} for row in records
                if row["record_id"] in lost]  # fmt: skip
        write_rows(work.path / "records.parquet", kept, RECORD_SCHEMA)
        write_rows(work.path / "rejected.parquet", gone, REJECTED_SCHEMA)
    return places


def flags(table: pa.Table) -> dict[str, list[bool | None]]:
    return {row["record_id"]: [row[flag] for flag in FLAGS] for row in table.to_pylist()}


def test_reasons_become_flags(tmp_path: Path) -> None:
    answers = {5: " ", 4: "8"}
    places = made(tmp_path, [record(at, answer=answers.get(at, "7")) for at in range(6)], LOST)
    table, unknown = yield_table(*places)
    assert (table.schema, unknown) == (VERDICTS, 0)
    assert flags(table) == {
        "r0": [True, True, True, True, True, True],
        "r1": [True, True, True, True, True, False],
        "r2": [True, True, True, True, False, False],
        "r3": [True, True, True, False, None, False],
        "r4": [True, True, False, None, None, False],
        "r5": [True, False, None, None, None, False],
    }
    assert table["reason"].to_pylist() == [
        "",
        "over_maximum",
        "same_path",
        "false_equation",
        "wrong_answer",
        "no_answer",
    ]


@pytest.mark.parametrize("off", [{"checks": []}, {"equations": False}])
def test_answers_are_looked_at_where_selection_did_not(tmp_path: Path, off: dict[str, object]) -> None:
    """Of a run that filtered nothing its report says all the same how much is right; steps are not looked at."""
    config = {"answer": False, **off, "unique_paths": False}
    places = made(tmp_path, [record(0), record(1, answer="8"), record(2, answer="7.0")], {}, config=config)
    table, _ = yield_table(*places)
    assert [row[2:] for row in flags(table).values()] == [
        [True, None, None, True], [False, None, None, True], [True, None, None, True]]  # fmt: skip
    found = yield_report(*places)
    assert (found["policy"], found["total"]["right"], found["total"]["sound"], found["total"]["kept"]) == (
        "none",
        2,
        None,
        3,
    )
    assert any("select.checks names nobody" in note for note in found["notes"])


@pytest.mark.parametrize(("detail", "sound"), [("its weight: nan", None), ("its weight by select.weight: nan", True)])
def test_a_bad_weight_is_found_before_all_else_or_after_it(tmp_path: Path, detail: str, sound: bool | None) -> None:
    places = made(tmp_path, [record(0), record(1)], {"r1": "bad_weight"}, detail=detail)
    assert flags(yield_table(*places)[0])["r1"] == [True, True, True, sound, sound, False]


def test_what_gave_no_record_was_asked_all_the_same(tmp_path: Path) -> None:
    """But what there was no money for was not, and a row of a file is no sample."""
    unread = [
        refused(8, "hard"),
        refused(9, "held out"),
        refused(10, "hard", "budget"),
        Rejected("f:1", "not_json", "", ""),
    ]
    places = made(tmp_path, [record(0), record(1, "hard", "8")], {"r1": "wrong_answer"}, unread)
    table, unknown = yield_table(*places)
    assert (table.num_rows, unknown) == (4, 0)
    assert flags(table)["r8"] == [False, False, None, None, None, False]
    found = yield_report(*places, ["question"])
    assert [(row["value"], row["asked"], row["read"]) for row in found["by"]["question"]] == [
        (["hard"], 2, 1), (["easy"], 1, 1)]  # fmt: skip
    assert found["held_out"] == 1
    assert [(point["k"], point["share"], point["questions"]) for point in found["total"]["pass"]] == [
        (1, 0.5, 2),
        (2, 0, 1),
    ]


def test_runs_of_before_say_how_many_they_lack(tmp_path: Path) -> None:
    """Their rejected.parquet does not say of which sample it is."""
    places = made(tmp_path, [record(0)], {}, counts={"rejected": {"unread": 3}})
    old = pa.schema([field for field in SCHEMA if field.name in ("where", "reason", "detail", "text", "file", "row")])
    pq.write_table(old.empty_table(), places[0] / "rejected.parquet")
    assert yield_table(*places)[1] == 3
    again = made(tmp_path / "again", [record(0)], {}, counts={"rejected": {"unread": 3}})
    assert yield_table(*again)[1] == 0


def test_verdicts_that_selection_wrote_are_taken_as_they_are(tmp_path: Path) -> None:
    places = made(tmp_path, [record(0), record(1)], {"r1": "wrong_answer"}, [refused(9, "hard")])
    held, _ = yield_table(*places)
    changed = [{**row, "sound": False} for row in held.to_pylist() if row["record_id"] != "r9"]
    pq.write_table(pa.Table.from_pylist(changed, VERDICTS), places[1] / "verdicts.parquet")
    table, _ = yield_table(*places)
    assert [(row["record_id"], row["sound"]) for row in table.to_pylist()] == [
        ("r0", False),
        ("r1", False),
        ("r9", None),
    ]


def test_equal_answers_have_one_vote(tmp_path: Path) -> None:
    answers = ["7", "7.0", "$7", "seven", "Seven.", " ", "8"]
    places = made(tmp_path, [record(at, answer=answer) for at, answer in enumerate(answers)], {})
    found = votes(places[0])["vote"].to_pylist()
    assert found == [0, 0, 0, 1, 1, -1, 2]


def test_operations_are_counted_in_what_people_write(tmp_path: Path) -> None:
    traces = ["16 - 3 - 4 = 9, and 9 * 2 = 18", "2×3+4", "5 apples + 2 apples", "a 5-year plan, then well-known",
              "50% x 30", r"6 \times 7 \div 2", "3 / 4 of it", "- 1. first\n- 2. second", "$2 * 3 = $6"]  # fmt: skip
    places = made(tmp_path, [record(at, trace=trace) for at, trace in enumerate(traces)], {})
    assert operations(places[0])["operations"].to_pylist() == [3, 2, 1, 0, 1, 2, 1, 0, 1]


def test_what_servers_told_is_read_from_among_all_they_said(tmp_path: Path) -> None:
    """Tokens of a request with several choices are shared, and a text of log-probabilities is no key."""
    places = made(tmp_path, [record(0)], {})
    assert costs(places[0]) is None
    trap = {"logprobs": [['", "cost": 9, "', -0.1, []], ['{"completion_tokens": 77}', -1, []]]}
    told = [
        {"completion_tokens": 120, "choices": 4, "cost": 1.5e-05},
        {**trap, "completion_tokens": 50},
        trap,
        {"cost": 0.25},
    ]
    rows = {"record_id": [f"r{at}" for at in range(4)], "details": [json.dumps(each) for each in told]}
    pq.write_table(pa.table(rows), places[0] / "details.parquet")
    found = costs(places[0])
    assert found["tokens"].to_pylist() == [30, 50, None, None]
    assert found["cost"].to_pylist() == [1.5e-05, None, None, 0.25]


def test_what_has_to_be_kept_in_mind_is_said(tmp_path: Path) -> None:
    places = made(
        tmp_path, [record(0), record(1), record(2, "held out")], {}, sampled={"sample": {"until": {"right": 2}}}
    )
    notes = " / ".join(yield_report(*places)["notes"])
    assert "1 samples of held-out questions" in notes
    assert "1 training questions were never asked" in notes
    assert "pass@k and maj@k are biased" in notes


def test_selected_from_other_records_is_no_yield(tmp_path: Path) -> None:
    places = made(tmp_path, [record(0)], {})
    made(tmp_path / "other", [record(1)], {})
    with pytest.raises(InputError, match=r"is not of what .* holds now; run `tracestill select` first"):
        yield_report(tmp_path / "other" / "sample", places[1])
    with pytest.raises(InputError, match="has not finished"):
        yield_report(places[0], tmp_path / "none")


def test_without_training_questions_there_is_no_yield(tmp_path: Path) -> None:
    assert yield_report(*made(tmp_path, [record(0, "held out")], {})) is None
