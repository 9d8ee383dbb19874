"""Channels by the names that a recipe gives them: ``base.nll`` is what the scorer ``base`` says."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.kinds import nearest
from tracestill.data_pipeline.channels.channel import BUILT_IN, Channel
from tracestill.data_pipeline.channels.channels import Channels

Scores = Mapping[str, Channels]
"""Scorer -> its channels."""


def split(name: str) -> tuple[str, str]:
    """(scorer, channel) of a name. Raises ValueError if it has no such form."""
    scorer, _, channel = name.rpartition(".")
    if not scorer or not channel:
        raise ValueError(f"'{name}' is no channel's name; expected SCORER.CHANNEL, such as base.nll")
    return scorer, channel


def single(name: str) -> str:
    """A name, if its channel is built in and of one number a token, or a step. Raises ValueError naming the nearest."""
    _, channel = split(name)
    if channel not in BUILT_IN:
        raise ValueError(
            f"'{name}': one number a token or step is needed, not '{channel}'{nearest(channel, [*BUILT_IN])}"
        )
    return name


def scorers_of(names: Iterable[str]) -> list[str]:
    """The scorers of these channels, each once."""
    return list(dict.fromkeys(split(name)[0] for name in names))


def check_offered(name: str, offered: Mapping[str, Sequence[str]]) -> None:
    """Raise ValueError naming the nearest scorer, or channel, unless the recipe's scorers ``offered`` have this one."""
    scorer, channel = split(name)
    if not offered:
        raise ValueError(f"'{name}' needs a scorer: score: {{{scorer}: {{model: student, channels: [{channel}]}}}}")
    if scorer not in offered:
        raise ValueError(f"'{name}': `score` has no '{scorer}'{nearest(scorer, list(offered))}")
    if channel not in offered[scorer]:
        raise ValueError(f"'{name}': score.{scorer} has no '{channel}'{nearest(channel, list(offered[scorer]))}")


def named(scores: Scores, name: str) -> tuple[Channels, Channel]:
    """Raises InputError for a scorer that has not run, or that has no such channel."""
    scorer, channel = split(name)
    if scorer not in scores:
        raise InputError(f"'{name}': nothing is known of '{scorer}' yet; run `tracestill score RUN` first")
    return scores[scorer], scores[scorer].channel(channel)


def floats(values: np.ndarray, channel: Channel) -> np.ndarray:
    """Values of a channel, NaN where nothing is known: float16 and float32 as they are, whole numbers as float32; those
    of several a token as they are stored."""
    if values.dtype.kind == "f" or channel.width > 1:
        return values
    return np.where(values == np.array(channel.missing, values.dtype), np.nan, values).astype(np.float32)


class OfDocument(Mapping[str, np.ndarray]):
    """A document's channels by name, read when they are asked for: (n,) of its tokens, or (steps,); see ``floats``."""

    def __init__(self, scores: Scores, document: int) -> None:
        self.scores, self.document = scores, document

    def __getitem__(self, name: str) -> np.ndarray:
        channels, channel = named(self.scores, name)
        return floats(channels.of(channel.name, self.document), channel)

    def __iter__(self) -> Iterator[str]:
        return (f"{scorer}.{name}" for scorer, channels in self.scores.items() for name in channels.channels)

    def __len__(self) -> int:
        return sum(len(channels.channels) for channels in self.scores.values())


def by_token(
    values: np.ndarray,  # (n,) of tokens, or (steps,)
    channel: Channel,
    steps: np.ndarray,  # (n,) step of the trace that each token lies in
    inside: np.ndarray,  # (n,) bool: tokens of the trace
) -> np.ndarray:
    """(n,) a value for each token: of a channel by steps that of its step, NaN outside of the trace."""
    if channel.per == "token":
        return values
    return np.where(inside, values[np.where(inside, steps, 0)], np.nan).astype(values.dtype)
