"""How fast records become tokens: against the tokenizer alone on the same texts, and on two processes against one.

    python benchmarks/encode.py [--json PATH] [--data DIR] [--tokenizer DIR] [--records N] [--memory N]

The records are GSM8K's training problems with their human solutions and the outputs of five open models (``gsm8k`` and
``gsm8k_teachers`` in ``--data``), shuffled. There are 14,068 of them; for ``--records`` beyond, they come again with
other digits, so that words are new: the stage remembers words, and texts that come again as they were would flatter it.
With ``--tokenizer``, a directory with a chat template, they are encoded in its layout and in the form ``hashes``, and
always with a tokenizer of 8,192 tokens trained on them, in the plain layout. Everything counts in seconds of the CPU,
of all processes together, since others may work on the machine: the efficiency from one process to two is that of one
over that of two, which is what the clock would say if both had a core of their own. The clock's seconds stand beside
it. Each case is measured ``TURNS`` times, all ways in turns; figures are medians.

The bare tokenizer is what a user would call who wants no more than ids: the tokenizers library's ``encode_batch_fast``
on questions, traces and answers, which keeps no offsets, in batches of the stage's size or of 1,024 records, or
``encode_batch``, whichever takes least, in one process and one thread, as the stage; ids read. Reading the records and
loading the tokenizer count for the stage alone. ``--memory`` encodes so many records by one process and by two, and
reports the largest resident memory of any and the efficiency, in which starting a process counts for less.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from machine import claim, finish, table

from tracestill.data_pipeline.base.batches import Rows
from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.base.schema import (
    QUESTION_SCHEMA,
    RECORD_SCHEMA,
    Record,
    content_id,
    record_from_row,
    write_rows,
)
from tracestill.data_pipeline.base.stage import read_manifest, stage
from tracestill.data_pipeline.base.workers import PARALLEL
from tracestill.data_pipeline.documents.encode import BATCH, EncodeConfig, load_layout, run
from tracestill.data_pipeline.documents.made import Bounds, Made
from tracestill.data_pipeline.documents.round_trip import RoundTrip
from tracestill.data_pipeline.plan.plan import PlanConfig
from tracestill.data_pipeline.segmentation import SegmentConfig, Segmenter
from tracestill.data_pipeline.tokens.render import load_backend
from tracestill.data_pipeline.tokens.tokenizer import TokenizerConfig
from tracestill.data_pipeline.tokens.tokenizer import run as run_tokenizer

PLAN = PlanConfig(capacity=8192, packs_per_step=2, overlong="drop")
KINDS = Kinds()
CASES: dict[str, dict[str, Any]] = {  # of the encode block
    "chat": {"template": "chat"},
    "hashes": {"form": "hashes"},
    (CASE := "plain, trained here"): {},
}
FEW = 10_000  # records on which a tokenizer is trained for many
RATE, EFFICIENCY = 0.9, 0.9
TURNS = 2
TEXTS = ["question", "trace", "answer"]
LARGE = 1024  # records that the bare tokenizer gets at a time, if that suits it better


def found_in(data: Path) -> list[tuple[str, str, str, str]]:
    """Question, trace, answer and teacher."""
    rows = []
    for line in (data / "gsm8k" / "train.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        trace, _, answer = row["answer"].rpartition("####")
        rows.append((row["question"], trace.strip(), answer.strip(), "human"))
    for path in sorted((data / "gsm8k_teachers").glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            rows.append((row["question"], row["output"], row["gold"], row["teacher"]))
    random.Random(0).shuffle(rows)
    return rows


def records_of(rows: list[tuple[str, str, str, str]], count: int) -> Iterator[dict[str, Any]]:
    for at in range(count):
        question, trace, answer, teacher = rows[at % len(rows)]
        if at >= len(rows):  # 0 stays, and no number gets one in front
            digits = random.Random(at // len(rows)).sample("123456789", 9)
            other = str.maketrans("123456789", "".join(digits))
            question, trace, answer = (text.translate(other) for text in (question, trace, answer))
        own = content_id(question)
        raw = trace if teacher != "human" else ""
        yield asdict(Record(f"{own}{at:09}", own, question, answer, trace, answer, (), 1.0, teacher, "", 1.0, at, raw))


def prepare(root: Path, data: Path, tokenizer: Path | None, count: int, plain: bool) -> None:
    """Finished stages before encode; ``plain``: for the layout with think tags."""
    rows = found_in(data)
    about = {"gold": "", "group": "", "split": "train", "metadata": "{}"}
    with stage(root / "sample", "sample", {}, {}) as work:
        questions = {row["question_id"]: row["question"] for row in records_of(rows, count)}
        held = [{"question_id": key, "question": text, **about} for key, text in questions.items()]
        write_rows(work.path / "questions.parquet", held, QUESTION_SCHEMA)
    with stage(root / "select", "select", {}, {}) as work:
        write_rows(work.path / "records.parquet", records_of(rows, count), RECORD_SCHEMA)
    inputs = {"sample": root / "sample", "select": root / "select"}
    config = TokenizerConfig(path=tokenizer) if tokenizer is not None else TokenizerConfig()
    run_tokenizer(config, root / "tokenizer", **inputs, plain=plain)


def config_of(case: str, root: Path, workers: int) -> EncodeConfig:
    tokenizer = {"tokenizer": {"path": root / "tokenizer"}} if "trained" not in case else {}
    return EncodeConfig.model_validate({**CASES[case], **tokenizer, "workers": workers, "max_lossy": 1})


def used() -> float:
    """Seconds of the CPU of this process and of those that it started and that have ended."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in both)


