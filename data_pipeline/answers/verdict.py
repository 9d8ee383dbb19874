"""What is found out about an answer."""

from __future__ import annotations

from typing import Literal, NamedTuple

Outcome = Literal["right", "wrong", "cannot_tell", "timeout"]


class Verdict(NamedTuple):
    """``cannot_tell`` and ``timeout`` are no "right", and no "wrong" either."""

    outcome: Outcome
    answer: str  # how the answer was read; "" if it was not
    gold: str  # how the gold answer was read
    by: str  # the verifier that says so
    detail: str = ""  # why, where reading alone does not show it

    @property
    def right(self) -> bool:
        return self.outcome == "right"


REASONS = {"wrong": "wrong_answer", "cannot_tell": "unverified", "timeout": "verify_timeout"}  # in rejected.parquet
