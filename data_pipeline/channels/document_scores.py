"""What a channel says of whole documents: one number each, by which a plan orders them or chooses among them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from tracestill.data_pipeline.base.kinds import ROOT, Kinds
from tracestill.data_pipeline.channels.named import Scores, by_token, floats, named, single, split

Statistic = Literal["mean", "mean_step", "worst_step", "rank_surprisal"]
MOST = 100.0  # ranks count as this at most in rank_surprisal


class DocumentScore(BaseModel):
    """A number for each document, of the targets of some kinds and what a channel says of them:

    mean            the mean over targets: of nll, how unlikely the student finds the trace (the part of the learning
                    cost of arXiv 2605.26872 that needs no activations)
    mean_step       the mean over the trace's steps of each one's mean: a long step counts as a short one
    worst_step      the largest of these: the step that the student finds hardest
    rank_surprisal  sum of min(rank, 100) / sum of nll, ranks from 1 (arXiv 2601.14249): small where the student finds
                    little likely, but nothing far-fetched; ``channel`` is the rank, and its scorer has to know nll too
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    channel: str = Field(description="SCORER.CHANNEL of `score`, such as base.nll")
    by: Statistic = Field(
        "mean",
        description="over the targets of `of`: mean; mean of the steps' means; the worst step's mean; or, of a rank, "
        "sum of ranks (100 at most) over sum of nll",
    )
    of: tuple[str, ...] = Field(("trace",), min_length=1, description="kinds or groups whose targets are looked at")

    @field_validator("channel")
    @classmethod
    def _single(cls, channel: str) -> str:
        return single(channel)

    @model_validator(mode="after")
    def _of_ranks(self) -> DocumentScore:
        scorer, channel = split(self.channel)
        if self.by == "rank_surprisal" and channel != "rank":
            raise ValueError(f"by: rank_surprisal is of ranks; set channel: {scorer}.rank")
        return self

    @property
    def channels(self) -> tuple[str, ...]:
        """SCORER.CHANNEL of all that it reads."""
        more = (f"{split(self.channel)[0]}.nll",) if self.by == "rank_surprisal" else ()
        return self.channel, *more

    def __str__(self) -> str:
        return f"{self.by} of {self.channel} over {', '.join(self.of)}"


Said = Callable[[DocumentScore], np.ndarray]
"""A score -> (N,) float64, as ``of_documents`` gives it."""


def of_documents(scores: Scores, score: DocumentScore, kinds: Kinds) -> np.ndarray:
    """(N,) float64, NaN of a document of whose targets nothing is known. Raises InputError for a channel that is not
    there, ValueError for an unknown kind."""
    channels, channel = named(scores, score.channel)
    store, counted, in_trace = channels.store, kinds.mask(score.of), kinds.mask([ROOT])
    found = np.full(len(store), np.nan)
    for document in range(len(store)):
        kind, steps = store.kinds(document), store.steps(document)
        values = floats(channels.of(channel.name, document), channel)
        values = by_token(values, channel, steps, in_trace[kind]).astype(np.float64)
        seen = counted[kind] & ~np.isnan(values)
        seen[:1] = False  # never predicted
        if not seen.any():
            continue
        values = values[seen]
        if score.by == "mean":
            found[document] = values.mean()
        elif score.by == "rank_surprisal":
            nll = channels.of("nll", document)[seen].astype(np.float64)
            found[document] = np.minimum(values + 1, MOST).sum() / max(float(np.nansum(nll)), 1e-6)
        else:
            sums, numbers = np.bincount(steps[seen], values), np.bincount(steps[seen])
            means = sums[numbers > 0] / numbers[numbers > 0]
            found[document] = means.mean() if score.by == "mean_step" else means.max()
    return found
