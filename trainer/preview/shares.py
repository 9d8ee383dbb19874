"""Do the weights mean what their author meant? Asked of the first step's shares; one line for each doubt.

The shares are those of the preview: of the weights (sum of w * c), of the loss, and of the gradient at the head. Only a
recipe that weighs more than the prompt is doubted: where nothing was asked of a kind, its share is its length.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.trainer.preview.page import SHARES

FEW = 0.01  # share of the weighted targets below which a kind's weight moves little
LOW = 0.05  # share of the answer that calls for a word
SAME = 0.01  # shares that differ by less than this from those of equal weights

Row = dict[str, Any]


def share_warnings(
    named: Sequence[str],  # kinds and groups that the recipe gives a weight
    kinds: Kinds,
    rows: Sequence[Row],  # of the preview
    equal: np.ndarray,  # (K,) shares of the weights, were every kind of the trace to weigh as the answer does
    targets: np.ndarray,  # (K,) in all of the data
    tables: np.ndarray,  # (S, K) weights at steps spread over training, the first one first
) -> list[str]:
    """What the recipe's author should know of the first step; usually nothing."""
    entries = entries_of([name for name in named if name != "prompt"], kinds)
    if not any(tables[:, ids].any() for ids in entries.values()):
        return []
    found = unnamed(entries, named, kinds, rows)
    found += low_answer(rows)
    found += [line for name, ids in entries.items() if (line := rare(name, ids, targets, tables))]
    return found + no_difference(kinds, rows, equal, tables)


def without_entries(rows: Sequence[Row], channel: str) -> list[str]:
    """A line for each kind that the teacher's term weighs, and of whose targets in the first step the channel has no
    entry, or of most of them none."""
    found = []
    for row in rows:
        if row["teacher_weight"] and row["teacher_tokens"] < row["tokens"] / 2:
            share = row["teacher_tokens"] / row["tokens"]
            found.append(
                f"distil.weight: {channel} has entries for {share:.0%} of the first step's targets of kind "
                f"'{row['kind']}' ({row['teacher_tokens']:,} of {row['tokens']:,}); the others follow no teacher"
            )
    return found


def entries_of(names: Sequence[str], kinds: Kinds) -> dict[str, list[int]]:
    """The kinds that each name of the recipe decides, where it decides any; the most specific name wins."""
    return {name: ids for name, ids in kinds.decided(names).items() if ids}


def unnamed(entries: dict[str, list[int]], named: Sequence[str], kinds: Kinds, rows: Sequence[Row]) -> list[str]:
    """A line for each kind that the recipe does not name, and that has more of the first step than any it names."""
    by_id = {kinds.id(row["kind"]): row for row in rows}
    decided = {"prompt", *named, *(kinds.names[k] for ids in entries.values() for k in ids)}
    free = [row for row in rows if row["kind"] not in decided and row["weight"]]
    leads: dict[str, list[str]] = {}
    for share, said in SHARES.items():
        if free and all(row.get(share) is not None for row in rows):
            most = max(free, key=lambda row: row[share])
            if most[share] > max(sum(by_id[k][share] for k in ids if k in by_id) for ids in entries.values()):
                leads.setdefault(most["kind"], []).append(f"{said.removeprefix('share of ')} ({most[share]:.0%})")
    weight = {row["kind"]: row["weight"] for row in rows}
    return [
        f"'{kind}' has the largest share of the first step's {listed(of)}, and weighting.weights does not name "
        f"it: it weighs {weight[kind]:g}"
        for kind, of in leads.items()
    ]


def listed(parts: Sequence[str]) -> str:
    """``a``, ``a and b``, or ``a, b and c``."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))


def low_answer(rows: Sequence[Row]) -> list[str]:
    """A line if the answer has weight, but little of the first step by every measure."""
    for row in rows:
        shares = {said: row[share] for share, said in SHARES.items() if row.get(share) is not None}
        if row["kind"] == "answer" and row["weight"] and max(shares.values()) < LOW:
            told = ", ".join(f"{value:.1%} {said.removeprefix('share ')}" for said, value in shares.items())
            return [f"the answer has little of the first step: {told}; raise its weight, or take normaliser: spans"]
    return []


def rare(name: str, ids: list[int], targets: np.ndarray, tables: np.ndarray) -> str | None:
    """A line if a name is weighed up, at some step, but few weighted targets have it."""
    others = np.setdiff1d(np.arange(len(targets)), ids)
    for table in tables:
        own, rest = targets[ids] * (table[ids] > 0), targets[others] * (table[others] > 0)
        mean = (rest * table[others]).sum() / max(1, rest.sum())
        weight, share = table[ids].max(), own.sum() / max(1, own.sum() + rest.sum())
        if weight > mean and 0 < share < FEW:
            taken = (own * table[ids]).sum() / (targets * table).sum()
            return (
                f"'{name}' is weighed up ({weight:g}; the rest {mean:.2g} on average), but only {share:.2%} of the "
                f"weighted targets have it: {taken:.1%} of the sum of weights"
            )
    return None


def no_difference(kinds: Kinds, rows: Sequence[Row], equal: np.ndarray, tables: np.ndarray) -> list[str]:
    """A line if trace and answer are weighed apart, but share the first step as if they were not."""
    ids = [kinds.id(row["kind"]) for row in rows if row["kind"] in (*kinds.members("trace"), "answer")]
    of_both = tables[:, ids]
    if kinds.id("answer") not in ids or not of_both.any() or (tables != tables[0]).any():
        return []  # what a schedule does shows later
    if (of_both == of_both[:, :1]).all():
        return []
    now = np.array([row["weight_share"] for row in rows if kinds.id(row["kind"]) in ids])
    if not now.sum() or not equal[ids].sum():
        return []
    now, then = now / now.sum(), equal[ids] / equal[ids].sum()
    if np.abs(now - then).max() >= SAME:
        return []
    at = ids.index(kinds.id("answer"))
    return [
        "the weights of trace and answer make no difference: of both, the answer has "
        f"{now[at]:.2%} of the first step's weights, and {then[at]:.2%} if all weigh the same"
    ]