def measure_stage(case: str, root: Path, workers: int) -> dict[str, float]:
    """Called in a process of its own."""
    shutil.rmtree(root / "encode", ignore_errors=True)
    inputs = {name: root / name for name in ("sample", "select", "tokenizer")}
    began, before = time.perf_counter(), used()
    run(config_of(case, root, workers), KINDS, PLAN, root / "encode", **inputs)
    from tracestill.data_pipeline.documents import template_process

    template_process.stop()  # so that its seconds are known
    manifest = read_manifest(root / "encode") or {}
    peaks = (resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    own, others = peaks
    split = manifest["counts"]["splits"]["train"]
    return {
        "cpu_seconds": used() - before,
        "clock_seconds": time.perf_counter() - began,
        "own_peak_mib": own,
        "worker_peak_mib": others,
        "documents": split["documents"],
        "tokens": split["tokens"],
        "digest": manifest["files"]["tokens.arrow"],
    }


def measure_parts(case: str, root: Path) -> dict[str, float]:
    """Seconds of the CPU of each part of the stage by itself, a batch at a time. Called in a process of its own."""
    config = config_of(case, root, 1)
    batches = list(Rows(root / "select" / "records.parquet", RECORD_SCHEMA).batches(BATCH))
    seconds: dict[str, float] = {}

    def timed(name: str, function: Callable[[Any], Any], items: list[Any]) -> list[Any]:
        before = used()
        found = [function(item) for item in items]
        from tracestill.data_pipeline.documents import template_process

        template_process.stop()
        seconds[name] = used() - before
        return found

    records = timed("rows", lambda batch: [record_from_row(row) for row in batch.to_pylist()], batches)
    records = timed("segmentation", Segmenter(SegmentConfig()).all, records)
    layout = load_layout(config, root / "tokenizer")
    encoded = timed("layout", lambda some: layout.encode(some, KINDS), records)
    trip = RoundTrip(root / "tokenizer", KINDS, with_trace=True)
    timed("round trip", trip.of, records)

    def fit(pair: tuple[list[Record], list[Any]]) -> Any:
        made = Made(Bounds(KINDS, PLAN))
        for record, one in zip(*pair, strict=True):
            made.add(record, one)
        return made.take()

    timed("fitting", fit, list(zip(records, encoded, strict=True)))
    return seconds


def measure_bare(root: Path) -> dict[str, float]:
    """Seconds of the CPU of the tokenizer alone, by call and records at a time. Called in a process of its own."""
    rows = Rows(root / "select" / "records.parquet", RECORD_SCHEMA)
    columns = [batch.select(TEXTS).to_pydict() for batch in rows.batches(LARGE)]
    texts = [text for held in columns for three in zip(*held.values(), strict=True) for text in three]
    backend = load_backend(root / "tokenizer" / "tokenizer.json")
    seconds = {}
    for call, size in (("encode_batch_fast", BATCH), ("encode_batch_fast", LARGE), ("encode_batch", LARGE)):
        before, encode = used(), getattr(backend, call)
        for first in range(0, len(texts), 3 * size):
            made = encode(texts[first : first + 3 * size], add_special_tokens=False)
            sum(len(one.ids) for one in made)
        seconds[f"{call}, {size:,} records"] = used() - before
    return seconds


def apart(*words: object) -> dict[str, Any]:
    """What this script prints in a process of its own, whose tokenizer starts no threads."""
    command = [sys.executable, __file__, "--apart", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, PARALLEL: "false"})
    return json.loads(done.stdout)


