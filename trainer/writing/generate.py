"""Generation from an exported student: many prompts, several samples of each, by ``decoding`` or plain transformers.

A decoder's prompts are padded on the left, an encoder's on the right.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel

from tracestill.data_pipeline.base.errors import InputError
from tracestill.trainer.export.export import holds_model, quiet
from tracestill.trainer.loading.loading import load_model, offline
from tracestill.trainer.ranks.threads import ThreadChoice
from tracestill.trainer.recipe.positions import positions_in
from tracestill.trainer.recipe.student_settings import holds_encoder_decoder
from tracestill.trainer.student.rope import isolate_rope
from tracestill.trainer.writing.decoding import Decoder, Ended, Text, Wanted, Written, can_decode, choose, rows_within

TELL_SECONDS = 0.5  # between two calls of ``progress``, at least
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
    """The ids that the model writes after each prompt, one sample each, in the order of ``prompts``: see ``write``."""
    asks = [Ask(prompt, max_new_tokens, temperature=temperature) for prompt in prompts]
    settings = {"stops": stops, "pad_id": pad_id, "batch_size": batch_size, "seed": seed}
    found = write(model, asks, **settings, progress=progress, threads=threads)  # type: ignore[arg-type]
    return [one.ids for (one,) in found]


class Ask(NamedTuple):
    """A prompt, and how often and how it is to be continued."""

    ids: Sequence[int]  # of the prompt, at least one; what the model has begun to write may stand at its end
    max_new_tokens: int
    samples: int = 1
    temperature: float = 0.0  # 0 is greedy; else ids are drawn from softmax(logits / temperature)
    key: int | None = None  # whose draws are its own; None: its place among those that are asked together
    decoder: Sequence[int] = ()  # what an encoder-decoder has begun to write


def write(
    model: PreTrainedModel,
    asks: Sequence[Ask],
    *,
    stops: Sequence[int],
    pad_id: int,
    batch_size: int,
    seed: int = 0,
    progress: Progress = lambda done, total: None,
    threads: ThreadChoice | None = None,
) -> list[list[Written]]:
    """What the model writes after each prompt, ``samples`` of it, in the order of ``asks``.

    A text ends with one of ``stops`` if the model stopped by itself, and holds ``max_new_tokens`` ids without one if it
    was cut off. It is decided by the model, its prompt, and (seed, key, sample), not by the batch, but for what
    rounding does to the logits. ``progress`` is told, some times a second, the tokens written and those to be expected
    in all. ``threads`` tries its numbers on the first tokens.

    Raises InputError if a prompt and its continuation do not fit the model's positions.
    """
    found: list[list[Written | None]] = [[None] * ask.samples for ask in asks]
    wanted = [
        Wanted(i, sample, ask.ids, ask.max_new_tokens, ask.temperature, ask.key, ask.decoder)
        for i, ask in enumerate(asks)
        for sample in range(ask.samples)
    ]

    def ended(one: Wanted, text: Written) -> None:
        found[one.prompt][one.sample] = text

    settings = {"stops": stops, "pad_id": pad_id, "batch_size": batch_size, "seed": seed}
    write_wanted(model, wanted, ended, **settings, progress=progress, threads=threads)  # type: ignore[arg-type]
    return [[text for text in texts if text is not None] for texts in found]


def write_wanted(
    model: PreTrainedModel,
    wanted: Iterable[Wanted],
    ended: Ended,
    *,
    stops: Sequence[int],
    pad_id: int,
    batch_size: int,
    batch_tokens: int | None = None,
    seed: int = 0,
    progress: Progress = lambda done, total: None,
    threads: ThreadChoice | None = None,
) -> None:
    """As ``write``, and ``ended`` is called with each text as soon as it has ended. ``batch_tokens``: of prompts and of
    what may follow them, written at a time, at most; None: ``batch_size`` alone decides."""
    # longest first: memory runs out at once; the samples of a prompt beside each other
    order = sorted(
        wanted,
        key=lambda one: (-len(one.decoder), -len(one.ids) - one.limit, -len(one.ids), one.prompt, one.sample),
    )
    refuse_long(model, order)
    watch = Watch(len(order), max((one.limit for one in order), default=0), progress)

    def told(one: Wanted, text: Written) -> None:
        ended(one, text)
        watch.ended(len(text.ids))

    if can_decode(model):
        Decoder(model, stops, pad_id, batch_size, seed, threads, batch_tokens).write(order, told, watch.tell)
    else:
        batches = batched(order, batch_size, batch_tokens)
        write_plainly(model, batches, told, watch, stops, pad_id, seed, threads)
    watch.tell(watch.settled, now=True)


def refuse_long(model: PreTrainedModel, wanted: Sequence[Wanted]) -> None:
    """Raise InputError if a prompt, or what follows it, has no positions."""
    positions = positions_in(model.config.to_dict())
    if positions is None:
        return
    for one in wanted:
        if told := no_room(one, positions, both=model.config.is_encoder_decoder):
            raise InputError(f"evaluate.max_new_tokens: {told}")


def no_room(one: Wanted, positions: int, *, both: bool) -> str:
    """In what a prompt, or what follows it, exceeds a model's positions; empty if it does not. ``both``: the model is
    an encoder-decoder, where prompt and text have so many each."""
    longest, new = len(one.ids), one.limit + len(one.decoder)
    if both and max(longest, new) > positions:
        return (
            f"{new}, or a question of {longest} tokens, exceeds the student's {positions} positions; raise "
            "max_position_embeddings"
        )
    if not both and longest + new > positions:
        lower = f"lower it to {positions - longest} or " if longest < positions else ""
        return (
            f"{new} after a prompt of {longest} tokens exceeds the student's {positions} positions; {lower}raise "
            "max_position_embeddings"
        )
    return ""


def write_plainly(
    model: PreTrainedModel,
    batches: Iterable[Sequence[Wanted]],
    ended: Ended,
    watch: Watch,
    stops: Sequence[int],
    pad_id: int,
    seed: int,
    threads: ThreadChoice | None,
) -> None:
    """As ``Decoder.write`` does, batch after batch by transformers: for models whose layers it does not know."""
    both = model.config.is_encoder_decoder
    for rows in batches:
        settings = GenerationConfig(
            max_new_tokens=max(row.limit for row in rows),
            eos_token_id=list(stops),
            pad_token_id=pad_id,
            decoder_start_token_id=model.config.decoder_start_token_id if both else None,
            do_sample=False,
        )
        ids, mask = padded([row.ids for row in rows], pad_id, left=not both)
        more = {}
        if rows[0].decoder:
            start = model.config.decoder_start_token_id
            more["decoder_input_ids"] = torch.tensor([[start, *row.decoder] for row in rows], device=model.device)
        pen = Pen(rows, seed, frozenset(stops), ended, watch, threads)
        with torch.inference_mode(), offline():
            model.generate(
                input_ids=ids.to(model.device),
                attention_mask=mask.to(model.device),
                generation_config=settings,
                logits_processor=LogitsProcessorList([pen]),
                **more,
            )


class Pen(LogitsProcessor):
    """Chooses each token of a batch that transformers generates; for it the chosen one is the only one possible."""

    def __init__(
        self,
        rows: Sequence[Wanted],
        seed: int,
        stops: frozenset[int],
        ended: Ended,
        watch: Watch,
        threads: ThreadChoice | None,
    ) -> None:
        self.texts = [Text(row, seed) for row in rows]
        self.open = list(range(len(rows)))
        self.stops, self.ended, self.watch, self.threads = stops, ended, watch, threads
        self.is_first = True

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:  # (B, T), (B, V)
        if self.threads is not None:
            self.threads.begin() if self.is_first else self.threads.lap()  # to read the prompts is other work
        self.is_first = False
        only = torch.full_like(scores, -torch.inf)
        only[:, min(self.stops)] = 0.0  # for texts that have ended, so that all end
        if self.open:
            at = torch.tensor(self.open, device=scores.device)
            texts = [self.texts[place] for place in self.open]
            tokens = choose(scores[at].float(), texts)
            only[at] = -torch.inf
            only[at, tokens] = 0.0
            self.watch.under_way += len(texts)
            self.open = [
                p for p, text in zip(self.open, texts, strict=True) if not text.has_ended(self.stops, self.ended)
            ]
            self.watch.tell(self.watch.under_way)
        return only


class Watch:
    """Tells how far the writing has come."""

    def __init__(self, texts: int, limit: int, progress: Progress) -> None:
        """Each of ``texts`` has at most ``limit`` tokens."""
        self.texts, self.limit, self.progress = texts, limit, progress
        self.finished, self.settled = 0, 0  # texts that have ended, and their tokens
        self.under_way = 0  # tokens written so far, counted by who has no other count
        self.told = time.monotonic()

    def ended(self, tokens: int) -> None:
        self.finished, self.settled = self.finished + 1, self.settled + tokens

    def tell(self, written: int, now: bool = False) -> None:
        """Texts to come are expected to be as long as the mean of those that have ended, or as long as can be."""
        if now or time.monotonic() - self.told >= TELL_SECONDS:
            self.told = time.monotonic()
            usual = self.settled / self.finished if self.finished else self.limit
            to_come = round(usual * (self.texts - self.finished)) if self.texts > self.finished else 0
            self.progress(written, max(self.settled + to_come, written))


def batched(wanted: Sequence[Wanted], size: int, tokens: int | None) -> Iterator[Sequence[Wanted]]:
    """Texts in their order, the longest first; in a batch all have begun with equally many tokens."""
    at = 0
    while at < len(wanted):
        rows = wanted[at : at + rows_within(wanted[at : at + 1], size, tokens)]
        alike = next((n for n, one in enumerate(rows) if len(one.decoder) != len(rows[0].decoder)), len(rows))
        yield rows[:alike]
        at += alike


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
