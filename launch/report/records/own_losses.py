"""The loss of each token of a text under the student that wrote it, for the colours of the table of traces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tracestill.data_pipeline.guards.visible import visible
from tracestill.launch.report.records.shown import Texts

COLOURED = 1_000_000  # tokens of a page at most
HUNDREDTHS = 100  # of a nat: losses are written as whole numbers of these
HIGHEST = 99  # percentile of the losses that has the full colour
Losses = list[list[int]]
"""Of each stretch of a text as it is shown its length, in UTF-16 units as browsers count, and its loss in hundredths of
a nat. A stretch is a token, or the tokens that only together are a character."""


class OwnLosses:
    """The losses of a page's texts, those that are asked for first."""

    def __init__(self) -> None:
        self.left = COLOURED
        self.values: list[np.ndarray] = []
        self.without = 0  # texts whose losses are known, and not shown

    def of(self, row: Mapping[str, Any], texts: Texts) -> Losses | None:
        """Those of a prediction's text; None where they are not known, or the text is not shown as it was written: a
        secret in it is masked, or its middle is left out."""
        text, ends, logprobs = row["text"] or "", row.get("ends"), row.get("logprobs")
        if not ends or not logprobs or texts.masked[text] != text:
            return None
        if len(text) > texts.limit or len(ends) > self.left:
            self.without += 1
            return None
        lengths, losses = [], []
        at = 0
        for end, logprob in zip(ends, logprobs, strict=True):
            if end > at:
                lengths.append(units(visible(text[at:end])))
                losses.append(-logprob)
            elif losses:
                losses[-1] -= logprob
            at = max(at, end)
        self.left -= len(ends)
        self.values.append(np.array(losses, np.float32))
        return [lengths, np.rint(np.array(losses) * HUNDREDTHS).astype(int).tolist()]

    @property
    def full(self) -> float | None:
        """The loss in nats that has the full colour; None where no losses are shown."""
        if not self.values:
            return None
        return max(1 / HUNDREDTHS, float(f"{np.percentile(np.concatenate(self.values), HIGHEST):.3g}"))


def units(text: str) -> int:
    """The length of a text in UTF-16 units."""
    return len(text) + sum(letter > "\uffff" for letter in text)