def measure(case: str, root: Path, count: int) -> dict[str, Any]:
    names = ("bare", "one", "two")
    words = {"bare": ("bare", case, root, 1), "one": ("stage", case, root, 1), "two": ("stage", case, root, 2)}
    turns = [{name: apart(*words[name]) for name in names} for _ in range(TURNS)]
    assert len({turn[name]["digest"] for turn in turns for name in ("one", "two")}) == 1
    found = {name: {key: middle([turn[name][key] for turn in turns]) for key in turns[0][name]} for name in names}
    bare = min(found["bare"].values())
    parts = {"the bare tokenizer": bare, **apart("parts", case, root, 1)}
    one, two = found["one"], found["two"]
    return {
        "records": count,
        "bare": found["bare"],
        "parts": parts,
        "one": one,
        "two": two,
        "turns": turns,
        "rate": bare / one["cpu_seconds"],
        "rate_without_segmentation": bare / (one["cpu_seconds"] - parts["segmentation"]),
        "efficiency": one["cpu_seconds"] / two["cpu_seconds"],
        "clock_efficiency": one["clock_seconds"] / two["clock_seconds"] / 2,
    }


def at_scale(root: Path, data: Path, count: int) -> dict[str, Any]:
    """The last case with many records, by one process and by two; their tokenizer is trained on a few of them."""
    prepare(root / "few", data, None, FEW, plain=True)
    prepare(root / "many", data, root / "few" / "tokenizer", count, plain=True)
    one, two = (apart("stage", CASE, root / "many", workers) for workers in (1, 2))
    assert one["digest"] == two["digest"]
    return {"records": count, "one": one, "two": two, "efficiency": one["cpu_seconds"] / two["cpu_seconds"]}


def middle(values: list[Any]) -> Any:
    return values[0] if isinstance(values[0], str) else statistics.median(values)


def show(found: dict[str, dict[str, Any]]) -> None:
    rows = []
    for case, about in found.items():
        micro, bare = 1e6 / about["records"], about["parts"]["the bare tokenizer"]
        seconds = {**about["parts"], **{f"the stage, {name}": about[name]["cpu_seconds"] for name in ("one", "two")}}
        rows += [[case, name, round(own * micro, 1), round(own / bare, 2)] for name, own in seconds.items()]
    print(table(["case", "part", "µs of the CPU a record", "of the bare tokenizer's"], rows))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--tokenizer", type=Path, help="a directory with tokenizer.json and a chat template")
    parser.add_argument("--records", type=int, default=20_000)
    parser.add_argument("--memory", type=int, default=0, metavar="N", help="records for the measurement of memory")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--apart", nargs=4, help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    if wanted.apart:
        what, case, root, workers = wanted.apart
        if what == "stage":
            own: dict[str, Any] = measure_stage(case, Path(root), int(workers))
        else:
            own = measure_bare(Path(root)) if what == "bare" else measure_parts(case, Path(root))
        print(json.dumps(own))
        return 0
    found: dict[str, dict[str, Any]] = {}
    figures: dict[str, Any] = {"records": wanted.records, "cases": found, "memory": "absent: no --memory"}
    claims = []
    for case in CASES:
        tokenizer = wanted.tokenizer.resolve() if wanted.tokenizer and "trained" not in case else None
        if tokenizer is None and "trained" not in case:
            figures[case] = "absent: no --tokenizer"
            continue
        with tempfile.TemporaryDirectory() as folder:
            prepare(Path(folder), wanted.data, tokenizer, wanted.records, tokenizer is None)
            found[case] = measure(case, Path(folder), wanted.records)
        about = found[case]
        claims += [
            claim(f"{case}: rate of the stage over the bare tokenizer's", about["rate"], ">=", RATE),
            claim(f"{case}: the same, segmentation left out", about["rate_without_segmentation"], ">=", RATE),
            claim(f"{case}: efficiency, {wanted.records:,} records", about["efficiency"], ">=", EFFICIENCY),
        ]
    if wanted.memory:
        with tempfile.TemporaryDirectory() as folder:
            figures["memory"] = many = at_scale(Path(folder), wanted.data, wanted.memory)
        peak = max(many[way][name] for way in ("one", "two") for name in ("own_peak_mib", "worker_peak_mib"))
        claims.append(claim(f"MiB of the largest process, {wanted.memory:,} records", peak, "<", 600))
        claims.append(claim(f"efficiency, {wanted.memory:,} records", many["efficiency"], ">=", EFFICIENCY))
    show(found)
    return finish(figures, claims, wanted.json)


if __name__ == "__main__":
    sys.exit(main())
