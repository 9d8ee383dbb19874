"""What the readers read out of real outputs, against published figures and flags, and how fast files become records.

    python benchmarks/readers.py [--json PATH] [--data DIR] [--teachers FILE …] [--published FILE] [--records N]

- Raw outputs of models that were asked for JSON with reasoning and answer, one file a model (``gsm8k_teachers``, or
  ``--teachers``), read as their publisher did: the first answer in it, and the first number of that. Accuracy and share
  without an answer are held against the published ones (``--published``: JSON, model -> [accuracy, no answer] in %).
  Beside it what the readers of a recipe make of the same texts by default: the last answer, and of "35/7 = 5" the 5.
- The 5,276 solutions in ``gsm8k/example_model_solutions.jsonl`` against their ``is_correct``; what differs is listed.
- ``--records`` rows of the size of GSM8K's from JSONL to records.parquet: CPU seconds, as others work on the machine.

``--data`` holds GSM8K and outputs of models; what is not there is listed as absent.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from machine import claim, finish, table

from tracestill.data_pipeline.answers.numbers.number import number
from tracestill.data_pipeline.answers.verify import same_answer
from tracestill.data_pipeline.sampling.files.formats import parts_of
from tracestill.data_pipeline.sampling.files.gather import FileConfig, data_of, looked_at
from tracestill.data_pipeline.sampling.files.posings import Posing, Reading
from tracestill.data_pipeline.sampling.questions import QuestionsConfig
from tracestill.data_pipeline.sampling.readers.chain import Chain, Read, ReaderConfig, Unread
from tracestill.data_pipeline.sampling.sample import SampleConfig, run
from tracestill.data_pipeline.sampling.teachers import Said

PUBLISHED = {  # WildEval/ZeroEval, GSM8K, greedy: accuracy and share without an answer, %
    "Mistral-Nemo-Instruct-2407": (82.79, 0.0),
    "Phi-3.5-mini-instruct": (82.03, 1.21),
    "Qwen2-7B-Instruct": (80.06, 0.0),
    "Yi-1.5-9B-Chat": (76.42, 0.08),
    "Mixtral-8x7B-Instruct-v0.1": (70.13, 2.27),
}
AS_PUBLISHED = ReaderConfig(use="json", options={"take": "first", "number": "first"})
ACCURACY, NO_ANSWER, SECONDS = 0.4, 0.5, 60.0


def posings(path: Path) -> Iterator[Posing]:
    """What the rows of a file say, read as `tracestill init` would."""
    config = FileConfig(path=str(path))
    for part in parts_of(str(path)):
        shape, rows = looked_at(config, part)
        reading = Reading(shape.fields)
        for _, row in rows:
            yield reading(data_of(row, config))


def of_teacher(path: Path) -> dict[str, Any]:
    """Accuracy and share without an answer of a model's outputs, %, as published and by default."""
    published, usual = Chain([AS_PUBLISHED]), Chain()
    found: Counter[str] = Counter()
    readers: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for posing in posings(path):
        gold = (posing.gold or "").replace("#", "").strip()
        for written in posing.written:
            found["texts"] += 1
            first = published.read(written.said, True)
            found["right"] += isinstance(first, Read) and same_answer(first.answer, gold, posing.question)
            found["none"] += isinstance(first, Unread)
            read = usual.read(written.said, number(gold) is not None)
            if isinstance(read, Unread):
                reasons[read.reason] += 1
                continue
            readers[read.reader] += 1
            reasons.update(reason for reason, _ in read.faults)
            found["right by default"] += same_answer(read.answer, gold, posing.question)
    share = 100 / found["texts"]
    return {
        "texts": found["texts"],
        "accuracy": round(found["right"] * share, 2),
        "no answer": round(found["none"] * share, 2),
        "accuracy by default": round(found["right by default"] * share, 2),
        "readers by default": dict(readers.most_common()),
        "checks by default": dict(reasons.most_common()),
    }


