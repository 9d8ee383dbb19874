"""The figures of texts that a student wrote while it was trained on them: of its first refresh, and of its last."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from tracestill.data_pipeline.base.schema import read_rows
from tracestill.data_pipeline.rounds.figures import Way, traces_of, way_of
from tracestill.data_pipeline.soundness.checkers.chain import Checks
from tracestill.data_pipeline.soundness.checkers.finding import Trace

TEXTS = "written/texts.parquet"  # of a refresh
READ = pa.schema(  # the columns that are looked at
    [
        *((name, pa.string()) for name in ("question_id", "question", "gold", "trace", "answer", "reason")),
        ("correct", pa.bool_()),
        ("tokens", pa.int32()),
    ]
)


def refreshes_in(folder: Path) -> list[Path]:
    """The first and the last refresh of a training whose texts are there; one if they are the same, or none."""
    found = [path for path in sorted(folder.glob("[0-9]*")) if (path / TEXTS).is_file()]
    return found if len(found) < 2 else [found[0], found[-1]]


def figures_of(
    refreshes: Sequence[Path], first: Sequence[Way] | None, rare: float, checks: Checks, teacher: str
) -> list[dict[str, Any]]:
    """Of each of them ``traces_of`` its texts beside ``first``, its number (``refresh``) and the mean length of a text
    in ``tokens``; ``kept`` counts texts that became documents. ``first``: None for the texts of the first refresh."""
    found = []
    for path in refreshes:
        rows = [row for row in read_rows(path / TEXTS, READ) if row["tokens"]]  # a question that was refused has none
        every = [own_way(row, checks, teacher) for row in rows]
        first = every if first is None else first
        tokens = sum(row["tokens"] for row in rows) / max(len(rows), 1)
        found.append({"refresh": int(path.name), "tokens": tokens, **traces_of(every, first, rare)})
    return found


def own_way(row: dict[str, Any], checks: Checks, teacher: str) -> Way:
    trace = Trace(row["trace"], row["question"], row["answer"] or "", row["gold"])
    right = bool(row["correct"] and checks.first_false(trace, ask=False) is None)
    return way_of(row, teacher, right=right, kept=not row["reason"], sample=0)
