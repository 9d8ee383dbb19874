"""Where in a clause something is computed: stretches of operands and operators, and the values that come out."""

from __future__ import annotations

from typing import NamedTuple

from tracestill.data_pipeline.segmentation.lexer import (
    CLOSE,
    CURRENCY,
    LATEX,
    LATEX_SIGN,
    LETTER,
    MARK,
    NUMBER,
    OPEN,
    OPERATES,
    OTHERS,
    PERCENT,
    SIGN,
    STOP,
    WORD,
    Lexed,
    finder,
    is_type,
    is_word,
)
from tracestill.data_pipeline.segmentation.words import OPERATORS

UNITS = 6  # tokens of a unit that may stand between a number and the sign behind it: ``3 (red) apples + 4``
LONGEST = 64  # tokens of an operand, so that no text takes long
NEAR = 1  # and of one before an operator in words
EQUALS = ("=", "≈", "＝")
DASHES = ("-", "–", "−", "－")
LETTER_WORDS = ("a", "i", "y", "e", "o")  # of one letter, in some language
SIGNS = finder(lambda code: is_type(code, SIGN, MARK) or code == LATEX_SIGN or is_word(code, OPERATES))
COMPUTES = finder(lambda code: is_type(code, SIGN, LATEX) or is_word(code, OPERATES))
LETTERS = finder(lambda code: is_word(code, LETTER))
NUMBER_CODE, MARK_CODE = OTHERS + NUMBER, OTHERS + MARK


class Formula(NamedTuple):
    """Tokens [first, last) that compute; those of the result begin at ``result`` (``last``: there is none)."""

    first: int
    last: int
    result: int


def formulas(lexed: Lexed, first: int, last: int, known: set[float], values: dict[int, float]) -> list[Formula]:
    """The formulas among tokens [first, last), in order, without overlap."""
    signs = signs_of(lexed, first, last)
    if not signs:
        return []
    stretches: list[list[int]] = []
    for at, width in signs:
        begin, end = left_of(lexed, at, first), right_of(lexed, at + width, last)
        if stretches and begin <= stretches[-1][1]:
            stretches[-1][1] = max(end, stretches[-1][1])
        else:
            stretches.append([begin, end])
    found = [formula(lexed, *closed(lexed, begin, end, first, last), known, values) for begin, end in stretches]
    return [one for at, one in enumerate(found) if not at or one.first >= found[at - 1].last]


def signs_of(lexed: Lexed, first: int, last: int) -> list[tuple[int, int]]:
    """(index, tokens) of each sign that joins two operands."""
    types, texts = lexed.types, lexed.texts
    found = []
    for match in SIGNS.finditer(lexed.codes, first, last):
        at = match.start()
        kind = types[at]
        if kind == SIGN:
            if is_sign(lexed, at, first, last):
                found.append((at, 1))
        elif kind != WORD:
            found.append((at, 1))
        else:
            text = texts[at]
            if text in OPERATORS:
                width = operator_words(lexed, at, last)
                if width and has_left(lexed, at, first, NEAR) and has_right(lexed, at + width, last):
                    found.append((at, width))
            elif text == "x":
                if has_left(lexed, at, first) and has_right(lexed, at + 1, last):
                    found.append((at, 1))
            elif at > first and types[at - 1] == PERCENT and has_right(lexed, at + 1, last):  # of
                found.append((at, 1))
    return found if len(found) > 1 or not found or not is_range(lexed, *found[0], last) else []


def operator_words(lexed: Lexed, at: int, last: int) -> int:
    """How many tokens of an operator in words begin at ``at``; 0: none."""
    for rest, _ in OPERATORS[lexed.texts[at]]:
        if tuple(lexed.texts[at + 1 : at + 1 + len(rest)]) == rest and at + 1 + len(rest) <= last:
            return 1 + len(rest)
    return 0


def is_sign(lexed: Lexed, at: int, first: int, last: int) -> bool:
    text = lexed.texts[at]
    if text in EQUALS:
        return True
    if not has_right(lexed, at + 1, last):
        return False
    if text in "<>/" or text in DASHES:
        return has_left(lexed, at, first)
    return has_left(lexed, at, first) or text == "√"


