"""The equations of a text, and whether they hold.

An equation is a chain ``a = b = c`` whose sides are arithmetic on numbers: the usual signs, LaTeX, words that mean a
sign (``times``, ``divided by``, ``is equal to``), powers, roots, ``log``, ``int`` and the like. ``≈``, ``<``, ``>``,
``≤``, ``≥`` are checked too, and ``20 * 5 is 100``. Numbers may carry a currency sign, separators of thousands by
either convention, a percent sign and units in words (``240 km / 4 km/hour``).

The checker reports an equation as false only if no usual reading makes it true; what it cannot read, it leaves out:
- a side with a variable that has no known value (``2x + 30``, ``137 + T``) or an operator without its operand, but
  for what holds for no value (``8x + 2x = 11x``);
- a side of more than 60 tokens: it is not read in parts;
- a chain without any operation is no equation (``Class 2 = 15``);
- a chain that names units of no certain size, what is supposed or asked, and what the text itself takes back;
- ``5 bananas + 12 apples = 5 * $1 + 12 * $2``: the first side names what is counted.

The other readings are those of expressions.py (a fraction without spaces binds tighter, ...) and of relations.py (units
converted, a clock, a remainder, rounded where the words say so); run-on signs (``3 * 10 = 30 shirts * $60 = $1800``)
are read on from the first number.

Arithmetic is exact (``fractions.Fraction``). A decimal with k places holds if rounding or cutting the exact value
to k places gives it: ``10 / 3 = 3.33``, ``2 / 3 = 0.66``, but an integer holds only exactly, unless the text speaks of
rounding or a remainder. A decimal of 5 or more places that enters a side is taken as rounded itself: it allows a
relative error of 10^(1-k), counted on the largest operand or result.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tracestill.data_pipeline.segmentation.clean import PATTERNS
from tracestill.data_pipeline.soundness import context
from tracestill.data_pipeline.soundness.relations import Place, Verdict, related, sizes_of
from tracestill.data_pipeline.soundness.sides import Group, chains, head_of, is_counted, runs
from tracestill.data_pipeline.soundness.tokens import tokens_of
from tracestill.data_pipeline.soundness.variables import identities, with_values

NOTE = PATTERNS["calculator"]
NOWHERE = Place("", 0, 0, 0, {}, False)


@dataclass(frozen=True)
class Equation:
    """A chain of sides: where it stands in the text, its normalised form, and whether every sign in it holds."""

    start: int
    end: int
    text: str
    path: str  # numbers and operators alone, equal for equal steps whatever words stand between them
    holds: bool
    why: tuple[str, ...] = ("as written",)  # the readings that make it hold; of a false one all that were tried


def equations(text: str) -> list[Equation]:
    """The equations of ``text`` in order of appearance.

    A note of GSM8K's calculator (``<<48/2=24>>``) is read where the text around it holds no equation.
    """
    found = all_read(text)
    return [one for one in found if one.holds or not is_said_again(one, found)]


def is_said_again(one: Equation, found: list[Equation]) -> bool:
    """Whether the same is computed again soon, and rightly: ``12 + 8 = 21. No, it is 12 + 8 = 20``."""
    computed = one.path.partition("=")[0] + "="
    return any(
        other.holds and 0 <= other.start - one.end < context.FAR and other.path.startswith(computed) for other in found
    )


def all_read(text: str) -> list[Equation]:
    notes = list(NOTE.finditer(text))
    if not notes:
        return list(equations_of(text, text))
    found = list(equations_of(NOTE.sub(lambda match: " " * len(match[0]), text), text))
    for note in notes:
        if not any(one.start <= note.start() <= one.end for one in found):
            found += equations_of(note[0][2:-2], text, note.start() + 2)
    return sorted(found, key=lambda one: one.start)


def equations_of(plain: str, text: str, offset: int = 0) -> Iterator[Equation]:
    """The equations of ``plain``, which stands at ``offset`` in ``text``."""
    for segments, signs in chains(with_values(tokens_of(plain))):
        parts = [part for group in runs(segments, signs) for part in asserted(group)]
        parts += [Group([left, right], ["="], 0, False) for left, right in identities(segments, signs)]
        for part in parts:
            if len(part.sides) < 2 or not any(side.operations for side in part.sides):
                continue
            start, end = part.sides[0].start + offset, part.sides[-1].end + offset
            verdict = judged(part, text, start, end)
            if verdict.holds is not None:
                yield Equation(start, end, text[start:end], path(part), verdict.holds, verdict.why)


def asserted(group: Group) -> Iterator[Group]:
    """The chain without sides that only name what is counted."""
    first = 0
    for at, (left, right) in enumerate(zip(group.sides, group.sides[1:], strict=False)):
        if is_counted(left, right) and not related(left, group.signs[at], right, NOWHERE).holds:
            yield cut(group, first, at)
            first = at + 1
    yield cut(group, first, len(group.signs))


def cut(group: Group, first: int, last: int) -> Group:
    return group._replace(sides=group.sides[first : last + 1], signs=group.signs[first:last])


def judged(group: Group, text: str, start: int, end: int) -> Verdict:
    """Whether all signs hold; None where one does not for sure, or the text does not stand by it."""
    sizes, vague = sizes_of(group.sides)
    place = Place(text, start, end, group.modulus, sizes, vague or group.soft)
    why: list[str] = []
    unsure = False
    for at, sign in enumerate(group.signs):
        left, right = group.sides[at : at + 2]
        verdict = related(left, sign, right, place)
        if not verdict.holds and sign in "=≈" and left.operations and (head := head_of(right)) is not None:
            run_on = related(left, sign, head, place)
            verdict = Verdict(True, (*run_on.why, "a run-on sign")) if run_on.holds else verdict
        if verdict.holds is False:
            compares = sign in "<>≤≥"
            if context.is_taken_back(text, end) or context.is_supposed(text, start, end, compares):
                return Verdict(None, verdict.why)
            return verdict
        unsure = unsure or verdict.holds is None
        why += [name for name in verdict.why if name not in why]
    others = [name for name in why if name != "as written"]
    return Verdict(None if unsure else True, tuple(others or why))


def path(group: Group) -> str:
    signs = [*group.signs, ""]
    return "".join(side.path + sign for side, sign in zip(group.sides, signs, strict=True))
