"""A store of documents, a teacher's channel of them that has gaps, and what a loss with a teacher's term comes to.

The reference is independent of the project's code: transformers' own model on each document alone, whole distributions,
and both terms written out.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tiny_step
import torch
from tiny_step import KINDS, NUM_KINDS, VOCABULARY

from tracestill.data_pipeline.base.stage import stage
from tracestill.data_pipeline.channels import Channels, ChannelWriter
from tracestill.data_pipeline.channels.channel import topk
from tracestill.data_pipeline.plan.plan import Plan, PlanConfig, make_plan
from tracestill.data_pipeline.tokens.store import TokenStore, TokenStoreWriter
from tracestill.trainer.batches.batches import Batches
from tracestill.trainer.batches.teacher import Teacher
from tracestill.trainer.weighting import SpanWeighting, WeightingConfig
from tracestill.trainer.weighting.by_teacher import DistilConfig

K, COUNT = 5, 17
LABEL = {"prompt": 0.0, "plan": 1.5, "check": 0.25, "prose": 0.0, "answer": 2.0}  # weights; the others 1
TEACHER = {"prompt": 0.5, "answer": 0.0, "control": 0.25, "trace": 2.0}
PLAN = PlanConfig(capacity=96, packs_per_step=4, group=4)


def write(directory: Path, *, pairs: bool = False) -> None:
    """Documents and channels; of ``pairs`` an encoder reads the first tokens."""
    random = np.random.default_rng(5)
    with (
        stage(directory / "encode", "encode", {}, {}) as work,
        TokenStoreWriter(work.path / "tokens.arrow", KINDS) as writer,
    ):
        for at in range(COUNT):
            n = int(random.integers(6, 40))
            kinds = np.sort(random.integers(2 if pairs else 1, NUM_KINDS, n)).astype(np.uint8)
            if pairs:
                kinds[: n // 3] = 0
            weight = 0.0 if at == 3 else float(random.uniform(0.3, 2))
            tokens = random.integers(3, VOCABULARY, n).astype(np.int32)
            writer.add(f"r{at}", f"q{at}", tokens, kinds, np.zeros(n, np.uint16), weight)
    write_channel(directory / "teacher", open_store(directory), VOCABULARY, {}, {"encode": directory / "encode"})


def write_channel(
    place: Path, store: TokenStore, vocabulary: int, config: dict[str, Any], inputs: dict[str, Path]
) -> None:
    """What a teacher at random says of a store's tokens; a fifth has no entry, a fifth few."""
    random = np.random.default_rng(6)
    channels = ChannelWriter(place, store, topk(K), config, inputs)
    for shard in channels.missing():
        n = int(sum(store.lengths[d] for d in shard.documents))
        log_q, ids = torch.log_softmax(torch.from_numpy(random.normal(0, 2, (n, vocabulary))), 1).topk(K)
        values = {"topk_ids": ids.numpy().astype(np.int32), "topk_logprobs": log_q.numpy().astype(np.float16)}
        gone = random.random(n) < 0.2
        values["topk_ids"][gone], values["topk_logprobs"][gone] = -1, np.nan
        short = random.random(n) < 0.2  # fewer entries
        values["topk_ids"][short, 3:], values["topk_logprobs"][short, 3:] = -1, np.nan
        channels.write(shard, values)
    targets = {name: n for name, n in zip(store.kind_names, store.counts.sum(axis=0).tolist(), strict=True) if n}
    sizes = {"documents": len(store), "tokens": int(store.lengths.sum()), "bytes": 0}
    channels.finish({**sizes, "targets": targets, "known": targets, "means": {}})


def open_store(directory: Path) -> TokenStore:
    return TokenStore(directory / "encode" / "tokens.arrow", KINDS)


def config(**more: Any) -> DistilConfig:
    return DistilConfig(**{"channel": "teacher.topk", "weight": TEACHER, "mix": 0.3, **more})


def plan_of(store: TokenStore) -> Callable[[int], Plan]:
    return lambda epoch: make_plan(store.lengths, PLAN, seed=3, epoch=epoch)