def is_range(lexed: Lexed, at: int, width: int, last: int) -> bool:
    """``5-10 minutes``: the only sign of its clause, a dash without spaces."""
    return (
        lexed.texts[at] in DASHES
        and lexed.ends[at - 1] == lexed.starts[at]
        and at + 1 < last
        and lexed.starts[at + 1] == lexed.ends[at]
        and (at + 2 < last and lexed.types[at + 2] == WORD)
    )


def is_variable(lexed: Lexed, at: int) -> bool:
    """Whether a word is one letter that stands for a value, and no article."""
    code = lexed.codes[at]
    if code >= OTHERS or not code & LETTER:
        return False
    return lexed.texts[at] not in LETTER_WORDS or at + 1 == len(lexed.types) or lexed.types[at + 1] != WORD


def has_left(lexed: Lexed, at: int, first: int, units: int = UNITS) -> bool:
    """Whether an operand stands before token ``at``: a number, with its unit, a variable, a bracket."""
    types = lexed.types
    for j in range(at - 1, max(first, at - 1 - units) - 1, -1):
        kind = types[j]
        if kind in (NUMBER, MARK):
            return True
        if j == at - 1 and (kind in (CLOSE, PERCENT, LATEX) or is_variable(lexed, j)):
            return True
        if kind == STOP or (kind == SIGN and lexed.texts[j] != "/"):
            return False
    return False


def has_right(lexed: Lexed, at: int, last: int) -> bool:
    if at >= last:
        return False
    kind = lexed.types[at]
    if kind in (NUMBER, OPEN, LATEX, MARK):
        return True
    if kind == CURRENCY or (kind == SIGN and lexed.texts[at] in (*DASHES, "√")):
        return at + 1 < last and lexed.types[at + 1] in (NUMBER, OPEN, CURRENCY, LATEX)
    return is_variable(lexed, at)


def left_of(lexed: Lexed, at: int, first: int) -> int:
    """Where the operand before the sign at ``at`` begins; ``at`` if there are only words."""
    types, texts = lexed.types, lexed.texts
    begin = at
    alone = types[at] in (MARK, LATEX) and not (at > first and types[at - 1] in (SIGN, CURRENCY))
    for j in () if alone else range(at - 1, max(first, at - 1 - UNITS) - 1, -1):
        kind = types[j]
        if kind in (NUMBER, MARK) or (j == at - 1 and is_variable(lexed, j)):
            begin = j
            break
        if kind == STOP or (kind == SIGN and texts[j] != "/"):
            break
        if kind == CLOSE and j == at - 1:
            begin = j
    floor = max(first, begin - LONGEST)
    while begin > floor and belongs_left(lexed, begin - 1, first):
        begin -= 1
    return begin


def belongs_left(lexed: Lexed, at: int, first: int) -> bool:
    """Whether the token at ``at`` belongs to the operand that begins behind it."""
    kind, following = lexed.types[at], lexed.types[at + 1]
    touches = lexed.ends[at] == lexed.starts[at + 1]
    if kind in (CURRENCY, OPEN, LATEX, PERCENT, CLOSE):
        return True
    if kind == NUMBER:
        return following in (OPEN, LATEX, PERCENT, CURRENCY) or (is_variable(lexed, at + 1) and touches)
    if kind == SIGN:
        return lexed.texts[at] in DASHES and (at == first or lexed.types[at - 1] != NUMBER)
    return is_variable(lexed, at) and lexed.texts[at] not in (*LETTER_WORDS, "x") and following in (OPEN, SIGN)


def right_of(lexed: Lexed, at: int, last: int) -> int:
    """Behind the operand that begins at ``at``."""
    end, seen = at, False
    last = min(last, at + LONGEST)
    while end < last and belongs_right(lexed, end, at, seen):
        seen = seen or lexed.types[end] == NUMBER or is_variable(lexed, end)
        end += 1
    return end


