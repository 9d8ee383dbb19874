"""How much the answer hangs on each step: by how much its nll rises when the step is deleted.

    influence(s) = nll(answer | question, trace without step s) - nll(answer | question, trace)

summed over the answer's targets, in nats. A deleted step is gone, its positions too, as if nobody had written it. The
document and all that it becomes without one step are packed together, as any documents are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tracestill.data_pipeline.base.kinds import ROOT, Kinds
from tracestill.data_pipeline.channels.channel import BUILT_IN
from tracestill.data_pipeline.channels.shards import steps_of
from tracestill.data_pipeline.tokens.store import TokenStore
from tracestill.trainer.scoring.reading import Pack, Source

ANSWER = "answer"
WHOLE = -1  # stands for the document with all of its steps


@dataclass(frozen=True)
class Version:
    """A document without one step, or whole."""

    document: int
    step: int
    tokens: np.ndarray  # (n,)
    kinds: np.ndarray  # (n,)


def versions_of(store: TokenStore, document: int, in_trace: np.ndarray, in_answer: np.ndarray) -> Iterator[Version]:
    """The document, and it without each step of its trace that has tokens; none if it has no such step, or no answer.

    ``in_trace``, ``in_answer``: (K,) bool of kinds.
    """
    tokens, kinds, steps = store.tokens(document), store.kinds(document), store.steps(document)
    found = np.unique(steps[in_trace[kinds]])
    if not len(found) or not in_answer[kinds[1:]].any():
        return
    yield Version(document, WHOLE, tokens, kinds)
    for step in found.tolist():
        left = ~(in_trace[kinds] & (steps == step))
        yield Version(document, step, tokens[left], kinds[left])


def influence(
    source: Source,
    store: TokenStore,
    documents: range,
    kinds: Kinds,
    *,
    capacity: int,
    tick: Callable[[int], None] = lambda tokens: None,
) -> np.ndarray:
    """(S,) float32: of the steps of the documents, one after the other, as the channel of that name has them; NaN for a
    step without a token, and where there is no answer. Raises as ``Source.read``."""
    channel = BUILT_IN["influence"]
    counts = steps_of(store, documents)
    first = np.concatenate([[0], np.cumsum(counts)])
    found, whole = channel.blank(int(first[-1])), np.full(len(documents), np.nan)
    versions = (v for d in documents for v in versions_of(store, d, kinds.mask([ROOT]), kinds.mask([ANSWER])))
    for pack in packed(versions, capacity):
        for version, nll in zip(pack, answer_nll(source, pack, kinds, store.ids), strict=True):
            at = version.document - documents.start
            if version.step == WHOLE:
                whole[at] = nll
            else:
                found[first[at] + version.step] = nll - whole[at]  # the whole document comes before
        tick(sum(len(version.tokens) for version in pack))
    return found


def packed(versions: Iterator[Version], capacity: int) -> Iterator[list[Version]]:
    """Versions as they come, in packs of at most ``capacity`` tokens, or of one longer version."""
    pack: list[Version] = []
    room = 0
    for version in versions:
        if pack and len(version.tokens) > room:
            yield pack
            pack = []
        room = (room if pack else capacity) - len(version.tokens)
        pack.append(version)
    if pack:
        yield pack


def answer_nll(source: Source, versions: Sequence[Version], kinds: Kinds, ids: Sequence[str]) -> np.ndarray:
    """(D,) float64: nll of each version's answer, summed over its targets."""
    table = kinds.mask([ANSWER]).astype(np.float32)
    offsets = np.cumsum([0, *(len(version.tokens) for version in versions)])
    tokens, of_kind = (np.concatenate([getattr(v, name) for v in versions]) for name in ("tokens", "kinds"))
    pack = Pack([ids[version.document] for version in versions], tokens, of_kind, offsets, table)
    nll = source.read(pack).nll.double().cpu().numpy()
    owner = np.searchsorted(offsets, pack.targets(), side="right") - 1
    return np.bincount(owner, weights=nll, minlength=len(versions))


def tokens_read(store: TokenStore, documents: range, kinds: Kinds) -> int:
    """How many tokens the model reads for it."""
    masks = kinds.mask([ROOT]), kinds.mask([ANSWER])
    return sum(len(v.tokens) for d in documents for v in versions_of(store, d, *masks))
