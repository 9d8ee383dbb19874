"""A learned checker of steps, measured for `benchmarks/soundness.py`: is it worth shipping?

Logistic regression on what can be counted of a step: what the rules say of it, what it does with values, its words. It
learns from the tuning half of MR-GSM8K's labelled traces (steps before the first wrong one are right, that one is
wrong, those behind it are left out) and is held against the rules on the other half, and let loose on right answers.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from soundness_data import Known

from tracestill.data_pipeline.segmentation.lexer import NUMBER, lex, value_of
from tracestill.data_pipeline.soundness.checkers.chain import DEFAULT, Checks
from tracestill.data_pipeline.soundness.checkers.values import made_of, said

STEPS, RATE, DECAY, SELDOM = 600, 0.2, 0.003, 3
BAR = 0.95


def features(known: Known, false: set[int], step: int) -> list[str]:
    """The names of what holds for a step."""
    trace, text = known.trace, known.trace.steps[step]
    asked = said(lex(trace.question))
    before = said(lex(trace.text[: trace.starts[step]]))
    lexed = lex(text)
    values = [value_of(one) for kind, one in zip(lexed.types, lexed.texts, strict=True) if kind == NUMBER]
    within = [e for e in trace.equations if trace.starts[step] <= e.start < trace.ends[step]]
    operands = {float(n) for e in within for n in re.findall(r"\d+(?:\.\d+)?", e.path.partition("=")[0])}
    results = {float(n) for e in within for n in re.findall(r"\d+(?:\.\d+)?", e.path.rpartition("=")[2])}
    held = asked | before
    names = [
        "always",
        f"rule {step in false}",
        f"equations {min(len(within), 3)}",
        f"numbers {min(len(values), 5)}",
        f"new operands {min(len(operands - held - made_of(held)), 2)}",
        f"of the question {min(len(operands & asked), 3)}",
        f"of the trace {min(len(operands & before), 3)}",
        f"result was there {bool(results & held)}",
        f"result a fraction {any(r != round(r) for r in results)}",
        f"negative {any('-' in e.path.rpartition('=')[2] for e in within)}",
        f"place {min(step, 6)} of {min(len(trace.steps), 8)}",
        f"place {min(step, 6)}",
    ]
    names += [f"sign {sign}" for e in within for sign in set(e.path) & set("+-*/")]
    words = re.findall(r"[a-z]+", text.lower())
    names += [f"word {word}" for word in set(words)]
    names += [f"pair {one} {other}" for one, other in set(pairwise(words))]
    return names


def examples(known: Sequence[Known]) -> tuple[list[list[str]], list[int], list[bool]]:
    """Features, whether the step is wrong, and whether the rules say so."""
    checks = Checks(DEFAULT, "checks")
    found: tuple[list[list[str]], list[int], list[bool]] = ([], [], [])
    for one in known:
        false = {f.step for f in checks.findings(one.trace) if f.outcome == "false"}
        for step in range((one.wrong or 0) + 1):
            found[0].append(features(one, false, step))
            found[1].append(int(step == one.wrong))
            found[2].append(step in false)
    return found


def learned(known: Sequence[Known], right: Sequence[Known]) -> dict[str, Any]:
    """What a model adds to the rules on the half that it has not seen, and on ``right`` traces of others."""
    names, wrong, _ = examples([one for one in known if one.label.startswith("tuning")])
    test, truth, rules = examples([one for one in known if one.label.startswith("held")])
    counts = Counter(name for row in names for name in set(row))
    index = {name: at for at, name in enumerate(sorted(n for n, c in counts.items() if c >= SELDOM))}
    x, y = matrix(names, index), np.array(wrong, np.float64)
    weights, pace = np.zeros(len(index)), np.zeros(len(index))
    for _ in range(STEPS):
        chance = 1 / (1 + np.exp(-x @ weights))
        pace = 0.9 * pace - RATE * (x.T @ (chance - y) / len(y) + DECAY * weights)
        weights += pace
    score, label, ruled = matrix(test, index) @ weights, np.array(truth, bool), np.array(rules)
    order = np.argsort(-score, kind="stable")
    precision = np.cumsum(label[order]) / np.arange(1, len(order) + 1)
    good = np.flatnonzero(precision >= BAR)
    most = int(good[-1]) + 1 if len(good) else 0
    taken = np.zeros(len(label), bool)
    taken[order[:most]] = True
    bar = score[order[most - 1]] if most else np.inf
    flagged = [
        bool((matrix([features(one, set(), at) for at in range(len(one.trace.steps))], index) @ weights >= bar).any())
        for one in right
    ]
    free = ~ruled
    return {
        "steps learned from": len(y),
        "steps apart": len(label),
        "wrong steps apart": int(label.sum()),
        "auc": auc(score, label),
        "auc where the rules say nothing": auc(score[free], label[free]),
        "rules: precision": float(label[ruled].mean()),
        "rules: recall": float(ruled[label].mean()),
        f"model: best recall at a precision of {BAR}": float(taken[label].mean()),
        "model: wrong steps at that point that the rules miss": int((taken & label & free).sum()),
        "model: right steps at that point that the rules do not flag": int((taken & ~label & free).sum()),
        "right-answer traces of teachers": len(right),
        "of these flagged by the model without the rules": int(sum(flagged)),
    }


def matrix(names: Sequence[Sequence[str]], index: dict[str, int]) -> np.ndarray:
    found = np.zeros((len(names), len(index)))
    for row, one in enumerate(names):
        for name in one:
            if name in index:
                found[row, index[name]] = 1
    return found


def auc(score: np.ndarray, label: np.ndarray) -> float:
    """The chance that a wrong step scores above a right one."""
    wrong, right = score[label], score[~label]
    return float((wrong[:, None] > right).mean() + (wrong[:, None] == right).mean() / 2) if len(wrong) else 0.5
