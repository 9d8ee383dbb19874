"""How fast `select` judges many records with every check on, and how much memory it takes.

    python benchmarks/select_records.py [--quick] [--records N] [--workers N] [--json PATH]

Records: 16 for each question, made of the word problems and worked solutions of the teacher ``gsm_symbolic`` by
repetition with variation: sums and products turned round, sentences put before, some wrong answers and false equations.
``select`` runs in a process of its own with policy strict, paths chosen by their distances, maxima, repetition, copies
and weights per question. Memory is the largest sum of what all its processes hold (RSS), 10 times a second. The rate
counts CPU seconds of all processes, as if two cores did nothing else; wall seconds stand beside it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
from machine import claim, finish

from tracestill.data_pipeline.base.batches import Writer
from tracestill.data_pipeline.base.schema import RECORD_SCHEMA
from tracestill.data_pipeline.base.stage import stage
from tracestill.data_pipeline.sampling.teachers import gsm_symbolic
from tracestill.data_pipeline.selection.config import SelectConfig
from tracestill.data_pipeline.selection.selection import run

SAMPLES, BASE = 16, 1000
TEACHERS = ("careful", "brief", "wordy", "careless")
EVERYTHING = {
    "policy": "strict",
    "paths": {"same": "equations", "choose": "different"},
    **{"max_per_question": 8, "max_per_teacher": 3, "repeats": "reject", "copies_question": "count"},
    "weight": "per_question",
}
TURNED = re.compile(r"(?<![\w.*/+-])(\d+) ?([*+]) ?(\d+)(?= *=)")
OPENINGS = ("", "Let us see. ", "First we look at what is known. ", "We go step by step. ", "To begin with, ")
GIB, RATE, MEMORY = 2**30, 20_000, 2.0


def rows(count: int) -> Iterator[dict[str, Any]]:
    """``count`` records, question by question."""
    given: dict[str, int] = {"train": BASE, "test": 1, "validation": 0}
    posed = gsm_symbolic.questions(given, gsm_symbolic.Options(), seed=0)[:BASE]
    teacher = gsm_symbolic.Teacher(gsm_symbolic.TeacherOptions())
    solved = [(each, teacher.solve(each, style="", temperature=0, seed=0)) for each in posed]
    rng = random.Random(0)
    for at in range(count):
        number, index = divmod(at, SAMPLES)
        question, solution = solved[number % len(solved)]
        text = f"{question.question} (Case {number}.)"
        trace, answer = varied(rng, solution.trace, index), solution.answer
        if rng.random() < 0.1:
            answer = f"{answer}1"
        yield {
            "record_id": hashlib.sha256(f"{at}".encode()).hexdigest()[:16],
            "question_id": hashlib.sha256(text.encode()).hexdigest()[:16],
            **{"question": text, "gold": question.gold, "trace": trace, "answer": answer, "spans": []},
            **{"weight": 1.0, "teacher": TEACHERS[index % len(TEACHERS)], "style": "", "temperature": 1.0},
            **{"index": index, "raw": f"{trace}\n#### {answer}", "reader": "hashes"},
        }


def made(directory: Path, count: int) -> None:
    """A finished stage `sample` with so many records."""
    with stage(directory, "sample", {}, {}) as work, Writer(work.path / "records.parquet", RECORD_SCHEMA) as file:
        found = rows(count)
        while some := list(islice(found, 4096)):
            file.add(pa.Table.from_pylist(some, schema=RECORD_SCHEMA))


def varied(rng: random.Random, trace: str, index: int) -> str:
    """A trace as another sample might have it."""
    turned = TURNED.sub(lambda m: f"{m[3]} {m[2]} {m[1]}" if rng.random() < 0.4 else m[0], trace)
    lines = turned.splitlines()
    said = OPENINGS[index % len(OPENINGS)] + "\n".join(lines)
    if rng.random() < 0.03:
        said += f"\n{index} + 2 = {index + 3}"
    if rng.random() < 0.5:
        a, b = rng.randrange(2, 500), rng.randrange(2, 500)
        said += f"\nAs a check, {a} * {b} = {a * b}, and {a} + {b} = {a + b}."
    if rng.random() < 0.3:
        said += f"\nSo we have found what was asked for; this was way {rng.randrange(1000)} to see it."
    return said


def measured(folder: Path, workers: int) -> dict[str, Any]:
    """Run select in another process; what it took."""
    command = [sys.executable, __file__, "--select", str(folder), "--workers", str(workers)]
    began = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    watched, most = psutil.Process(child.pid), 0
    while child.poll() is None:
        most = max(most, sum(held(each) for each in [watched, *children(watched)]))
        time.sleep(0.1)
    out = child.communicate()[0]
    if child.returncode:
        raise SystemExit(f"select failed with {child.returncode}")
    return {**json.loads(out), "wall seconds": round(time.perf_counter() - began, 1), "gib": round(most / GIB, 3)}


def children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def held(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def select(folder: Path, workers: int) -> None:
    """In the process that is measured: run the stage, print what it counted and its CPU seconds, workers included."""
    config = SelectConfig.model_validate({**EVERYTHING, "workers": workers})
    run(config, directory=folder / f"select-{workers}", sample=folder / "sample")
    manifest = json.loads((folder / f"select-{workers}" / "manifest.json").read_text(encoding="utf-8"))
    times = psutil.Process().cpu_times()
    seconds = times.user + times.system + times.children_user + times.children_system
    print(json.dumps({"counts": manifest["counts"], "files": manifest["files"], "cpu seconds": round(seconds, 1)}))


def main() -> int:
    parser = argparse.ArgumentParser(description="select: records a minute, and memory")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="20,000 records, and once more with one worker")
    parser.add_argument("--select", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.select is not None:
        select(options.select, options.workers)
        return 0
    count = 20_000 if options.quick else options.records
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made(folder / "sample", count)
        size = (folder / "sample" / "records.parquet").stat().st_size
        found = measured(folder, options.workers)
        files = found.pop("files")
        alone = measured(folder, 1)["files"] if options.quick else None
    cpu, wall = found["cpu seconds"], found["wall seconds"]
    found |= {
        **{"records": count, "megabytes": round(size / 1e6, 1), "workers": options.workers},
        "records a minute, of CPU seconds on two cores": round(count / cpu * 120),
        "records a minute, of wall seconds here": round(count / wall * 60),
        "CPU milliseconds a record": round(cpu / count * 1e3, 3),
    }
    print(json.dumps(found, indent=2))
    claims = [
        claim("records a minute on two cores", found["records a minute, of CPU seconds on two cores"], ">=", RATE),
        claim("GiB, all processes", found["gib"], "<", MEMORY),
    ]
    if alone is not None:
        others = sum(alone[name] != files[name] for name in files)
        claims.append(claim("files that one worker writes otherwise", others, "<=", 0))
    return finish({"select": found, "config": EVERYTHING}, claims, options.json)


if __name__ == "__main__":
    raise SystemExit(main())
