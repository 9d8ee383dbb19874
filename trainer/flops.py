"""Floating-point operations that training needs, and what the device could do: together the MFU.

MFU (model FLOPs utilisation: Chowdhery and others, PaLM, arXiv 2204.02311, appendix B) counts what the student's
formula asks for, forward and backward, and nothing that an implementation does twice: no recomputed activations, no
padding. A multiplication and an addition count as two.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from tracestill.trainer.hardware import PEAKS

EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
LATENT = "kv_lora_rank"  # multi-head latent attention has head sizes of its own


class Cost(Protocol):
    """What a kind of student costs; one that cannot be counted has none."""

    @property
    def head(self) -> int:
        """FLOPs of the head for a target that carries weight; no other row has any."""
        ...

    def of(self, lengths: np.ndarray) -> float:
        """FLOPs of training on documents of these lengths, (D,), without the head."""
        ...


@dataclass(frozen=True)
class DecoderCost:
    """Cost of a decoder:

        linear * tokens + sum over layers of (attention * pairs of the layer) + head * weighted targets

    A pair is a query and a key that it sees: L (L + 1) / 2 in a document of L tokens, or, with a window of W, those
    less than W apart. Documents of one row do not see each other. The first layer is counted like the others, also
    where frozen embeddings spare it the gradient of its input.
    """

    linear: int  # FLOPs a token: for each element of a matrix 2 forward, 2 for the input's gradient, 2 for its own
    attention: int  # FLOPs a pair and layer: 12 * heads * head size
    windows: tuple[int | None, ...]  # of each layer; None sees everything before it
    head: int  # FLOPs a weighted target

    def of(self, lengths: np.ndarray) -> float:
        lengths = lengths.astype(np.float64)
        pairs = 0.0
        for window in set(self.windows):
            beyond = 0.0 if window is None else np.maximum(lengths - window, 0)
            seen = (lengths * (lengths + 1) - beyond * (beyond + 1)) / 2
            pairs += self.windows.count(window) * float(seen.sum())
        return self.linear * float(lengths.sum()) + self.attention * pairs


def cost_of(model: Any) -> Cost | None:
    """The cost of a transformers model, whole or cut up by ZeRO-3.

    None where these formulas would be wrong: encoder-decoders, experts of which a token visits some, latent
    attention, and layers with matrices other than ``nn.Linear``.
    """
    config = model.config.get_text_config(decoder=True)
    if config.is_encoder_decoder or getattr(config, LATENT, None):
        return None
    if any((getattr(config, name, None) or 0) > 1 for name in EXPERTS):
        return None
    head, decoder = model.get_output_embeddings(), model.get_decoder()
    matrices = [m for m in decoder.modules() if isinstance(m, nn.Linear | Conv1D)]
    tables = [m for m in decoder.modules() if isinstance(m, nn.Embedding)]
    known = {id(p) for m in (*matrices, *tables) for p in m.parameters(recurse=False)}
    shapes = {id(p): getattr(p, "ds_shape", p.shape) for p in decoder.parameters()}
    if any(len(shape) > 1 and parameter not in known for parameter, shape in shapes.items()):
        return None
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    return DecoderCost(
        linear=sum(matrix_cost(m) for m in matrices),
        attention=12 * heads * size,
        windows=windows_of(config),
        head=matrix_cost(head),
    )


def matrix_cost(matrix: nn.Module) -> int:
    """FLOPs a row: the product, its input's gradient, and its own gradient unless it is frozen."""
    held: Any = matrix
    sides = (held.nx, held.nf) if isinstance(matrix, Conv1D) else (held.in_features, held.out_features)
    return (6 if held.weight.requires_grad else 4) * sides[0] * sides[1]


def windows_of(config: Any) -> tuple[int | None, ...]:
    """How far back each layer sees, in tokens; None: to the beginning."""
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        kinds = ["sliding_attention" if window else "full_attention"] * config.num_hidden_layers
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


def peak_tflops(device: torch.device, dtype: torch.dtype) -> float | None:
    """TFLOP/s that one device can reach; None for a CPU, another type than bf16, and a GPU that is not in PEAKS."""
    if device.type != "cuda" or dtype != torch.bfloat16:
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for pattern, peak in PEAKS if re.search(rf"\b({pattern})\b", name)), None)
