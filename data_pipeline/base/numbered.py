"""Texts that come again and again, numbered, so that what is known of each can lie in tables."""

from __future__ import annotations

import numpy as np


class Numbered(dict[str, int]):
    """Text -> its number; a new one gets the next number, and is noted in ``new``."""

    def __init__(self) -> None:
        super().__init__()
        self.new: list[str] = []

    def __missing__(self, text: str) -> int:
        self[text] = number = len(self)
        self.new.append(text)
        return number


def roomier(table: np.ndarray, needed: int) -> np.ndarray:
    """A table (rows, n), with room for more columns if it has less than is needed."""
    if table.shape[1] >= needed:
        return table
    return np.concatenate([table, np.empty((len(table), needed), table.dtype)], axis=1)


def ragged(
    starts: np.ndarray,  # (k,) int64: where each of k stretches begins
    sizes: np.ndarray,  # (k,) int64
) -> tuple[np.ndarray, np.ndarray]:
    """((n,) places of all stretches, one behind the other; (k,) where each ends among them)."""
    ends = np.cumsum(sizes)
    index = np.repeat(starts - ends + sizes, sizes)
    index += np.arange(len(index))
    return index, ends
