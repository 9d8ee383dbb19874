"""Do span kinds separate something on real traces, and are they what a reader would say?

    python benchmarks/roles.py --data DIR --json benchmarks/results/roles.json
    python benchmarks/roles.py --data DIR --write-model data_pipeline/segmentation/segmenter.json

1. 941 clauses labelled by hand (`benchmarks/labels`), half of them set apart before rules were written: precision,
   recall and F1 of each kind, for every way of segmenting; the model learnt from the other half.
2. The share of each kind among the trace's tokens: GSM8K's human solutions, the four fine-tuned models' and five open
   models'. A token here is what SmolLM2's tokenizer makes before it merges: a word with the space before it, a digit, a
   run of signs.
3. Traces a minute of one core, on the human solutions.

DIR holds `gsm8k`, `gsm8k_teachers` and `mistakes`, as their publishers lay them out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from machine import claim, describe, finish, table
from tokenizers import pre_tokenizers

from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.base.schema import Span
from tracestill.data_pipeline.segmentation.classifier import SHIPPED, Classifier
from tracestill.data_pipeline.segmentation.flow import flow
from tracestill.data_pipeline.segmentation.labels import CUT, Labelled, agreement, kinds_of, macro_f1, scores
from tracestill.data_pipeline.segmentation.parts import Part
from tracestill.data_pipeline.segmentation.rules import rules
from tracestill.data_pipeline.segmentation.training import Trained, examples, fit, write_model

LABELS = Path(__file__).parent / "labels/roles.jsonl"
MODELS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
HUMAN = "gsm8k/train.jsonl"
SOLUTIONS = "gsm8k/example_model_solutions.jsonl"
TORN = re.compile(r'"reasoning"\s*:\s*"((?:[^"\\]|\\.)*)', re.S)  # of JSON that ends too early
PIECES = pre_tokenizers.Sequence(
    [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
)
SPEED_TRACES = 3000
ROUNDS = 5

Cut = Callable[[str, str], Sequence[Part]]


@cache
def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def reasoning(output: str) -> str | None:
    """The trace in what an open model wrote: the JSON's ``reasoning``, or as much of it as there is."""
    try:
        found = json.loads(output[output.index("{") : output.rindex("}") + 1])["reasoning"]
    except (ValueError, KeyError, TypeError):
        torn = TORN.search(output)
        found = torn and torn[1].replace("\\n", "\n").replace('\\"', '"').replace("\\\\", "\\")
    return found if isinstance(found, str) else None


def trace_of(row: dict[str, Any], field: str) -> str | None:
    """The trace that stands under a field of a published row."""
    if field == "answer":
        return str(row[field]).partition("\n####")[0]
    if field == "output":
        return reasoning(row[field])
    if field == "model_output_steps":
        return "\n".join(row[field])
    model, _, inner = field.partition(".")
    return str(row[model][inner])


def labels(data: Path, half: str) -> list[Labelled]:
    """The labelled traces of a half. Raises ValueError if a text is not the one that was labelled."""
    found = []
    for row in rows(LABELS):
        if row["half"] != half:
            continue
        question, trace = row.get("question"), row.get("trace")
        if trace is None:
            source = rows(data / row["file"])[row["row"]]
            question, trace = source["question"], trace_of(source, row["field"]) or ""
            if hashlib.sha256(trace.encode()).hexdigest()[:16] != row["sha256"]:
                raise ValueError(f"{row['file']}, row {row['row']}: not the text that was labelled")
        found.append(Labelled(str(question), trace, tuple(Span(*span) for span in row["spans"])))
    return found


def sources(data: Path) -> Iterator[tuple[str, list[tuple[str, str]], int]]:
    """Name, (question, trace) of each solution, and how many could not be read."""
    human = [(row["question"], trace_of(row, "answer") or "") for row in rows(data / HUMAN)]
    yield "human solutions", human, 0
    for model in MODELS:
        yield model, [(row["question"], row[model]["solution"]) for row in rows(data / SOLUTIONS)], 0
    for path in sorted((data / "gsm8k_teachers").glob("*.jsonl")):
        found = [(row["question"], trace_of(row, "output")) for row in rows(path)]
        read = [(question, trace) for question, trace in found if trace]
        yield path.stem, read, len(found) - len(read)


def shares(traces: Sequence[tuple[str, str]], cut: Cut) -> dict[str, float]:
    """Kind -> share of the traces' tokens. A token has the kind of its first visible character, as in a token store."""
    counts = Counter[str]()
    for question, trace in traces:
        kinds = kinds_of(cut(question, trace))
        for _, (start, end) in PIECES.pre_tokenize_str(trace):
            at = next((i for i in range(start, end) if not trace[i].isspace()), start)
            counts[kinds[at]] += 1
    return {kind: counts[kind] / counts.total() for kind in (*CUT, "derive") if counts[kind]}


