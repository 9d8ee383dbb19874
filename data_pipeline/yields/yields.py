"""The yield of sampling and selection, and its ceiling: pure functions over the samples of a run as arrays."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.intervals import clustered
from tracestill.data_pipeline.base.kinds import nearest
from tracestill.data_pipeline.yields.estimators import ks, majority_at, pass_at
from tracestill.data_pipeline.yields.table import FLAGS, POLICIES

Row = dict[str, Any]
DIMENSIONS = ("teacher", "temperature", "style", "difficulty", "question")
FEW = 50  # groups of which each gets its pass@k and maj@k
EDGES = (0.0, 0.25, 0.5, 0.75)  # of pass rates: exactly 0, up to each next one, below 1, exactly 1
BUCKETS = ("0 %", "up to 25 %", "up to 50 %", "up to 75 %", "below 100 %", "100 %")
HARD = 3  # buckets: a question that at most half of its samples solve
NOTABLE = 0.05  # share of the questions that are hard from which on their loss is worth a warning
REVISED = re.compile(r"(revision|critique) of [0-9a-f]{16}")  # styles of their own, one a trace


@dataclass(frozen=True)
class Samples:
    """S samples of Q training questions."""

    question: np.ndarray  # (S,) its place among the questions
    flags: dict[str, np.ndarray]  # of FLAGS -> (S,) int8: 1, 0, or -1 where nobody looked
    ways: dict[str, tuple[np.ndarray, list[str]]]  # teacher, style, temperature -> (S,) codes, and their names
    vote: np.ndarray  # (S,) equal for equal answers, -1 for none
    ids: list[str]  # (Q,)
    more: dict[str, np.ndarray] = field(default_factory=dict)  # tokens, cost -> (S,) float64, NaN where not told

    @property
    def questions(self) -> int:
        return len(self.ids)

    @property
    def right(self) -> np.ndarray:
        return (self.flags["answered"] == 1) & (self.flags["right"] == 1)

    def per_question(self, what: np.ndarray) -> np.ndarray:
        """(Q,) how many of each question's samples are so."""
        return np.bincount(self.question[what], minlength=self.questions)

    @property
    def asked(self) -> np.ndarray:
        return np.bincount(self.question, minlength=self.questions)

    @property
    def difficulty(self) -> np.ndarray:
        """(Q,) bucket of each question by the share of its samples that are right."""
        asked = self.asked
        rate = self.per_question(self.right) / np.maximum(asked, 1)
        return np.where(rate >= 1, len(EDGES) + 1, np.searchsorted(EDGES, rate, side="left"))


def samples_of(table: pa.Table, ids: Sequence[str], votes: pa.Table, told: pa.Table | None = None) -> Samples:
    """From a table as VERDICTS, the rows whose question is among ``ids``, and tables with more by record_id: ``votes``
    (vote) and ``told`` (tokens, cost)."""
    ids = list(ids)
    at = pc.index_in(table["question_id"], value_set=pa.array(ids, pa.string()))
    table, at = table.filter(pc.is_valid(at)), pc.drop_null(at)
    flags = {name: numbers(pc.fill_null(table[name].cast(pa.int8()), -1)) for name in FLAGS}
    ways = {}
    for name in ("teacher", "style", "temperature"):
        found = table[name].cast(pa.string()).combine_chunks().dictionary_encode()
        names = [shown(name, value) for value in found.dictionary.to_pylist()]
        known = sorted(set(names), key=lambda value: (name == "temperature" and float(value), value))
        of = np.asarray([known.index(value) for value in names], np.int64)
        ways[name] = of[numbers(found.indices)], known
    by_record = pc.index_in(table["record_id"], value_set=votes["record_id"])
    vote = numbers(pc.fill_null(pc.take(votes["vote"], by_record), -1))
    more = {}
    if told is not None:
        found = pc.index_in(table["record_id"], value_set=told["record_id"])
        more = {name: numbers(pc.fill_null(pc.take(told[name], found), np.nan)) for name in ("tokens", "cost")}
    return Samples(numbers(at).astype(np.int64), flags, ways, vote, ids, more)


def numbers(values: pa.Array | pa.ChunkedArray) -> np.ndarray:
    return np.asarray(values)


def shown(name: str, value: str | None) -> str:
    """How a teacher, style or temperature is called: all revisions are one style."""
    if name == "temperature":
        return f"{float(value):g}" if value is not None else "nan"
    found = REVISED.fullmatch(value or "")
    return found[1] if found else value or ""


