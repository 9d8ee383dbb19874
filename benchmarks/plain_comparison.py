"""Two comparisons of answers as anybody would write them: the measure of which labelled pairs are traps
(`benchmarks/verdicts.py`)."""

from __future__ import annotations

import math
import re

FRAMES = re.compile(r"\\(?:boxed|text|mathrm|textbf|mbox)\s*\{([^{}]*)\}")
LEAD = re.compile(r"^(?:so |thus |therefore,? )?(?:the )?(?:final )?answer(?: is|:)?:?\s*|^[a-z]\s*=\s*")
DROPPED = re.compile(r"[$€£%*`\s]|\\[()\[\]!,; ]|\\left|\\right|(?<=\d),(?=\d{3})")
NUMBER = re.compile(r"(-?\d[\d.]*|-?\.\d+)[a-z]*")
LAST = re.compile(r"-?\d+(?:,\d{3})*(?:\.\d+)?")
EXACT, NEAR = 1e-9, 1e-4


def is_trap(answer: str, gold: str, verdict: str) -> bool:
    """Whether plain comparisons mislead: both miss that a pair is right, one takes a wrong one for right, or nobody can
    tell, which they cannot say."""
    said = (careful(answer, gold), generous(answer, gold))
    return {"right": not any(said), "wrong": any(said)}.get(verdict, True)


def careful(answer: str, gold: str) -> bool:
    """Equal as text or as numbers without case, white space, frames, signs of money and percent, separators of
    thousands, and units behind a number."""
    one, other = simple(answer), simple(gold)
    return one == other or close(value(one), value(other), EXACT)


def generous(answer: str, gold: str) -> bool:
    """The same last number, nearly; or the same words and numbers in any order."""
    mine, theirs = (LAST.findall(text.replace("\\", "")) for text in (answer, gold))
    if mine and theirs and close(*(float(found[-1].replace(",", "")) for found in (mine, theirs)), NEAR):
        return True
    return words(answer) == words(gold) != []


def words(text: str) -> list[str]:
    return sorted(re.findall(r"\d+|[^\W\d_]+", text.lower()))


def simple(text: str) -> str:
    text = text.strip().lower()
    for _ in range(3):
        text = FRAMES.sub(r"\1", text)
    text = DROPPED.sub("", LEAD.sub("", text).replace("dfrac", "frac").replace("tfrac", "frac"))
    return text.rstrip(".")


def value(text: str) -> float | None:
    """Of a number, a fraction, or a number with a unit."""
    if match := re.fullmatch(r"(-?\d+)/(\d+)", text):
        return int(match[1]) / int(match[2]) if int(match[2]) else None
    match = NUMBER.fullmatch(text)
    try:
        return float(match[1]) if match else float(text)
    except ValueError:
        return None


def close(one: float | None, other: float | None, within: float) -> bool:
    return one is not None and other is not None and math.isclose(one, other, rel_tol=within)
