"""Batched generation from an exported student, with plain transformers and a key-value cache.

A decoder's prompts are padded on the left, an encoder's on the right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, GenerationConfig, PreTrainedModel

from tracestill.data_pipeline.errors import InputError
from tracestill.trainer.export import holds_model, quiet
from tracestill.trainer.student_settings import holds_encoder_decoder


def load_exported(
    directory: Path,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    *,
    what: str = "the exported student",
    remedy: str = "train again",
) -> PreTrainedModel:
    """The student in an exported directory, on ``device`` and in ``dtype``.

    Raises InputError if there is no export, or it does not load, calling it ``what`` and telling a ``remedy``.
    """
    if not holds_model(directory):
        raise InputError(f"{directory}: no exported student; run `tracestill train` first")
    try:
        with quiet():
            kind = AutoModelForSeq2SeqLM if holds_encoder_decoder(directory) else AutoModelForCausalLM
            model = kind.from_pretrained(directory, dtype=dtype, local_files_only=True)
    except Exception as error:  # safetensors raises its own class for a torn file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{directory}: {what} does not load ({reason}); {remedy}") from error
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
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[list[int]]:
    """The ids that the model writes after each prompt, in the order of ``prompts``.

    A row ends with one of ``stops`` if the model stopped by itself, and holds ``max_new_tokens`` ids without one if
    it was cut off. Temperature 0 is greedy and does not depend on the batch size; otherwise ids are drawn from
    softmax(logits / temperature) and depend on (seed, batch size). ``progress`` is told the
    prompts done and in all, after each batch.

    Raises InputError if a prompt and its continuation do not fit the model's positions.
    """
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
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
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))  # longest first: memory runs out at once
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.inference_mode(), torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            ids, mask = padded([prompts[i] for i in rows], pad_id, left=not both)
            written = model.generate(
                input_ids=ids.to(model.device), attention_mask=mask.to(model.device), generation_config=settings
            )
            begin = 1 if both else ids.shape[1]  # behind what the decoder was given
            for i, row in zip(rows, written[:, begin:].tolist(), strict=True):
                end = next((at for at, token in enumerate(row) if token in stops), len(row))
                outputs[i] = row[: end + 1]
            progress(start + len(rows), len(order))
    return outputs


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
