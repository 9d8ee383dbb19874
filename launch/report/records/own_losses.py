"""The loss of each token of a text under the student that wrote it, for the colours of the table of traces."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow.parquet as pq

from tracestill.data_pipeline.guards.visible import visible
from tracestill.launch.report.records.shown import Texts
from tracestill.trainer.evaluation.predictions import BY_TOKEN

Key = TypeVar("Key", bound=Hashable)
MOST_TOKENS = 1_000_000  # that a page colours, shared out among its students
HUNDREDTHS = 100  # of a nat: losses are written as whole numbers of these
HIGHEST = 99  # percentile of the losses that has the full colour
Losses = list[list[int]]
"""Of each stretch of a text as it is shown its length, in UTF-16 units as browsers count, its loss in hundredths of a
nat, and, if some stretch is more than one token, how many each is: those that only together are a character."""


class OwnLosses:
    """The losses of a page's texts. ``without``: texts whose losses are known, and not shown."""

    def __init__(self, students: int = 1) -> None:
        self.share = MOST_TOKENS // max(1, students)
        self.values: list[np.ndarray] = []
        self.without = 0

    def of_student(
        self, directory: Path, rows: Iterable[tuple[Key, Mapping[str, Any]]], texts: Texts
    ) -> dict[Key, Losses]:
        """Those of the first rows of an evaluation, with ``at``, their number in its predictions. Left out is what is
        not known, or not shown as it was written: with a secret masked, or its middle left out."""
        path = directory / "predictions.parquet"
        if not {*BY_TOKEN} <= {*pq.read_schema(path).names}:
            return {}
        table = pq.read_table(path, columns=[*BY_TOKEN])
        ends, logprobs = (table[name].combine_chunks() for name in BY_TOKEN)
        found: dict[Key, Losses] = {}
        left = self.share
        for key, row in rows:
            text, own = row["text"], [column[row["at"]].values for column in (ends, logprobs)]
            if not text or any(column is None for column in own):
                continue
            end, logprob = (column.to_numpy(zero_copy_only=False) for column in own)
            if not np.isfinite(logprob).all():
                continue
            if len(end) > left:
                left = 0  # no shorter one goes before it
            if not left or texts.masked[text] != text or len(text) > texts.limit:
                self.without += 1
                continue
            left -= len(end)
            found[key] = self.stretches(text, end, logprob)
        return found

    def stretches(self, text: str, ends: np.ndarray, logprobs: np.ndarray) -> Losses:
        """Of a text whose tokens end there."""
        starts = np.concatenate([[0], ends[:-1]])
        begins = np.flatnonzero(ends > starts)  # tokens without a character belong to the one before, first ones to it
        bounds = np.concatenate([[0], begins[1:]])
        losses = -np.add.reduceat(logprobs.astype(np.float64), bounds)
        self.values.append(losses)
        lengths = [units(visible(text[starts[at] : ends[at]])) for at in begins]
        made = [lengths, np.rint(losses * HUNDREDTHS).astype(int).tolist()]
        counts = np.diff([*bounds, len(ends)])
        return [*made, counts.tolist()] if counts.max() > 1 else made

    @property
    def full(self) -> float | None:
        """The loss in nats that has the full colour; None where no losses are shown."""
        if not self.values:
            return None
        return max(1 / HUNDREDTHS, float(f"{np.percentile(np.concatenate(self.values), HIGHEST):.3g}"))


def units(text: str) -> int:
    """The length of a text in UTF-16 units."""
    return len(text) + sum(letter > "\uffff" for letter in text)
