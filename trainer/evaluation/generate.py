"""Batched generation from an exported student, with plain transformers and a key-value cache.

A decoder's prompts are padded on the left, an encoder's on the right.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)

from tracestill.data_pipeline.base.errors import InputError
from tracestill.trainer.export.export import holds_model, quiet
from tracestill.trainer.loading.loading import load_model, offline
from tracestill.trainer.ranks.threads import ThreadChoice
from tracestill.trainer.recipe.positions import positions_in
from tracestill.trainer.recipe.student_settings import holds_encoder_decoder
from tracestill.trainer.student.rope import isolate_rope

TELL_SECONDS = 0.5  # between two calls of ``progress`` within a batch, at least
Progress = Callable[[int, int], None]


def load_exported(
    directory: Path,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    *,
    trusted: str | None = None,
    what: str = "the exported student",
    remedy: str = "train again",
) -> PreTrainedModel:
    """The student in an exported directory, on ``device`` and in ``dtype``.

    ``trusted`` is the digest of code of its own that may run. Raises InputError if there is no export, or it does not
    load, calling it ``what`` and telling a ``remedy``.
    """
    if not holds_model(directory):
        raise InputError(f"{directory}: no exported student; run `tracestill train` first")
    try:
        with quiet():
            both = holds_encoder_decoder(directory)
            model, _ = load_model(directory, encoder_decoder=both, dtype=dtype, trusted=trusted)
    except InputError as error:
        raise InputError(f"{directory}: {what} does not load ({error}); {remedy}") from error
    isolate_rope(model)  # else one long row of a batch would change what is written in the others
    return model.to(device).eval()


def generate(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],  # token ids, each of its own length >= 1
    *,
    stops: Sequence[int],
    pad_id: int,
    max_new_tokens: int,
    batch_size: int,
    temperature: float = 0.0,
    seed: int = 0,
    progress: Progress = lambda done, total: None,
    threads: ThreadChoice | None = None,
) -> list[list[int]]:
    """The ids that the model writes after each prompt, in the order of ``prompts``.

    A row ends with one of ``stops`` if the model stopped by itself, and holds ``max_new_tokens`` ids without one if
    it was cut off. Temperature 0 is greedy and does not depend on the batch size; otherwise ids are drawn from
    softmax(logits / temperature) and depend on (seed, batch size). ``progress`` is told, some times a second, the
    tokens written and those to be expected in all. ``threads`` tries its numbers on the first tokens.

    Raises InputError if a prompt and its continuation do not fit the model's positions.
    """
    positions = positions_in(model.config.to_dict())
    longest = max((len(prompt) for prompt in prompts), default=0)
    both = model.config.is_encoder_decoder
    if both and positions is not None and max(longest, max_new_tokens) > positions:
        raise InputError(
            f"evaluate.max_new_tokens: {max_new_tokens}, or a question of {longest} tokens, exceeds the student's "
            f"{positions} positions; raise max_position_embeddings"
        )
    if not both and positions is not None and longest + max_new_tokens > positions:
        raise InputError(
            f"evaluate.max_new_tokens: {max_new_tokens} after a prompt of {longest} tokens exceeds the student's "
            f"{positions} positions; lower it to {positions - longest} or raise max_position_embeddings"
        )
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens,
        eos_token_id=list(stops),
        pad_token_id=pad_id,
        decoder_start_token_id=model.config.decoder_start_token_id if both else None,
        do_sample=temperature > 0,
        # transformers' own default keeps only the 50 likeliest tokens
        **({"temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature > 0 else {}),
    )
    outputs: list[list[int]] = [[] for _ in prompts]
    watch = Steps(len(prompts), max_new_tokens, stops, progress, threads)
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))  # longest first: memory runs out at once
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.inference_mode(), torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            ids, mask = padded([prompts[i] for i in rows], pad_id, left=not both)
            watch.begin()
            with offline():
                written = model.generate(
                    input_ids=ids.to(model.device),
                    attention_mask=mask.to(model.device),
                    generation_config=settings,
                    stopping_criteria=StoppingCriteriaList([watch]),
                )
            begin = 1 if both else ids.shape[1]  # behind what the decoder was given
            for i, row in zip(rows, written[:, begin:].tolist(), strict=True):
                end = next((at for at, token in enumerate(row) if token in stops), len(row))
                outputs[i] = row[: end + 1]
            watch.end()
    return outputs


class Steps(StoppingCriteria):
    """Sees each token of a batch as it is written: for progress and for the choice of threads. It stops nothing."""

    def __init__(
        self, prompts: int, limit: int, stops: Sequence[int], progress: Progress, threads: ThreadChoice | None
    ) -> None:
        """Each of ``prompts`` is answered by at most ``limit`` tokens."""
        self.prompts, self.limit, self.stops = prompts, limit, list(stops)
        self.progress, self.threads = progress, threads
        self.finished, self.settled = 0, 0  # answers of the batches before, and their tokens
        self.told = time.monotonic()

    def begin(self) -> None:
        self.lengths: torch.Tensor | None = None  # (B,) tokens of each answer so far
        self.open: torch.Tensor | None = None  # (B,) whether it is still being written

    def __call__(self, input_ids: torch.Tensor, scores: Any, **more: Any) -> torch.Tensor:
        """``input_ids`` are (B, T): what was written last stands in the last column."""
        last = input_ids[:, -1]
        if self.lengths is None or self.open is None:
            self.lengths, self.open = torch.zeros_like(last), torch.ones_like(last, dtype=torch.bool)
            if self.threads is not None:
                self.threads.begin()  # to read the prompts is other work than to write a token
        elif self.threads is not None:
            self.threads.lap()
        self.lengths = self.lengths + self.open
        self.open = self.open & ~torch.isin(last, last.new_tensor(self.stops))
        if time.monotonic() - self.told >= TELL_SECONDS:
            self.tell()
        return torch.zeros_like(self.open)

    def tell(self) -> None:
        """Answers to come are expected to be as long as the mean of those that are finished, or as long as can be."""
        assert self.lengths is not None
        assert self.open is not None
        self.told = time.monotonic()
        written = int(self.lengths.sum())
        finished = self.finished + int((~self.open).sum())
        tokens = self.settled + int(self.lengths[~self.open].sum())
        usual = tokens / finished if finished else self.limit
        under_way = sum(max(length + 1.0, usual) for length in self.lengths[self.open].tolist())
        to_come = self.prompts - self.finished - len(self.lengths)
        self.progress(self.settled + written, round(tokens + under_way + to_come * usual))

    def end(self) -> None:
        assert self.lengths is not None
        assert self.open is not None
        self.open = torch.zeros_like(self.open)
        self.tell()
        self.finished, self.settled = self.finished + len(self.lengths), self.settled + int(self.lengths.sum())


def padded(prompts: Sequence[Sequence[int]], pad_id: int, *, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts as (B, T) int64 ids, ending in the last column or beginning in the first, and the mask of what is none
    of the padding."""
    width = max(len(prompt) for prompt in prompts)
    ids = torch.full((len(prompts), width), pad_id, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        begin = width - len(prompt) if left else 0
        ids[row, begin : begin + len(prompt)] = torch.as_tensor(prompt)
        mask[row, begin : begin + len(prompt)] = 1
    return ids, mask
