"""Bad records in every format: each is kept with file, row and reason; in = out + rejected; nothing is a traceback."""

from __future__ import annotations

import csv
import gzip
import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.schema import RECORD_SCHEMA, read_rows
from tracestill.data_pipeline.base.stage import read_manifest
from tracestill.data_pipeline.sampling.files.rejected import SCHEMA
from tracestill.data_pipeline.sampling.questions import QuestionsConfig
from tracestill.data_pipeline.sampling.sample import SampleConfig, run

GOOD = 60
VALUES: list[bytes] = [  # where a text belongs, as bytes of JSON
    b"null", b"[]", b"{}", b'["a", "b"]', b'{"text": "a"}', b"7", b"7.5", b"true", b"NaN", b"Infinity", b'""', b'"   "',
    b'"\\ud83d"', b'"\\udc00 half"', b'"\\u0000"', b'"NUL \\u0000 within"', b'"caf\xe9"', b'"\xff\xfe"', b'"torn',
    b"[" * 1000 + b"]" * 1000, b'{"a":' * 1000 + b"1" + b"}" * 1000, b"9" * 5000, b"1e999", b"'single'", b"undefined",
    b'"no number at all"', b'"<think>never closed"', b'"<think>a</think>b</think>7"', b'"a <|im_end|> b\\n#### 7"',
]  # fmt: skip


def good(n: int) -> dict:
    return {"question": f"How much is {n} plus {n}?", "trace": f"{n} + {n} = {2 * n}\n#### {2 * n}", "gold": str(2 * n)}