def batches(directory: Path, of: DistilConfig | None, *, normaliser: str = "weights", **more: Any) -> Batches:
    """``of``: the teacher's term, with the channels in ``directory``."""
    store = open_store(directory)
    teacher = of and Teacher(store, of, KINDS, Channels(directory / "teacher", store), VOCABULARY)
    weighting = more.pop("weighting", None) or SpanWeighting(WeightingConfig(weights=LABEL), KINDS)
    place = {"rank": 0, "ranks": 1, "pad_id": 0, "device": torch.device("cpu"), "normaliser": normaliser}
    return Batches(store, plan_of(store), weighting, teacher=teacher, **{**place, **more})


def weight_of(weights: dict[str, float], kind: int) -> float:
    """A kind's own name wins over the group's; what is not named weighs 1."""
    name = KINDS.names[kind]
    in_trace = name in KINDS.members("trace")
    return 0.0 if kind == 0 else weights.get(name, weights.get("trace", 1.0) if in_trace else 1.0)


def divergence(log_p: torch.Tensor, ids: np.ndarray, log_q: np.ndarray, of: DistilConfig) -> torch.Tensor:
    """Of one target, over its entries and the rest."""
    there = ids >= 0
    at, log_q = torch.from_numpy(ids[there].astype(np.int64)), torch.from_numpy(log_q[there].astype(np.float64))
    rest = torch.ones(len(log_p), dtype=torch.bool).index_fill_(0, at, False)
    p = torch.cat([log_p[at].exp(), log_p[rest].exp().sum()[None]])
    q = torch.cat([log_q.exp(), (1 - log_q.exp().sum())[None]]).to(p)

    def kl(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a * (a / b).log()).sum()

    if of.divergence == "forward":
        return kl(q, p)
    if of.divergence == "reverse":
        return kl(p, q)
    m = of.beta * q + (1 - of.beta) * p
    return of.beta * kl(q, m) + (1 - of.beta) * kl(p, m)


def expected(
    directory: Path,
    documents: np.ndarray,
    log_probs: Callable[[np.ndarray, np.ndarray], torch.Tensor],
    of: DistilConfig,
    label: str = "weights",
) -> tuple[torch.Tensor, dict[str, Any]]:
    """Loss of a step of documents, and sums of v, of v D and counts by kind. ``log_probs(tokens, kinds)``: (n, V) of
    the student's before each token. Normalisers: weights and tokens."""
    store = open_store(directory)
    channels = Channels(directory / "teacher", store)
    terms = {"label": [], "teacher": []}
    seen: dict[str, Any] = {name: {"v": 0.0, "vD": 0.0, "count": 0} for name in KINDS.names}
    for document in documents.tolist():
        tokens, kinds, record = store.tokens(document), store.kinds(document), float(store.weights[document])
        log_p = log_probs(tokens, kinds)
        entries = zip(channels.of("topk_ids", document), channels.of("topk_logprobs", document), strict=True)
        for at, (ids, log_q) in enumerate(entries):
            if at == 0:
                continue
            w, v = (weight_of(weights, int(kinds[at])) * record for weights in (LABEL, TEACHER))
            terms["label"].append((w, -log_p[at, int(tokens[at])]))
            if v and (ids >= 0).any():
                each = divergence(log_p[at], ids, log_q, of)
                terms["teacher"].append((v, each))
                row = seen[KINDS.names[kinds[at]]]
                row["v"], row["vD"], row["count"] = row["v"] + v, row["vD"] + v * each.item(), row["count"] + 1
    mix, total = of.mix_at(0), torch.zeros((), dtype=torch.float64)
    for name, share, by in (("label", 1 - mix, label), ("teacher", mix, of.normaliser)):
        weights = [w for w, _ in terms[name]]
        divisor = sum(weights) if by == "weights" else sum(w != 0 for w in weights)
        for w, value in terms[name]:
            if w:
                total = total + share / divisor * w * value
    return total, seen


def of_decoder(model: Any) -> Callable[[np.ndarray, np.ndarray], torch.Tensor]:
    """What ``expected`` asks of a plain model."""

    def log_probs(tokens: np.ndarray, kinds: np.ndarray) -> torch.Tensor:
        logits = model(input_ids=torch.from_numpy(tokens.astype(np.int64))[None], use_cache=False).logits[0]
        return torch.cat([torch.zeros(1, logits.shape[1]), torch.log_softmax(logits, 1)[:-1]]).double()

    return log_probs


def plain(tied: bool = False) -> Any:
    return tiny_step.plain_model(tied).double()
