"""Influence at the price of little more than one pass: the answer does not see a step, while the steps behind it did.

    document   question  step 0  step 1  step 2  </think>  answer
    behind it  (</think> answer) that does not see step 0, (</think> answer) that does not see step 1, ...

The document is read once. Behind it in the row stand as many copies of its end (from the first token behind the trace,
or the one before the answer, whichever comes first, to the answer's last) as it has steps. A copy's tokens have their
places in the document, see what lies before the copied end, but for one step, and of the end their own copy alone. So
what a step said to later steps is still there, and that is what it is not: the influence of ``influence.py``. How well
it follows that one is measured by benchmarks/influence.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tracestill.data_pipeline.base.kinds import ROOT, Kinds
from tracestill.data_pipeline.channels.channel import BUILT_IN
from tracestill.data_pipeline.channels.shards import steps_of
from tracestill.data_pipeline.tokens.store import TokenStore
from tracestill.kernels.attention.ordinary import ordinary_attention
from tracestill.kernels.pack import PackedBatch
from tracestill.trainer.scoring.influence import ANSWER
from tracestill.trainer.scoring.reading import LocalModel

OUTSIDE = -1  # in the place of a step: a token that is of none
AT_ONCE = 2048  # copied tokens of a document whose attention is worked out at a time


@dataclass(frozen=True)
class Hidden:
    """A document, and copies of its end, each of which does not see one step."""

    document: int
    tokens: np.ndarray  # (n,)
    of_step: np.ndarray  # (n,) step of the trace that a token is of, or OUTSIDE
    steps: np.ndarray  # (S,) those that are hidden
    targets: np.ndarray  # (A,) places of the answer's targets
    first: int  # place of the first token that is copied

    @property
    def copied(self) -> int:
        """Tokens of a copy: the last target is predicted by the one before it."""
        return int(self.targets[-1]) - self.first

    @property
    def behind(self) -> int:
        """Tokens of all copies."""
        return len(self.steps) * self.copied

    @property
    def places(self) -> np.ndarray:
        """(S * copied,) of each copied token its place in the document."""
        return np.tile(np.arange(self.first, self.first + self.copied, dtype=np.int32), len(self.steps))

    @property
    def blocks(self) -> list[Hidden]:
        """The same with fewer steps each, for masks that are not too large."""
        at_once = max(1, AT_ONCE // self.copied)
        return [replace(self, steps=self.steps[at : at + at_once]) for at in range(0, len(self.steps), at_once)]

    def seen(self, window: int | None) -> np.ndarray:
        """(S * copied, first + S * copied) bool: what copied tokens see of the document before its end, and of all
        copies. ``window``: tokens that one sees, its own included."""
        copy = np.repeat(np.arange(len(self.steps)), self.copied)
        keys = np.concatenate([np.arange(self.first, dtype=np.int32), self.places])
        of_copy = np.concatenate([np.full(self.first, OUTSIDE), copy])
        back = self.places[:, None] - keys
        own = of_copy == copy[:, None]
        shown = (back >= 0) & (own | (of_copy == OUTSIDE)) & (self.of_step[keys] != self.steps[copy][:, None])
        shown |= own & (back == 0)  # a token sees itself, even one of the step
        found: np.ndarray = shown if window is None else shown & (back < window)
        return found


def hidden_of(
    store: TokenStore, document: int, in_trace: np.ndarray, in_answer: np.ndarray, capacity: int
) -> Iterator[Hidden]:
    """The document with copies of its end for each step of its trace that has tokens, in pieces of about ``capacity``
    tokens; none if it has no such step, or no answer. ``in_trace``, ``in_answer``: (K,) bool of kinds."""
    kinds = store.kinds(document)
    trace, answer = in_trace[kinds], np.flatnonzero(in_answer[kinds])
    targets = answer[answer > 0]
    of_step = np.where(trace, store.steps(document), OUTSIDE).astype(np.int64)
    steps = np.unique(of_step[trace])
    if not len(steps) or not len(targets):
        return
    first = int(min(np.flatnonzero(trace)[-1] + 1, targets[0] - 1))
    room = max(1, (capacity - len(kinds)) // (int(targets[-1]) - first))
    for at in range(0, len(steps), room):
        yield Hidden(document, store.tokens(document), of_step, steps[at : at + room], targets, first)


def packed(found: Iterable[Hidden], capacity: int) -> Iterator[list[Hidden]]:
    """As they come, in packs of at most ``capacity`` tokens, or of a single one."""
    pack: list[Hidden] = []
    size = 0
    for one in found:
        own = len(one.tokens) + one.behind
        if pack and size + own > capacity:
            yield pack
            pack, size = [], 0
        pack, size = [*pack, one], size + own
    if pack:
        yield pack


@dataclass(frozen=True)
class Copies:
    """Attention of a row whose documents are followed by copies of their ends: what ``decode`` takes as ``exchange``.
    The documents see each other no more than in any packed row, and nothing of the copies."""

    pack: Sequence[Hidden]
    masks: dict[tuple[int, int, int | None], Tensor] = field(default_factory=dict)  # place in pack, block, window

    def mask(self, at: int, block: int, part: Hidden, window: int | None, device: torch.device) -> Tensor:
        """(1, 1, S * copied, first + S * copied) bool of some steps, made once for all layers."""
        if (at, block, window) not in self.masks:
            self.masks[at, block, window] = torch.from_numpy(part.seen(window)).to(device)[None, None]
        return self.masks[at, block, window]

    def __call__(
        self,
        attend: Callable[..., tuple[Tensor, None]],
        module: torch.nn.Module,
        query: Tensor,  # (1, Hq, T, d)
        key: Tensor,  # (1, Hkv, T, d)
        value: Tensor,  # (1, Hkv, T, dv)
        attention_mask: Tensor | None,
        sliding_window: int | None = None,
        **options: Any,
    ) -> tuple[Tensor, None]:  # (1, T, Hq, dv)
        begin, behind = 0, sum(len(one.tokens) for one in self.pack)
        of_documents = (x[:, :, :behind] for x in (query, key, value))
        found = [attend(module, *of_documents, attention_mask, sliding_window=sliding_window, **options)[0]]
        how: dict[str, Any] = {"scale": options.get("scaling"), "softcap": options.get("softcap"), "window": None}
        for at, one in enumerate(self.pack):
            before = slice(begin, begin + one.first)
            for block, part in enumerate(one.blocks):
                copies = slice(behind, behind + part.behind)
                keys, values = (torch.cat([x[:, :, before], x[:, :, copies]], 2) for x in (key, value))
                mask = self.mask(at, block, part, sliding_window, query.device)
                own, _ = ordinary_attention(
                    module, query[:, :, copies], keys, values, mask, dropout=0.0, causal=False, positions=None, **how
                )
                found.append(own)
                behind += part.behind
            begin += len(one.tokens)
        return torch.cat(found, 1), None


def row_of(pack: Sequence[Hidden], device: torch.device) -> tuple[PackedBatch, np.ndarray]:
    """The row, and (M,) of each of its active positions the number of what it is about: of each ``Hidden`` one number
    for the whole document and one for each step."""
    lengths = np.array([len(one.tokens) for one in pack])
    bounds, documents = np.concatenate([[0], np.cumsum(lengths)]), int(lengths.sum())
    places = [np.arange(n) for n in lengths] + [one.places for one in pack]
    tokens = [one.tokens for one in pack] + [one.tokens[one.places] for one in pack]
    active, labels, about = [], [], []
    behind, number = documents, 0
    for one, begin in zip(pack, bounds[:-1], strict=True):  # of the documents, then of their copies
        active.append(begin + one.targets - 1)
        labels.append(one.tokens[one.targets])
        about.append(np.full(len(one.targets), number))
        number += 1 + len(one.steps)
    number = 0
    for one in pack:
        starts = behind + one.copied * np.arange(len(one.steps))[:, None]
        active.append((starts + one.targets - 1 - one.first).ravel())
        labels.append(np.tile(one.tokens[one.targets], len(one.steps)))
        about.append(np.repeat(number + 1 + np.arange(len(one.steps)), len(one.targets)))
        behind, number = behind + one.behind, number + 1 + len(one.steps)
    at, of_label = np.concatenate(active), np.full(behind, -100, np.int64)
    of_label[at] = np.concatenate(labels)

    def on_device(array: np.ndarray, kind: type = np.int64) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, kind)).to(device)

    row = PackedBatch(
        on_device(np.concatenate(tokens))[None],
        on_device(of_label),
        on_device(np.concatenate(places))[None],
        torch.zeros(behind, device=device),  # nothing is learned
        torch.zeros(behind, dtype=torch.uint8, device=device),
        on_device(bounds, np.int32),
        on_device(at),
        int(lengths.max()),
    )
    return row, np.concatenate(about)


def influence_by_attention(
    model: LocalModel,
    store: TokenStore,
    documents: range,
    kinds: Kinds,
    *,
    capacity: int,
    tick: Callable[[int], None] = lambda tokens: None,
) -> np.ndarray:
    """(S,) float32, as ``influence.influence``: by how much the answer's nll rises when it does not see a step."""
    channel = BUILT_IN["influence"]
    first = np.concatenate([[0], np.cumsum(steps_of(store, documents))])
    found = channel.blank(int(first[-1]))
    masks = kinds.mask([ROOT]), kinds.mask([ANSWER])
    for pack in packed((one for d in documents for one in hidden_of(store, d, *masks, capacity)), capacity):
        row, about = row_of(pack, model.device)
        named = np.repeat([one.document for one in pack], [1 + len(one.steps) for one in pack])[about]

        def where(at: int, named: np.ndarray = named) -> str:
            return f"document {store.ids[named[at]]}"

        nll = model.look(row, where, exchange=Copies(pack)).nll.double().cpu().numpy()
        sums, number = np.bincount(about, weights=nll), 0
        for one in pack:
            whole, steps = sums[number], sums[number + 1 : number + 1 + len(one.steps)]
            found[first[one.document - documents.start] + one.steps] = steps - whole
            number += 1 + len(one.steps)
        tick(len(row.labels))
    return found


def tokens_read(store: TokenStore, documents: range, kinds: Kinds) -> int:
    """How many tokens the model reads for it, if no document has to be read twice."""
    masks = kinds.mask([ROOT]), kinds.mask([ANSWER])
    every = (one for d in documents for one in hidden_of(store, d, *masks, capacity=1 << 62))
    return sum(len(one.tokens) + one.behind for one in every)