def coarse(cut: Cut) -> Cut:
    """The same with everything that derives as one kind: what whole sentences can be held to."""
    of = set(Kinds().members("derive"))
    return lambda question, trace: [
        Part("derive" if part.kind in of else part.kind, part.end, part.why) for part in cut(question, trace)
    ]


def coarse_labels(traces: Sequence[Labelled]) -> list[Labelled]:
    of = set(Kinds().members("derive"))
    return [
        one._replace(spans=tuple(Span(s.start, s.end, "derive" if s.kind in of else s.kind) for s in one.spans))
        for one in traces
    ]


def agreement_of(traces: Sequence[Labelled], cut: Cut) -> dict[str, Any]:
    found = agreement(traces, cut)
    return {
        "clauses": found.total(),
        "macro_f1": macro_f1(found),
        "macro_f1_of_four": macro_f1(agreement(coarse_labels(traces), coarse(cut))),
        "right": sum(count for (label, said), count in found.items() if label == said) / found.total(),
        "kinds": {kind: score._asdict() for kind, score in scores(found).items()},
    }


def speed(traces: Sequence[tuple[str, str]], cut: Cut) -> float:
    """Traces a minute of one core: the fastest of some rounds, in CPU time."""
    taken = []
    for _ in range(ROUNDS):
        start = time.process_time()
        for question, trace in traces:
            cut(question, trace)
        taken.append(time.process_time() - start)
    return 60 * len(traces) / min(taken)


def write(path: Path, tuning: Sequence[Labelled], held: Sequence[Labelled]) -> None:
    """The classifier that comes with the package: learnt from all of the tuning half, tested on the other."""
    learnt, classes = examples(tuning)
    weights = fit(learnt, classes)
    found = agreement(held, Classifier(weights))
    trained = Trained(weights, len(learnt), scores(found), macro_f1(found), macro_f1(agreement(held, flow)))
    write_model(path, trained, {"labels": "benchmarks/labels/roles.jsonl, tuning", "clauses": len(learnt)})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder of published solutions")
    parser.add_argument("--write-model", type=Path, help="learn the classifier of the package anew, and end")
    parser.add_argument("--json", type=Path)
    wanted = parser.parse_args()
    halves = {half: labels(wanted.data, half) for half in ("tuning", "held")}
    if wanted.write_model:
        write(wanted.write_model, halves["tuning"], halves["held"])
        return 0
    ways: dict[str, Cut] = {"flow": flow, "model": Classifier.load(SHIPPED), "rules": rules}
    figures: dict[str, Any] = {"machine": describe(), "agreement": {}, "shares": {}, "not read": {}, "speed": {}}
    for half, traces in halves.items():
        figures["agreement"][half] = {way: agreement_of(traces, cut) for way, cut in ways.items()}
    held = figures["agreement"]["held"]
    cells = [[kind, s["clauses"], s["precision"], s["recall"], s["f1"], held["model"]["kinds"][kind]["f1"]]
             for kind, s in held["flow"]["kinds"].items()]  # fmt: skip
    print("clauses set apart\n" + table(["kind", "clauses", "precision", "recall", "F1", "F1 of model"], cells))
    for way, found in held.items():
        print(
            f"{way}: macro F1 {found['macro_f1']:.3f}, of plan, derive, check and prose {found['macro_f1_of_four']:.3f}"
        )
    for name, traces, lost in sources(wanted.data):
        figures["shares"][name] = {way: shares(traces, ways[way]) for way in ("flow", "rules")}
        figures["not read"][name] = lost
    cells = [[name, *(f"{100 * of['flow'].get(kind, 0):.1f} %" for kind in CUT), f"{100 * of['rules']['derive']:.1f} %"]
             for name, of in figures["shares"].items()]  # fmt: skip
    print("\nshares of the trace's tokens\n" + table(["source", *CUT, "derive by rules"], cells))
    some = next(sources(wanted.data))[1][:SPEED_TRACES]
    figures["speed"] = {way: speed(some, cut) for way, cut in ways.items()}
    print(
        "\ntraces a minute of one core: " + ", ".join(f"{way} {found:,.0f}" for way, found in figures["speed"].items())
    )
    fourth = {name: sorted(of["flow"].values())[-4] for name, of in figures["shares"].items()}
    claims = [
        claim(
            "clauses labelled by hand", sum(of["flow"]["clauses"] for of in figures["agreement"].values()), ">=", 500
        ),
        claim("macro F1 of flow on clauses set apart", held["flow"]["macro_f1"], ">=", 0.85),
        claim("macro F1 of the model on clauses set apart", held["model"]["macro_f1"], ">=", 0.85),
        claim(
            "human solutions: the largest share", max(figures["shares"]["human solutions"]["flow"].values()), "<=", 0.6
        ),
        *(claim(f"{name}: the fourth largest share", share, ">", 0.03) for name, share in fourth.items()),
        claim("traces a minute of one core, flow", figures["speed"]["flow"], ">=", 100_000),
    ]
    return finish(figures, claims, wanted.json)


if __name__ == "__main__":
    sys.exit(main())
