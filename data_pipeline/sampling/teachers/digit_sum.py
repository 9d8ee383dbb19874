"""Digits summed modulo M, and a symbolic teacher that adds them one by one in words and sometimes errs.

    What is (7 + 4 + 9 + 3 + 8) mod 10?
    Order 9,4,7,3,8. Let me add. 9+4=13. 13+7=20. 20+3=23. 23+8=31. 31 mod 10=1. Check 30+1=31.
    plan             prose       derive                                          check

Small on purpose: with digits split, five digits take about 65 tokens a trace.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Mapping

from pydantic import BaseModel, ConfigDict, Field

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.schema import Question, Span, content_id
from tracestill.data_pipeline.sampling.teachers.protocol import Solution

ENUMERABLE = 1_000_000  # up to this many digit sequences are shuffled as a whole; beyond it, they are drawn
MISREAD, CANCEL = 0.25, 0.15  # shares of the errors; the rest are slips
OPENINGS = ("Let me add.", "Now add.", "Add them up.")


class Options(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    digits: int = Field(5, ge=2, le=30, description="digits in a question")
    modulus: int = Field(10, ge=2, le=99, description="the sum is taken modulo this")


class TeacherOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    error_rate: float = Field(0.08, ge=0, le=1, description="probability that a step of the derivation goes wrong")


def questions(split_counts: Mapping[str, int], options: Options, seed: int) -> list[Question]:
    """Questions of all splits. Test questions are drawn first, then validation ones, so that they are the same for any
    number of the others.

    Addition commutes, so a held-out question must be no permutation of another: the splits share no multiset of
    digits, and no two held-out questions have the same. Training questions may be permutations of each other.
    Raises InputError if ``options`` do not have that many.
    """
    wanted_train, wanted_test = split_counts.get("train", 0), split_counts.get("test", 0)
    held = wanted_test + split_counts.get("validation", 0)
    space, multisets = 10**options.digits, math.comb(options.digits + 9, 9)
    drawn = digit_sequences(options.digits, random.Random(f"digit_sum {seed}"))
    held_out: dict[tuple[int, ...], tuple[int, ...]] = {}
    train: list[tuple[int, ...]] = []
    if held <= multisets // 2:  # rare multisets would take forever to draw
        while len(held_out) < held:
            digits = next(drawn)
            held_out.setdefault(tuple(sorted(digits)), digits)
        left = space - sum(map(permutations, held_out))
        if wanted_train <= (left // 2 if space > ENUMERABLE else left):
            rest = (digits for digits in drawn if tuple(sorted(digits)) not in held_out)
            train = list(itertools.islice(rest, wanted_train))
    if len(train) < wanted_train or len(held_out) < held:
        raise InputError(
            f"questions.options: {options.digits} digits have {space:,} sequences and {multisets:,} multisets, too few "
            f"for {wanted_train} training and {held} held-out questions that share no multiset; raise digits or ask "
            "for fewer questions"
        )
    splits = ["test"] * wanted_test + ["validation"] * (held - wanted_test)
    return [pose(digits, options.modulus, "train") for digits in train] + [
        pose(digits, options.modulus, split) for digits, split in zip(held_out.values(), splits, strict=True)
    ]


def permutations(digits: tuple[int, ...]) -> int:
    """How many different sequences these digits form."""
    return math.factorial(len(digits)) // math.prod(math.factorial(digits.count(d)) for d in set(digits))


def digit_sequences(length: int, rng: random.Random) -> Iterator[tuple[int, ...]]:
    """Distinct sequences of digits in random order; endless in practice if there are more than can be listed."""
    space = 10**length
    if space <= ENUMERABLE:
        codes: Iterator[int] = iter(rng.sample(range(space), space))
    else:
        codes = distinct(rng, space)
    for code in codes:
        yield tuple(int(digit) for digit in f"{code:0{length}d}")


def distinct(rng: random.Random, space: int) -> Iterator[int]:
    seen: set[int] = set()
    while True:
        code = rng.randrange(space)
        if code not in seen:
            seen.add(code)
            yield code


def pose(digits: tuple[int, ...], modulus: int, split: str) -> Question:
    text = f"What is ({' + '.join(map(str, digits))}) mod {modulus}?"
    metadata = {"digits": list(digits), "modulus": modulus}
    return Question(content_id(text), text, str(sum(digits) % modulus), split, metadata=metadata)


def harder(question: Question, what: str, draw: random.Random) -> Question | None:
    """``ranges``: numbers of two digits in place of the digits; ``digits``: half as many more of them."""
    count, modulus = len(question.metadata["digits"]), int(question.metadata["modulus"])
    low, high, more = {"ranges": (10, 99, 0), "digits": (0, 9, (count + 1) // 2)}[what]
    return pose(tuple(draw.randint(low, high) for _ in range(count + more)), modulus, question.split)


class Teacher:
    """Adds the digits one by one in an order that it states first, then reduces, then checks.

    Order: the next digit is drawn from a softmax over those that remain, with logits -position / temperature.
    Temperature 0 is the given order, a high one a uniformly random order. The opening varies in the same way.

    Each step of the derivation (the additions and the reduction) goes wrong with probability ``error_rate``:
    a misread (25 %) computes rightly with a wrong digit, so that every equation is true and the answer wrong;
    a cancelling slip (15 %) is off by the modulus, as when a carry is forgotten, so that the answer is right
    and an equation false; a plain slip (60 %) is off by one or two. What follows builds on the wrong value,
    the check too: it looks at the result and not at the way, and so does not see the error.
    """

    def __init__(self, options: TeacherOptions) -> None:
        self.error_rate = options.error_rate

    def solve(self, question: Question, *, style: str, temperature: float, seed: int) -> Solution:
        """The style is ignored. Raises InputError for a question of another source."""
        try:
            digits, modulus = list(question.metadata["digits"]), int(question.metadata["modulus"])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"question {question.question_id}: the teacher digit_sum solves questions of the source digit_sum only"
            ) from error
        rng = random.Random(seed)
        order = soft_order(len(digits), temperature, rng)
        digits = [digits[position] for position in order]
        pieces = [("plan", f"Order {','.join(map(str, digits))}.")]
        pieces.append(("prose", OPENINGS[soft_order(len(OPENINGS), temperature, rng)[0]]))
        total = digits[0]
        for digit in digits[1:]:
            operand, shift = self.err(rng, digit, total + digit, modulus)
            pieces.append(("derive", f"{total}+{operand}={total + operand + shift}."))
            total += operand + shift
        result = total % modulus
        if rng.random() < self.error_rate:
            result = (result + rng.randrange(1, modulus)) % modulus
        pieces.append(("derive", f"{total} mod {modulus}={result}."))
        base = total - total % modulus
        pieces.append(("check", f"Check {base}+{result}={base + result}."))
        trace, spans = join(pieces)
        return Solution(trace, str(result), spans)

    def err(self, rng: random.Random, digit: int, total: int, modulus: int) -> tuple[int, int]:
        """The digit that the teacher reads, and what its sum is off by. ``total``: the true sum of this step."""
        if rng.random() >= self.error_rate:
            return digit, 0
        drawn = rng.random()
        if drawn < MISREAD:
            return rng.choice([d for d in range(10) if (d - digit) % modulus]), 0
        if drawn < MISREAD + CANCEL:
            return digit, -modulus if total >= modulus else modulus
        return digit, rng.choice([s for s in (-2, -1, 1, 2) if total + s >= 0 and s % modulus])


def soft_order(length: int, temperature: float, rng: random.Random) -> list[int]:
    """Positions 0..length-1, drawn one by one without return from softmax(-position / temperature).

    Sorting by logit plus Gumbel noise is that draw (Kool et al. 2019, "Stochastic beams and where to find them").
    """
    noise = [-math.log(rng.expovariate(1.0)) for _ in range(length)]
    if temperature == 0:
        return list(range(length))
    return sorted(range(length), key=lambda position: position / temperature - noise[position])


def join(pieces: list[tuple[str, str]]) -> tuple[str, tuple[Span, ...]]:
    """Pieces of text joined by spaces (a space belongs to the piece after it); neighbours of one kind make one span."""
    text, spans = "", list[Span]()
    for kind, piece in pieces:
        start = len(text)
        text += piece if not text else f" {piece}"
        if spans and spans[-1].kind == kind:
            start = spans.pop().start
        spans.append(Span(start, len(text), kind))
    return text, tuple(spans)
