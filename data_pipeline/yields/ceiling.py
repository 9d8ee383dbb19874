"""Questions that nobody solves, and what they have in common: with intervals, so that nobody reads noise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tracestill.data_pipeline.base.intervals import wilson, z_of
from tracestill.data_pipeline.yields.yields import Samples

PARTS = 3  # of a number's range, each with about as many questions
GROUPS = 12  # groups that are looked at, the largest
EXAMPLES = 5
AGREE = 3  # samples that have to give the same wrong answer, and half of all


def features(questions: pa.Table, samples: Samples, operations: np.ndarray) -> dict[str, np.ndarray]:
    """Of each question what may make it hard: words, numbers written in digits, and the median of the operations of its
    traces, right or not ((S,), -1: no trace); NaN where nothing is known."""
    words = np.asarray(pc.count_substring_regex(questions["question"], r"\S+"), np.float64)
    digits = np.asarray(pc.count_substring_regex(questions["question"], r"\d+(?:[.,]\d+)*"), np.float64)
    known = operations >= 0
    of, counts = samples.question[known], operations[known]
    order = np.lexsort((counts, of))
    of, counts = of[order], counts[order]
    starts = np.searchsorted(of, np.arange(samples.questions))
    sizes = np.bincount(of, minlength=samples.questions)
    median = np.full(samples.questions, np.nan)
    some = sizes > 0
    low, high = (counts[starts[some] + (sizes[some] - 1 + up) // 2] for up in (0, 1))
    median[some] = (low + high) / 2
    return {"words": words, "numbers": digits, "operations": median}


def unsolved(samples: Samples, questions: pa.Table, operations: np.ndarray, answers: dict[int, str]) -> dict[str, Any]:
    """How many questions no sample solves, how often each was asked, and by length, numbers, operations and group which
    of them stand out from the others.

    ``questions``: the rows of ``samples.ids`` (question, gold, group), ``answers``: vote -> a text of it. A part
    ``stands_out`` if its interval, at a level shared by all comparisons, leaves out the share of all questions.
    ``agreed`` counts those where at least half of the samples, and three, give one same answer: it may be the gold one
    that is wrong. ``silent``: those where at least half give none.
    """
    asked, right = samples.asked, samples.per_question(samples.right)
    never = right == 0
    total, hits = len(never), int(never.sum())
    low, high = wilson(hits, total)
    parts = {name: cut(values) for name, values in features(questions, samples, operations).items()}
    if len(groups := by_group(questions["group"])) > 1:
        parts["group"] = groups
    z = z_of(sum(map(len, parts.values())))
    common = []
    for name, masks in parts.items():
        rows = [part(label, mask, never, hits / total, z) for label, mask in masks]
        if len(rows) > 1:
            common.append({"feature": name, "parts": rows})
    most, times = favourite(samples)
    agreed = never & (times >= AGREE) & (2 * times >= asked)
    silent = never & (2 * samples.per_question(samples.vote < 0) >= asked)
    first = sorted(np.flatnonzero(never).tolist(), key=lambda at: (-times[at], -asked[at]))[:EXAMPLES]
    text, gold = (questions[name].take(pa.array(first, pa.int64())).to_pylist() for name in ("question", "gold"))
    return {
        "questions": hits, "share": hits / total, "low": low, "high": high,
        "asked": float(np.median(asked[never])) if hits else 0.0,
        "agreed": int(agreed.sum()), "silent": int(silent.sum()),
        "common": common,
        "examples": [
            {"question_id": samples.ids[at], "question": text[place], "gold": gold[place], "asked": int(asked[at]),
             "answer": answers.get(int(most[at])), "times": int(times[at])}
            for place, at in enumerate(first)
        ],
    }  # fmt: skip


def part(label: str, mask: np.ndarray, never: np.ndarray, share: float, z: float) -> dict[str, Any]:
    total, hits = int(mask.sum()), int(never[mask].sum())
    low, high = wilson(hits, total)
    least, most = wilson(hits, total, z)
    return {"name": label, "questions": total, "unsolved": hits, "share": hits / total, "low": low, "high": high,
            "stands_out": not least <= share <= most}  # fmt: skip


def cut(values: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Ranges of a number, with about as many questions each: ``up to 31``, ``31.5 to 48``, ``from 49``."""
    known = values[~np.isnan(values)]
    if not len(known):
        return []
    marks = np.unique(np.quantile(known, np.arange(1, PARTS) / PARTS, method="lower"))
    place = np.searchsorted(marks, values, side="left")
    found = []
    for at in range(len(marks) + 1):
        mask = (place == at) & ~np.isnan(values)
        if mask.any():
            low, high = f"{values[mask].min():g}", f"{values[mask].max():g}"
            found.append((low if low == high else f"{low} to {high}", mask))
    return found


def by_group(groups: pa.ChunkedArray) -> list[tuple[str, np.ndarray]]:
    """The largest groups of questions by name; none if they are all of one."""
    found = groups.combine_chunks().dictionary_encode()
    codes = np.asarray(found.indices)
    counts = np.bincount(codes, minlength=len(found.dictionary))
    largest = np.argsort(-counts, kind="stable")[:GROUPS]
    return [(found.dictionary[int(at)].as_py() or "(none)", codes == at) for at in largest]


def favourite(samples: Samples) -> tuple[np.ndarray, np.ndarray]:
    """(Q,) each: the answer that most samples of a question give, -1 for none, and how many do."""
    said = samples.vote >= 0
    top = int(samples.vote.max(initial=0)) + 1
    pair, times = np.unique(samples.question[said] * top + samples.vote[said], return_counts=True)
    order = np.lexsort((times, pair // top))
    of, vote, times = pair[order] // top, pair[order] % top, times[order]
    last = np.flatnonzero(np.append(of[1:] != of[:-1], True)) if len(of) else np.zeros(0, np.int64)
    most, most_times = np.full(samples.questions, -1), np.zeros(samples.questions, np.int64)
    most[of[last]], most_times[of[last]] = vote[last], times[last]
    return most, most_times
