"""Attention that keeps the documents of a row apart, registered with transformers."""

from tracestill.kernels.attention.registered import NAME, Choice, attention, choose, register

__all__ = ["NAME", "Choice", "attention", "choose", "register"]
