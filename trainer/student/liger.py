"""Liger's RMSNorm, RoPE and SwiGLU in a student on a GPU: whether, why, and how. Its losses are never used."""

from __future__ import annotations

import importlib.util
import inspect
from typing import Any, Literal, NamedTuple

import torch
from transformers import PreTrainedModel

from tracestill.data_pipeline.base.errors import InputError

USED = ("rope", "rms_norm", "swiglu")  # of the flags of Liger's functions; every other one is set to False


class Choice(NamedTuple):
    """Whether Liger's kernels go in, and what to say of it (nothing on a CPU)."""

    used: bool
    reason: str


def choose_liger(wanted: Literal["auto"] | bool, model_type: str, device: torch.device) -> Choice:
    """Raises InputError if Liger is wanted (``True``) and cannot be used."""
    if wanted is False:
        return Choice(False, "")
    if device.type != "cuda":
        return refused(wanted, "student.liger: its kernels need a GPU", said=False)
    if importlib.util.find_spec("liger_kernel") is None:
        return refused(wanted, "student.liger: needs liger-kernel (pip install 'tracestill[gpu]')")
    apply = functions().get(model_type)
    if apply is None or not {*flags(apply)} & {*USED}:
        return refused(wanted, f"student.liger: Liger has no RMSNorm, RoPE or SwiGLU for model type '{model_type}'")
    parts = [name for name in USED if name in flags(apply)]
    return Choice(True, f"Liger's {', '.join(parts)}")


def refused(wanted: Literal["auto"] | bool, reason: str, *, said: bool = True) -> Choice:
    if wanted is True:
        raise InputError(f"{reason}; set it to auto or false")
    return Choice(False, f"no Liger ({reason.removeprefix('student.liger: ')})" if said else "")


def use_liger(model: PreTrainedModel) -> None:
    """Patch the model, by Liger's own function for its type."""
    apply = functions()[model.config.get_text_config(decoder=True).model_type]
    apply(model=model, **{name: name in USED for name in flags(apply)})


def functions() -> dict[str, Any]:
    """Model type -> Liger's function that patches models of it."""
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN

    return MODEL_TYPE_TO_APPLY_LIGER_FN


def flags(apply: Any) -> list[str]:
    """The kernels that one of these functions can put in, by the names of its switches."""
    return [name for name, p in inspect.signature(apply).parameters.items() if isinstance(p.default, bool)]
