"""What `score` costs beside the bare forward pass of the same packs: nll alone; with entropy, rank and top1; topk 32.

    python benchmarks/score.py [--student DIR] [--turns 3] [--json PATH]

Bare is the model's forward pass over the packs, and the head's product for every target into one buffer that nobody
reads: what any program pays that wants these logits. Score reads the token store, packs, passes forward, takes its
figures from the logits, and writes a shard to the disk. Both take turns, on one thread; CPU seconds count, since others
may share this machine's cores, and of each way the least of all turns, which is the one least disturbed.

``--student`` is SmolLM2-135M (`tracestill fetch-student smollm2-135m DIR`), on few tokens; without it, it is listed as
absent. The tiny student is drawn at random here, as are all tokens: what they say costs the same.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import claim, finish, table

from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.channels import BUILT_IN, Channel
from tracestill.data_pipeline.channels.channel import topk
from tracestill.data_pipeline.channels.shards import Shard, write_shard
from tracestill.data_pipeline.tokens.store import TokenStore, TokenStoreWriter
from tracestill.trainer.batches.rectangles import layout_for
from tracestill.trainer.losses.rows import rows_of
from tracestill.trainer.recipe.settings import StudentConfig
from tracestill.trainer.scoring.reading import LocalModel
from tracestill.trainer.scoring.shard import read_shard
from tracestill.trainer.student.student import build_student

BAR = 0.15
WAYS: dict[str, tuple[Channel, ...]] = {
    "nll": (BUILT_IN["nll"],),
    "nll, entropy, rank, top1": tuple(BUILT_IN[name] for name in ("nll", "entropy", "rank", "top1")),
    "topk 32": topk(32),
}
TINY = {
    **{"model_type": "llama", "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4},
    **{"num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 2048},
}
SMALLEST = {**TINY, "hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 3}  # of 512 tokens; no claim
KINDS = Kinds()


def made_up(path: Path, documents: int, vocabulary: int) -> TokenStore:
    """Documents of 60 to 300 tokens."""
    draw = np.random.default_rng(0)
    with TokenStoreWriter(path, KINDS) as writer:
        for at in range(documents):
            size = int(draw.integers(60, 301))
            kinds = np.full(size, KINDS.id("derive"))
            writer.add(f"d{at}", "q", draw.integers(3, vocabulary, size), kinds, np.zeros(size))
    return TokenStore(path)


def model_of(config: StudentConfig, vocabulary: int) -> LocalModel:
    ids = {"bos_id": 1, "eos_id": 2, "pad_id": 0}
    student = build_student(config, vocab_size=vocabulary, num_kinds=len(KINDS), **ids).eval().requires_grad_(False)
    return LocalModel(student, layout_for(student.model.config).make_row, 0, torch.device("cpu"))


def bare(model: LocalModel, store: TokenStore, capacity: int) -> Callable[[], None]:
    """The forward pass of the packs that ``read_shard`` makes, which lie ready."""
    table = np.ones(len(KINDS), np.float32)
    order = np.argsort(store.lengths, kind="stable").tolist()
    packs = []
    for row in rows_of(store.lengths, capacity, order=order):
        tokens, kinds, offsets, _ = store.gather(row)
        packs.append(model.make_row(tokens, kinds, offsets, np.ones(len(row), np.float32), table, 0, model.device))
    head = model.student.head[0].weight
    logits = torch.empty(max(len(pack.active) for pack in packs), len(head))

    @torch.no_grad()
    def run() -> None:
        for pack in packs:
            hidden = model.student.hidden_states(pack).index_select(0, pack.active)
            torch.mm(hidden, head.t(), out=logits[: len(hidden)])

    return run


def measured(model: LocalModel, store: TokenStore, capacity: int, turns: int, folder: Path) -> dict[str, Any]:
    """CPU seconds of each way: the least of ``turns``, in which all ways follow each other."""
    shard = Shard(0, 0, len(store))

    def score(channels: tuple[Channel, ...]) -> None:
        write_shard(folder, store, shard, channels, read_shard(model, store, shard.documents, channels, capacity))

    ways: dict[str, Callable[[], None]] = {"bare": bare(model, store, capacity)}
    ways |= {name: lambda channels=channels: score(channels) for name, channels in WAYS.items()}
    for way in ways.values():
        way()  # whatever is done once
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(turns):
        for name, way in ways.items():
            begun = time.process_time()
            way()
            seconds[name].append(time.process_time() - begun)
    least = {name: min(found) for name, found in seconds.items()}
    return {
        "tokens": int(store.lengths.sum()),
        "cpu_seconds": seconds,
        "overhead": {name: least[name] / least["bare"] - 1 for name in WAYS},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", type=Path, help="SmolLM2-135M in transformers' form")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    models: dict[str, Any] = {"SmolLM2-135M": "absent: no --student"}
    with tempfile.TemporaryDirectory() as folder:
        store = made_up(Path(folder) / "tiny.arrow", 60, 4096)
        tiny = model_of(StudentConfig(config=TINY), 4096)
        models["tiny"] = measured(tiny, store, 2048, 2 * arguments.turns + 1, Path(folder))
        store = made_up(Path(folder) / "smallest.arrow", 60, 512)
        smallest = measured(model_of(StudentConfig(config=SMALLEST), 512), store, 2048, 7, Path(folder))
        if arguments.student is not None:
            few = made_up(Path(folder) / "few.arrow", 3, 40_000)
            real = model_of(StudentConfig(pretrained=arguments.student), 40_000)
            models["SmolLM2-135M"] = measured(real, few, 1024, arguments.turns, Path(folder))
    found = {name: row for name, row in models.items() if isinstance(row, dict)}
    rows = [[name, row["tokens"], f"{min(row['cpu_seconds']['bare']) / row['tokens'] * 1e3:.3f}",
             *(f"{row['overhead'][way]:+.1%}" for way in WAYS)] for name, row in found.items()]  # fmt: skip
    print(table(["model", "tokens", "bare, CPU ms a token", *WAYS], rows))
    told = ", ".join(f"{way} {smallest['overhead'][way]:+.1%}" for way in WAYS)
    each = min(smallest["cpu_seconds"]["bare"]) / smallest["tokens"]
    print(f"no claim: 64 wide, 3 layers, 512 tokens, bare {1e3 * each:.3f} ms a token: {told}")
    claims = [
        claim(f"{way} over the bare forward pass, {name}, as a share", row["overhead"][way], "<", BAR)
        for name, row in found.items()
        for way in WAYS
    ]
    return finish({"models": models, "no claim, 64 wide": smallest}, claims, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
