"""A small classifier of clauses: ``segment.by: model``. Multinomial logistic regression on what can be counted cheaply.

It reads the clauses that ``flow`` reads, and decides for each whether it plans, derives, checks or tells, by its words,
the values it brings and its neighbours; what derives is then cut as ``flow`` does. A model is a JSON file of numbers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.segmentation.clauses import Clause
from tracestill.data_pipeline.segmentation.flow import FEW, cut
from tracestill.data_pipeline.segmentation.lexer import WORD, Lexed
from tracestill.data_pipeline.segmentation.parts import Part

FORMAT = "tracestill segmenter 1"
CLASSES = ("plan", "derive", "check", "prose")
SHIPPED = Path(__file__).with_name("segmenter.json")
FIRST_WORDS = 3  # of a clause, that count by their place, too


class Classifier:
    """What ``train_segmenter`` makes: a weight of each feature for each of ``CLASSES``."""

    def __init__(self, weights: Mapping[str, Sequence[float]]) -> None:
        """``weights``: feature -> a number for each class."""
        self.weights = {name: np.array(values, np.float64) for name, values in weights.items()}

    @classmethod
    def load(cls, path: Path) -> Classifier:
        """Raises InputError if it is no model, or one of another version."""
        try:
            held: Any = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(
                f"{path}: no segmenter ({error}); expected what `tracestill train-segmenter` writes"
            ) from error
        weights = held.get("weights") if isinstance(held, dict) and held.get("format") == FORMAT else None
        if not isinstance(weights, dict) or held.get("classes") != list(CLASSES):
            raise InputError(f"{path}: no segmenter of the format '{FORMAT}'; train it again")
        try:
            table = np.array(list(weights.values()), np.float64)
        except (ValueError, TypeError):
            table = np.empty(0)
        if table.shape != (len(weights), len(CLASSES)) or not np.isfinite(table).all():
            raise InputError(f"{path}: its weights are not {len(CLASSES)} finite numbers each; train it again")
        return cls(weights)

    def __call__(self, question: str, trace: str) -> list[Part]:
        """The parts of a trace."""
        return cut(question, trace, self.decide)

    def decide(self, lexed: Lexed, clauses: list[Clause]) -> None:
        """Give the clauses of a step their kinds."""
        for clause, names in zip(clauses, features(lexed, clauses), strict=True):
            total = sum((self.weights[name] for name in names if name in self.weights), np.zeros(len(CLASSES)))
            clause.kind = CLASSES[int(np.argmax(total))]
            clause.why = clause.why or f"the model's choice, {total.max() - np.sort(total)[-2]:.1f} above the next"


def features(lexed: Lexed, clauses: Sequence[Clause]) -> list[list[str]]:
    """The names of what holds for each clause of a step."""
    about = [facts(lexed, clause) for clause in clauses]
    found = []
    for at, clause in enumerate(clauses):
        words = [lexed.texts[i] for i in range(clause.first, clause.last) if lexed.types[i] == WORD]
        names = ["always", *about[at]]
        names += [f"before {fact}" for fact in (about[at - 1] if at else ["none"])]
        names += [f"behind {fact}" for fact in (about[at + 1] if at + 1 < len(clauses) else ["none"])]
        names += [f"word {word}" for word in dict.fromkeys(words)]
        names += [f"word {place} {word}" for place, word in enumerate(words[:FIRST_WORDS])]
        found.append(names)
    return found


def facts(lexed: Lexed, clause: Clause) -> list[str]:
    """What a clause does with values, and how it looks, in any language."""
    return [
        f"role {clause.role or 'none'}",
        f"formulas {min(len(clause.formulas), 2)}",
        f"new {min(len(clause.new), 2)}",
        f"numbers {min(clause.numbers, 3)}",
        f"fresh {clause.fresh}",
        f"again {clause.again}",
        f"short {clause.last - clause.first <= FEW}",
        f"end {lexed.texts[clause.last - 1] if lexed.types[clause.last - 1] != WORD else 'word'}",
    ]
