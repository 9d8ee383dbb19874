"""QLoRA (arXiv 2305.14314): the linear layers of a frozen model in 4 bits (NF4), by bitsandbytes, on a GPU."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tracestill.data_pipeline.base.errors import InputError

KEY = "student.lora.quantize"


def check_machine(device: torch.device) -> None:
    """Raises InputError where 4 bits cannot be had, saying what to do."""
    if device.type != "cuda":
        raise InputError(
            f"{KEY}: 4 bits need an NVIDIA or AMD GPU, and this trains on the {device.type}; leave it out "
            "(train.offload and train.zero: 3 save memory too), or train where a GPU is"
        )
    if find_spec("bitsandbytes") is None:
        raise InputError(f"{KEY}: needs bitsandbytes, which is not installed: pip install 'tracestill[lora,8bit]'")


def import_bitsandbytes() -> Any:
    """On CPUs that know bf16 it fetches somebody's kernel from the net when it is imported, which is not used here, and
    warns if that fails: it is kept from both."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    with without("kernels"):
        import bitsandbytes
    return bitsandbytes


def before_peft() -> None:
    """Import bitsandbytes where it is installed, since peft would, and not in this way."""
    with contextlib.suppress(ImportError):
        import_bitsandbytes()


@contextlib.contextmanager
def without(package: str) -> Iterator[None]:
    """Meanwhile importing a package fails as if it were not installed."""
    held = sys.modules.get(package)
    sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[package]
        if held is not None:
            sys.modules[package] = held


def quantise(model: PreTrainedModel, device: torch.device) -> None:
    """Put every ``nn.Linear`` but the head into 4 bits, in place, on ``device``. Their scales are in 8 bits."""
    bnb, head = import_bitsandbytes(), model.get_output_embeddings()
    for module in list(model.modules()):
        for name, layer in module.named_children():
            if type(layer) is not nn.Linear or layer is head:
                continue
            sides, dtype = (layer.in_features, layer.out_features), layer.weight.dtype
            with torch.device("meta"):
                held = bnb.nn.Linear4bit(*sides, bias=False, compute_dtype=dtype, quant_type="nf4")
            weight = layer.weight.detach()
            held.weight = bnb.nn.Params4bit(weight, requires_grad=False, quant_type="nf4", compress_statistics=True)
            held.bias = layer.bias
            setattr(module, name, held.to(device))


def is_quantised(module: nn.Module) -> bool:
    """Whether a layer's matrix is in 4 bits by now."""
    return getattr(getattr(module, "weight", None), "quant_state", None) is not None


def whole_weights(model: nn.Module) -> dict[str, Tensor]:
    """The name of each matrix in 4 bits -> the matrix that it stands for, on the CPU."""
    found = {}
    for name, module in model.named_modules():
        if is_quantised(module):
            weight: Any = module.weight
            found[f"{name}.weight"] = (
                import_bitsandbytes().functional.dequantize_4bit(weight.data, weight.quant_state).cpu()
            )
    return found
