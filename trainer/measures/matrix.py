"""What a student carries over: a matrix of tasks and variations, from one verdict for each question in each form."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from tracestill.data_pipeline.variations.variation import PLAIN
from tracestill.trainer.measures.spread import difference, share, share_of

Outcome = Literal["right", "wrong", "cannot_tell", "no_answer", "not_asked"]
OUTCOMES: tuple[Outcome, ...] = ("right", "wrong", "cannot_tell", "no_answer", "not_asked")


class Row(NamedTuple):
    """What came of a question in one form."""

    task: str
    variation: str  # or PLAIN
    question_id: str  # of the plain question
    outcome: Outcome
    answer: str | None = None  # as the verifier read it; None: there is none


class Form(NamedTuple):
    """What is known of a variation."""

    family: str
    keeps_gold: bool


Of = dict[str, Row]  # question id -> row


def matrix(rows: Sequence[Row], forms: Mapping[str, Form]) -> dict[str, Any]:
    """``cells``: task -> form -> how many of each outcome, ``accuracy`` (right ones of all questions of the cell, as
    ``spread.share``), and against the plain form of the same questions ``plain``, ``gain`` (what is won over it, below
    0 lost; with its paired interval), ``lost`` and ``won``: questions.

    ``families``: task -> family of several variations -> the same, over the mean of a question's forms, and where gold
    answers are kept ``consistent``. ``varied``: task -> such a cell of all its variations. ``consistency``: task ->
    ``consistent``, over all that keep the gold answer.
    ``forms`` are all but the plain one, in their order. Raises ValueError for two rows of a question in one form, and
    for one in a form without its plain one.
    """
    found: dict[str, dict[str, Of]] = {}
    for row in rows:
        cell = found.setdefault(row.task, {}).setdefault(row.variation, {})
        if row.question_id in cell:
            raise ValueError(f"{row.task}, {row.variation}: two rows of the question {row.question_id}")
        cell[row.question_id] = row
    cells, families, varied, consistency = {}, {}, {}, {}
    for task, of_task in found.items():
        plain = of_task.get(PLAIN, {})
        order = [form for form in (PLAIN, *forms) if form in of_task]
        for form in order:
            if missing := of_task[form].keys() - plain.keys():
                raise ValueError(f"{task}, {form}: the question {min(missing)} was not asked plainly")
        cells[task] = {form: cell_of([of_task[form]], {} if form == PLAIN else plain) for form in order}
        several: dict[str, list[str]] = {}
        for form in order[1:]:
            several.setdefault(forms[form].family, []).append(form)
        families[task] = {
            name: family_of([of_task[form] for form in members], plain, all(forms[m].keeps_gold for m in members))
            for name, members in several.items()
            if len(members) > 1
        }
        if order[1:]:
            varied[task] = cell_of([of_task[form] for form in order[1:]], plain)
        if kept := [form for form in order[1:] if forms[form].keeps_gold]:
            consistency[task] = consistent([plain, *(of_task[form] for form in kept)])
    return {"cells": cells, "families": families, "varied": varied, "consistency": consistency}


def family_of(columns: Sequence[Of], plain: Of, keeps_gold: bool) -> dict[str, Any]:
    cell = cell_of(columns, plain)
    return {**cell, "consistent": consistent([plain, *columns])} if keeps_gold else cell


def cell_of(columns: Sequence[Of], plain: Of) -> dict[str, Any]:
    """One cell, of the forms in ``columns``; ``plain``: what they are compared with, if anything."""
    questions = list(dict.fromkeys(question for column in columns for question in column))
    counts = Counter(row.outcome for column in columns for row in column.values())
    after = np.array([mean_right(columns, question) for question in questions])
    cell: dict[str, Any] = {
        "questions": len(questions),
        **{outcome: counts[outcome] for outcome in OUTCOMES},
        "accuracy": share_of(after),
    }
    if plain:
        before = np.array([float(plain[question].outcome == "right") for question in questions])
        cell |= {"plain": float(before.mean()), "gain": difference(before, after)}
        cell |= {"lost": int(((before == 1) & (after < 1)).sum()), "won": int(((before == 0) & (after > 0)).sum())}
    return cell


def mean_right(columns: Sequence[Of], question: str) -> float:
    right = [column[question].outcome == "right" for column in columns if question in column]
    return sum(right) / len(right)


def consistent(columns: Sequence[Of]) -> dict[str, Any]:
    """Over questions that are asked in two forms or more, the plain one among them, ``forms`` in the mean: the share
    whose verdict is the same in all (``rate``); of these, right in all (``all_right``) and right in none
    (``all_wrong``); and that of those with the same answer in all (``same_answer``), which a student that errs in the
    same way has too. A student that is never right has a rate of 1."""
    asked = {question: [c[question] for c in columns if question in c] for question in columns[0]}
    asked = {question: forms for question, forms in asked.items() if len(forms) > 1}
    right = [{row.outcome == "right" for row in forms} for forms in asked.values()]
    answers = [{row.answer for row in forms} for forms in asked.values()]
    return {
        "questions": len(asked),
        "forms": sum(map(len, asked.values())) / max(len(asked), 1),
        "rate": share(sum(len(verdicts) == 1 for verdicts in right), len(asked)),
        "all_right": share(sum(verdicts == {True} for verdicts in right), len(asked)),
        "all_wrong": share(sum(verdicts == {False} for verdicts in right), len(asked)),
        "same_answer": share(sum(len(told) == 1 and None not in told for told in answers), len(asked)),
    }
