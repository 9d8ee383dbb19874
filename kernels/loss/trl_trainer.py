"""The span-weighted loss in TRL's `SFTTrainer` (tested with 1.16), on rows that its `pack_dataset` has packed.

    class Trainer(SpanWeighted, SFTTrainer):
        pass

    rows = pack_dataset(Dataset.from_list(documents), 2048)
    Trainer(model, args=SFTConfig(**ARGUMENTS, ...), train_dataset=rows, data_collator=Rows())

A document holds `input_ids`, `labels` and `loss_weights`, and if wanted `kinds`, and a teacher's `teacher_ids`,
`teacher_log_probs` and `teacher_weights`: lists of its length, as `hf_trainer` describes them; packing moves them all
alike. Options of the loss stand in `span_options`, of the class or of the trainer before it trains.

TRL drops columns that it does not know where it packs itself, and takes no collator for rows without padding; so the
data come packed, and `ARGUMENTS` tell it to leave them as they are. Nothing here imports trl or transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from tracestill.kernels.loss.hf_trainer import CARRIED, SpanWeightedLoss
from tracestill.kernels.loss.options import Statistic

ARGUMENTS: dict[str, Any] = {"dataset_kwargs": {"skip_prepare_dataset": True}, "remove_unused_columns": False}
"""For `SFTConfig`."""

TYPES = {"kinds": torch.uint8, "teacher_ids": torch.int32}  # the others are floats


@dataclass
class Rows:
    """A collator: the documents of packed rows, one after the other in one row, whose positions begin anew with each.

    Packed rows hold `seq_lengths`, as `pack_dataset` makes them; without, an example is one document.
    """

    ignore_index: int = -100

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        lengths = [n for one in examples for n in one.get("seq_lengths") or [len(one["input_ids"])]]
        bounds = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
        batch: dict[str, Any] = {
            name: torch.tensor([token for one in examples for token in one.get(name, one["input_ids"])])[None]
            for name in ("input_ids", "labels")
        }
        for name in CARRIED:
            if name in examples[0]:
                values = [value for one in examples for value in one[name]]
                batch[name] = torch.tensor(values, dtype=TYPES.get(name, torch.float32))[None]
        batch["position_ids"] = torch.cat([torch.arange(n) for n in lengths])[None]
        batch["labels"][batch["position_ids"] == 0] = self.ignore_index  # nothing precedes them
        if "teacher_ids" in batch:
            batch["teacher_ids"][batch["position_ids"] == 0] = -1
        batch["cu_seq_lens_q"] = batch["cu_seq_lens_k"] = bounds
        batch["max_length_q"] = batch["max_length_k"] = max(lengths)
        return batch


class SpanWeighted:
    """Goes before `SFTTrainer` among the bases of a trainer: its `compute_loss` is the span-weighted one."""

    span_options: ClassVar[dict[str, Any]] = {}  # of ``SpanWeightedLoss``
    kind_names: ClassVar[Sequence[str]] = ()  # whose nll and divergence are logged; none: nothing is
    span_loss: SpanWeightedLoss | None = None

    def compute_loss(
        self: Any,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """As `Trainer.compute_loss`. The model runs once, and its logits are never whole."""
        if self.span_loss is None:
            options = {"num_kinds": max(1, len(self.kind_names)), **self.span_options}
            self.span_loss = SpanWeightedLoss(self.accelerator.unwrap_model(model), **options)
        given = {key: value for key, value in inputs.items() if key != "labels"}
        outputs = model(**given, use_cache=False)  # with a cache, documents of a row would see each other
        loss = self.span_loss(outputs, inputs["labels"], num_items_in_batch)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def log(self: Any, logs: dict[str, float], *more: Any, **options: Any) -> None:
        """With the mean nll, and divergence, of each kind since the last line, of this process."""
        statistics = None if self.span_loss is None else self.span_loss.take_statistics()
        if statistics is not None:
            for name, row in zip(self.kind_names, statistics.tolist(), strict=False):
                for said, of, count in (
                    ("nll", Statistic.NLL, Statistic.COUNT),
                    ("divergence", Statistic.DIVERGENCE, Statistic.TEACHER_COUNT),
                ):
                    if row[count]:
                        logs[f"{said}/{name}"] = row[of] / row[count]
        super().log(logs, *more, **options)  # type: ignore[misc]
