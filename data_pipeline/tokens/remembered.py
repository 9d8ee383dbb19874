"""Many texts as tokens, in flat arrays instead of an object for each text; pieces seen before are not tokenised again.

Every token is made by the tokenizers library. But a text is given to it in pieces, each of them once: it is cut before
a space that follows something visible, and a piece that is new is cut again where its kind of character changes (see
``cuts``). Tokenizers for which that may change something get whole texts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import chain

import numpy as np
from tokenizers import Tokenizer

from tracestill.data_pipeline.base.numbered import Numbered, ragged, roomier
from tracestill.data_pipeline.tokens.cuts import Cuts, cuts_of

MOST_PIECES, MOST_TOKENS = 1 << 17, 1 << 20  # remembered at a time
PROBE = (
    "",
    " ",
    "So  two\ngaps,\n\n a\ttab \u00e9\u6f22 e\u0301 \U0001f600 it's 1,234.50  \r\n x ",
    " 3 + 4 = 7 $\u0301 \u00a0 a\u0301 b\u2581 c",
    "<<48/2=24>>24 IT'S l'eau   \n \n#### 72.\n\n",
)


class Tokens:
    """The tokens of T texts, n in all. Characters are counted from 0 in each text."""

    def __init__(
        self,
        table: np.ndarray,  # (4, m) int32: id, first character, the one after the last, the first visible one
        bounds: np.ndarray,  # (T + 1,) int64: tokens [bounds[i], bounds[i + 1]) are those of text i
        index: np.ndarray | None = None,  # (n,) int64 columns of the table; None: all of them
        shift: np.ndarray | None = None,  # (n,) int32 characters of the text before those that the table counts
    ) -> None:
        self.table, self.bounds, self.index, self.shift = table, bounds, index, shift

    def column(self, row: int) -> np.ndarray:
        found = self.table[row] if self.index is None else self.table[row].take(self.index)
        return found if self.shift is None or row == 0 else found + self.shift

    @cached_property
    def ids(self) -> np.ndarray:
        """(n,) int32."""
        return self.column(0)

    @cached_property
    def begins(self) -> np.ndarray:
        """(n,) int32 the first character of each token."""
        return self.column(1)

    @cached_property
    def ends(self) -> np.ndarray:
        """(n,) int32 the one after its last character."""
        return self.column(2)

    @cached_property
    def seen(self) -> np.ndarray:
        """(n,) int32 its first character that is no white space; its first one if all are white space."""
        return self.column(3)

    @cached_property
    def lengths(self) -> np.ndarray:
        """(T,) int64 tokens of each text."""
        return np.diff(self.bounds)


class Memory:
    """Texts as tokens, from those of their pieces; ``make`` is asked for those of a piece when it is new."""

    def __init__(
        self,
        keys: Callable[[str], list[str]],  # of a text: the keys of its pieces, one at least
        piece: Callable[[str], str],  # of a key
        make: Callable[[Sequence[str]], Tokens],
    ) -> None:
        self.keys, self.piece, self.make = keys, piece, make
        self.forget()

    def forget(self) -> None:
        self.places = Numbered()
        self.pieces = np.empty((3, 0), np.int64)  # of each: its first token, tokens, characters
        self.tokens = np.empty((4, 0), np.int32)  # as the table of Tokens
        self.used = 0  # columns of it

    def __call__(self, texts: Sequence[str]) -> Tokens:
        if len(self.places) > MOST_PIECES or self.used > MOST_TOKENS:
            self.forget()
        keys = [self.keys(text) for text in texts]
        counts = np.fromiter(map(len, keys), np.int64, len(keys))
        stops = np.cumsum(counts)
        total = int(stops[-1]) if len(stops) else 0
        at = np.fromiter(map(self.places.__getitem__, chain.from_iterable(keys)), np.int64, total)
        if self.places.new:
            self.learn()
        starts, sizes, widths = (row.take(at) for row in self.pieces)
        index, ends = ragged(starts, sizes)
        before = np.cumsum(widths) - widths  # characters of all texts before each piece
        before -= np.repeat(before.take(stops - counts), counts)
        bounds = np.zeros(len(keys) + 1, np.int64)
        bounds[1:] = ends.take(stops - 1)
        return Tokens(self.tokens, bounds, index, np.repeat(before.astype(np.int32), sizes))

    def learn(self) -> None:
        """Remember the new pieces."""
        new, self.places.new = [self.piece(key) for key in self.places.new], []
        made = self.make(new)
        first, used = len(self.places) - len(new), self.used + len(made.ids)
        self.pieces, self.tokens = roomier(self.pieces, len(self.places)), roomier(self.tokens, used)
        widths = np.fromiter(map(len, new), np.int64, len(new))
        self.pieces[:, first : len(self.places)] = self.used + made.bounds[:-1], made.lengths, widths
        self.tokens[:, self.used : used] = made.ids, made.begins, made.ends, made.seen
        self.used = used


class Remembered:
    """A tokenizer as it is, which remembers the tokens of pieces if it may be given a text in pieces.

    What ``backend`` makes of a text must not change afterwards.
    """

    def __init__(self, backend: Tokenizer) -> None:
        self.backend = backend
        self.memory: Memory | None = None
        if (cuts := cuts_of(backend)) is not None:
            finer = Memory(cuts.finer, str, self.whole)
            self.memory = Memory(cuts.keys, Cuts.piece, finer)
            found, plain = self(PROBE), self.whole(PROBE)
            same = (np.array_equal(found.column(row), plain.column(row)) for row in range(4))
            if not (np.array_equal(found.bounds, plain.bounds) and all(same)):
                self.memory = None

    def __call__(self, texts: Sequence[str]) -> Tokens:
        """As ``encode_batch`` without special tokens."""
        return self.whole(texts) if self.memory is None else self.memory(texts)

    def whole(self, texts: Sequence[str]) -> Tokens:
        """The tokens of each text, given to the library as it is."""
        made = self.backend.encode_batch(list(texts), add_special_tokens=False)
        ids = [one.ids for one in made]
        offsets = np.array(list(chain.from_iterable(one.offsets for one in made)), np.int64).reshape(-1, 2)
        bounds = np.concatenate([[0], np.cumsum([len(one) for one in ids], dtype=np.int64)])
        flat = np.array(list(chain.from_iterable(ids)), np.int64)
        seen = first_visible(texts, offsets, bounds)
        return Tokens(np.stack([flat, *offsets.T, seen]).astype(np.int32), bounds)


def first_visible(
    texts: Sequence[str],
    offsets: np.ndarray,  # (n, 2) first character of each token and the one after its last, in its text
    bounds: np.ndarray,  # (T + 1,) tokens of each text
) -> np.ndarray:
    """(n,) position of each token's first character that is no white space, or of its first character."""
    text = "".join(texts)
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    start = np.repeat(np.cumsum(lengths) - lengths, np.diff(bounds))
    begin = np.minimum(offsets[:, 0], np.repeat(lengths, np.diff(bounds)) - 1) + start
    space = np.fromiter(map(str.isspace, text), bool, len(text))
    following = np.where(space, len(text), np.arange(len(text)))
    following = np.minimum.accumulate(following[::-1])[::-1]  # the first visible character at or after each
    visible = following[begin]
    return np.where(visible < offsets[:, 1] + start, visible, begin) - start