def belongs_right(lexed: Lexed, at: int, begin: int, seen: bool) -> bool:
    """Whether the token at ``at`` belongs to the operand from ``begin`` on; ``seen``: its value has been there."""
    kind = lexed.types[at]
    before = lexed.types[at - 1] if at > begin else 0
    touches = at > begin and lexed.starts[at] == lexed.ends[at - 1]
    if kind in (MARK, PERCENT):
        return True
    if kind == NUMBER:
        return not seen or before in (MARK, LATEX, OPEN)
    if is_variable(lexed, at):
        return not seen or touches
    if not seen:
        return kind in (CURRENCY, OPEN, LATEX) or (kind == SIGN and lexed.texts[at] in DASHES)
    if kind == OPEN:
        return touches and before in (LATEX, CLOSE)
    return touches and kind in (CLOSE, LATEX, CURRENCY)


def closed(lexed: Lexed, begin: int, end: int, first: int, last: int) -> tuple[int, int]:
    """The stretch, longer by the bracket that closes it behind a unit: ``(6 hours * 3 days)``."""
    depth = 0
    for at in range(begin, end):
        depth += (lexed.types[at] == OPEN) - (lexed.types[at] == CLOSE)
    at = end
    while depth > 0 and at < min(last, end + UNITS):
        depth += (lexed.types[at] == OPEN) - (lexed.types[at] == CLOSE)
        at += 1
        if depth == 0:
            end = at
    return begin, end


def formula(lexed: Lexed, begin: int, end: int, known: set[float], values: dict[int, float]) -> Formula:
    """The stretch with its result: the side behind its last equality sign, if it is a value that comes out."""
    texts, codes = lexed.texts, lexed.codes
    signs = [match.start() for match in SIGNS.finditer(codes, begin, end)]
    equals = [(at, 1 if texts[at] in EQUALS else equals_words(lexed, at, end)) for at in signs]
    equals = [(at, width) for at, width in equals if width]
    marks = [(at, 1) for at in signs if codes[at] == MARK_CODE]
    start = max(map(sum, (*equals[-1:], *marks[-1:])), default=end)
    numbers = places_of(NUMBER_CODE, codes, start, end)
    if not numbers:
        return Formula(begin, end, end)
    marked = bool(marks) and start == sum(marks[-1])
    fresh = any(values[at] not in known for at in numbers)
    if marked or fresh or (is_value(lexed, numbers, end) and computes(lexed, begin, equals)):
        return Formula(begin, end, start)
    return Formula(begin, end, end)


def is_value(lexed: Lexed, numbers: list[int], end: int) -> bool:
    """Whether a side is one number, and no term with signs or variables."""
    others = range(numbers[0] + 1, end)
    return len(numbers) == 1 and not any(lexed.types[at] == SIGN or is_variable(lexed, at) for at in others)


def computes(lexed: Lexed, begin: int, equals: list[tuple[int, int]]) -> bool:
    """Whether something is computed between the last equality sign and the one before it, without an unknown."""
    left = range(sum(equals[-2]) if len(equals) > 1 else begin, equals[-1][0])
    letters = (match.start() for match in LETTERS.finditer(lexed.codes, left.start, left.stop))
    unknown = (at for at in letters if is_variable(lexed, at))
    if any(lexed.texts[at] != "x" or not between(lexed, at, left) for at in unknown):
        return False
    if len(equals) > 1:
        return True
    signs = (lexed.texts[match.start()] for match in COMPUTES.finditer(lexed.codes, left.start, left.stop))
    return any(text not in EQUALS and (text != "of" or text in OPERATORS) for text in signs)


def places_of(code: int, codes: bytes, first: int, last: int) -> list[int]:
    """Where a code stands in [first, last)."""
    found = []
    at = codes.find(code, first, last)
    while at >= 0:
        found.append(at)
        at = codes.find(code, at + 1, last)
    return found


def equals_words(lexed: Lexed, at: int, last: int) -> int:
    """How many tokens of an equality sign in words begin at ``at``; 0: none."""
    if lexed.types[at] != WORD or lexed.texts[at] not in OPERATORS:
        return 0
    held = OPERATORS[lexed.texts[at]]
    return operator_words(lexed, at, last) if any(role == "equals" for _, role in held) else 0


def between(lexed: Lexed, at: int, within: range) -> bool:
    """Whether the letter at ``at`` is a sign: an operand on either side."""
    return has_left(lexed, at, within.start) and at + 1 < within.stop and has_right(lexed, at + 1, within.stop)
