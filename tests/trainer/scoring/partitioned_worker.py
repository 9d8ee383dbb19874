"""Two ranks read with a model of which each has a part; each compares what it found with the whole model's.

partitioned_worker.py STORE    tokens.arrow of decoders' documents
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import tiny_pairs
import torch
from tiny_export import tiny_config

from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.channels import BUILT_IN
from tracestill.data_pipeline.channels.channel import topk
from tracestill.data_pipeline.tokens.store import TokenStore
from tracestill.trainer.batches.rectangles import layout_for
from tracestill.trainer.engine.engine import connect, leave
from tracestill.trainer.engine.partitioned import Partitioned
from tracestill.trainer.faults.leaving import meetings
from tracestill.trainer.recipe.settings import StudentConfig, TrainConfig
from tracestill.trainer.scoring.by_attention import influence_by_attention
from tracestill.trainer.scoring.influence import influence
from tracestill.trainer.scoring.reading import LocalModel, Pack
from tracestill.trainer.scoring.shard import read_shard
from tracestill.trainer.student.student import Student, build_student

KINDS = Kinds()
CHANNELS = (*(BUILT_IN[name] for name in ("nll", "entropy", "rank", "top1")), *topk(5))
RAW = {"zero_optimization": {"stage3_param_persistence_threshold": 0, "reduce_bucket_size": 1}}


def decoder(**config: object) -> Student:
    found = tiny_config(initializer_range=0.6, **config)
    size = found.pop("vocab_size")
    ids = {"bos_id": 1, "eos_id": 2, "pad_id": 0}
    return build_student(StudentConfig(config=found), vocab_size=size, num_kinds=len(KINDS), seed=2, **ids).eval()


def reader(student: Student, pad: int, shared: Partitioned | None = None) -> LocalModel:
    return LocalModel(student, layout_for(student.model.config).make_row, pad, torch.device("cpu"), shared)


def read(model: LocalModel, store: TokenStore, documents: range) -> dict[str, np.ndarray]:
    how: Any = {"capacity": 40}
    found = read_shard(model, store, documents, CHANNELS, **how)
    found["exact"] = influence(model, store, documents, KINDS, **how)
    return found | {"attention": influence_by_attention(model, store, documents, KINDS, **how)}


def main() -> None:
    world = connect(TrainConfig(steps=1))
    store = TokenStore(Path(sys.argv[-1]))
    for tied in (False, True):
        whole, student = (decoder(tie_word_embeddings=tied) for _ in range(2))
        shared = Partitioned(student.requires_grad_(False), world, RAW)
        documents = range(0, 6) if world.rank == 0 else range(6, 7)  # one rank is done before the other
        ticks: list[None] = []
        model = reader(student, 0, shared)

        def along(ticks=ticks, model=model) -> None:
            ticks.append(None)
            model.along()

        with meetings(bool, along=along) as ranks:
            model.join(ranks.meet, bool)
            found = read(model, store, documents)
        assert student.head[0].weight.numel() == 0, "the head is whole outside of its forward"
        assert bool(ticks) == (world.rank == 1)
        expected = read(reader(whole, 0), store, documents)
        for name, values in expected.items():
            assert np.array_equal(found[name], values, equal_nan=values.dtype.kind == "f"), name
    pairs = [pair for pair in tiny_pairs.pairs(0) if pair.weight][: 1 + world.rank]
    whole, student = (tiny_pairs.student("t5", seed=3).eval() for _ in range(2))
    model = reader(student, tiny_pairs.PAD, Partitioned(student.requires_grad_(False), world, RAW))
    with meetings(bool, along=model.along) as ranks:
        model.join(ranks.meet, bool)
        for pair in pairs:
            kinds = np.concatenate([np.zeros(len(pair.question)), np.full(len(pair.text), KINDS.id("answer"))])
            tokens, ends = np.concatenate([pair.question, pair.text]).astype(np.int32), np.array([0, len(kinds)])
            pack = Pack(["r"], tokens, kinds.astype(np.uint8), ends, KINDS.mask(["answer"]).astype(np.float32))
            assert torch.equal(model.read(pack).nll, reader(whole, tiny_pairs.PAD).read(pack).nll)
    print(f"rank {world.rank} agrees")


if __name__ == "__main__":
    main()
    leave(0)
