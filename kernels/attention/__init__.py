"""Attention that keeps the documents of a row apart, registered with transformers."""

from tracestill.kernels.attention.backend import Backend, Needs
from tracestill.kernels.attention.backends import BACKENDS, SDPA, Choice, choose
from tracestill.kernels.attention.models import needs_of
from tracestill.kernels.attention.registered import names, register, unmasked

__all__ = ["BACKENDS", "SDPA", "Backend", "Choice", "Needs", "choose", "names", "needs_of", "register", "unmasked"]
