"""Questions with another gold answer that is known: a step more, numbers of other ranges, more digits."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from functools import partial

from tracestill.data_pipeline.answers.numbers.number import number
from tracestill.data_pipeline.answers.numbers.quantity import shown
from tracestill.data_pipeline.base.schema import Question
from tracestill.data_pipeline.sampling.files.formats import is_files
from tracestill.data_pipeline.sampling.teachers import find_module
from tracestill.data_pipeline.variations.values import by_equation, unlike
from tracestill.data_pipeline.variations.variation import Variation

PLAIN = re.compile(r"[$€£]?-?\d[\d,]*(?:\.\d+)?")  # a gold answer that can be computed with: no percent, no ratio
OTHER_BASE = re.compile(r"\b(?:binary|octal|hexadecimal|base)\b", re.I)  # digits that are not what they look like
WHEN = "When you have found this number,"


def one_step(question: Question, draw: random.Random, *, doubles: bool) -> Question | None:
    """One more operation on the answer, whose outcome is then the answer."""
    value = number(question.gold)
    if not value or not PLAIN.fullmatch(question.gold.strip()) or OTHER_BASE.search(question.question):
        return None
    if doubles:
        gold, said = 2 * value, "double it, and give the doubled number as your answer."
    else:
        more = unlike(question, draw)
        gold, said = value + more, f"add {more} to it, and give the sum as your answer."
    gap = "\n\n" if "\n" in question.question else " "
    return replace(question, question=f"{question.question}{gap}{WHEN} {said}", gold=shown(gold))


def by_its_program(question: Question, draw: random.Random, *, what: str) -> Question | None:
    """By the program of the task that posed it, if that has one (``harder``), or by its equation."""
    if question.source and not is_files(question.source):
        harder = getattr(find_module(question.source, "questions.source"), "harder", None)
        found: Question | None = harder(question, what, draw) if callable(harder) else None
        return found if found is None else replace(found, question_id=question.question_id, source=question.source)
    return by_equation(question, draw) if what == "ranges" else None


BUILT_IN = [
    Variation("double", partial(one_step, doubles=True), "step", keeps_gold=False),
    Variation("add", partial(one_step, doubles=False), "step", keeps_gold=False),
    Variation("ranges", partial(by_its_program, what="ranges"), keeps_gold=False, is_new=True),
    Variation("digits", partial(by_its_program, what="digits"), keeps_gold=False, is_new=True),
]
