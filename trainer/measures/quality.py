"""The part ``evaluate.quality``: what traces are like, beside whether their answers are right.

Are they sound, by the verdicts of ``select.checks``; how many paths does a student know (of the samples, where
``evaluate.samples`` drew some); how like the teacher's is its trace; how long is it. A student that imitates and does
not transfer has traces like the teacher's and wrong answers. Nobody is asked anything.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from rapidfuzz.distance import Indel, Levenshtein

from tracestill.data_pipeline.base.schema import read_rows
from tracestill.data_pipeline.selection.paths import PathsConfig, path_of
from tracestill.data_pipeline.selection.repetition import words_of
from tracestill.data_pipeline.soundness import equations
from tracestill.data_pipeline.soundness.checkers.chain import Checks
from tracestill.trainer.measures.samples import NAME as SAMPLES
from tracestill.trainer.measures.samples import SAMPLE_SCHEMA, is_sound
from tracestill.trainer.measures.spread import equal_mass, mean, share
from tracestill.trainer.measures.votes import count_of

if TYPE_CHECKING:
    from tracestill.trainer.evaluation.parts import Context

Row = dict[str, Any]
NAME = "quality"
LONGEST = 4096  # words of a trace that are compared
QUALITY_SCHEMA = pa.schema(
    [
        ("question_id", pa.string()),
        ("judged", pa.bool_()),  # somebody can tell whether the answer is right
        ("correct", pa.bool_()),
        ("trace_tokens", pa.int32()),
        ("sound", pa.bool_()),  # null: it wrote no trace
        ("rouge_l", pa.float64()),  # with the teacher's trace that is most like it; null: there is none
        ("edits", pa.float64()),  # likewise: 1 - edits of words over the longer one's words
    ]
)


def quality(context: Context) -> Row:
    """``sound`` and ``alike`` of traces, ``lengths``, and ``paths`` of samples: see ``summary`` and ``paths``. Writes
    quality.parquet."""
    config = context.recipe.evaluate.quality
    assert config is not None
    check = Checks(context.recipe.select.checks, "select.checks")
    rows: list[Row] = []
    counts = count_of([[row] for row in context.predictions])
    for question, row, judged in zip(context.questions, context.predictions, counts, strict=True):
        written = bool(row["trace"].strip())
        teachers = [each["trace"] for each in context.records.get(question["question_id"], ()) if each["trace"].strip()]
        known = {key: row[key] for key in ("question_id", "correct", "trace_tokens")} | {"judged": judged}
        is_so = is_sound(check, row, question) if written else None
        rows.append({**known, "sound": is_so, **(alike(row["trace"], teachers) if written else alike("", ()))})
    context.write(NAME, rows, QUALITY_SCHEMA)
    found = summary(rows, config.bins, context.recipe.seed)
    if context.recipe.evaluate.samples is not None:
        found["paths"] = paths(read_rows(context.path / f"{SAMPLES}.parquet", SAMPLE_SCHEMA), context.recipe.seed)
    return found


def alike(trace: str, teachers: Sequence[str]) -> Row:
    """How like it the most like of the teachers' traces is, in words: ``rouge_l`` (F1 of the longest common
    subsequence, Lin 2004) and ``edits`` (1 - Levenshtein's distance over the longer one's length); None without one."""
    if not teachers:
        return {"rouge_l": None, "edits": None}
    own, others = words_of(trace)[:LONGEST], [words_of(each)[:LONGEST] for each in teachers]
    return {
        "rouge_l": max(Indel.normalized_similarity(own, other) for other in others),  # 2 * LCS / (m + n)
        "edits": max(Levenshtein.normalized_similarity(own, other) for other in others),
    }


def summary(rows: Sequence[Mapping[str, Any]], bins: int, seed: int) -> Row:
    """From rows of QUALITY_SCHEMA: ``sound``, the share of traces, and ``sound_right``, ``sound_wrong``, of those with
    right answers and others; ``alike``: by measure the mean over ``all``, ``right`` and ``wrong`` questions, and the
    shares right in ``bins`` of likeness; ``lengths``: those in bins of tokens. A question without a gold answer is
    neither right nor wrong (``without_gold``: traces of such ones)."""
    traces = [row for row in rows if row["sound"] is not None]
    judged = [row for row in traces if row["judged"]]
    groups = {
        "": traces,
        "_right": [r for r in judged if r["correct"]],
        "_wrong": [r for r in judged if not r["correct"]],
    }
    found: Row = {f"sound{name}": share(sum(row["sound"] for row in of), len(of)) for name, of in groups.items()}
    compared = {"all": alike_in(traces), "right": alike_in(groups["_right"]), "wrong": alike_in(groups["_wrong"])}
    found["alike"] = {
        measure: {
            **{name: mean(np.array([row[measure] for row in of]), seed) for name, of in compared.items()},
            "bins": in_bins(alike_in(judged), measure, bins),
        }
        for measure in ("rouge_l", "edits")
    }
    found["without_gold"] = len(traces) - len(judged)
    return {**found, "lengths": in_bins(judged, "trace_tokens", bins)}


def alike_in(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those that a teacher's trace could be compared with."""
    return [row for row in rows if row["rouge_l"] is not None]


def in_bins(rows: Sequence[Mapping[str, Any]], key: str, bins: int) -> list[Row]:
    """The share right in each of the bins of equally many: with ``least``, ``most`` and ``mean`` of the key."""
    values = np.array([row[key] for row in rows], np.float64)
    right = np.array([row["correct"] for row in rows], np.float64)
    found = []
    if len(rows):
        bin_of = equal_mass(values, bins)
        for at in range(int(bin_of.max()) + 1):
            inside = values[bin_of == at]
            said = {"least": float(inside.min()), "most": float(inside.max()), "mean": float(inside.mean())}
            found.append({**said, **share(float(right[bin_of == at].sum()), len(inside))})
    return found


def paths(rows: Sequence[Mapping[str, Any]], seed: int) -> Row:
    """From rows of SAMPLE_SCHEMA, over questions: ``all``, distinct paths among their samples with a trace, in the
    mean (the same equations in the same order are one, or the same words where there is none), and ``right``, those of
    samples that are right and sound."""
    every: dict[str, set[str]] = defaultdict(set)
    good: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        named = every[row["question_id"]], good[row["question_id"]]
        if row["trace"].strip():
            path = path_of(row["trace"], equations(row["trace"]), " ".join(words_of(row["trace"])), PathsConfig())
            named[0].add(path)
            if row["correct"] and row["sound"]:
                named[1].add(path)
    return {
        name: mean(np.array([len(held[question]) for question in every], np.float64), seed)
        for name, held in (("all", every), ("right", good))
    }
