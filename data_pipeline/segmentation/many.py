"""Many texts as tokens at a time, as ``lexer.lex`` has them: words that come again are not looked at again."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import chain

import numpy as np

from tracestill.data_pipeline.base.numbered import Numbered, ragged, roomier
from tracestill.data_pipeline.segmentation.lexer import Lexed, lex

END = "\n"  # behind each text: a token of no type, so that nothing goes on into the next one
SPACED = re.compile(r"<<[^<>\n]*[^\S\n][^<>\n]*>>")  # the only token with white space in it
MOST_WORDS, MOST_TOKENS = 1 << 17, 1 << 20  # remembered at a time


class Lexicon:
    """The tokens of words."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        self.numbers = Numbered()
        self.words = np.empty((3, 0), np.int64)  # of each: its first token, tokens, characters with the space behind it
        self.tokens = np.empty((4, 0), np.int32)  # type, code, first character and the one after the last
        self.texts: list[str] = []  # of the tokens

    def __call__(self, texts: Sequence[str]) -> tuple[Lexed, list[int]]:
        """The tokens of N texts, one behind the other, each followed by one of type 0; and (N + 1) where each text
        begins among them. Characters are counted from 0 in each text."""
        if len(self.numbers) > MOST_WORDS or len(self.texts) > MOST_TOKENS:
            self.forget()
        keys = [words_of(text) for text in texts]
        counts = np.fromiter(map(len, keys), np.int64, len(keys))
        stops = np.cumsum(counts)
        total = int(stops[-1]) if len(stops) else 0
        at = np.fromiter(map(self.numbers.__getitem__, chain.from_iterable(keys)), np.int64, total)
        if self.numbers.new:
            self.learn()
        starts, sizes, widths = (row.take(at) for row in self.words)
        index, ends = ragged(starts, sizes)
        before = np.cumsum(widths) - widths
        before -= np.repeat(before.take(stops - counts), counts)
        shift = np.repeat(before, sizes)
        types, codes, begin, end = (row.take(index) for row in self.tokens)
        begin += shift
        end += shift
        text = list(map(self.texts.__getitem__, index.tolist()))
        lexed = Lexed(types.tolist(), text, begin.tolist(), end.tolist(), codes.astype(np.uint8).tobytes())
        return lexed, [0, *ends.take(stops - 1).tolist()]

    def learn(self) -> None:
        new, self.numbers.new = self.numbers.new, []
        made = [lex(word) if word != END else Lexed([0], [""], [0], [0], b"\xff") for word in new]
        first, used = len(self.numbers) - len(new), len(self.texts)
        sizes = np.fromiter((len(one.types) for one in made), np.int64, len(made))
        self.texts += chain.from_iterable(one.texts for one in made)
        self.words = roomier(self.words, len(self.numbers))
        self.tokens = roomier(self.tokens, len(self.texts))
        widths = np.fromiter(map(len, new), np.int64, len(new)) + 1
        self.words[:, first : len(self.numbers)] = used + np.cumsum(sizes) - sizes, sizes, widths
        for row, column in enumerate(("types", "codes", "starts", "ends")):
            values = chain.from_iterable(getattr(one, column) for one in made)
            self.tokens[row, used : len(self.texts)] = np.fromiter(values, np.int32, int(sizes.sum()))


def words_of(text: str) -> list[str]:
    """The words of a text, and END."""
    if "<<" in text and SPACED.search(text):
        return [text, END]
    words = text.replace("\n", " ").split(" ")
    words.append(END)
    return words
