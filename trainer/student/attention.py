"""The attention that a student is built with: a backend that has what its model needs and runs on the machine."""

from __future__ import annotations

from typing import Any

import torch

from tracestill.data_pipeline.base import own_modules
from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.kinds import nearest
from tracestill.kernels.attention import BACKENDS, SDPA, Backend, Choice, choose, needs_of, register
from tracestill.trainer.recipe.student_settings import ENCODER_DECODERS, StudentConfig, own_attention
from tracestill.trainer.student.encoder_decoder import refuse_faulty

KEY = "student.attention"
OWN_ATTENTION = Choice(SDPA, "the model's own, over padded rows")  # of an encoder-decoder


def choose_attention(config: StudentConfig, full: Any, device: torch.device | str, dtype: torch.dtype) -> Choice:
    """The backend of a student with the transformers config ``full``, and why.

    Raises InputError for a model that would mix documents or could not answer, and for a backend that is not known,
    cannot run here, or lacks what the model needs.
    """
    if full.model_type in ENCODER_DECODERS:
        refuse_faulty(full)
        if config.attention != "auto":
            raise InputError(f"{KEY}: an encoder-decoder computes its attention itself; leave out '{config.attention}'")
        return OWN_ATTENTION
    if full.is_encoder_decoder:
        known = ", ".join(ENCODER_DECODERS)
        raise InputError(f"student: nobody has tried whether {full.model_type} keeps documents apart; known: {known}")
    try:
        needs = needs_of(full)
    except ValueError as error:
        raise InputError(f"student: {error}") from error
    wanted = backend_of(config.attention)
    try:
        return choose(wanted, device, dtype, needs)
    except ValueError as error:
        raise InputError(f"{KEY}: {error}") from error


def backend_of(attention: str) -> str | Backend:
    """The user's own backend that ``student.attention`` names as my_module:BACKEND; else the name as it is.

    Raises InputError if there is none.
    """
    module = own_attention(attention)
    if module is None:
        if attention not in ("auto", *map(str, BACKENDS)) and own_modules.find(attention) is not None:
            raise InputError(f"{KEY}: '{attention}' is a module; name its Backend, as in {attention}:BACKEND")
        return attention
    name, held = attention.partition(":")[2], vars(own_modules.load(module, KEY))
    if not isinstance(held.get(name), Backend):
        offered = [key for key, value in held.items() if isinstance(value, Backend)]
        more = nearest(name, offered) if offered else "; expected one of tracestill.kernels.attention"
        raise InputError(f"{KEY}: {module} has no Backend '{name}'{more}")
    return held[name]


def implementation_of(choice: Choice) -> dict[str, str]:
    """What tells transformers of the choice; nothing for an encoder-decoder, which keeps its own attention."""
    return {} if choice is OWN_ATTENTION else {"attn_implementation": register(choice.backend)}
