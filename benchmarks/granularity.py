"""How much of a trace each granularity keeps, whether `decisive` keeps all that the answer needs, what a student says.

    python benchmarks/granularity.py --data DIR [--json PATH] [--student DIR] [--documents 40]

1. Share of the trace's tokens kept by each way, by source: GSM8K's human solutions and five open models' (their traces
   whose answer is right). Tokens are those of benchmarks/roles.py: SmolLM2's, before it merges.
2. Every right-answer trace, cut as `decisive`, is read again by the reader of equations, which shares nothing with the
   reader that cut it: each number that an equation of the derivation needs is in the question, or was never in the
   trace before, or is still in it; and the last value is the answer.
3. `labels/granularity.json` holds what a person found in 60 traces cut as `decisive`: whether they read on, and what
   the answer needs and is gone; and how many of them are cut today as they were read.
4. With `--student`, a model in transformers' form: its nll of the answer (tokens' mean) after the question and the
   whole trace, `decisive`, and `random_drop` of as much of the same trace. CPU, fp32.

DIR holds `gsm8k` and `gsm8k_teachers`, as their publishers lay them out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from machine import claim, describe, finish, table
from roles import HUMAN, PIECES, rows, trace_of

from tracestill.data_pipeline.answers import same_answer
from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.base.schema import Record
from tracestill.data_pipeline.granularity import Cut, Granularity, GranularityConfig
from tracestill.data_pipeline.segmentation import SegmentConfig, Segmenter
from tracestill.data_pipeline.soundness import equations

LABELS = Path(__file__).parent / "labels/granularity.json"
WAYS: dict[str, dict[str, Any]] = {
    "no_prose": {"keep": "no_prose"},
    "decisive": {"keep": "decisive"},
    "until_conclusion": {"keep": "until_conclusion"},
    "ratio 0.5": {"keep": "ratio", "ratio": 0.5},
    "random_drop 0.5": {"keep": "random_drop", "ratio": 0.5},
    "random_drop as decisive": {"keep": "random_drop", "ratio": "decisive"},
}
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?|\.\d+")
WORDS: dict[str, float] = {
    **{
        word: value
        for value, word in enumerate(("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"), 1)
    },
    **{"twelve": 12, "eleven": 11, "dozen": 12, "twice": 2, "double": 2, "triple": 3, "half": 0.5},
}


def sources(data: Path, limit: int | None) -> Iterator[tuple[str, list[Record]]]:
    """Name and records of each source, cut into spans, whose answer is right."""
    segment = Segmenter(SegmentConfig(clean=("calculator",)))
    paths = [data / HUMAN, *sorted((data / "gsm8k_teachers").glob("*.jsonl"))]
    for path in paths:
        records = []
        for at, row in enumerate(rows(path)[:limit]):
            field = "answer" if path == paths[0] else "output"
            trace, gold = trace_of(row, field), row.get("gold") or row["answer"].rpartition("####")[2]
            gold = gold.replace("#", "").strip()
            if not trace or (field == "output" and not is_right(row["output"], gold)):
                continue
            name = f"{path.stem} {at}"
            record = Record(name, name, row["question"], gold, trace, gold, (), 1.0, path.stem, "", 1.0, 0)
            records.append(segment(record))
        yield ("human solutions" if path == paths[0] else path.stem), records


def is_right(output: str, gold: str) -> bool:
    """Whether the JSON's answer is the gold one."""
    found = re.findall(r'"answer"\s*:\s*"?([^"\n}]*)', output)
    return bool(found) and same_answer(found[-1], gold)


def tokens(text: str) -> int:
    return len(PIECES.pre_tokenize_str(text))


def shares(records: list[Record]) -> dict[str, Any]:
    """Way -> share of tokens kept, and what became of the records."""
    found: dict[str, Any] = {}
    whole = sum(tokens(record.trace) for record in records)
    for name, config in WAYS.items():
        cut = Granularity(GranularityConfig.model_validate(config), Kinds())
        began = time.process_time()
        cuts = [cut(record) for record in records]
        seconds = time.process_time() - began
        outcomes = Counter(one.outcome if one.outcome != "not_cut" else f"not_cut: {one.reason}" for one in cuts)
        found[name] = {
            "tokens kept": sum(tokens(one.record.trace) for one in cuts) / whole,
            "records": dict(outcomes),
            "traces a CPU minute": round(60 * len(records) / seconds),
        }
    return found


def values(text: str) -> set[float]:
    """The numbers of a text, in digits and small words; 50 % is also 0.5."""
    found = {float(number.replace(",", "")) for number in NUMBER.findall(text)}
    found |= {value for word, value in WORDS.items() if re.search(rf"\b{word}\b", text, re.I)}
    return found | {value / 100 for value in found}


