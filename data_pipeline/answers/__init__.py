"""The answer in what a model wrote, and whether it says the same as the gold answer."""

from tracestill.data_pipeline.answers.find import Found, find_answer
from tracestill.data_pipeline.answers.numbers.number import number
from tracestill.data_pipeline.answers.verdict import Outcome, Verdict
from tracestill.data_pipeline.answers.verifier import Case, Verifier, VerifyConfig, verify
from tracestill.data_pipeline.answers.verify import same_answer

__all__ = [
    "Case",
    "Found",
    "Outcome",
    "Verdict",
    "Verifier",
    "VerifyConfig",
    "find_answer",
    "number",
    "same_answer",
    "verify",
]
