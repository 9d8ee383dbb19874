"""The span-weighted loss for other people's trainers: Hugging Face `Trainer` (TRL's `SFTTrainer`: `trl_trainer`).

    loss = SpanWeightedLoss(model, num_kinds=8)
    Trainer(model=model, compute_loss_func=loss, args=..., train_dataset=..., data_collator=...)

Batches carry two more tensors beside `labels`: `loss_weights` (B, T) float and, if wanted, `kinds` (B, T) uint8, laid
out like the labels, unshifted. (Set `remove_unused_columns=False`, so that the trainer leaves them in.) While the
model trains, its head hands the hidden states through as if they were logits, and this function computes the loss
from them: the logits of a whole batch never exist. In evaluation the model returns real logits, as always.

A batch may also carry a teacher's most probable tokens, `teacher_ids` and `teacher_log_probs` (B, T, k), of which -1
and NaN are none, and `teacher_weights` (B, T) float, laid out alike: what stands at a token was said of it before it
was read. Without `teacher_weights` every token that has an entry weighs 1.

`docs/hf_trainer.py` is an example that runs. Nothing here imports transformers: a model is anything with
`get_output_embeddings()` and a `config`, its outputs anything with `.logits`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tracestill.kernels.loss.fused import linear_cross_entropy
from tracestill.kernels.loss.options import Divergence, TeacherTopK

TREATMENTS = ("final_logit_softcapping", "logit_scale", "logits_scaling")
"""Config keys by which a model's own forward changes the head's output, which would now be hidden states."""

CARRIED = ("loss_weights", "kinds", "teacher_ids", "teacher_log_probs", "teacher_weights")
"""What a batch may hold for the loss, and the model does not know."""


class DeferringHead(nn.Linear):
    """An LM head that makes no logits while it trains: the loss is computed in a later call, in this same module.

    It has to be this module's own forward, because that is what ZeRO-3 and FSDP gather the matrix for.
    """

    def forward(self, hidden: Tensor, loss: dict[str, Any] | None = None) -> Any:
        """Logits; in training the hidden states as they are; with `loss`, its arguments, loss and statistics."""
        if loss is not None:
            return linear_cross_entropy(hidden, self.weight, bias=self.bias, **loss)
        return hidden if self.training else super().forward(hidden)


class SpanWeightedLoss:
    """A `compute_loss_func`: sum of w_i * nll_i over the batch, divided by what the trainer says; with a teacher
    (1 - mix) times that, and mix times the sum of v_i * D_i, divided alike. (Evaluation leaves the teacher out.)

    The divisor is `num_items_in_batch` where the trainer passes it (labels that are not ignored, over all accumulation
    steps, as transformers counts them), so that weights of 1 give exactly the trainer's own loss; otherwise it is the
    batch's sum of weights.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        num_kinds: int = 1,
        ignore_index: int = -100,
        autocast: torch.dtype | None = None,
        mix: float = 0.5,
        divergence: Divergence = "forward",
        beta: float = 0.5,
        **options: Any,
    ) -> None:
        """Change the model's head in place; its parameters, and ties to them, stay.

        Args:
            autocast: type of the head's products where the parameters are fp32: torch.bfloat16 with `bf16=True`.
            mix: the teacher's share of the loss, of batches that carry one.
            divergence: with beta as in `TeacherTopK`.
            options: of `linear_cross_entropy`: chunk_rows, label_smoothing, z_loss, dynamic,
                dynamic_kinds, backend.

        Raises:
            ValueError: for a head that is no plain `nn.Linear`, and for a model that changes its logits after it.
        """
        head = model.get_output_embeddings()  # type: ignore[operator]
        if type(head) is not nn.Linear:
            raise ValueError(f"the model's head is {type(head).__name__}; expected a plain nn.Linear")
        config: Any = model.config
        if hasattr(config, "get_text_config"):
            config = config.get_text_config()
        for key in TREATMENTS:
            if getattr(config, key, None) not in (None, 1, 1.0):
                raise ValueError(f"the model changes its logits ({key}); use tracestill's own trainer for it")
        head.__class__ = DeferringHead
        self.head = head
        self.num_kinds, self.ignore_index, self.autocast, self.options = num_kinds, ignore_index, autocast, options
        self.mix, self.divergence, self.beta = mix, divergence, beta
        self.extra: dict[str, Tensor | None] = {}
        self.statistics: Tensor | None = None
        model.register_forward_pre_hook(self._take, with_kwargs=True)

    def _take(self, model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        """Keep what the loss needs and the model does not know."""
        self.extra = {name: kwargs.pop(name, None) for name in CARRIED}
        return args, kwargs

    def __call__(self, outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        """Loss of one batch, from the model's outputs and the unshifted labels (B, T)."""
        hidden = outputs.logits if hasattr(outputs, "logits") else outputs["logits"]
        targets = self._next(labels, self.ignore_index)
        kept = (targets != self.ignore_index).float()
        weights, kinds = self.extra["loss_weights"], self.extra["kinds"]
        if weights is not None:
            kept = kept * self._next(weights, 0).float()
        kinds = torch.zeros_like(targets, dtype=torch.uint8) if kinds is None else self._next(kinds, 0).to(torch.uint8)
        divisor = kept.sum() if num_items_in_batch is None else torch.as_tensor(num_items_in_batch, device=kept.device)
        scale = 1.0 / divisor.clamp(min=torch.finfo(torch.float32).tiny)
        flat = hidden.flatten(0, 1)
        if not self.head.training:  # these are logits
            nll = F.cross_entropy(flat.float(), targets, reduction="none", ignore_index=self.ignore_index)
            return torch.where(kept > 0, nll * kept, 0.0).sum() * scale
        teacher = self._teacher(scale)
        scale = scale if teacher is None else scale * (1 - self.mix)
        call = {"targets": targets, "weights": kept, "kinds": kinds, "num_kinds": self.num_kinds, "scale": scale}
        call |= {"teacher": teacher}
        with torch.autocast(flat.device.type, dtype=self.autocast, enabled=self.autocast is not None):
            loss, statistics = self.head(flat, call | self.options)
        self.statistics = statistics if self.statistics is None else self.statistics + statistics
        return loss

    def _teacher(self, scale: Tensor) -> TeacherTopK | None:
        """What the batch says of a teacher, of each position's successor."""
        ids, log_probs, weights = (self.extra[name] for name in CARRIED[2:])
        if ids is None or log_probs is None:
            return None
        ids, log_probs = self._next(ids, -1), self._next(log_probs, float("nan"))
        there = (ids[:, 0] >= 0).float()
        return TeacherTopK(
            ids=ids if ids.dtype == torch.int32 else ids.long(),
            log_probs=log_probs,
            weights=there if weights is None else there * self._next(weights, 0).float(),
            scale=scale * self.mix,
            divergence=self.divergence,
            beta=self.beta,
        )

    def take_statistics(self) -> Tensor | None:
        """(num_kinds, S) sums over the training batches since the last call, as `linear_cross_entropy` returns them."""
        statistics, self.statistics = self.statistics, None
        return statistics

    @staticmethod
    def _next(values: Tensor, last: float) -> Tensor:
        """(B, T, ...) -> (B * T, ...): each position's successor, `last` at the ends."""
        ends = values.new_full((len(values), 1, *values.shape[2:]), last)
        return torch.cat([values[:, 1:], ends], 1).flatten(0, 1)
