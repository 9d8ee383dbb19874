"""A model with another tokenizer, read through the bytes that both tokenizers make their tokens of.

The document's text is cut anew by the model's own tokenizer, and its tokens and the store's are laid on one axis of
bytes. A token of the store has a nll where one of the model's begins at its first byte and one ends at its last: the
sum over those in between, the probability chained. It has a topk where one of the model's begins at its first byte:
each of the model's candidates counts for the token of the store with the very same bytes; one that has none, because it
is longer or shorter, stays in the rest of the mass.

Control symbols are no text. One that both vocabularies have under one name is itself, the beginning and the end of a
text are each other's, and any other is read by the model as the text that its name is, and of it nothing is known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.tokens.store import TokenStore
from tracestill.data_pipeline.tokens.token_bytes import token_bytes
from tracestill.kernels.loss import TokenScores
from tracestill.trainer.scoring.reading import Pack, Source

MORE = 2  # times as many candidates are asked for: some have no counterpart
WANTED, OTHER = 1, 2  # kinds of the model's tokens
TABLE = np.array([0, 1, 0], np.float32)


class Laid(NamedTuple):
    """A document in the model's tokens, and where the store's lie among them."""

    ids: np.ndarray  # (m,) int32 of the model's vocabulary
    first: np.ndarray  # (n,) place of the model's token that begins where a token of the store does; -1: none
    last: np.ndarray  # (n,) place of the one that ends where it does; -1: none, or nothing is known of it


class Translation:
    """Between the store's vocabulary (``ours``) and a model's."""

    def __init__(self, ours: Tokenizer, theirs: Tokenizer, special: dict[str, int | None], ends: dict[str, int | None]):
        """``special``: the store's ids of ``bos``, ``eos``, ``pad``; ``ends``: the model's of ``bos`` and ``eos``."""
        self.bytes, self.theirs = token_bytes(ours), theirs
        theirs.encode_special_tokens = True  # what a text calls <eos> ends nothing
        their_bytes = token_bytes(theirs)
        self.size = max(self.bytes) + 1
        self.lengths, self.their_lengths = lengths_of(self.bytes), lengths_of(their_bytes)
        self.their_bytes = their_bytes
        added = set(ours.get_added_tokens_decoder())
        named = {entry.content.encode(): i for i, entry in theirs.get_added_tokens_decoder().items()}
        self.control: dict[int, int | None] = {i: named[self.bytes[i]] for i in added if self.bytes[i] in named}
        self.control |= {i: ends.get(name) for name, i in special.items() if i is not None and name in ends}
        self.is_control = np.zeros(self.size, bool)
        self.is_control[[i for i in added | set(self.control) if i < self.size]] = True
        text = {held: i for i, held in self.bytes.items() if not self.is_control[i]}
        self.begins = ends.get("bos") if theirs.encode("a").ids[:1] == [ends.get("bos")] else None
        self.counterpart = np.full(len(self.their_lengths), -1, np.int64)
        for i in sorted(their_bytes, key=lambda i: str(theirs.id_to_token(i)).startswith("<0x")):  # bytes come last
            held = text.pop(their_bytes[i], None) if i not in named.values() else None
            if held is not None:
                self.counterpart[i] = held
        for i, other in self.control.items():
            if other is not None:
                self.counterpart[other] = i

    def lay(self, tokens: np.ndarray) -> Laid | None:
        """A document laid out; None if its text is not cut back into the same bytes, as where the model's tokenizer
        changes letters."""
        ends = np.cumsum(self.lengths[tokens])
        starts = ends - self.lengths[tokens]
        ids: list[int] = []
        begin: list[int] = []
        size: list[int] = []
        unknown = np.zeros(len(tokens), bool)
        if self.begins is not None and not (len(tokens) and self.control.get(int(tokens[0])) == self.begins):
            ids, begin, size = [self.begins], [0], [0]
        for at, end in runs(self.is_control[tokens]):
            place = int(starts[at])
            token = int(tokens[at])
            if self.is_control[token] and token in self.control:
                if (other := self.control[token]) is not None:
                    ids, begin, size = [*ids, other], [*begin, place], [*size, int(self.lengths[token])]
                else:
                    unknown[at] = True
                continue
            unknown[at:end] |= self.is_control[token]
            cut = self.cut(b"".join(self.bytes[int(t)] for t in tokens[at:end]))
            if cut is None:
                return None
            own, lengths = cut
            ids += own
            begin += (place + np.cumsum(lengths) - lengths).tolist()
            size += lengths.tolist()
        their_starts, their_sizes = np.array(begin, np.int64), np.array(size, np.int64)
        first = found_at(their_starts, starts, real=their_sizes > 0, side="left")
        last = found_at(their_starts + their_sizes, ends, real=their_sizes > 0, side="right")
        return Laid(np.array(ids, np.int32), first, np.where(unknown | (last < first), -1, last))

    def cut(self, text: bytes) -> tuple[list[int], np.ndarray] | None:
        """The model's tokens of a piece of text, and how many of its bytes each takes."""
        try:
            ids = self.theirs.encode(text.decode(), add_special_tokens=False).ids
        except UnicodeDecodeError:
            return None
        lengths = self.their_lengths[ids] if ids else np.zeros(0, np.int64)
        made = b"".join(self.their_bytes[i] for i in ids)
        if made == b" " + text and not text.startswith(b" "):  # some begin every text with a blank
            lengths[0] -= 1
        elif made != text:
            return None
        return ids, lengths


