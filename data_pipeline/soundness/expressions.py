"""Expressions in their place: the longest one at the beginning of some tokens, and its values under each reading."""

from __future__ import annotations

from collections.abc import Sequence

from tracestill.data_pipeline.soundness.functions import Unreadable
from tracestill.data_pipeline.soundness.reader import PARTS, PLAIN, Outcome, Reader, Reading
from tracestill.data_pipeline.soundness.tokens import LETTER, Token


class Side:
    """An expression in its place: its tokens, and its value under each reading."""

    def __init__(self, tokens: Sequence[Token], reader: Reader, plain: Outcome, last: int) -> None:
        self.tokens = tokens
        self.operations = reader.operations
        self.places = reader.places  # decimal places: of the number itself if it is a lone one, else of any operand
        self.could = frozenset(reader.could if reader.operations else reader.could - {PARTS})
        self.start = tokens[0].start
        self.end = tokens[last].end
        self._found: dict[frozenset[str], Outcome | None] = {PLAIN.names: plain}

    @property
    def path(self) -> str:
        """Numbers and operators alone."""
        texts, before = [], ""
        for token in self.tokens:
            if token.type != "word":
                mixed = token.type == before == "number"
                texts.append(" " + canonical(token) if mixed else canonical(token))
                before = token.type
        return "".join(texts)

    @property
    def words(self) -> list[str]:
        return [token.text for token in self.tokens if token.type == "word"]

    def value(self, reading: Reading) -> Outcome | None:
        """None where this reading gives no value or does not take all of the tokens."""
        key = reading.names
        if key not in self._found:
            reader = Reader(self.tokens, reading)
            try:
                outcome = reader.outcome()
            except Unreadable:
                self._found[key] = None
            else:
                self._found[key] = outcome if reader.skip_words() == len(self.tokens) else None
        return self._found[key]


def evaluate(tokens: Sequence[Token]) -> tuple[Side, int]:
    """The longest expression at the beginning of ``tokens`` and how many of them it takes, units behind it included.

    Raises Unreadable if there is none, or one whose value is undefined or has no single meaning.
    """
    reader = Reader(tokens, PLAIN)
    plain = reader.outcome()
    used = reader.skip_words()
    last = max(at for at in range(used) if tokens[at].type != "word")
    return Side(tokens[:used], reader, plain, last), used


def canonical(token: Token) -> str:
    if token.unit.startswith(LETTER):
        return token.unit.removeprefix(LETTER)
    if token.type != "number" or "/" in token.text:
        return token.text
    whole, _, places = token.text.removesuffix("%").partition(".")
    if "e" in token.text.lower():
        return token.text
    digits = f"{int(whole or 0)}.{places}".rstrip("0").rstrip(".") if places else str(int(whole))
    return digits + ("%" if token.text.endswith("%") else "")