def bad_lines(count: int) -> list[bytes]:
    """Lines of which each holds something odd in one of three fields, or lacks it, or is odd as a whole."""
    rng = random.Random(7)
    found = []
    for n in range(count):
        fields = {name: json.dumps(value).encode() for name, value in good(1000 + n).items()}
        name, kind = rng.choice(list(fields)), rng.randrange(20)
        if kind == 0:
            del fields[name]
        elif kind > 1:
            fields[name] = rng.choice(VALUES)
        line = b"{" + b", ".join(b'"%s": %s' % (key.encode(), value) for key, value in fields.items()) + b"}"
        if kind == 1:
            wrong = [line[: len(line) // 2], line + line, b"[" + line + b"]", line[:-1] + b', "gold": 1}', b"\x00" * 20]
            line = rng.choice([*wrong, line.decode().encode("utf-16"), b"7", b"null", b'"a"', b"\xef\xbb\xbf" + line])
        found.append(line.replace(b"\n", b" "))
    return found


def sampled(tmp_path: Path, source: Path, **more: object) -> tuple[dict, list[dict], list[dict]]:
    questions = {"source": str(source), "test": 5, "max_rejected": 1, **more}
    run(
        QuestionsConfig.model_validate(questions),
        SampleConfig.model_validate({"teachers": [{"name": "t", "use": "recorded"}], "max_rejected": 1}),
        seed=0,
        directory=tmp_path / "sample",
        journal=tmp_path / "journal.sqlite",
    )
    manifest = read_manifest(tmp_path / "sample")
    assert manifest is not None
    records = read_rows(tmp_path / "sample/records.parquet", RECORD_SCHEMA)
    return manifest["counts"], records, pq.read_table(tmp_path / "sample/rejected.parquet", schema=SCHEMA).to_pylist()


def check(counts: dict, records: list[dict], rejected: list[dict], total: int, place: str) -> None:
    source = counts["source"]
    assert source["in"] == total
    left = source["used"] + source["duplicates"] + source.get("joined", 0) + source["unused"]
    assert source["in"] == left + sum(source["rejected"].values())
    assert counts["out"] + sum(counts["rejected"].values()) == counts["asked"] + counts["from_journal"]
    assert {good(n)["question"] for n in range(GOOD)} <= {row["question"] for row in records}, "no good row is lost"
    assert len(rejected) == sum(source["rejected"].values()) + sum(counts["rejected"].values())
    assert not any("\0" in row["question"] + row["raw"] + row["gold"] for row in records)
    for row in rejected:
        assert row["file"].startswith(place)
        assert row["row"] >= 1
        assert row["where"] == f"{row['file']}:{row['row']}"
        assert row["reason"]
        assert row["detail"]
        assert "\n" not in row["detail"]


def test_500_bad_records_of_jsonl_are_kept_with_their_reasons(tmp_path: Path) -> None:
    bad = bad_lines(500)
    lines = [json.dumps(good(n)).encode() for n in range(GOOD)]
    long = b'{"question": "' + b"x" * (10 << 20) + b'", "trace": "1", "gold": "1"}'
    path = tmp_path / "traces.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join([*lines[:30], *bad, long, b"", *lines[30:], b'{"question": "to']))
    counts, records, rejected = sampled(tmp_path, path, test=0)
    check(counts, records, rejected, GOOD + 500 + 2, str(path))
    reasons = {row["reason"] for row in rejected}
    assert reasons >= {
        *("no_question", "no_trace", "no_gold", "not_text", "not_finite", "not_json", "not_utf8", "not_an_object"),
        *("nested", "too_long", "unread", "unfinished", "second_close", "control_symbol"),
    }
    said = {row["row"]: row for row in rejected}
    assert said[531]["reason"] == "too_long"
    assert len(said[531]["text"]) == 1 << 20, "of a row of 10 MB a part is kept"
    assert said[GOOD + 503]["reason"] == "not_json", "the last line is torn"
    assert len(rejected) > 350
    again, *_ = sampled(tmp_path / "again", path, test=0)
    assert again == counts


@pytest.mark.parametrize("form", ["json", "json.gz", "csv", "parquet", "arrow"])
def test_bad_records_of_other_formats(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"traces.{form}"
    rows = [good(n) for n in range(GOOD)]
    if form.startswith("json"):
        bad = [line for line in bad_lines(100) if whole(line)]
        text = b"[\n" + b",\n".join([*(json.dumps(row).encode() for row in rows), *bad, b'{"question": "to']) + b"\n"
        path.write_bytes(gzip.compress(text) if form.endswith("gz") else text)
        total = len(rows) + len(bad) + 1
    elif form == "csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["question", "trace", "gold"])
            writer.writerows(row.values() for row in rows)
        with path.open("ab") as file:
            file.write(b"only one\r\n,x,1\r\ncaf\xe9,x,1\r\na\x00b,x #### 1,1\r\nq,,1\r\nq,no number,\r\n")
        total = len(rows) + 6
    else:
        odd = [{"question": None}, {"trace": ""}, {"gold": None}, {"question": "a\0b"}, {"trace": "nothing"}]
        rows += [{**good(100 + n), **change} for n, change in enumerate(odd)]
        table = pa.Table.from_pylist(rows)
        nested = pa.array([[{"steps": [{"n": n}]}] for n in range(len(rows))])
        bytes_of = pa.array([b"\xff\xfe" if n == 3 else b"ok" for n in range(len(rows))])
        text = pa.StringArray.from_buffers(len(rows), *bytes_of.buffers()[1:])  # no UTF-8 in the text of row 4
        table = table.append_column("nested", nested).append_column("note", text)
        if form == "parquet":
            pq.write_table(table, path)
        else:
            with pa.ipc.new_file(path, table.schema) as writer:
                writer.write_table(table)
        total = len(rows)
        rows[3] = rows[0]
    counts, records, rejected = sampled(tmp_path, path, test=0)
    if form in ("parquet", "arrow"):
        assert "not_utf8" in {row["reason"] for row in rejected}
        records.append({**good(3), "raw": ""})
    check(counts, records, rejected, total, str(path))
    assert len(rejected) >= 5


def whole(line: bytes) -> bool:
    """Whether a line ends with the object that it begins, so that an array around it is one of as many items."""
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return (
            line.startswith(b'{"')
            and line.count(b'"') % 2 == 0
            and line.endswith(b"}")
            and b"\x00" not in line
            and (line.count(b"{") == line.count(b"}"))
        )


@pytest.mark.parametrize(
    "name", ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.jsonl.gz", "a.parquet", "a.arrow", "a.json.zst"]
)
def test_empty_torn_and_missing_files_end_in_one_line(tmp_path: Path, name: str) -> None:
    for content in (
        b"",
        b"\x00" * 100,
        b"\xff" * 100,
        b'{"question": 1',
        b"[",
        b"[[",
        b"]",
        b'"',
        b"PAR1",
        gzip.compress(b"x")[:9],
    ):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(InputError) as error:
            sampled(tmp_path, path)
        assert str(error.value).startswith(str(path))
        assert "\n" not in str(error.value)


def test_too_large_a_share_of_bad_rows_ends_the_run_and_names_the_first(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    rows = [good(n) for n in range(100)]
    for n in (7, 50):  # a column that is missing now and then
        del rows[n]["trace"]
    path.write_text("\n".join(map(json.dumps, rows)))
    counts, _, rejected = sampled(tmp_path, path, max_rejected=0.05)
    assert counts["source"]["rejected"] == {"no_trace": 2}
    assert [(row["row"], row["reason"]) for row in rejected] == [(8, "no_trace"), (51, "no_trace")]
    with pytest.raises(InputError, match=r"traces\.jsonl:8: 'trace' must be a text, got None.* 2 of 100 lines"):
        sampled(tmp_path / "other", path, max_rejected=0.01)
