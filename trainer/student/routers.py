"""The load-balancing loss of a mixture of experts' routers, taken of each document alone.

transformers takes it over a batch: E * sum_e f_e P_e, a product of two means, so that it depends on what shares a
batch. Taken of each document, and weighted as the tokens' losses are, it is a sum over documents like the rest of the
loss, whatever packs, micro-steps and ranks they lie in (DeepSeek-V3, arXiv 2412.19437, section 2.1.2, has such a
"sequence-wise" loss). With u_i the w c (and v d) of the target that position i predicts, in a document d:

    loss = coefficient * sum over d of  U_d E sum_e f_de P_de          U_d  = sum_i u_i
    f_de = sum_i u_i [e is among the top k at i] / U_d                 P_de = sum_i u_i p_ie / U_d

and, as transformers does, f and P are means over the layers too; of one document whose targets weigh alike it is
transformers' own. Gradients go through P alone. A position without weight takes no part.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from transformers import PreTrainedModel

from tracestill.data_pipeline.base.errors import InputError
from tracestill.kernels.loss import TeacherTopK
from tracestill.kernels.pack import PackedBatch
from tracestill.trainer.ranks.mesh import Mesh
from tracestill.trainer.recipe.student_settings import StudentConfig

KEY = "student.router_loss"
FLAG = "output_router_logits"  # of a config that wants the loss; router_aux_loss_coef says how much of it


def weighed(
    packed: PackedBatch, scale: float | Tensor, teacher: TeacherTopK | None
) -> tuple[PackedBatch, float | Tensor]:
    """The row and scale that say what each position weighs in all terms of the loss: with a teacher in both."""
    if teacher is None:
        return packed, scale
    kinds = packed.kinds.long()
    c, d = (one[kinds] if isinstance(one, Tensor) and one.dim() else one for one in (scale, teacher.scale))
    return replace(packed, loss_weight=packed.loss_weight * c + teacher.weights * d), 1.0


class Routers:
    """The routers' loss of a student in training, and the experts that its tokens went to."""

    def __init__(self, coefficient: float, top_k: int) -> None:
        self.coefficient, self.top_k = coefficient, top_k
        self.place = Mesh()  # of this rank among those that share its rows; set by the engine
        self.of_step: Tensor | None = None  # (layers, E + 1) float64: tokens by expert, and the loss in [0, E]
        self.sums: Tensor | None = None  # the same of steps since the last reading
        self.steps = 0

    def loss(
        self,
        logits: tuple[Tensor, ...],  # (T, E) of each layer; of a tiled one in pieces
        packed: PackedBatch,
        scale: float | Tensor,  # as in a micro-step: a number, or (K,) one a kind
    ) -> Tensor:
        """This micro-step's share of the step's loss, a scalar; counts the experts."""
        rows = torch.cat(logits).view(-1, len(packed.labels), logits[0].shape[-1])[:, packed.active]  # (layers, A, E)
        weights = packed.loss_weight[packed.active]
        by_kind = isinstance(scale, Tensor) and scale.dim() > 0
        weights = weights * (scale[packed.kinds[packed.active].long()] if by_kind else scale)  # type: ignore[index]
        found, tokens = balance(rows, by_document(packed, weights, self.place.part), self.top_k, self.place.row_group)
        with torch.no_grad():
            seen = torch.nn.functional.pad(tokens.double(), (0, 1))
            seen[0, -1] = found.detach()
            self.of_step = seen if self.of_step is None else self.of_step + seen
        return self.coefficient * found

    def end_step(self, *, faulty: bool) -> None:
        """Count one step; a faulty one leaves no trace."""
        if self.of_step is not None and not faulty:
            self.sums = self.of_step if self.sums is None else self.sums + self.of_step
            self.steps += 1
        self.of_step = None

    def read(self) -> dict[str, Any]:
        """Numbers of the steps since the last call, over all ranks; called on every rank that has made one."""
        assert self.sums is not None
        if dist.is_initialized():
            dist.all_reduce(self.sums)
        tokens, loss = self.sums[:, :-1], float(self.sums[0, -1]) / max(1, self.steps)
        mean = tokens.mean(dim=1).clamp(min=1e-300)
        found = {
            "loss": loss,
            "busiest": float((tokens.max(dim=1).values / mean).max()),
            "idle": int((tokens == 0).sum()),
        }
        self.sums, self.steps = None, 0
        return found


