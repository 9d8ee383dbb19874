"""Steps of documents for tests of the normalisers, and c written out in NumPy from its definitions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.plan.plan import Plan, PlanConfig, make_plan
from tracestill.data_pipeline.tokens.store import TokenStore, TokenStoreWriter
from tracestill.kernels.loss import linear_cross_entropy
from tracestill.trainer.batches.batches import Batches, MicroStep
from tracestill.trainer.weighting import Document, SpanWeighting, WeightingConfig

KINDS = Kinds()
NORMALISERS = ("weights", "tokens", "spans", "examples")
WEIGHTS = {"prompt": 0, "plan": 1.5, "derive": 1, "check": 0.3, "prose": 0, "answer": 4, "control": 0.5}
VOCABULARY, HIDDEN = 43, 24
DOCUMENTS, CAPACITY = 23, 96


class Jagged(SpanWeighting):
    """Token weights that differ everywhere, a good part of them zero, and one document without any."""

    def tokens(self, document, step):
        grid = (7 * np.arange(len(document.tokens)) + 3 * document.index + step) % 10
        return np.where((grid < 4) | (document.index == 2), 0, grid / 4).astype(np.float32)


def weighting(*, by_token: bool) -> SpanWeighting:
    return (Jagged if by_token else SpanWeighting)(WeightingConfig(weights=WEIGHTS), KINDS)


def write_store(path: Path) -> TokenStore:
    """Lengths 2 to 60; no token is a check, document 1 is prompt alone, 5 has the record weight 0, 7 has no answer."""
    random = np.random.default_rng(5)
    with TokenStoreWriter(path, KINDS) as writer:
        for index in range(DOCUMENTS):
            n = int(random.integers(2, 61))
            kinds = np.sort(random.integers(1, 8, n))
            kinds[kinds == KINDS.id("check")] = KINDS.id("prose")
            kinds = np.ones(n, int) if index == 1 else np.minimum(kinds, 5) if index == 7 else kinds
            weight = 0.0 if index == 5 else float(random.uniform(0.2, 3))
            writer.add(str(index), "q", random.integers(0, VOCABULARY, n), kinds, np.zeros(n), weight)
    return TokenStore(path, KINDS)


def plan_of(store: TokenStore, *, single: bool) -> Plan:
    """One step that holds every document; ``single``: each in a pack of its own."""
    capacity = 60 if single else CAPACITY
    lengths = np.full(len(store), 60, np.int32) if single else store.lengths
    packs = len(store) if single else 11
    return make_plan(lengths, PlanConfig(capacity=capacity, packs_per_step=packs, group=packs), seed=0, epoch=0)


def batches(store: TokenStore, normaliser: str, *, by_token: bool, single: bool, rank: int = 0, ranks: int = 1):
    return Batches(
        store,
        lambda epoch: plan_of(store, single=single),
        weighting(by_token=by_token),
        normaliser=normaliser,
        rank=rank,
        ranks=ranks,
        pad_id=0,
        device=torch.device("cpu"),
    )


def model() -> tuple[Tensor, Tensor]:
    """What a token's hidden state is, (V, H), and the head, (V, H); fp64."""
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(2, VOCABULARY, HIDDEN, generator=generator, dtype=torch.float64))


def loss_of(micro: MicroStep, dtype: torch.dtype) -> float:
    return losses_of(micro, dtype)[0]


def losses_of(micro: MicroStep, dtype: torch.dtype) -> tuple[float, Tensor]:
    """The loss of a micro-step and its statistics by kind, by the kernel as the trainer calls it."""
    hidden, head = (part.to(dtype) for part in model())
    packed = micro.packed
    loss, statistics = linear_cross_entropy(
        hidden[packed.input_ids[0]],
        head,
        packed.labels,
        packed.loss_weight,
        packed.kinds,
        num_kinds=len(KINDS),
        scale=micro.scale,
        active=packed.active,
        chunk_rows=17,
    )
    return float(loss), statistics


def factors_of(micro: list[MicroStep], store: TokenStore) -> dict[int, np.ndarray]:
    """Document -> (n - 1,) w * c of its targets, as the micro-steps carry them."""
    found = {}
    for one in micro:
        at = 0
        for document in one.documents.tolist():
            n = int(store.lengths[document])
            found[document] = weights_of(one)[at : at + n - 1]
            at += n
    return found


def weights_of(micro: MicroStep) -> np.ndarray:
    """(T,) float64 w * c of each position."""
    scale = torch.as_tensor(micro.scale, dtype=torch.float64)
    by_position = scale[micro.packed.kinds.long()] if scale.dim() else scale
    return (micro.packed.loss_weight.double() * by_position).numpy()


def by_hand(store: TokenStore, normaliser: str, *, by_token: bool) -> tuple[dict[int, np.ndarray], float]:
    """w * c of every target, and the loss of the whole step; one target after the other, from the definitions."""
    of = weighting(by_token=by_token)
    v = {name: float(np.float32(value)) for name, value in WEIGHTS.items()}
    targets = []  # (document, v, r, t, kind)
    for d in range(len(store)):
        kinds, r = store.kinds(d), float(store.weights[d])
        tokens = of.tokens(as_document(store, d), 0).tolist() if by_token else [1.0] * len(kinds)
        targets += [(d, v[KINDS.names[k]], r, t, int(k)) for k, t in zip(kinds[1:], tokens[1:], strict=True)]

    if normaliser == "weights":
        total = sum(value * r * t for _, value, r, t, _ in targets)
        c = [1 / total for _ in targets]
    elif normaliser == "tokens":
        count = sum(1 for _, value, r, t, _ in targets if value * r * t != 0)
        c = [1 / count for _ in targets]
    elif normaliser == "spans":
        s = {k: sum(r * t for *_, r, t, kind in targets if kind == k) for k in range(len(KINDS))}
        w = sum(v[KINDS.names[k]] for k in s if s[k] > 0)
        c = [1 / (w * s[kind]) if s[kind] else 0.0 for *_, kind in targets]
    else:
        s = {d: sum(value * t for doc, value, _, t, _ in targets if doc == d) for d in range(len(store))}
        total = sum(float(store.weights[d]) for d in s if s[d] > 0)
        c = [1 / (total * s[d]) if s[d] else 0.0 for d, *_ in targets]

    hidden, head = (part.numpy() for part in model())
    factors: dict[int, list[float]] = {d: [] for d in range(len(store))}
    loss = 0.0
    for (d, value, r, t, _), factor in zip(targets, c, strict=True):
        position = len(factors[d])
        token, label = store.tokens(d)[position : position + 2]
        logits = head @ hidden[token]
        nll = np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[label]
        loss += value * r * t * factor * nll
        factors[d].append(value * r * t * factor)
    return {d: np.array(values) for d, values in factors.items()}, loss


def as_document(store: TokenStore, index: int) -> Document:
    return Document(index, store.tokens(index), store.kinds(index), store.steps(index))