def lost(record: Record, cut: Cut) -> list[str]:
    """What an equation that stays needs, and was in the trace before it, and is not there any more; or the answer."""
    given, after, missing = values(record.question), cut.record.trace, []
    answer = values(record.answer.replace("%", ""))
    if not answer & values(after):
        missing.append(f"answer {record.answer}")
    for equation in equations(after):
        source = cut.origin[equation.start] if cut.outcome == "cut" else equation.start
        before, left = values(record.trace[:source]), values(after[: equation.start])
        sides = equation.text.split("=")
        for side in sides[:-1]:
            for value in values(side):
                if value in before and value not in given | left and value * 100 not in before:
                    missing.append(f"{value:g} of {equation.text!r}")
    return missing


def audit(records: list[Record]) -> dict[str, Any]:
    """Over all traces that `decisive` cuts: how many hold all values of the derivation."""
    cut = Granularity(GranularityConfig(keep="decisive"), Kinds())
    done, failures, equal = 0, [], 0
    for record in records:
        one = cut(record)
        if one.outcome != "cut":
            continue
        done += 1
        if missing := lost(record, one):
            failures.append({"record": record.record_id, "missing": missing})
        chain = equations(one.record.trace)
        equal += bool(chain) and bool(values(chain[-1].text) & values(record.answer.replace("%", "")))
    return {"cut": done, "hold all values": done - len(failures), "last equation gives the answer": equal,
            "failures": failures[:40]}  # fmt: skip


def by_hand(records: list[Record]) -> dict[str, int]:
    """What the labels say, and how many of their traces are cut as they were when they were read."""
    labels = json.loads(LABELS.read_text(encoding="utf-8"))["rows"]
    cut, held = (
        Granularity(GranularityConfig(keep="decisive"), Kinds()),
        {record.record_id: record for record in records},
    )
    same = 0
    for row in labels:
        record = held.get(row["record"])
        same += record is not None and digest(cut(record).record.trace) == row["cut"]
    read, lost = sum(row["reads_on"] for row in labels), sum(bool(row["lost"]) for row in labels)
    return {"traces": len(labels), "read on": read, "lost something": lost, "cut today as read": same}


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def student(directory: Path, records: list[Record], count: int) -> dict[str, Any]:
    """Mean nll of the answer's tokens after the question and a trace, by how much of it stays."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    ways = {name: WAYS[name] for name in ("decisive", "random_drop as decisive")}
    cutters = {name: Granularity(GranularityConfig.model_validate(way), Kinds()) for name, way in ways.items()}
    drawn = random.Random(0).sample(records, len(records))
    found: dict[str, list[float]] = {"full": [], "no trace": [], **{name: [] for name in cutters}}
    for record in drawn:
        cuts = {name: cut(record) for name, cut in cutters.items()}
        if any(one.outcome != "cut" for one in cuts.values()) or len(found["full"]) == count:
            continue
        texts = {"full": record.trace, "no trace": "", **{name: one.record.trace for name, one in cuts.items()}}
        for name, trace in texts.items():
            asked = tokenizer(f"{record.question}\n{trace}\nThe answer is").input_ids
            said = tokenizer(f" {record.answer}", add_special_tokens=False).input_ids
            with torch.inference_mode():
                logits = model(torch.tensor([asked + said])).logits[0, len(asked) - 1 : -1]  # (said, V)
            nll = torch.nn.functional.cross_entropy(logits, torch.tensor(said))
            found[name].append(float(nll))
    documents = len(found["full"])
    return {"documents": documents, "nll": {name: sum(each) / documents for name, each in found.items()}}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--limit", type=int, help="rows of each source (default: all)")
    parser.add_argument("--student", type=Path, help="a directory in transformers' form")
    parser.add_argument("--documents", type=int, default=40, help="that the student reads")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    kept, audits, everything = {}, {}, []
    for name, records in sources(arguments.data, arguments.limit):
        kept[name], audits[name] = shares(records), audit(records)
        everything += records
    lines = [[name, *(kept[name][way]["tokens kept"] for way in WAYS)] for name in kept]
    print(table(["share of tokens kept", *WAYS], lines))
    fields = ("cut", "hold all values", "last equation gives the answer")
    print(table(["decisive", *fields], [[name, *(audits[name][field] for field in fields)] for name in audits]))
    cut, whole = (sum(found[field] for found in audits.values()) for field in fields[:2])
    claims = [claim("share of decisive traces that hold all values of their derivation", whole / cut, ">=", 0.99)]
    figures: dict[str, Any] = {"machine": describe(), "kept": kept, "decisive": audits}
    figures["read by hand"] = read = by_hand(everything)
    print(table(["read by hand", "number"], [list(each) for each in read.items()]))
    hold = read["traces"] - read["lost something"]
    claims.append(claim("traces read by hand that read on", read["read on"] / read["traces"], ">=", 0.95))
    claims.append(claim("traces read by hand that hold all that is needed", hold / read["traces"], ">=", 0.95))
    if arguments.student:
        figures["student"] = said = student(arguments.student, everything, arguments.documents)
        print(table(["trace", "nll of the answer"], [[name, nll] for name, nll in said["nll"].items()]))
    return finish(figures, claims, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
