"""Files as people have them, in every format and shape: what is read as what, and what the recipe maps."""

from __future__ import annotations

import csv
import gzip
import json
import sys
import tracemalloc
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tracestill.data_pipeline.base import schema
from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.schema import RECORD_SCHEMA, content_id, read_rows
from tracestill.data_pipeline.base.stage import read_manifest
from tracestill.data_pipeline.sampling import ask_all
from tracestill.data_pipeline.sampling.files import gather, trace_store
from tracestill.data_pipeline.sampling.questions import QuestionsConfig
from tracestill.data_pipeline.sampling.sample import SampleConfig, run

ASKED = {"teachers": [{"name": "t", "use": "recorded"}], "max_rejected": 0}


def sampled(
    where: Path, source: Path | str, of_sample: dict | None = None, **questions: Any
) -> tuple[list[dict], dict]:
    """Records and counts; all that are in the files, the held-out ones too."""
    run(
        QuestionsConfig.model_validate({"source": str(source), "test": 0, "max_rejected": 0, **questions}),
        SampleConfig.model_validate({**ASKED, **(of_sample or {})}),
        seed=0,
        directory=where / "sample",
        journal=where / "journal.sqlite",
    )
    manifest = read_manifest(where / "sample")
    assert manifest is not None
    return read_rows(where / "sample/records.parquet", RECORD_SCHEMA), manifest["counts"]


