"""How fast records become tokens: against the tokenizer alone on the same texts, and on two processes against one.

    python benchmarks/encode.py [--json PATH] [--data DIR] [--tokenizer DIR] [--records N] [--memory N]

The records are GSM8K's training problems with their human solutions and the outputs of five open models (``gsm8k`` and
``gsm8k_teachers`` in ``--data``), shuffled and repeated up to ``--records``; with ``--tokenizer``, a directory with a
chat template, in its layout and in the form ``hashes``, and always with a tokenizer of 8,192 tokens trained on them, in
the plain layout. Everything counts in seconds of the CPU, of all processes together, since others may work on the
machine: the efficiency from one process to two is that of one over that of two, which is what the clock would say if
both had a core of their own. The clock's seconds stand beside it.

The bare rate is that of ``encode_batch`` on questions, traces and answers, batches of the stage's size, in one thread,
ids read. ``--memory`` encodes so many records by two processes and reports the largest resident memory of any.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import resource
import shutil
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
    "plain, trained here": {},
}
RATE, EFFICIENCY = 0.9, 0.9


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
    for at, (question, trace, answer, teacher) in enumerate(itertools.islice(itertools.cycle(rows), count)):
        own = content_id(question)
        raw = trace if teacher != "human" else ""
        yield asdict(Record(f"{own}{at:09}", own, question, answer, trace, answer, (), 1.0, teacher, "", 1.0, at, raw))


def prepare(root: Path, data: Path, tokenizer: Path | None, count: int) -> None:
    """Finished stages before encode."""
    rows = found_in(data)
    about = {"gold": "", "group": "", "split": "train", "metadata": "{}"}
    with stage(root / "sample", "sample", {}, {}) as work:
        questions = {content_id(row[0]): row[0] for row in rows}
        held = [{"question_id": key, "question": text, **about} for key, text in questions.items()]
        write_rows(work.path / "questions.parquet", held, QUESTION_SCHEMA)
    with stage(root / "select", "select", {}, {}) as work:
        write_rows(work.path / "records.parquet", records_of(rows, count), RECORD_SCHEMA)
    inputs = {"sample": root / "sample", "select": root / "select"}
    config = TokenizerConfig(path=tokenizer) if tokenizer is not None else TokenizerConfig()
    run_tokenizer(config, root / "tokenizer", **inputs, plain=tokenizer is None)


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
    backend = load_backend(root / "tokenizer" / "tokenizer.json")

    def bare(some: list[Record]) -> int:
        texts = [text for record in some for text in (record.question, record.trace, record.answer)]
        return sum(len(encoding.ids) for encoding in backend.encode_batch(texts, add_special_tokens=False))

    timed("the bare tokenizer", bare, records)
    cut = Segmenter(SegmentConfig())
    records = timed("segmentation", lambda some: list(map(cut, some)), records)
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


def apart(*words: object) -> dict[str, Any]:
    """What this script prints in a process of its own, whose tokenizer starts no threads."""
    command = [sys.executable, __file__, "--apart", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, PARALLEL: "false"})
    return json.loads(done.stdout)


def measure(case: str, root: Path, count: int) -> dict[str, Any]:
    parts = apart("parts", case, root, 1)
    one, two = (apart("stage", case, root, workers) for workers in (1, 2))
    assert one["digest"] == two["digest"]
    bare = parts["the bare tokenizer"]
    return {
        "records": count,
        "parts": parts,
        "one": one,
        "two": two,
        "rate": bare / one["cpu_seconds"],
        "rate_without_segmentation": bare / (one["cpu_seconds"] - parts["segmentation"]),
        "efficiency": one["cpu_seconds"] / two["cpu_seconds"],
        "clock_efficiency": one["clock_seconds"] / two["clock_seconds"] / 2,
    }


def show(found: dict[str, dict[str, Any]]) -> None:
    rows = []
    for case, about in found.items():
        micro = 1e6 / about["records"]
        rows += [[case, part, round(seconds * micro, 1)] for part, seconds in about["parts"].items()]
        rows += [[case, f"the stage, {name}", round(about[name]["cpu_seconds"] * micro, 1)] for name in ("one", "two")]
    print(table(["case", "part", "µs of the CPU a record"], rows))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--tokenizer", type=Path, help="a directory with tokenizer.json and a chat template")
    parser.add_argument("--records", type=int, default=14_000)
    parser.add_argument("--memory", type=int, default=0, metavar="N", help="records for the measurement of memory")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--apart", nargs=4, help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    if wanted.apart:
        what, case, root, workers = wanted.apart
        own = measure_parts(case, Path(root)) if what == "parts" else measure_stage(case, Path(root), int(workers))
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
            prepare(Path(folder), wanted.data, tokenizer, wanted.records)
            found[case] = measure(case, Path(folder), wanted.records)
        about = found[case]
        claims += [
            claim(f"{case}: rate of the stage over the bare tokenizer's", about["rate"], ">=", RATE),
            claim(f"{case}: the same, segmentation left out", about["rate_without_segmentation"], ">=", RATE),
            claim(f"{case}: efficiency from one process to two", about["efficiency"], ">=", EFFICIENCY),
        ]
    if wanted.memory:
        with tempfile.TemporaryDirectory() as folder:
            prepare(Path(folder), wanted.data, None, wanted.memory)
            figures["memory"] = {"records": wanted.memory, **apart("stage", "plain, trained here", folder, 2)}
        peak = max(figures["memory"][name] for name in ("own_peak_mib", "worker_peak_mib"))
        claims.append(claim(f"MiB of the largest process, {wanted.memory:,} records", peak, "<", 600))
    show(found)
    return finish(figures, claims, wanted.json)


if __name__ == "__main__":
    sys.exit(main())
