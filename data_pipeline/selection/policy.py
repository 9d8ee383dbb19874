"""What may be wrong with a record, and which of it rejects the record under which policy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

PolicyName = Literal["strict", "answer", "none"]
POLICIES: tuple[PolicyName, ...] = get_args(PolicyName)

ALWAYS = frozenset(("no_answer", "bad_weight"))
OF_ANSWER = frozenset(("wrong_answer", "unverified", "verify_timeout"))  # not known to be right
OF_TRACE = frozenset(("false_equation", "false_step"))  # something in it does not hold
REPETITION = ("repeats", "copies_question")  # each with a policy of its own
OF_PLACE = ("same_path", "over_maximum")  # nothing is wrong with it, but others of its question stand for it

REASONS = (*sorted(ALWAYS), *sorted(OF_ANSWER), *sorted(OF_TRACE), *REPETITION, *OF_PLACE)
REMEDIES = {
    "no_answer": "the teacher gave no answer: look at its traces",
    "bad_weight": "mend the weights of questions and teachers, or what select.weight names",
    "repeats": "a better teacher, or select.repeats: count",
    "copies_question": "a better teacher, or select.copies_question: count",
    "unverified": "it cannot be told whether answers are right: see verify.use, or select.policy: none",
    "verify_timeout": "comparing answers takes too long: see verify.use, or select.policy: none",
    **dict.fromkeys(["wrong_answer"], "a better teacher or more samples, or select.policy: none"),
    **dict.fromkeys(OF_TRACE, "a better teacher or more samples, or select.policy: answer"),
}


def rejecting(policy: PolicyName, repetition: Mapping[str, str]) -> frozenset[str]:
    """The reasons that reject a record by itself; ``repetition``: policy by reason."""
    of_policy = {"strict": OF_ANSWER | OF_TRACE, "answer": OF_ANSWER, "none": frozenset[str]()}[policy]
    return ALWAYS | of_policy | {reason for reason in REPETITION if repetition[reason] == "reject"}
