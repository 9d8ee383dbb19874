"""The answer in what a model wrote, and whether it says the same as the reference answer."""

from tracestill.data_pipeline.answers.find import Found, find_answer
from tracestill.data_pipeline.answers.numbers.number import number
from tracestill.data_pipeline.answers.verify import same_answer

__all__ = ["Found", "find_answer", "number", "same_answer"]
