"""Letters that a text gives one value: ``x = 5``, and from there on ``2x + 3`` can be read; and sides that
are equal whatever value it has."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

from tracestill.data_pipeline.soundness.expressions import Side
from tracestill.data_pipeline.soundness.reader import PLAIN
from tracestill.data_pipeline.soundness.sides import runs
from tracestill.data_pipeline.soundness.tokens import LETTER, Token
from tracestill.data_pipeline.soundness.units import COUNT, units_of

ENDS = ("break", "word", "close")


def with_values(tokens: list[Token]) -> list[Token]:
    """The tokens with numbers in the place of letters whose value is known: those that the text gives one, and no
    second one."""
    given: dict[str, list[tuple[int, Token]]] = {}
    for at in range(len(tokens) - 2):
        name, sign, number = tokens[at : at + 3]
        if not is_letter(name) or sign.text != "=" or number.type != "number":
            continue
        before, after = tokens[at - 1].type if at else "break", tokens[at + 3].type if at + 3 < len(tokens) else "break"
        if after == "word" and any(unit.family != COUNT for unit in units_of(tokens[at + 3].text)):
            after = "unit"  # 20 minutes may be told in hours further down
        if before in ("break", "word", "open") and after in ENDS:
            given.setdefault(name.text, []).append((at + 3, number))
    known = {name: found[0] for name, found in given.items() if len({number.text for _, number in found}) == 1}
    if not known:
        return tokens
    found: list[Token] = []
    for at, token in enumerate(tokens):
        since, number = known.get(token.text, (len(tokens), token)) if is_letter(token) else (len(tokens), token)
        if at < since or (at + 1 < len(tokens) and tokens[at + 1].text == "=" and found[-1].type in ("break", "word")):
            found.append(token)
            continue
        put(found, token, number)
    return found


def put(found: list[Token], letter: Token, number: Token) -> None:
    """Append a number in the place of a letter, with the sign of a product where none is written: ``2x``."""
    if found and found[-1].type in ("number", "close") and found[-1].end == letter.start:
        found.append(Token("operator", "*", letter.start, letter.start))
    found.append(number._replace(start=letter.start, end=letter.end))


def in_one_letter(segments: list[list[Token]]) -> list[list[list[Token]]]:
    """The segments of a chain with 0, 1 and 2 in the place of its letter; none if it has no letter, or several."""
    letters = {token.text for segment in segments for token in segment if is_letter(token)}
    if len(letters) != 1:
        return []
    found = []
    for value in "012":
        chain = []
        for segment in segments:
            row: list[Token] = []
            for token in segment:
                if is_letter(token):
                    put(row, token, Token("number", value, 0, 0, "", LETTER + token.text))
                else:
                    row.append(token)
            chain.append(row)
        found.append(chain)
    return found


def identities(segments: list[list[Token]], signs: list[str]) -> Iterator[tuple[Side, Side]]:
    """Pairs of sides that are equal for no value of a letter but 0, or for each one, if they are what they are told to
    be: as numbers, with the letter taken as 1 (``8x + 2x = 10x``) or 0 (``x + 3 + 4 = x + 7``).

    An equation that has a solution (``2x + 3 = x + 9``) is none.
    """
    pairs: list[dict[tuple[int, int], tuple[Side, Side]]] = []
    for chain in in_one_letter(segments):
        found = {}
        for group in runs(chain, signs):
            for left, sign, right in zip(group.sides, group.signs, group.sides[1:], strict=False):
                if left.operations == 0 and left.tokens[0].unit.startswith(LETTER):
                    continue  # ``x = x + 1`` of a program
                if sign == "=" and not group.soft and has_letter(left) and has_letter(right):
                    found[left.start, right.end] = left, right
        pairs.append(found)
    for key in pairs[0].keys() & pairs[1].keys() & pairs[2].keys() if pairs else ():
        lefts, rights = ([plain(found[key][which]) for found in pairs] for which in (0, 1))
        if lefts[2] - lefts[1] != lefts[1] - lefts[0] or rights[2] - rights[1] != rights[1] - rights[0]:
            continue
        if lefts[1] - lefts[0] == rights[1] - rights[0]:
            yield pairs[0][key]
        elif lefts[0] == rights[0] == 0:
            yield pairs[1][key]


def has_letter(side: Side) -> bool:
    return any(token.unit.startswith(LETTER) for token in side.tokens)


def plain(side: Side) -> Fraction:
    outcome = side.value(PLAIN)
    assert outcome is not None
    return outcome.number


def is_letter(token: Token) -> bool:
    return token.type == "unknown" and len(token.text) == 1 and token.text.isalpha()