def write(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


Q, T = "What is 3 + 4?", "3 + 4 = 7"
THOUGHT = f"<think>{T}</think>The answer is 7."
USER, BOT = {"role": "user", "content": Q}, {"role": "assistant", "content": f"{T}\n#### 7"}
SHAPES: dict[str, tuple[dict, dict]] = {  # a row, and what its record holds beside trace and answer
    "gsm8k": ({"question": Q, "answer": f"{T}\n#### 7"}, {"reader": "hashes"}),
    "problem": ({"problem": Q, "solution": f"{T}, so \\boxed{{7}}.", "answer": "7"}, {"trace": f"{T}, so 7."}),
    "prompt": ({"prompt": Q, "response": THOUGHT, "target": 7}, {"reader": "think+sentence"}),
    "alpaca with a rationale": (
        {"instruction": "Add.", "input": Q, "rationale": T, "output": "7"},
        {"question": f"Add.\n\n{Q}", "reader": "given"},
    ),
    "alpaca with a thought and a text": (
        {"instruction": Q, "reasoning": T, "output": "So, it is 7. " * 6},
        {"reader": "think+last_number"},
    ),
    "alpaca": ({"instruction": "Add.", "input": Q, "output": f"{T}\n#### 7"}, {"question": f"Add.\n\n{Q}"}),
    "messages": ({"messages": [{"role": "system", "content": "Be brief."}, USER, BOT]}, {"style": "Be brief."}),
    "sharegpt": ({"conversations": [{"from": "human", "value": Q}, {"from": "gpt", "value": THOUGHT}]}, {}),
    "parts": ({"messages": [{"role": "user", "content": [{"type": "text", "text": Q}]}, BOT]}, {}),
    "turns": (
        {"messages": [USER, {"role": "assistant", "content": "8"}, {"role": "user", "content": "Sure?"}, BOT]},
        {"question": f"User: {Q}\n\nAssistant: 8\n\nUser: Sure?"},
    ),
    "reasoning_content": (
        {"messages": [USER, {"role": "assistant", "content": "It is 7.", "reasoning_content": T}]},
        {"reader": "think+last_number", "raw": f"{T}\n\nIt is 7."},
    ),
    "reasoning": ({"question": Q, "reasoning": T, "answer": "7"}, {"reader": "given"}),
    "thinking": ({"question": Q, "thinking": T, "response": "So, it is 7. " * 6}, {"reader": "think+last_number"}),
    "rationale": ({"question": Q, "rationale": T, "answer": 7}, {"reader": "given"}),
    "prefilled": ({"prompt": Q, "completion": f"{T}</think>7"}, {"reader": "think+last_number"}),
    "trl": ({"prompt": [USER], "completion": [BOT]}, {}),
    "ours": ({"question": Q, "gold": "7", "trace": T, "answer": "7", "raw": "x"}, {"reader": "given"}),
    "details": (
        {"question": Q, "output": THOUGHT, "gold": 7, "system": "S", "model": "r1", "weight": 0.5, "stop_reason": "x"},
        {"style": "S", "teacher": "r1", "weight": 0.5, "gold": "7", "raw": THOUGHT},
    ),
    "of a model": (
        {"problem": Q, "deepseek_reasoning": T, "deepseek_solution": "The answer is 7.", "ground_truth_solution": "x"},
        {"reader": "think+sentence"},
    ),
    "verl": (
        {"prompt": [USER], "response": THOUGHT, "reward_model": {"style": "rule", "ground_truth": "7"}},
        {"reader": "think+sentence"},
    ),
    "fenced": ({"question": Q, "output": f'```json\n{{"reasoning": "{T}", "answer": "7"}}\n```'}, {"reader": "json"}),
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_is_recognised(tmp_path: Path, shape: str) -> None:
    row, expected = SHAPES[shape]
    (record,), counts = sampled(tmp_path, write(tmp_path / "a.jsonl", row))
    assert {"question": Q, "trace": T, "answer": "7", "gold": "7", "weight": 1, **expected}.items() <= record.items()
    assert record["raw"]
    assert list(counts["source"]["read_as"]) == [str(tmp_path / "a.jsonl")]


def test_generations_are_all_kept_each_with_what_stands_beside_it(tmp_path: Path) -> None:
    row = {"problem": Q, "answer": "7", "generations": [THOUGHT, f"{T} #### 8", None, "<think>cut"],
           "finish_reasons": ["stop", "stop", None, "length"], "weight": [1, 2, 1, 1], "solution": "other"}  # fmt: skip
    path = write(tmp_path / "a.jsonl", row, {**row, "generations": [THOUGHT], "weight": 1})
    records, counts = sampled(tmp_path, path, {"max_rejected": 0.5})
    assert sorted((r["index"], r["answer"], r["weight"]) for r in records) == [(0, "7", 1), (1, "8", 2), (3, "7", 1)]
    assert counts["rejected"] == {"unfinished": 1}
    assert counts["source"]["bad_traces"] == {"no_trace": 1}
    assert counts["source"]["joined"] == 1
    rejected = pq.read_table(tmp_path / "sample/rejected.parquet").to_pylist()
    assert [(row["file"], row["row"], row["reason"]) for row in rejected] == [
        (str(path), 1, "no_trace"),
        (str(path), 1, "unfinished"),
    ]


@pytest.mark.parametrize("spec", [None, "r1_solution_*"])
def test_fields_with_a_number_are_several_traces_in_its_order(tmp_path: Path, spec: str | None) -> None:
    row = {"question": Q, "final_answer": "7", "r1_solution_10": f"{T} #### 9", "r1_solution_2": f"{T} #### 8",
           "R1_solution_x": "no", "r1_solution_1": THOUGHT}  # fmt: skip
    path = write(tmp_path / "a.jsonl", row)
    records, _ = sampled(tmp_path, path, **({"fields": {"trace": spec}} if spec else {}))
    assert sorted((r["index"], r["answer"]) for r in records) == [(0, "7"), (1, "8"), (2, "9")]


def test_fields_map_paths_and_templates_and_a_pattern_finds_the_gold_answer(tmp_path: Path) -> None:
    row = {"meta": {"q": [{"text": Q}], "who": "r1"}, "a.b": ["3 + 4", "= 7"], "key": "see (7)", "hint": None}
    fields = {"question": "Hint: {hint}\n{meta.q.0.text}", "trace": "{a.b}", "gold": "key", "teacher": "meta.who",
              "gold_pattern": r"\((\d+)\)"}  # fmt: skip
    (record,), _ = sampled(tmp_path, write(tmp_path / "a.jsonl", row), fields=fields)
    assert (record["question"], record["trace"]) == (f"Hint: \n{Q}", "3 + 4\n= 7")
    assert (record["gold"], record["teacher"]) == ("7", "r1")
    with pytest.raises(
        InputError,
        match=r"which field holds the question\? There are a\.b, hint, key, meta; name it .* --field question=NAME$",
    ):
        sampled(tmp_path / "no", tmp_path / "a.jsonl")


ROWS = [
    {"question": f"What is {n} + {n}?", "trace": f"{n} + {n}\n= {2 * n}", "answer": str(2 * n)} for n in range(1, 40)
]


@pytest.mark.parametrize("form", ["jsonl", "jsonl.gz", "jsonl.zst", "json", "json.zst", "object.json", "lines.json",
                                  "csv", "csv.gz", "tsv", "parquet", "arrow", "stream.arrow"])  # fmt: skip
def test_every_format_gives_the_same_records(tmp_path: Path, form: str) -> None:
    path, table = tmp_path / f"a.{form}", pa.Table.from_pylist(ROWS)
    lines = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    text = {"jsonl": lines, "lines.json": lines, "json": json.dumps(ROWS, indent=1).encode(),
            "object.json": json.dumps({"version": 1, "data": ROWS}).encode()}  # fmt: skip
    if form in ("csv", "csv.gz", "tsv"):
        tab = form == "tsv"
        plain = tmp_path / "plain"
        with plain.open("w", newline="", encoding="utf-8-sig") as file:
            writer = csv.writer(file, delimiter="\t" if tab else ",", lineterminator="\r\n")
            writer.writerow(ROWS[0])
            writer.writerows([cell.replace("\n", "\\n") if tab else cell for cell in row.values()] for row in ROWS)
        data = plain.read_bytes()
        plain.unlink()
    else:
        data = text.get(form.removesuffix(".gz").removesuffix(".zst"), b"")
    if form == "parquet":
        pq.write_table(table, path)
    elif form.endswith("arrow"):
        new = pa.ipc.new_stream if form.startswith("stream") else pa.ipc.new_file
        with new(path, table.schema) as writer:
            writer.write_table(table, max_chunksize=7)
    elif form.endswith("zst"):
        with pa.output_stream(path, compression="zstd") as stream:
            stream.write(data)
    else:
        path.write_bytes(gzip.compress(data) if form.endswith("gz") else data)
    records, counts = sampled(tmp_path, path, escapes=form == "tsv")
    assert sorted((r["question"], r["trace"], r["answer"]) for r in records) == sorted(
        (row["question"], row["trace"], row["answer"]) for row in ROWS
    )
    assert counts["source"]["in"] == len(ROWS)


def test_a_table_without_names_and_a_directory_with_splits(tmp_path: Path) -> None:
    path = tmp_path / "flan.tsv"
    path.write_text('Are "more"?\\n(A) so\tyes\tThey "are".\nAnd now?\tno\tThey are not.\n')
    named = {"columns": ["question", "gold", "rationale"], "escapes": True, "fields": {"answer": "gold"}}
    records, _ = sampled(tmp_path, path, **named)
    assert {(r["question"], r["trace"], r["answer"], r["gold"]) for r in records} == {
        ('Are "more"?\n(A) so', 'They "are".', "yes", "yes"),
        ("And now?", "They are not.", "no", "no"),
    }
    folder = tmp_path / "folder"
    for name, rows in (("train-00", ROWS[:20]), ("test-00", ROWS[20:25])):
        (folder / name).mkdir(parents=True)
        write(folder / name / "data.jsonl", *rows)
    (folder / "README.md").write_text("not data")
    records, counts = sampled(tmp_path / "folder", f"{folder}/", test=None)
    assert (counts["train_questions"], counts["test_questions"]) == (20, 5)
    assert {r["question"] for r in records} == {row["question"] for row in ROWS[:25]}


def test_what_the_library_datasets_saved_is_read(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    made = datasets.DatasetDict(
        {name: datasets.Dataset.from_list(rows) for name, rows in (("train", ROWS[:20]), ("test", ROWS[20:]))}
    )
    made.save_to_disk(tmp_path / "saved")
    records, counts = sampled(tmp_path, f"{tmp_path}/saved", test=None)
    assert (counts["train_questions"], counts["test_questions"]) == (20, 19)
    assert len(records) == 39
    state = tmp_path / "saved/train/state.json"
    state.write_text(json.dumps({**json.loads(state.read_text()), "_indices_data_files": [{"filename": "x.arrow"}]}))
    with pytest.raises(InputError, match="flatten_indices"):
        sampled(tmp_path / "other", f"{tmp_path}/saved")


def test_a_data_set_of_the_hub_is_streamed_and_told_in_one_line_where_it_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple] = []

    def load(name: str, config: str | None, **more: object) -> dict:
        asked.append((name, config, more))
        if name == "nobody/none":
            raise ConnectionError("no\nway")
        return {"train": iter(ROWS[:20]), "test": iter(ROWS[20:])}

    hub = ModuleType("datasets")
    hub.load_dataset, hub.disable_progress_bars = load, lambda: None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", hub)
    records, counts = sampled(tmp_path, "hf://me/mine?config=main&revision=1", test=None)
    assert (counts["train_questions"], counts["test_questions"]) == (20, 19)
    assert len(records) == 39
    assert asked == [("me/mine", "main", {"split": None, "revision": "1", "streaming": True})]
    with pytest.raises(InputError) as error:
        sampled(tmp_path, "hf://nobody/none?split=train")
    assert str(error.value) == (
        "hf://nobody/none?split=train: cannot be read (ConnectionError: no way); this machine is offline: download it "
        "elsewhere, and name its directory"
    )
    with pytest.raises(InputError, match=r"unknown key 'splits'; expected hf://owner/name\?config=…"):
        sampled(tmp_path, "hf://a/b?splits=train")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"needs the library datasets .*pip install 'tracestill\[hub\]'"):
        sampled(tmp_path, "hf://a/b")


def test_rows_of_several_files_join_by_question(tmp_path: Path) -> None:
    human = write(
        tmp_path / "human.jsonl",
        *({"question": row["question"], "answer": f"{row['trace']}\n#### {row['answer']}"} for row in ROWS),
    )
    model = write(
        tmp_path / "model.jsonl",
        *({"question": row["question"], "output": f"{row['trace']}. The answer is 9."} for row in ROWS[:5]),
    )
    more = [{"path": str(model), "teacher": "m"}]
    records, counts = sampled(tmp_path, human, files=more)
    assert len(records) == len(ROWS) + 5
    assert counts["source"]["joined"] == 5
    assert {r["gold"] for r in records if r["teacher"] == "m"} == {r["answer"] for r in ROWS[:5]} - {"9"} | {"2"}
    only = {"teachers": [{"name": "x", "use": "recorded", "options": {"teacher": "m"}}]}
    records, _ = sampled(tmp_path / "m", human, only, files=more)
    assert {(r["teacher"], r["answer"]) for r in records} == {("m", "9")}
    twice = {"teachers": [{"name": name, "use": "recorded", "options": {"teacher": "m"}} for name in "ab"]}
    with pytest.raises(InputError, match=r"sample\.teachers: two of them replay the traces of 'm'"):
        sampled(tmp_path / "ab", human, twice, files=more)
    strange = {"teachers": [{"name": "human", "use": "recorded"}, {**only["teachers"][0], "options": {"teacher": "M"}}]}
    with pytest.raises(InputError, match=r"teachers\.1\.options\.teacher \(x\): no trace .* of 'M'; they are of m"):
        sampled(tmp_path / "strange", human, strange, files=more)


def test_questions_that_differ_in_case_indentation_or_superscripts_are_different_ones(tmp_path: Path) -> None:
    texts = [
        "Sort the list",
        "sort the list",
        "x² + 1",
        "x2 + 1",
        "if a:\n  b",
        "if a:\n    b",
        "Café",
        "  indented",
        "indented",
    ]
    path = write(tmp_path / "a.jsonl", *({"question": text, "trace": f"t\n#### {n}"} for n, text in enumerate(texts)))
    records, _ = sampled(tmp_path, path)
    assert {(r["question"], r["gold"]) for r in records} == {(text, str(n)) for n, text in enumerate(texts)}
    assert content_id("Cafe\u0301\r\nhere  \n\n") == content_id("\nCafé\nhere")


def test_two_traces_of_a_question_are_two_traces_and_a_change_is_one_new_sample(tmp_path: Path) -> None:
    rows = [{"question": Q, "trace": f"{T}\n#### 7", "gold": 7}] * 3
    records, counts = sampled(tmp_path, write(tmp_path / "a.jsonl", *rows))
    assert [r["index"] for r in records] == [0, 1, 2]
    assert (counts["asked"], counts["from_journal"]) == (3, 0)
    rows[1] = {**rows[1], "trace": "4 + 3 = 7\n#### 7"}
    records, counts = sampled(tmp_path, write(tmp_path / "a.jsonl", *rows))
    assert [r["trace"] for r in records] == [T, "4 + 3 = 7", T]
    assert (counts["asked"], counts["from_journal"]) == (1, 2)
    strict = {"readers": ["boxed"], "max_rejected": 1}
    records, counts = sampled(tmp_path, tmp_path / "a.jsonl", strict)
    assert (records, counts["asked"], counts["rejected"]) == ([], 0, {"unread": 3}), (
        "read in another way, asked of nobody"
    )


def test_traces_are_not_held_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gather, "LOOKED_THROUGH", 1 << 18)
    monkeypatch.setattr(trace_store, "IN_MEMORY", 1 << 18)
    monkeypatch.setattr(schema, "CHARACTERS", 1 << 18)
    monkeypatch.setattr(ask_all, "REPLAYED", 4)
    path = tmp_path / "long.jsonl"
    with path.open("w") as file:
        for n in range(80):
            row = {
                "question": f"{n} and?",
                "trace": f"{n} and so on, " * 6_000 + f"\n#### {n}",
                "gold": n,
            }
            file.write(json.dumps(row) + "\n")
    sampled(tmp_path / "before", write(tmp_path / "one.jsonl", SHAPES["gsm8k"][0]))  # what it imports is not counted
    config = QuestionsConfig.model_validate({"source": str(path), "test": 0, "near_duplicates": {"policy": "ignore"}})
    tracemalloc.start()
    run(
        config,
        SampleConfig.model_validate({**ASKED, "checks": {"repeats": "ignore"}}),
        seed=0,
        directory=tmp_path / "s",
        journal=tmp_path / "j.sqlite",
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert path.stat().st_size > 6e6
    assert peak < 3e6


def test_a_worked_solution_as_gold_answer_is_read(tmp_path: Path) -> None:
    row = {"question": Q, "ground_truth": f"{T}\nA: 7", "output": "The answer is 8."}
    (record,), _ = sampled(tmp_path, write(tmp_path / "a.jsonl", row))
    assert (record["gold"], record["answer"]) == ("7", "8")


def test_spans_in_a_file_move_with_the_trace_that_is_read(tmp_path: Path) -> None:
    """They are of the text as it stands there, or of the thought apart; those that do not cover it are bad."""
    written = f"Let us add. {T}.\n#### 7"
    cut = written.index(T)
    spans = [[0, cut, "plan"], {"start": cut, "end": len(written), "kind": "derive"}]
    other = {
        "question": "What is 3 + 5?",
        "text": "8",
        "thought": " 3 + 5 = 8",
        "marks": [[0, 5, "plan"], [5, 10, "check"]],
    }
    rows = [
        {"question": Q, "text": written, "marks": spans},
        other,
        {"question": "What is 3 + 6?", "text": "3 + 6 = 9\n#### 9"},
        {"question": "What is 3 + 7?", "text": "3 + 7 = 10\n#### 10", "marks": [[0, 4, "plan"]]},
        {"question": "What is 3 + 8?", "text": "3 + 8 = 11\n#### 11", "marks": 7},
    ]
    fields = {"question": "question", "trace": "text", "reasoning": "thought", "spans": "marks"}
    found, counts = sampled(tmp_path, write(tmp_path / "t.jsonl", *rows), fields=fields, max_rejected=0.5)
    assert counts["source"]["rejected"] == {"bad_spans": 2}
    by_question = {row["question"]: row for row in found}
    first, second, third = (by_question[row["question"]] for row in rows[:3])
    assert first["trace"] == f"Let us add. {T}."
    assert [(s["start"], s["end"], s["kind"]) for s in first["spans"]] == [
        (0, cut, "plan"), (cut, len(first["trace"]), "derive"),
    ]  # fmt: skip
    assert second["trace"] == "3 + 5 = 8"
    assert [(s["start"], s["end"], s["kind"]) for s in second["spans"]] == [(0, 4, "plan"), (4, 9, "check")]
    assert third["spans"] == []
