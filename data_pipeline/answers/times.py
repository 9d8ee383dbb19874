"""The verifier ``time``: times of day, on clocks of twelve and of twenty-four hours."""

from __future__ import annotations

import re
from typing import NamedTuple

from tracestill.data_pipeline.answers.numbers.number import plainly
from tracestill.data_pipeline.answers.numbers.quantity import LEAD, unframed
from tracestill.data_pipeline.answers.verdict import Outcome, Verdict

BY = "time"
TIME = re.compile(
    r"(?:at\s+)?(?P<hour>\d{1,2})(?:\s*(?P<mark>[:h.])\s*(?P<minute>[0-5]\d)(?::(?P<second>[0-5]\d))?)?"
    r"\s*(?P<half>[ap]\.?\s?m\.?)?\s*(?P<clock>o['’]?clock|uhr|h|hrs|hours)?(?:\s*(?P<half2>[ap]\.?\s?m\.?))?"
    r"(?:\s+in the (?P<part>morning|afternoon|evening)|\s+at (?P<night>night))?",
    re.I,
)
NAMED = {"noon": 12 * 3600, "midday": 12 * 3600, "12 noon": 12 * 3600, "midnight": 0, "12 midnight": 0}


NOON = re.compile(r"(12(?::00)?) (noon|midnight)", re.I)
MILITARY = re.compile(r"\A([0-2]\d)([0-5]\d)\s*(?:hours|hrs|h)\Z")
SPOKEN = re.compile(r"\b(?:past|to|o['’]?clock|thirty|fifteen|forty-five|hours?|h)\b|\A\d{1,2}[.,]\d{2}\Z", re.I)


class Time(NamedTuple):
    second: int  # of the day, as written
    half: str  # am, pm, or "" where it was not said
    certain: bool  # of twenty-four hours, or with am or pm

    def __str__(self) -> str:
        clock = f"{self.second // 3600}:{self.second // 60 % 60:02d}"
        return (
            clock + (f":{self.second % 60:02d}" if self.second % 60 else "") + ("" if self.certain else " (am or pm)")
        )


def time_of(text: str) -> Time | None:
    """The time of day that the whole of a text is, or None. Digits alone, "14.30" and "2 h" are none."""
    plain = plainly(LEAD.sub("", unframed(text), count=1)).strip()
    if len(plain) > 40:
        return None
    if (named := NAMED.get(plain.lower())) is not None:
        return Time(named, "", True)
    if twelve := NOON.fullmatch(plain):
        plain = twelve[1] + (" pm" if twelve[2][0] in "nN" else " am")
    plain = MILITARY.sub(r"\1:\2", plain)
    match = TIME.fullmatch(plain)
    if match is None:
        return None
    half = (match["half"] or match["half2"] or "").lower().replace(".", "").replace(" ", "")
    half = half or {"morning": "am", "afternoon": "pm", "evening": "pm"}.get((match["part"] or "").lower(), "")
    half = half or ("pm" if match["night"] else "")
    clock = (match["clock"] or "").lower()
    if match["mark"] != ":" and not half and clock[:1] not in ("o", "u") and (match["mark"] or ".").lower() != "h":
        return None
    hour = int(match["hour"])
    if hour > 24 or (half and not 0 < hour <= 12):
        return None
    if half:
        hour = hour % 12 + (12 if half == "pm" else 0)
    second = hour * 3600 + int(match["minute"] or 0) * 60 + int(match["second"] or 0)
    if second > 24 * 3600:
        return None
    padded = match["hour"].startswith("0") or clock.startswith("u")
    return Time(second % (24 * 3600), half, bool(half) or hour > 12 or hour == 0 or padded)


def verify_time(answer: str, gold: str, question: str = "") -> Verdict:
    """Right if both are the same time of day; ``cannot_tell`` if only one says which half of the day it means."""
    wanted, said = time_of(gold), time_of(answer)
    if wanted is None:
        return Verdict("cannot_tell", "", "", BY, "the gold answer is no time of day")
    if said is None:
        outcome: Outcome = "cannot_tell" if SPOKEN.search(answer.strip()[:100]) else "wrong"
        return Verdict(outcome, "", str(wanted), BY, "the answer is no time of day")
    if said.second == wanted.second:
        sure = said.certain or not wanted.certain or not wanted.half
        return Verdict("right" if sure else "cannot_tell", str(said), str(wanted), BY)
    half_day = 12 * 3600
    if said.second % half_day == wanted.second % half_day and not (said.certain and wanted.certain):
        return Verdict("cannot_tell", str(said), str(wanted), BY, "morning or afternoon")
    return Verdict("wrong", str(said), str(wanted), BY)
