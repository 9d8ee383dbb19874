"""How much each kept record counts: as question and teacher say, shared among those of its question, or by a function.

A function of the user's gets the kept records of one question and gives a weight for each, in place of
``record.weight``, the product of what question and teacher said:

    def surest(records: list[Record]) -> list[float]
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tracestill.data_pipeline.base import own_modules
from tracestill.data_pipeline.base.batches import Rows
from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.kinds import nearest
from tracestill.data_pipeline.base.schema import Record, record_from_row

FIELD = "select.weight"

Weigh = Callable[[list[Record]], Sequence[float]]


def given(records: list[Record]) -> list[float]:
    return [record.weight for record in records]


def per_question(records: list[Record]) -> list[float]:
    """w / n, for the n records of the question that weigh anything."""
    n = sum(record.weight > 0 for record in records)
    return [record.weight / max(n, 1) for record in records]


BUILT_IN: dict[str, Weigh] = {"given": given, "per_question": per_question}


def own_module(use: str) -> str | None:
    """The module of the user's that ``select.weight`` names; None for a way that is built in, or no import path."""
    return use.partition(":")[0] if ":" in use else None


def own_files(use: str) -> dict[str, Path]:
    """Name -> path of the files of the user's that decide on weights."""
    module = own_module(use)
    return {} if module is None else own_modules.files(module)


def find(use: str) -> Weigh:
    """The function that ``select.weight`` means. Raises InputError naming the nearest name, or what is missing."""
    if use in BUILT_IN:
        return BUILT_IN[use]
    module_name, _, name = use.partition(":")
    if not name:
        expected = "or give an import path such as my_pkg.my_module:my_weights"
        raise InputError(f"unknown way to weigh '{use}'{nearest(use, list(BUILT_IN))}; {expected}")
    function: Weigh | None = getattr(own_modules.load(module_name), name, None)
    if not callable(function):
        raise InputError(f"{module_name} has no function '{name}'")
    return function


def weigh(use: str, questions: Iterable[np.ndarray], rows: Rows) -> Iterator[tuple[int, Any]]:
    """(number, weight) of kept records, unchecked; ``questions``: the numbers of each question's.

    Raises InputError if a function fails, or gives not one each.
    """
    function = find(use)
    for places in questions:
        records = [record_from_row(row) for row in rows.at(places)]
        question = records[0].question_id
        try:
            weights = list(function(list(records)))
        except Exception as error:  # anybody's code
            place = f"{own_modules.place_of(error)}{type(error).__name__}: {error}"
            raise InputError(f"{FIELD}: {use} failed on question {question} ({place})") from error
        if len(weights) != len(records):
            what = f"{len(weights)} weights for the {len(records)} records of question {question}"
            raise InputError(f"{FIELD}: {use} gave {what}; expected one each")
        yield from zip(places, weights, strict=True)
