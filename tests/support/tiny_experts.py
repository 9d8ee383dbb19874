"""Tiny mixtures of experts, and what their loss should come to: each document alone, in the model's own type.

The reference runs transformers' own model with eager attention, and writes the routers' loss out token by token.
"""

from __future__ import annotations

import copy
from typing import Any

import tiny_step
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

SHAPES: dict[str, dict[str, Any]] = {
    "mixtral": {"num_local_experts": 6, "num_experts_per_tok": 2},
    "qwen2_moe": {
        "num_experts": 8,
        "num_experts_per_tok": 1,
        "moe_intermediate_size": 24,
        "shared_expert_intermediate_size": 16,
    },
    "qwen3_moe": {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24},
}
COEFFICIENT = 0.3


def shape(kind: str) -> dict[str, Any]:
    """The ``student.config`` of one."""
    return {**tiny_step.SHAPE, "model_type": kind, **SHAPES[kind]}


def plain(kind: str, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """transformers' own, eager."""
    values = {key: value for key, value in shape(kind).items() if key != "model_type"}
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = AutoConfig.for_model(kind, **values, **ids, vocab_size=tiny_step.VOCABULARY, tie_word_embeddings=False)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", experts_implementation="eager")
    with torch.no_grad():  # Qwen's routers begin at zero, where every expert ties
        for name, parameter in model.named_parameters():
            if name.endswith("mlp.gate.weight"):
                parameter.normal_(std=0.3)
    return model.to(dtype)


def plain_loss(
    model: PreTrainedModel, documents: list[tiny_step.Document], scale: float | Tensor, coefficient: float
) -> Tensor:
    """sum of w c nll, and the routers' loss of every document. ``scale``: c, a number or (K,) one a kind."""
    dtype, total = next(model.parameters()).dtype, 0.0
    for document in documents:
        ids = torch.from_numpy(document.tokens.astype("int64"))
        found = model(input_ids=ids[None], use_cache=False, output_router_logits=True)
        log_p = torch.log_softmax(found.logits[0, :-1], dim=-1)
        nll = -log_p[torch.arange(len(ids) - 1), ids[1:]]
        kinds = torch.from_numpy(document.kinds[1:].astype("int64"))
        weights = torch.from_numpy(document.weights()) * (scale[kinds] if isinstance(scale, Tensor) else scale)
        total = total + (weights.to(dtype) * nll).sum()
        if weights.sum() > 0:
            routers = router_loss(found.router_logits, weights.to(dtype), model.num_experts_per_tok)
            total = total + coefficient * weights.sum() * routers
    return total


def router_loss(logits: tuple[Tensor, ...], weights: Tensor, top_k: int) -> Tensor:
    """E sum_e f_e P_e of one document whose position i predicts a target of ``weights``, (n - 1,)."""
    experts = logits[0].shape[-1]
    load, probability = [0.0] * experts, [0.0] * experts
    for layer in logits:
        for weight, row in zip(weights / weights.sum() / len(logits), layer, strict=False):
            chances = torch.exp(row) / torch.exp(row).sum()
            for expert in torch.argsort(row, descending=True)[:top_k].tolist():
                load[expert] += float(weight)
            for expert in range(experts):
                probability[expert] = probability[expert] + weight * chances[expert]
    return experts * sum(f * p for f, p in zip(load, probability, strict=True))


class ListedExperts(nn.Module):
    """Mixtral's block with its experts in a list, as code of a model's own has them: a rank runs those alone that its
    tokens go to."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.gate = copy.deepcopy(block.gate)
        held = block.experts
        self.experts = nn.ModuleList(Expert(held.gate_up_proj[e], held.down_proj[e]) for e in range(held.num_experts))

    def forward(self, hidden: Tensor) -> Tensor:  # (1, T, H)
        rows = hidden.view(-1, hidden.shape[-1])
        _, weights, chosen = self.gate(rows)
        out = torch.zeros_like(rows)
        for index, expert in enumerate(self.experts):
            row, slot = torch.where(chosen == index)
            if len(row):
                out = out.index_add(0, row, expert(rows[row]) * weights[row, slot, None])
        return out.view_as(hidden)


class Expert(nn.Module):
    def __init__(self, both: Tensor, down: Tensor) -> None:
        super().__init__()
        self.both, self.down = (nn.Linear(w.shape[1], w.shape[0], bias=False) for w in (both, down))
        self.both.weight.data, self.down.weight.data = both.detach().clone(), down.detach().clone()

    def forward(self, rows: Tensor) -> Tensor:
        gate, up = self.both(rows).chunk(2, dim=-1)
        return self.down(nn.functional.silu(gate) * up)


def list_experts(model: PreTrainedModel) -> None:
    """Put lists in the place of a Mixtral's experts."""
    for layer in model.model.layers:
        layer.mlp = ListedExperts(layer.mlp)
