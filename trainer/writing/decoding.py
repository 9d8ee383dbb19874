"""Writing with a decoder: places in a batch that are filled again as soon as a text has ended.

Keys and values lie in buffers with room ahead, so that a token costs no copy of what stands before it; every text ends
in the last column, and what is left of a shorter one is masked. Samples of one prompt share its reading. A text is
drawn by a hash of (seed, prompt's number, sample, position): it depends neither on the order nor on who else is
written, but for what rounding does to the logits.
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from tracestill.trainer.ranks.threads import ThreadChoice
from tracestill.trainer.weighting.by_token import uniform

AHEAD = 64  # columns that a buffer grows by, at least
REFILL = 8  # places are filled again when at least one of so many is free
BLOCK = 256  # probabilities that are summed first when one is drawn
DIGITS = 7  # of a log probability behind the point: fp32 knows no more, and what is kept is read


class Wanted(NamedTuple):
    """One text to be written."""

    prompt: int  # which one
    sample: int
    ids: Sequence[int]  # of the prompt
    limit: int  # tokens at most
    temperature: float
    key: int | None = None  # whose draws are its own; None: the prompt's number
    decoder: Sequence[int] = ()  # what an encoder-decoder has begun to write


class Written(NamedTuple):
    """What a model wrote after a prompt."""

    ids: list[int]  # ends with a stop if it finished
    logprobs: list[float]  # log p of each under the model as it is, nats, whatever the temperature
    finished: bool  # it ended by itself


Ended = Callable[[Wanted, Written], None]


class Layer(DynamicLayer):
    """Keys and values (B, H, T, D) of a layer, in a buffer with room ahead."""

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        super().lazy_initialization(key_states, value_states)
        self.used = 0
        self.buffers = [key_states.new_empty(0), value_states.new_empty(0)]

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **more: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        end = self.used + key_states.shape[2]
        for at, states in enumerate((key_states, value_states)):
            if not self.used or self.buffers[at].shape[2] < end:
                held, self.buffers[at] = self.buffers[at], roomy(states, end)
                if self.used:
                    self.buffers[at][:, :, : self.used] = held[:, :, : self.used]
            self.buffers[at][:, :, self.used : end] = states
        self.used = end
        return self.shown()

    def shown(self) -> tuple[Tensor, Tensor]:
        self.keys, self.values = (buffer[:, :, : self.used] for buffer in self.buffers)
        return self.keys, self.values

    def keep_last(self, columns: int) -> None:
        """Forget what stands before the last columns."""
        for buffer in self.buffers:
            buffer[:, :, :columns] = buffer[:, :, self.used - columns : self.used].clone()
        self.used = columns
        self.shown()

    def widen(self, columns: int) -> None:
        """Empty columns before all others, to hold a longer text."""
        for at, buffer in enumerate(self.buffers):
            self.buffers[at] = roomy(buffer, columns)
            self.buffers[at][:, :, columns - self.used : columns] = buffer[:, :, : self.used]
        self.used = columns
        self.shown()

    def take(self, places: Tensor, other: Layer, rows: Tensor) -> None:
        """Rows of another one, no longer than this one, into places of this one."""
        for mine, theirs in zip(self.buffers, other.buffers, strict=True):
            mine[places, :, self.used - other.used : self.used] = theirs[:, :, : other.used][rows]

    def select(self, places: Tensor) -> None:
        self.buffers = [buffer[places] for buffer in self.buffers]
        self.shown()


def roomy(states: Tensor, columns: int) -> Tensor:
    """(B, H, T, D) zeros like states, for so many columns and more to come."""
    batch, heads, _, size = states.shape
    return states.new_zeros(batch, heads, max(columns + AHEAD, columns * 5 // 4), size)


def can_decode(model: PreTrainedModel) -> bool:
    """Whether texts can be written here: by a decoder that can be told positions (one with ALiBi cannot), and whose
    layers all look at everything before."""
    if model.config.is_encoder_decoder or not {"position_ids", "past_key_values"} <= named_by(model):
        return False
    layers = DynamicCache(config=model.config).layers
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


def named_by(model: PreTrainedModel) -> set[str]:
    """What a model's forward pass takes by name."""
    return set(inspect.signature(model.forward).parameters)


@dataclass
class Text:
    """A text that is being written."""

    wanted: Wanted
    seed: int
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    draws: np.ndarray = field(init=False)  # (limit,) in [0, 1), one a token

    def __post_init__(self) -> None:
        of = self.wanted
        key = of.prompt if of.key is None else of.key
        self.draws = uniform(self.seed, key, of.sample, of.limit if of.temperature > 0 else 0)

    def has_ended(self, stops: Container[int], ended: Ended) -> bool:
        """Whether it has; who asked is told."""
        finished = self.ids[-1] in stops
        if not finished and len(self.ids) < self.wanted.limit:
            return False
        ended(self.wanted, Written(self.ids, self.logprobs, finished))
        return True