def by(samples: Samples, dimension: str, needed: Sequence[str]) -> list[Row]:
    """A row for each value of a dimension, or of several joined by ``+``: as ``figures``, with ``value``: the names."""
    parts = dimension.split("+")
    group = np.zeros(len(samples.question), np.int64)
    names: list[tuple[str, ...]] = [()]
    for part in parts:
        if part not in DIMENSIONS:
            raise InputError(f"--by {part}: no dimension{nearest(part, DIMENSIONS)}; one of {', '.join(DIMENSIONS)}")
        codes, values = way(samples, part)
        group = group * len(values) + codes
        names = [(*name, value) for name in names for value in values]
    present, group = np.unique(group, return_inverse=True)
    drawn = not {"question", "difficulty"} & set(parts)  # what is grouped by what came out tells nothing of chances
    rows = figures(samples, group, len(present), needed, ceilings=drawn and len(present) <= FEW)
    return [{"value": list(names[code]), **row} for code, row in zip(present.tolist(), rows, strict=True)]


def way(samples: Samples, dimension: str) -> tuple[np.ndarray, list[str]]:
    if dimension == "difficulty":
        return samples.difficulty[samples.question], list(BUCKETS)
    if dimension == "question":
        return samples.question, samples.ids
    return samples.ways[dimension]


def counted(samples: Samples, needed: Sequence[str]) -> dict[str, np.ndarray | None]:
    """(S,) which samples each column counts; None for one that nobody looked at.

    Up to ``sound`` each counts among those before it. ``distinct`` counts, of those with the flags that selection
    ``needed``, the ones whose path no other kept one has.
    """
    flags = samples.flags
    found: dict[str, np.ndarray | None] = {"asked": np.ones(len(samples.question), bool)}
    held = np.ones(len(samples.question), bool)
    for name in ("read", "answered", "right", "sound"):
        known = flags[name][held] >= 0
        held = held & (flags[name] == 1)
        found[name] = held if known.any() or not len(known) else None
    passing = passes(samples, needed)
    known = flags["distinct"][passing] >= 0
    found["distinct"] = passing & (flags["distinct"] == 1) if known.any() else None
    found["kept"] = flags["kept"] == 1
    return found


def passes(samples: Samples, needed: Sequence[str]) -> np.ndarray:
    return np.logical_and.reduce([samples.flags[name] == 1 for name in needed])


def figures(
    samples: Samples, group: np.ndarray, groups: int, needed: Sequence[str], *, ceilings: bool = True
) -> list[Row]:
    """Of each group of samples, (S,) codes: the counts; the questions, with a right one and with a kept one; tokens and
    cost for each kept one where they are told; with ``ceilings`` the share that is right, with its interval, pass@k and
    maj@k, and of several groups the questions that it alone solves."""
    columns = counted(samples, needed)
    sums = {name: None if held is None else np.bincount(group[held], minlength=groups).tolist()
            for name, held in columns.items()}  # fmt: skip
    pair, of_pair = np.unique(group * samples.questions + samples.question, return_inverse=True)
    asked = np.bincount(of_pair)
    right, kept = (np.bincount(of_pair[held], minlength=len(pair)) for held in (samples.right, columns["kept"]))
    ends = np.searchsorted(pair, np.arange(groups + 1) * samples.questions)
    solvers = np.bincount((pair % samples.questions)[right > 0], minlength=samples.questions)
    rows = []
    for at in range(groups):
        part = slice(ends[at], ends[at + 1])
        n, c = asked[part], right[part]
        row: Row = {name: None if counts is None else counts[at] for name, counts in sums.items()}
        row["questions"] = len(n)
        row["questions_right"], row["questions_kept"] = int((c > 0).sum()), int((kept[part] > 0).sum())
        if ceilings:
            row["right_share"] = dict(zip(("share", "low", "high"), clustered(c, n), strict=True))
            row["pass"] = [mean(k, pass_at(n, c, k), n) for k in ks(int(n.max()))]
            mine = group == at
            votes = samples.question[mine], samples.vote[mine], samples.right[mine]
            of = pair[part] % samples.questions
            row["alone"] = int((solvers[of[c > 0]] == 1).sum()) if groups > 1 else None
            row["maj"] = [mean(k, majority_at(*votes, samples.questions, k)[of], n)
                          for k in ks(int(n.max())) if k > 2]  # fmt: skip
        rows.append(row)
    for name, values in samples.more.items():
        told = ~np.isnan(values)
        spent = np.bincount(group[told], weights=values[told], minlength=groups)
        for at, row in enumerate(rows):
            known = int(told[group == at].sum()) if ceilings else int(spent[at] > 0)
            row[name] = float(spent[at]) if known else None
            row[f"{name}_per_kept"] = float(spent[at]) / row["kept"] if known and row["kept"] else None
    return rows


