"""``tracestill train-segmenter``: the classifier of clauses from traces labelled by hand, and its own held-out test."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.stage import write_whole
from tracestill.data_pipeline.segmentation.classifier import CLASSES, FORMAT, Classifier, features
from tracestill.data_pipeline.segmentation.clauses import Clause
from tracestill.data_pipeline.segmentation.flow import cut, flow
from tracestill.data_pipeline.segmentation.labels import (
    Labelled,
    Score,
    agreement,
    kinds_of,
    macro_f1,
    majority,
    scores,
)
from tracestill.data_pipeline.segmentation.lexer import Lexed
from tracestill.data_pipeline.segmentation.parts import Part

DERIVES = {"derive", "expression", "result", "statement"}
SELDOM = 2  # clauses that a feature has to hold for
STEPS = 400
RATE = 0.1
DECAY = 0.01  # L2, over the mean loss of a clause


class Trained(NamedTuple):
    """A classifier, and what became of the traces set apart."""

    weights: dict[str, list[float]]
    clauses: int  # it was fitted to
    test: dict[str, Score]  # kind -> score of the classifier on traces set apart; empty where none were
    macro_f1: float
    flow_macro_f1: float  # of ``segment.by: flow`` on the same


def train(traces: Sequence[Labelled], test_share: float) -> Trained:
    """Fit a classifier to labelled traces; those of about ``test_share`` of the questions, by their digest, stay apart.

    Raises InputError if too little is left to learn from: fewer than two kinds.
    """
    apart = [set_apart(one.question, test_share) for one in traces]
    learnt = [one for one, held in zip(traces, apart, strict=True) if not held]
    held_out = [one for one, held in zip(traces, apart, strict=True) if held]
    rows, classes = examples(learnt)
    if len(set(classes)) < 2:
        raise InputError(f"{len(learnt)} labelled traces, {len(rows)} clauses: too little; label two kinds at least")
    weights = fit(rows, classes)
    model = Classifier(weights)
    found, by_flow = agreement(held_out, model), agreement(held_out, flow)
    return Trained(weights, len(rows), scores(found), macro_f1(found), macro_f1(by_flow))


def set_apart(question: str, share: float) -> bool:
    """Whether a question is of the share that is tested on; the same on every machine."""
    return int(hashlib.sha256(question.encode("utf-8", "surrogatepass")).hexdigest()[:8], 16) < share * 2**32


def examples(traces: Sequence[Labelled]) -> tuple[list[list[str]], list[int]]:
    """Features and class of each labelled clause."""
    rows: list[list[str]] = []
    classes: list[int] = []
    for one in traces:
        labels = kinds_of(gaps_filled(one))

        def note(lexed: Lexed, clauses: list[Clause], labels: list[str] = labels, trace: str = one.trace) -> None:
            for clause, names in zip(clauses, features(lexed, clauses), strict=True):
                kind = majority(trace, labels, lexed.starts[clause.first], lexed.ends[clause.last - 1])
                clause.kind = "prose"
                if kind:
                    rows.append(names)
                    classes.append(CLASSES.index("derive" if kind in DERIVES else kind))

        cut(one.question, one.trace, note)
    return rows, classes


def gaps_filled(one: Labelled) -> list[Part]:
    """The labels as parts; "" where there is none."""
    found: list[Part] = []
    for span in one.spans:
        found += [Part("", span.start, ""), Part(span.kind, span.end, "")]
    return [*found, Part("", len(one.trace), "")]


def fit(rows: Sequence[Sequence[str]], classes: Sequence[int]) -> dict[str, list[float]]:
    """Multinomial logistic regression with L2, by gradient descent with momentum on all clauses at once.

        mean_i(-log softmax(sum of weights[feature])[class_i]) + DECAY / 2 * sum of weights^2

    Equal clauses give equal weights.
    """
    counts = Counter(name for row in rows for name in set(row))
    names = sorted(name for name, count in counts.items() if count >= SELDOM)
    index = {name: at for at, name in enumerate(names)}
    kept = [[index[name] for name in row if name in index] for row in rows]
    flat = np.fromiter((at for row in kept for at in row), np.int64)
    of_row = np.repeat(np.arange(len(kept)), [len(row) for row in kept])
    target = np.eye(len(CLASSES))[list(classes)]  # (N, C)
    weights = np.zeros((len(names), len(CLASSES)))
    speed = np.zeros_like(weights)
    for _ in range(STEPS):
        logits = np.stack([np.bincount(of_row, weights[flat, c], len(kept)) for c in range(len(CLASSES))], axis=1)
        chance = np.exp(logits - logits.max(axis=1, keepdims=True))
        chance /= chance.sum(axis=1, keepdims=True)
        error = (chance - target) / len(target)
        slope = np.stack([np.bincount(flat, error[of_row, c], len(names)) for c in range(len(CLASSES))], axis=1)
        speed = 0.9 * speed - RATE * (slope + DECAY * weights)
        weights += speed
    return {name: [round(float(value), 4) for value in row] for name, row in zip(names, weights, strict=True)}


def write_model(path: Path, trained: Trained, about: dict[str, Any]) -> None:
    """Write a classifier as JSON, a feature a line; ``about`` says what it was trained on."""
    head = {"format": FORMAT, "classes": CLASSES, **about, "test": {k: s._asdict() for k, s in trained.test.items()},
            "macro_f1": trained.macro_f1}  # fmt: skip
    lines = ",\n".join(f"{json.dumps(name, ensure_ascii=False)}: {row}" for name, row in trained.weights.items())
    write_whole(path, json.dumps(head, ensure_ascii=False, indent=1)[:-2] + ',\n "weights": {\n' + lines + "\n}}\n")
