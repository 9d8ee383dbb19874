"""Floating-point operations that training needs, and what the device could do: together the MFU.

MFU (model FLOPs utilisation: Chowdhery and others, PaLM, arXiv 2204.02311, appendix B) counts what the student's
formula asks for, forward and backward, and nothing that an implementation does twice: no recomputed activations, no
padding. A multiplication and an addition count as two.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from tracestill.trainer.metrics.hardware import PEAKS

EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
LATENT = "kv_lora_rank"  # multi-head latent attention has head sizes of its own


class Cost(Protocol):
    """What a kind of student costs; one that cannot be counted has none."""

    @property
    def head(self) -> int:
        """FLOPs of the head for a target that carries weight; no other row has any."""
        ...

    @property
    def first(self) -> int:
        """The layer from which on gradients are needed."""
        ...

    def of(self, lengths: np.ndarray, *, recompute: bool = False) -> float:
        """FLOPs of training on documents of these lengths, (D,), without the head. ``recompute``: with those of
        computing layers again in the backward pass, which are no part of the MFU."""
        ...


@dataclass(frozen=True)
class DecoderCost:
    """Cost of a decoder:

        linear * tokens + sum over layers of (attention * pairs of the layer) + head * weighted targets

    A pair is a query and a key that it sees: L (L + 1) / 2 in a document of L tokens, or, with a window of W, those
    less than W apart. Documents of one row do not see each other. Layers before the first thing that learns have a
    forward pass only. The first layer that learns is counted like those after it, though it is spared the gradient of
    its input.
    """

    linear: int  # FLOPs a token: for each element of a matrix 2 forward, 2 for the input's gradient, 2 for its own
    attention: int  # FLOPs a pair and layer: 12 * heads * head size
    windows: tuple[int | None, ...]  # of each layer; None sees everything before it
    head: int  # FLOPs a weighted target
    first: int = 0  # the layer from which on gradients are needed
    # FLOPs a token of computing the matrices of layers from there on again; torch leaves out the last of each layer,
    # whose product no gradient needs
    again: int = 0

    def of(self, lengths: np.ndarray, *, recompute: bool = False) -> float:
        lengths = lengths.astype(np.float64)
        frozen, learning = (
            self.pairs(lengths, self.windows[: self.first]),
            self.pairs(lengths, self.windows[self.first :]),
        )
        # of an attention's 12 FLOPs a pair and element of a head 4 are the forward pass's
        found = self.linear * float(lengths.sum()) + self.attention * (frozen / 3 + learning)
        return found + (self.again * float(lengths.sum()) + self.attention * learning / 3 if recompute else 0.0)

    def pairs(self, lengths: np.ndarray, windows: Sequence[int | None]) -> float:
        """Pairs of documents of these lengths in layers with these windows."""
        found = 0.0
        for window in set(windows):
            beyond = 0.0 if window is None else np.maximum(lengths - window, 0)
            seen = (lengths * (lengths + 1) - beyond * (beyond + 1)) / 2
            found += windows.count(window) * float(seen.sum())
        return found


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
    matrices = matrices_of(decoder)
    tables = [m for m in decoder.modules() if isinstance(m, nn.Embedding)]
    known = {id(p) for m in (*matrices, *tables) for p in m.parameters(recurse=False)}
    shapes = {id(p): getattr(p, "ds_shape", p.shape) for p in decoder.parameters()}
    if any(len(shape) > 1 and parameter not in known for parameter, shape in shapes.items()):
        return None
    layers = layers_of(decoder, config)
    first = first_learning(decoder, layers)
    before = {id(m) for layer in layers[:first] for m in layer.modules()}
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    return DecoderCost(
        linear=sum(product(m) if id(m) in before else matrix_cost(m) for m in matrices),
        attention=12 * heads * size,
        windows=windows_of(config),
        head=matrix_cost(head),
        first=first,
        again=sum(product(m) for layer in layers[first:] for m in matrices_of(layer)[:-1]),
    )


def matrices_of(module: nn.Module) -> list[nn.Module]:
    """The matrices of a module, as a rule in the order of their use."""
    return [m for m in module.modules() if isinstance(m, nn.Linear | Conv1D)]


def layers_of(decoder: nn.Module, config: Any) -> list[nn.Module]:
    """The layers that repeat, in their order; none where they are not one list."""
    lists = [m for m in decoder.modules() if isinstance(m, nn.ModuleList) and len(m) == config.num_hidden_layers]
    return list(lists[0]) if lists else []


def first_learning(decoder: nn.Module, layers: Sequence[nn.Module]) -> int:
    """The first layer whose backward pass is needed: 0 where embeddings learn, ``len(layers)`` where no layer does."""
    inside = {id(m) for layer in layers for m in layer.modules()}
    tables = [m for m in decoder.modules() if isinstance(m, nn.Embedding | nn.Linear) and id(m) not in inside]
    if not layers or any(p.requires_grad for m in tables for p in m.parameters()):
        return 0
    learning = (place for place, layer in enumerate(layers) if any(p.requires_grad for p in layer.parameters()))
    return next(learning, len(layers))


def product(matrix: nn.Module) -> int:
    """FLOPs a row of the forward pass."""
    held: Any = matrix
    sides = (held.nx, held.nf) if isinstance(matrix, Conv1D) else (held.in_features, held.out_features)
    return 2 * sides[0] * sides[1]


def matrix_cost(matrix: nn.Module) -> int:
    """FLOPs a row: the product, its input's gradient, and its own gradient unless it is frozen."""
    weight: Any = matrix.weight
    return (3 if weight.requires_grad else 2) * product(matrix)


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