def mean(k: int, values: np.ndarray, asked: np.ndarray) -> Row:
    """The mean over questions that were asked k times, with its interval and their number."""
    known = ~np.isnan(values)
    held = values[known]
    share, low, high = clustered(held, np.ones(len(held)), float(asked[known].sum()))
    return {"k": k, "share": share, "low": low, "high": high, "questions": len(held)}


def policies(samples: Samples, kept: Mapping[str, int]) -> dict[str, Row | None]:
    """What passes each policy's checks, before paths and numbers are looked at; null where a check did not run.

    Of those, ``wrong`` have a wrong answer and ``unsound`` a wrong step; in ``unseen`` nobody looked for one. ``kept``:
    what each policy would keep, held-out records included, where selection has found it out.
    """
    found: dict[str, Row | None] = {}
    for name, flags in POLICIES.items():
        held = passes(samples, flags)
        hidden = any((samples.flags[flag] == -1).all() for flag in flags)
        found[name] = None if hidden else {
            "records": int(held.sum()),
            "questions": int((samples.per_question(held) > 0).sum()),
            "wrong": int((held & (samples.flags["right"] == 0)).sum()),
            "unsound": int((held & (samples.flags["sound"] == 0)).sum()),
            "unseen": int((held & (samples.flags["sound"] < 0)).sum()),
            "kept": kept.get(name),
        }  # fmt: skip
    return found


def difficulty(samples: Samples, needed: Sequence[str]) -> Row:
    """What selection did to the distribution of difficulty: by bucket the counts, and the ``shares`` of the questions,
    of those with a kept record, of what was asked and of what is kept; how hard ones fare, and a warning if few are
    left."""
    bucket, kept = samples.difficulty, samples.flags["kept"] == 1
    asked, kept_of = samples.asked, samples.per_question(kept)
    whole = np.ones(samples.questions)
    amounts = {"questions": whole, "asked": asked, "kept": kept_of, "questions_kept": (kept_of > 0).astype(float)}
    shares = {name: np.bincount(bucket, weights=held, minlength=len(BUCKETS)) / max(float(held.sum()), 1.0)
              for name, held in amounts.items()}  # fmt: skip
    hard = (bucket < HARD).astype(float)
    told = {name: dict(zip(("share", "low", "high"), clustered(hard * held, held), strict=True))
            for name, held in (("questions", whole), ("kept", kept_of)) if held.sum()}  # fmt: skip
    rate = samples.per_question(samples.right) / np.maximum(asked, 1)
    found: Row = {
        "buckets": [
            {**row, "shares": {key: float(value[BUCKETS.index(row["value"][0])]) for key, value in shares.items()}}
            for row in by(samples, "difficulty", needed)
        ],
        "pass_rate": {"questions": float(rate.mean()), "kept": float((rate * kept_of).sum() / max(kept_of.sum(), 1))},
        "hard": told,
        "warning": "",
    }
    if "kept" in told and told["questions"]["share"] >= NOTABLE:
        before, after = told["questions"], told["kept"]
        if after["high"] < before["low"] and after["share"] < 0.5 * before["share"]:
            found["warning"] = (
                f"selection leaves mostly easy questions: those that at most half of their samples solve are "
                f"{before['share']:.0%} of the questions and {after['share']:.0%} of what is kept (with one record a "
                f"question it would be {float(shares['questions_kept'][:HARD].sum()):.0%}); ask these more often "
                "(sample.until), or keep fewer of the others (select.max_per_question)"
            )
    return found


def summed(samples: Samples, needed: Sequence[str]) -> Row:
    """One row of ``figures`` of all samples."""
    return figures(samples, np.zeros(len(samples.question), np.int64), 1, needed)[0]


def policy_of(needed: Sequence[str]) -> str:
    """The policy that needs just these flags; "own" if none does."""
    named: Mapping[str, Sequence[str]] = POLICIES
    return next((name for name, flags in named.items() if set(flags) == set(needed)), "own")
