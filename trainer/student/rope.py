"""Rotary embeddings whose frequencies follow from how long a row is: each document of a packed row gets its own.

LongRoPE (arXiv 2402.13753; Phi-3.5, Phi-4-mini) has one set of frequencies for rows up to the length of its first
training and another for longer ones; dynamic NTK scaling has a set for each length beyond it. transformers asks the
row's largest position, so in a pack one long document would change what its neighbours get, and after a longer row
dynamic NTK keeps that row's frequencies. Here the model's own module is called once for each set, with the positions
of the documents that it belongs to.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tracestill.data_pipeline.base.errors import InputError

LONG = "longrope"


def depends_on_length(kind: Any) -> bool:
    """Whether RoPE of this type has frequencies that follow from a row's length."""
    return isinstance(kind, str) and (kind == LONG or "dynamic" in kind)


class ByDocument:
    """Mixed into the class of a rotary embedding: positions that begin at 0 again are those of another document."""

    def forward(self, x: Tensor, position_ids: Tensor, *more: Any, **named: Any) -> Any:
        # x is asked for its type and device only; position_ids (B, T)
        call = super().forward  # type: ignore[misc]
        kinds: Any = self.rope_type  # type: ignore[attr-defined]
        layer = named.get("layer_type", more[0] if more else None)
        kind = kinds[layer] if isinstance(kinds, dict) else kinds
        if not depends_on_length(kind):
            return call(x, position_ids, *more, **named)
        first = self.first_length(kind, layer)
        self.forget_lengths()
        if int(position_ids.max()) < first:  # no document is longer; of one that is being written it is the last token
            return call(x, position_ids, *more, **named)
        lengths = document_lengths(position_ids)
        sets = torch.where(lengths > first, lengths if kind != LONG else first + 1, 0)
        found: Any = None
        for each in sets.unique().tolist():
            self.forget_lengths()
            where = (sets == each).nonzero(as_tuple=True)
            part = call(x, position_ids[where][None], *more, **named)
            tensors = part if isinstance(part, tuple) else (part,)
            if found is None:
                found = [t.new_zeros(*position_ids.shape, t.shape[-1]) for t in tensors]
            for whole, own in zip(found, tensors, strict=True):
                whole[where] = own[0]
        return tuple(found) if isinstance(part, tuple) else found[0]

    def first_length(self, kind: str, layer: str | None) -> int:
        """The longest document that has the frequencies of the first training."""
        config: Any = self.config  # type: ignore[attr-defined]
        if kind != LONG:
            return int(self.original_max_seq_len)  # type: ignore[attr-defined]
        parameters = config.rope_parameters if layer is None else config.rope_parameters[layer]
        return int(parameters["original_max_position_embeddings"])

    def forget_lengths(self) -> None:
        """Let no row before have a part in the frequencies of the next."""
        for name in vars(self):
            if name.endswith("max_seq_len_cached"):
                setattr(self, name, 0)


def document_lengths(
    positions: Tensor,  # (B, T), from 0 in each document
) -> Tensor:
    """(B, T) int64: the length of the document that each position belongs to."""
    begins = positions == 0
    begins[:, 0] = True
    document = begins.cumsum(1) - 1
    last = torch.zeros_like(positions).scatter_reduce(1, document, positions, "amax", include_self=True)
    return last.gather(1, document) + 1


def isolate_rope(model: PreTrainedModel) -> None:
    """Give each document its own frequencies, in place, in a model that needs it.

    Raises InputError if the config asks for such frequencies and the model has no module of transformers' for them.
    """
    modules = [module for module in model.modules() if any(map(depends_on_length, kinds_of(module)))]
    for module in modules:
        if isinstance(module, ByDocument):
            continue
        module.__class__ = type(type(module).__name__, (ByDocument, type(module)), {})
    if not modules and needs_lengths(model.config):
        raise InputError(
            f"student: the rotary embedding of {type(model).__name__} depends on how long a row is, and is none of "
            "transformers' own that could be given each document's length; its documents cannot be packed"
        )


def kinds_of(module: nn.Module) -> list[Any]:
    kind = getattr(module, "rope_type", None)
    return list(kind.values()) if isinstance(kind, dict) else [kind]


def needs_lengths(config: Any) -> bool:
    """Whether a model of this transformers config has frequencies that follow from a row's length."""
    parameters = getattr(config.get_text_config(decoder=True), "rope_parameters", None) or {}
    by_layer = [value for value in parameters.values() if isinstance(value, dict)]
    return any(depends_on_length(each.get("rope_type", each.get("type"))) for each in [parameters, *by_layer])