def by_document(packed: PackedBatch, weights: Tensor, part: int = 0) -> Tensor:
    """(D, A) u_i where active row i is in document d, else 0, for ``weights`` (A,) of the ``part``-th run of a row."""
    position = packed.active + part * len(packed.labels)
    document = torch.searchsorted(packed.cu_seqlens[1:], position, right=True)  # (A,)
    every = torch.arange(len(packed.cu_seqlens) - 1, device=document.device)
    return torch.where(document == every[:, None], weights, 0.0)


def balance(
    logits: Tensor,  # (layers, A, E)
    weights: Tensor,  # (D, A) u_i
    top_k: int,
    group: dist.ProcessGroup | None = None,  # of ranks that hold other runs of the same documents
) -> tuple[Tensor, Tensor]:
    """The loss without its coefficient, a scalar; and the tokens of each expert, (layers, E). Of a run, its share."""
    probabilities = logits.float().softmax(dim=-1)
    chosen = torch.zeros_like(probabilities).scatter_(-1, probabilities.topk(top_k).indices, 1.0)
    load = torch.cat([weights @ chosen.mean(dim=0), weights.sum(dim=1, keepdim=True)], dim=1)  # (D, E + 1), f U and U
    if group is not None:
        dist.all_reduce(load, group=group)
    load = load[:, :-1] / load[:, -1:].clamp(min=torch.finfo(load.dtype).tiny)
    probability = weights @ probabilities.mean(dim=0)  # (D, E) P U
    return (load * probability).sum() * logits.shape[-1], chosen.sum(dim=1)


def coefficient_of(config: Any, wanted: float | None) -> float | None:
    """``student.router_loss``, or, where that is None, what a model's config says; None: no router loss."""
    text = config.get_text_config(decoder=True)
    if wanted is not None or not (getattr(config, FLAG, False) or getattr(text, FLAG, False)):
        return wanted
    return float(getattr(text, "router_aux_loss_coef", 0.0))


def find_routers(model: PreTrainedModel, config: StudentConfig) -> Routers | None:
    """What adds the routers' loss, if one is wanted. ``model`` may be on the meta device. Raises InputError for a model
    whose routers cannot be asked."""
    coefficient = coefficient_of(model.config, config.router_loss)
    if coefficient is None:
        return None
    where = KEY if config.router_loss is not None else f"student: {FLAG} in its config"
    known = getattr(model.get_decoder(), "_can_record_outputs", None) or {}
    top_k = getattr(model, "num_experts_per_tok", None)
    if "router_logits" not in known or not top_k:
        raise InputError(
            f"{where}: {type(model).__name__} has no routers whose load-balancing loss is known; leave it out, or set "
            f"{FLAG}: false"
        )
    return Routers(coefficient, top_k)


@torch.no_grad()
def check_routers(model: PreTrainedModel, routers: Routers) -> None:
    """Compare the model's own loss of a few tokens with ours of a document of them, all of the same weight.

    Raises InputError if they differ: the model then balances its experts in a way that the loss does not know.
    """
    training, size = model.training, model.get_input_embeddings().weight.shape[0]
    model.eval()
    try:
        tokens = torch.arange(6, device=model.device)[None] % size
        found = model(input_ids=tokens, use_cache=False, **{FLAG: True})
    finally:
        model.train(training)
    own, logits = found.aux_loss, torch.stack(found.router_logits).flatten(1, -2).float()
    even = torch.full((1, tokens.shape[1]), 1 / tokens.shape[1], device=logits.device)
    ours, _ = balance(logits, even, routers.top_k)
    if not torch.allclose(torch.as_tensor(own).float(), ours, rtol=1e-3):
        raise InputError(
            f"{KEY}: {type(model).__name__} balances its experts by another loss ({float(own):.4g} of six tokens, "
            f"expected {float(ours):.4g}); leave it out, or set {FLAG}: false"
        )
