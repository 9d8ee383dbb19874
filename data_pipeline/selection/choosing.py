"""Which of a question's accepted records stay, for many questions; and how many each policy would keep."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from tracestill.data_pipeline.selection.config import SelectConfig
from tracestill.data_pipeline.selection.judgements import Judgements
from tracestill.data_pipeline.selection.judging import CODE, NONE
from tracestill.data_pipeline.selection.paths import Candidate, Left, chosen
from tracestill.data_pipeline.selection.policy import POLICIES


class Choice(NamedTuple):
    reasons: np.ndarray  # (n,) uint8, judging.CODE of why each record is not kept; 0: it is
    distinct: np.ndarray  # (n,) bool: accepted, and no other record stands for its path
    others: np.ndarray  # (n,) int32: the record that stands for this one's path; -1: none
    of_teacher: np.ndarray  # (n,) bool: too many of its teacher, rather than of its question
    kept: dict[str, int]  # policy -> records that it would keep, all else as the recipe has it


def choose(select: SelectConfig, found: Judgements) -> Choice:
    """Choose among those that pass the recipe's policy, question by question."""
    passes = {policy: found.have(policy) for policy in POLICIES}
    kept: dict[str, int] = {policy: int(passes[policy].sum()) for policy in POLICIES}
    reasons, distinct = found.reasons.copy(), passes[select.policy].copy()
    others, of_teacher = np.full(len(found), -1, np.int32), np.zeros(len(found), bool)
    for places in by_question(found.questions, np.logical_or.reduce(list(passes.values()))):
        known: dict[bytes, int] = {}  # policies that pass the same records choose the same
        for policy in (select.policy, *(each for each in POLICIES if each != select.policy)):
            passing = places[passes[policy][places]]
            if (key := passing.tobytes()) not in known:
                known[key] = 0
                for place, left in left_out(select, found, passing):
                    known[key] += 1
                    if policy == select.policy:
                        reasons[place], others[place] = CODE[left.reason], left.other
                        distinct[place] = left.reason != "same_path"
                        of_teacher[place] = left.of_teacher
            kept[policy] -= known[key]
    return Choice(reasons, distinct, others, of_teacher, kept)


def by_question(questions: np.ndarray, those: np.ndarray) -> Iterator[np.ndarray]:
    """The numbers of records, of those where ``those`` is true, for each question."""
    places = np.flatnonzero(those)
    order = places[np.argsort(questions[places], kind="stable")]
    cuts = [0, *(np.flatnonzero(np.diff(questions[order])) + 1), len(order)]
    return (order[a:b] for a, b in pairwise(cuts) if b > a)


def left_out(select: SelectConfig, found: Judgements, places: np.ndarray) -> Iterator[tuple[int, Left]]:
    if len(places) < 2:
        return iter(())
    return chosen(candidates(select, found, places), select.paths, select.max_per_question, select.max_per_teacher)


def candidates(select: SelectConfig, found: Judgements, places: np.ndarray) -> Sequence[Candidate]:
    fuzzy = found.have("fuzzy", places)
    compared = select.paths.choose == "different" or fuzzy.sum() > 1
    columns = (found.paths, found.weights, found.lengths, found.teachers)
    return list(
        map(
            Candidate._make,
            zip(
                places.tolist(),
                found.ids.take(places).to_pylist(),
                fuzzy.tolist(),
                found.words(places) if compared else [NONE] * len(places),
                *(column[places].tolist() for column in columns),
                strict=True,
            ),
        )
    )