def flags(path: Path) -> dict[str, Any]:
    """How many solutions get the flag that the file gives them, and which do not."""
    chain, same, differ = Chain(), 0, []
    readers: Counter[str] = Counter()
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        gold = chain.read(Said(row["ground_truth"]), True)
        assert isinstance(gold, Read)
        for model, about in row.items():
            if not isinstance(about, dict):
                continue
            read = chain.read(Said(about["solution"]), True)
            readers[read.reader if isinstance(read, Read) else read.reason] += 1
            right = isinstance(read, Read) and same_answer(read.answer, gold.answer, row["question"])
            if right == about["is_correct"]:
                same += 1
                continue
            said = {"model": model, "question": row["question"], "gold": gold.answer, "flag": about["is_correct"]}
            differ.append({**said, "read": read[1], "end": about["solution"][-120:]})
    return {"solutions": same + len(differ), "same": same, "differ": differ, "readers": dict(readers.most_common())}


def speed(source: Path, count: int) -> dict[str, Any]:
    """CPU and wall seconds from a file of ``count`` rows to records.parquet, on one core."""
    rows = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "traces.jsonl")
        with path.open("w", encoding="utf-8") as file:
            for at, row in enumerate(itertools.islice(itertools.cycle(rows), count)):
                file.write(json.dumps({**row, "question": f"{row['question']} ({at})"}) + "\n")
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        cpu, wall = time.process_time(), time.perf_counter()
        run(
            QuestionsConfig(source=str(path)),
            SampleConfig.model_validate({"teachers": [{"name": "human", "use": "recorded"}]}),
            seed=0,
            directory=Path(folder, "sample"),
            journal=Path(folder, "journal.sqlite"),
        )
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        counts = json.loads(Path(folder, "sample", "manifest.json").read_text(encoding="utf-8"))["counts"]
        megabytes = path.stat().st_size / 1e6
    scale = 100_000 / count
    about = {"records": counts["out"], "megabytes": round(megabytes, 1), "counts": counts["source"]["rejected"]}
    return {
        **about,
        "cpu seconds": round(cpu, 1),
        "wall seconds": round(wall, 1),
        "cpu seconds of 100,000": round(cpu * scale, 1),
    }


def beside(start: Path) -> Path:
    """``shared/data`` beside this repository, or further up."""
    return next((place for up in start.parents if (place := up / "shared" / "data").is_dir()), start.parent / "data")


def main() -> int:
    parser = argparse.ArgumentParser(description="Readers against published figures and flags; speed of files")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--data", type=Path, default=beside(Path(__file__).resolve()))
    parser.add_argument("--teachers", type=Path, nargs="*")
    parser.add_argument("--published", type=Path)
    parser.add_argument("--records", type=int, default=100_000)
    options = parser.parse_args()
    held = json.loads(options.published.read_text(encoding="utf-8")) if options.published else PUBLISHED
    result: dict[str, Any] = {"absent": []}
    claims: list[dict[str, Any]] = []
    lines = []
    for path in options.teachers or sorted((options.data / "gsm8k_teachers").glob("*.jsonl")):
        found = result.setdefault("teachers", {})[path.stem] = of_teacher(path)
        accuracy, none = held.get(path.stem, (None, None))
        shown = [found["accuracy"], accuracy, found["no answer"], none, found["accuracy by default"]]
        lines.append([path.stem, *("" if value is None else f"{value:.2f}" for value in shown)])
        if accuracy is not None:
            apart = abs(found["accuracy"] - accuracy), abs(found["no answer"] - none)
            claims.append(
                claim(f"{path.stem}: accuracy, points from the published", round(apart[0], 2), "<=", ACCURACY)
            )
            claims.append(
                claim(f"{path.stem}: no answer, points from the published", round(apart[1], 2), "<=", NO_ANSWER)
            )
    if lines:
        print(table(["model", "accuracy %", "published", "no answer %", "published", "accuracy by default"], lines))
    else:
        result["absent"].append("outputs of models (--teachers)")
    if (solutions := options.data / "gsm8k" / "example_model_solutions.jsonl").is_file():
        result["flags"] = found = flags(solutions)
        print(f"{found['same']:,} of {found['solutions']:,} flags are the same; different: {found['differ'] or 'none'}")
        claims.append(claim("flags of solutions that differ", len(found["differ"]), "<=", 0))
    else:
        result["absent"].append("gsm8k/example_model_solutions.jsonl")
    if (source := options.data / "gsm8k" / "train.jsonl").is_file() and options.records:
        result["speed"] = found = speed(source, options.records)
        print(found)
        claims.append(claim("CPU seconds of 100,000 records", found["cpu seconds of 100,000"], "<=", SECONDS))
    else:
        result["absent"].append("gsm8k/train.jsonl")
    return finish(result, claims, options.json)


if __name__ == "__main__":
    raise SystemExit(main())