def rows_within(wanted: Iterable[Wanted], batch: int, tokens: int | None) -> int:
    """How many rows as long as the longest of these a batch may have."""
    longest = max((len(one.ids) + len(one.decoder) + one.limit for one in wanted), default=1)
    return batch if tokens is None else max(1, min(batch, tokens // longest))


class Decoder:
    """Writes texts with a model, ``batch`` at a time."""

    def __init__(
        self,
        model: PreTrainedModel,
        stops: Sequence[int],
        pad: int,
        batch: int,
        seed: int,
        threads: ThreadChoice | None = None,
        tokens: int | None = None,
    ) -> None:
        """``tokens``: of prompts and of what may follow them, at a time, at most; but never fewer than one text."""
        self.model, self.stops, self.pad, self.batch, self.seed = model, frozenset(stops), pad, batch, seed
        self.threads, self.tokens = threads, tokens
        self.last_only = {"logits_to_keep": 1} if "logits_to_keep" in named_by(model) else {}
        self.device = model.device
        self.texts: list[Text | None] = []  # in each place
        self.written = 0  # tokens so far

    @torch.inference_mode()
    def write(self, wanted: Iterable[Wanted], ended: Ended, tell: Callable[[int], None] = lambda tokens: None) -> None:
        """Write all that is wanted, and call ``ended`` with each text; ``tell`` with the tokens written so far, a step.

        Samples of a prompt are best wanted one after the other, and long prompts first.
        """
        self.cache: Cache | None = None
        self.texts, self.written = [], 0
        queue = deque(wanted)
        while True:
            is_new = False
            free = [place for place, text in enumerate(self.texts) if text is None]
            room = self.room(queue)
            missing = room - len(self.texts) + len(free)
            if not self.texts or missing * REFILL >= room:
                new = [queue.popleft() for _ in range(min(missing, len(queue)))]
                is_new = bool(new)
                if new:
                    self.begin(new, free, ended)
                    tell(self.written)
                elif free:
                    self.close_up()
            if not any(self.texts):
                if not self.texts and not queue:
                    return
                continue
            if self.threads is not None and is_new:  # to read prompts is other work than to write a token
                self.threads.begin()
            self.step(ended)
            if self.threads is not None:
                self.threads.lap()
            tell(self.written)

    def room(self, queue: Sequence[Wanted]) -> int:
        """How many texts there may be at a time, with the next one among them."""
        if self.tokens is None:
            return self.batch
        held = [*(text.wanted for text in self.texts if text is not None), *islice(queue, 1)]
        return rows_within(held, self.batch, self.tokens)

    def begin(self, new: list[Wanted], free: list[int], ended: Ended) -> None:
        """Read the prompts of new texts, each once, write their first tokens, and give them places."""
        unique = {one.prompt: one.ids for one in new}
        rows = {prompt: row for row, prompt in enumerate(unique)}
        width = max(map(len, unique.values()))
        ids = torch.full((len(unique), width), self.pad)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(unique.values()):
            ids[row, width - len(prompt) :] = torch.as_tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        read = Cache(layer_class_to_replicate=Layer)
        logits = self.forward(ids.to(self.device), mask.to(self.device), read)
        texts = [Text(one, self.seed) for one in new]
        of_text = torch.tensor([rows[one.prompt] for one in new], device=self.device)
        tokens = self.choose(logits[of_text], texts)
        going = [at for at, text in enumerate(texts) if not text.has_ended(self.stops, ended)]
        if not going:
            return
        self.put([texts[at] for at in going], of_text[going], tokens[going], mask[of_text[going].cpu()], read, free)

    def put(self, texts: list[Text], rows: Tensor, tokens: Tensor, mask: Tensor, read: Cache, free: list[int]) -> None:
        """Give texts free places, or places behind the others."""
        width = mask.shape[1]
        if self.cache is None or not any(self.texts):
            for layer in read.layers:
                assert isinstance(layer, Layer)
                layer.select(rows)
            self.cache, self.texts, self.mask, self.last = read, list(texts), mask, tokens
            return
        columns = self.mask.shape[1]
        if width > columns:
            for layer in self.cache.layers:
                assert isinstance(layer, Layer)
                layer.widen(width)
            self.mask = torch.nn.functional.pad(self.mask, (width - columns, 0))
            columns = width
        more = max(len(texts) - len(free), 0)
        if more:
            for layer in self.cache.layers:
                assert isinstance(layer, Layer)
                layer.buffers = [torch.cat([b, b.new_zeros(more, *b.shape[1:])]) for b in layer.buffers]
                layer.shown()
            free = [*free, *range(len(self.texts), len(self.texts) + more)]
            self.mask = torch.cat([self.mask, self.mask.new_zeros(more, columns)])
            self.last = torch.cat([self.last, self.last.new_zeros(more)])
            self.texts += [None] * more
        places = torch.tensor(free[: len(texts)])
        self.mask[places] = torch.nn.functional.pad(mask, (columns - width, 0))
        self.last[places.to(self.device)] = tokens
        for mine, theirs in zip(self.cache.layers, read.layers, strict=True):
            assert isinstance(mine, Layer)
            assert isinstance(theirs, Layer)
            mine.take(places.to(self.device), theirs, rows)
        for place, text in zip(places.tolist(), texts, strict=True):
            self.texts[place] = text

    def close_up(self) -> None:
        """Nothing is left to be begun: keep the places in which texts are being written."""
        places = [place for place, text in enumerate(self.texts) if text is not None]
        if not places or self.cache is None:
            self.texts, self.cache = [], None
            return
        at = torch.tensor(places)
        for layer in self.cache.layers:
            assert isinstance(layer, Layer)
            layer.select(at.to(self.device))
        self.mask, self.last = self.mask[at], self.last[at.to(self.device)]
        self.texts = [self.texts[place] for place in places]

    def step(self, ended: Ended) -> None:
        """One token of every text."""
        assert self.cache is not None
        open_ = [place for place, text in enumerate(self.texts) if text is not None]
        for place, text in enumerate(self.texts):
            if text is None:
                self.mask[place] = 0  # it looks at the new token alone
        needed = int(self.mask.sum(dim=1).max())
        if self.mask.shape[1] - needed > max(AHEAD, needed // 4):
            for layer in self.cache.layers:
                assert isinstance(layer, Layer)
                layer.keep_last(needed)
            self.mask = self.mask[:, -needed:]
        self.mask = torch.nn.functional.pad(self.mask, (0, 1), value=1)
        logits = self.forward(self.last[:, None], self.mask.to(self.device), self.cache)
        texts = [text for text in self.texts if text is not None]
        at = torch.tensor(open_, device=self.device)
        self.last[at] = self.choose(logits if len(open_) == len(logits) else logits[at], texts)
        for place, text in zip(open_, texts, strict=True):
            if text.has_ended(self.stops, ended):
                self.texts[place] = None

    def forward(self, ids: Tensor, mask: Tensor, cache: Cache) -> Tensor:
        """(B, V) logits behind the last column of (B, n) ids, of which (B, T) mask says what is to be seen."""
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        found = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            **self.last_only,
        )
        logits: Tensor = found.logits[:, -1]
        return logits.float()

    def choose(self, logits: Tensor, texts: Sequence[Text]) -> Tensor:
        self.written += len(texts)
        return choose(logits, texts)


def choose(logits: Tensor, texts: Sequence[Text]) -> Tensor:
    """(B,) the next token of each text, which it keeps, of (B, V) logits in fp32."""
    tokens = logits.argmax(dim=-1)
    warm = [at for at, text in enumerate(texts) if text.wanted.temperature > 0]
    if warm:
        at = torch.tensor(warm, device=logits.device)
        draws = torch.tensor([texts[i].draws[len(texts[i].ids)] for i in warm], dtype=torch.float64)
        temperatures = torch.tensor([texts[i].wanted.temperature for i in warm], device=logits.device)
        of_warm = logits if len(warm) == len(logits) else logits[at]
        tokens[at] = drawn(of_warm / temperatures[:, None], draws.to(logits.device))
    logprobs = logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(dim=-1)
    for text, token, logprob in zip(texts, tokens.tolist(), logprobs.tolist(), strict=True):
        text.ids.append(token)
        text.logprobs.append(round(logprob, DIGITS))
    return tokens


def drawn(
    logits: Tensor,  # (B, V)
    draws: Tensor,  # (B,) float64 in [0, 1)
) -> Tensor:
    """(B,) the token at which the running sum of the probabilities passes each draw."""
    p = logits.softmax(dim=-1)
    p = torch.nn.functional.pad(p, (0, -p.shape[1] % BLOCK)).view(len(p), -1, BLOCK)
    blocks = p.sum(dim=-1, dtype=torch.float64).cumsum(dim=-1)
    target = (draws * blocks[:, -1])[:, None]
    block = torch.searchsorted(blocks, target, right=True).clamp(max=blocks.shape[1] - 1)
    before = torch.where(block > 0, blocks.gather(1, (block - 1).clamp(min=0)), 0.0)
    inside = p.gather(1, block[:, :, None].expand(-1, 1, BLOCK))[:, 0].double().cumsum(dim=-1)
    target = torch.minimum(target - before, inside[:, -1:].nextafter(torch.zeros_like(target)))
    return (block * BLOCK + torch.searchsorted(inside, target, right=True))[:, 0]