def lengths_of(held: dict[int, bytes]) -> np.ndarray:
    found = np.zeros(max(held) + 1, np.int64)
    for i, name in held.items():
        found[i] = len(name)
    return found


def runs(alone: np.ndarray) -> Iterable[tuple[int, int]]:
    """First and end of each stretch: tokens that stand ``alone`` one by one, others together."""
    bounds = np.flatnonzero(alone[1:] | alone[:-1]) + 1
    return zip([0, *bounds.tolist()], [*bounds.tolist(), len(alone)], strict=True) if len(alone) else ()


def found_at(places: np.ndarray, wanted: np.ndarray, *, real: np.ndarray, side: str) -> np.ndarray:
    """(n,) the first, or with ``side`` right the last, of the ``real`` ascending places that is each wanted, or -1."""
    index = np.flatnonzero(real)
    if not len(index):
        return np.full(len(wanted), -1)
    chosen = places[index]
    at = np.searchsorted(chosen, wanted, side=side) - (side == "right")  # type: ignore[call-overload]
    at = np.clip(at, 0, len(chosen) - 1)
    return np.where(chosen[at] == wanted, index[at], -1)


@dataclass(frozen=True)
class OtherTokens:
    """As ``reading.Source``, of the store's tokens; ``model`` reads its own."""

    model: Source
    translation: Translation
    positions: int | None  # that the model has

    def read(self, pack: Pack, *, entropy: bool = False, rank: bool = False, k: int = 0) -> TokenScores:
        assert not entropy
        assert not rank
        targets = pack.targets()
        firsts, lasts, inner = self.translated(pack, targets, topk=k > 0)
        nll, top = np.full(len(targets), np.nan, np.float32), np.full((len(targets), k), np.nan, np.float32)
        ids = np.full((len(targets), k), -1, np.int64)
        if inner is not None:
            most = min(MORE * k, len(self.translation.their_lengths))
            seen, places = self.model.read(inner, k=most), inner.targets()
            by_token = np.zeros(len(inner.tokens) + 1)
            by_token[places + 1] = seen.nll.double().cpu().numpy()
            sums = np.cumsum(by_token)
            whole = (firsts > 0) & (lasts >= 0)
            nll[whole] = (sums[lasts[whole] + 1] - sums[firsts[whole]]).astype(np.float32)
            if k:
                assert seen.ids is not None
                assert seen.log_probs is not None
                begun = np.flatnonzero(firsts > 0)
                rows = np.searchsorted(places, firsts[begun])
                ids[begun], top[begun] = self.ours(seen.ids.cpu().numpy()[rows], seen.log_probs.cpu().numpy()[rows], k)
        return TokenScores(
            torch.from_numpy(nll),
            torch.full((len(targets),), torch.nan),
            None,
            None,
            torch.from_numpy(ids) if k else None,
            torch.from_numpy(top) if k else None,
        )

    @property
    def along(self) -> Callable[[], None] | None:
        return self.model.along

    def join(self, meet: Callable[..., bool], idle: Callable[[], object]) -> None:
        self.model.join(meet, idle)

    def translated(self, pack: Pack, targets: np.ndarray, *, topk: bool) -> tuple[np.ndarray, np.ndarray, Pack | None]:
        """Of each target the place of the model's token that begins with it, and that of the one that ends with it,
        among the tokens of the model's pack; 0 or less, and -1: none."""
        firsts, lasts = np.full(len(targets), -1), np.full(len(targets), -1)
        tokens: list[np.ndarray] = []
        kinds: list[np.ndarray] = []
        names: list[str] = []
        base = 0
        for at, name in enumerate(pack.names):
            begin, end = int(pack.offsets[at]), int(pack.offsets[at + 1])
            mine = (targets >= begin) & (targets < end)
            laid = self.translation.lay(pack.tokens[begin:end]) if mine.any() else None
            if laid is None or len(laid.ids) < 2:
                continue
            if self.positions is not None and len(laid.ids) > self.positions:
                raise InputError(
                    f"document {name}: {len(laid.ids):,} tokens of the model's, which has {self.positions:,} positions"
                )
            of_targets = targets[mine] - begin
            first, last = laid.first[of_targets], laid.last[of_targets]
            kind = np.full(len(laid.ids), OTHER, np.uint8)
            for a, b in zip(first.tolist(), last.tolist(), strict=True):
                if a > 0 and (b >= a or topk):
                    kind[a : max(a, b) + 1] = WANTED
            firsts[mine], lasts[mine] = np.where(first > 0, first + base, -1), np.where(last >= 0, last + base, -1)
            tokens, kinds, names = [*tokens, laid.ids], [*kinds, kind], [*names, name]
            base += len(laid.ids)
        if not tokens:
            return firsts, lasts, None
        offsets = np.cumsum([0, *map(len, tokens)])
        return firsts, lasts, Pack(names, np.concatenate(tokens), np.concatenate(kinds), offsets, TABLE)

    def ours(self, ids: np.ndarray, log_probs: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """(M, k) ids and log-probabilities of the candidates that have a counterpart, in their order."""
        mapped = self.translation.counterpart[ids]
        none = mapped < 0
        order = np.argsort(none, axis=1, kind="stable")[:, :k]
        chosen, chances = np.take_along_axis(mapped, order, 1), np.take_along_axis(log_probs, order, 1)
        chances = np.where(chosen < 0, np.nan, chances)
        short = k - chosen.shape[1]
        pad: Any = ((0, 0), (0, short))
        return np.pad(chosen, pad, constant_values=-1), np.pad(chances, pad, constant_values=np.nan)


def coverage(
    translation: Translation, store: TokenStore, documents: Iterable[int], table: np.ndarray, *, topk: bool
) -> dict[str, tuple[int, int]]:
    """Kind -> targets of which something is known, and all of these documents; a nll, or, where only ``topk`` is asked
    for, that."""
    known, every = (np.zeros(len(store.kind_names), np.int64) for _ in range(2))
    for document in documents:
        kinds = store.kinds(document)
        wanted = table[kinds] != 0
        wanted[0] = False
        every += np.bincount(kinds[wanted], minlength=len(every))
        if (laid := translation.lay(store.tokens(document))) is not None:
            there = wanted & (laid.first > 0) & (topk | (laid.last >= 0))
            known += np.bincount(kinds[there], minlength=len(every))
    rows = zip(store.kind_names, known.tolist(), every.tolist(), strict=True)
    return {name: (a, b) for name, a, b in rows if b}
