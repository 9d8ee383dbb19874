"""Numbers and quantities read from text, exactly."""

from tracestill.data_pipeline.answers.numbers.number import number
from tracestill.data_pipeline.answers.numbers.quantity import Quantity, quantity

__all__ = ["Quantity", "number", "quantity"]
