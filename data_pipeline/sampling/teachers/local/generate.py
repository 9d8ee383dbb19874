"""Batches of prompts in, texts out. Draws by the Gumbel-max trick: the likeliest token after noise from the row's own
generator is a draw from the softmax, so that a sample's seed decides it, whoever else is in the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, TopKLogitsWarper, TopPLogitsWarper

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.sampling.teachers import Ask, Said
from tracestill.data_pipeline.sampling.teachers.local.options import TeacherOptions

OutOfMemory = torch.cuda.OutOfMemoryError


class TooLong(Exception):
    """A prompt leaves no room for an answer."""


class Divide(LogitsProcessor):
    """By the temperature of each row; 0 leaves it."""

    def __init__(self, temperatures: Sequence[float], device: torch.device) -> None:
        self.by = torch.tensor([[t if t > 0 else 1.0] for t in temperatures], device=device)  # (B, 1)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:  # (B, V)
        return scores.float() / self.by


class Noise(LogitsProcessor):
    """Gumbel noise on the rows whose temperature is not 0."""

    def __init__(self, temperatures: Sequence[float], seeds: Sequence[int], device: torch.device) -> None:
        self.generators = [
            torch.Generator(device).manual_seed(seed) if temperature > 0 else None
            for temperature, seed in zip(temperatures, seeds, strict=True)
        ]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:  # (B, V)
        for row, generator in zip(scores, self.generators, strict=True):
            if generator is not None:
                row -= torch.empty_like(row).exponential_(generator=generator).log_()
        return scores


class Generator:
    def __init__(self, model: Any, tokenizer: Any, options: TeacherOptions) -> None:
        """Raises InputError if nothing tells where the model stops."""
        self.model, self.tokenizer, self.options = model, tokenizer, options
        said = model.generation_config.eos_token_id
        ends = said if isinstance(said, list) else [said]
        self.ends = {int(end) for end in (*ends, tokenizer.eos_token_id) if end is not None}
        if not self.ends:
            raise InputError(f"{options.model}: nothing tells where this model stops; give its tokenizer an eos_token")
        self.pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(self.ends)
        self.encoder = bool(model.config.is_encoder_decoder)
        self.positions = None if self.encoder else getattr(model.config, "max_position_embeddings", None)

    def prompt(self, ask: Ask) -> list[int]:
        """The ids of what is asked. Raises TooLong."""
        text, prefill = ask.question.question, ""
        if not ask.as_is:
            text, prefill = self.options.template.replace("{question}", text), self.options.prefill
        if self.tokenizer.chat_template:
            messages = [{"role": "user", "content": text}]
            if ask.style:
                messages.insert(0, {"role": "system", "content": ask.style})
            asked = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
            ids = self.tokenizer(asked + prefill, add_special_tokens=False)["input_ids"]
        else:
            asked = f"{ask.style}\n\n{text}" if ask.style else text
            ids = self.tokenizer(asked + prefill)["input_ids"]
            if not self.encoder and len(ids) > 1 and ids[-1] in self.ends:
                ids = ids[:-1]  # some tokenizers end every text
        if self.positions is not None and len(ids) >= self.positions:
            raise TooLong(f"the question has {len(ids)} tokens, and the model {self.positions} positions")
        return list(ids)

    @torch.inference_mode()
    def answers(self, asked: Sequence[tuple[Ask, list[int]]]) -> list[Said]:
        """What the model says to each of a batch."""
        longest = max(len(ids) for _, ids in asked)
        device = self.model.device
        rows = [[self.pad] * (longest - len(ids)) + ids for _, ids in asked]
        ids = torch.tensor(rows, device=device)  # (B, T), padded on the left
        mask = torch.tensor([[0] * (longest - len(i)) + [1] * len(i) for _, i in asked], device=device)  # (B, T)
        temperatures = [ask.temperature for ask, _ in asked]
        processors = LogitsProcessorList([Divide(temperatures, device)])
        if self.options.top_k is not None:
            processors.append(TopKLogitsWarper(self.options.top_k))
        if self.options.top_p is not None:
            processors.append(TopPLogitsWarper(self.options.top_p))
        processors.append(Noise(temperatures, [ask.seed for ask, _ in asked], device))
        room = self.options.max_tokens if self.positions is None else self.positions - longest
        config = GenerationConfig(
            do_sample=False,
            max_new_tokens=min(self.options.max_tokens, room),
            eos_token_id=sorted(self.ends),
            pad_token_id=self.pad,
            decoder_start_token_id=getattr(self.model.config, "decoder_start_token_id", None),
        )
        more = {"stop_strings": list(self.options.stop), "tokenizer": self.tokenizer} if self.options.stop else {}
        written = self.model.generate(
            input_ids=ids, attention_mask=mask, generation_config=config, logits_processor=processors, **more
        )
        begin = 1 if self.encoder else longest
        return [self.said(ask, row[begin:]) for (ask, _), row in zip(asked, written.tolist(), strict=True)]

    def said(self, ask: Ask, ids: list[int]) -> Said:
        end = next((at for at, token in enumerate(ids) if token in self.ends), None)
        text = self.tokenizer.decode(ids[:end], skip_special_tokens=False)
        cut = min((at for stop in self.options.stop if (at := text.find(stop)) >= 0), default=None)
        finish = "length" if end is None and cut is None else "stop"
        written = len(ids) if end is None else end + 1
        prefill = "" if ask.as_is else self.options.prefill
        return Said(prefill + text[:cut], "", None, finish, details={"completion_tokens": written})
