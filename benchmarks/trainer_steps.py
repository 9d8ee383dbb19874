"""Shared by benchmarks of the trainer: random documents in a token store, ranks, and one step of our trainer."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.tokens.store import TokenStoreWriter
from tracestill.trainer.batches.batches import Batches
from tracestill.trainer.batches.prefetch import Prefetch
from tracestill.trainer.engine.engine import Engine
from tracestill.trainer.metrics.telemetry import Meter
from tracestill.trainer.metrics.throughput import Throughput
from tracestill.trainer.recipe.settings import TrainConfig
from tracestill.trainer.student.student import Student

KINDS = Kinds.with_extra({})


def write_store(
    path: Path, tokens: int, *, vocabulary: int, median: float, longest: int, prompt: float, spread: float = 0.8
) -> None:
    """Random documents of ``tokens`` tokens in all; lengths lognormal, the first share ``prompt`` of each is prompt."""
    rng = np.random.default_rng(0)
    with TokenStoreWriter(path, KINDS) as writer:
        while tokens > 0:
            length = int(np.clip(rng.lognormal(np.log(median), spread), 8, longest))
            kinds = np.full(length, KINDS.id("derive"), np.uint8)
            kinds[: round(length * prompt)] = KINDS.id("prompt")
            drawn = rng.integers(3, vocabulary, length).astype(np.int32)
            writer.add(str(tokens), str(tokens), drawn, kinds, np.zeros(length, np.uint16))
            tokens -= length


def our_step(settings: TrainConfig, batches: Batches, student: Student) -> Callable[[int], float]:
    """A function that takes one step as ``train.train`` does, logging left out, and returns its loss."""
    engine = Engine(student, settings, accumulation=batches.accumulation)
    meter, throughput = Meter(KINDS, engine.device), Throughput(engine.device)
    assert settings.steps is not None
    prefetch = Prefetch(batches, settings.steps)

    def step(at: int) -> float:
        batch = prefetch.step(at)
        for micro in batch.micro:
            loss, found = engine.forward(micro)
            engine.backward(loss)
            meter.add(found)
        prefetch.prepare(at + 1)
        result = engine.step(settings.lr, weight_sum=batch.weight_sum)
        batches.weights.weighting.end_step()
        meter.end_step(result.loss, faulty=result.faulty)
        throughput.end_step(batch.work, faulty=result.faulty)
        return result.loss

    return step


def run_ranks(ranks: int, script: str, words: Sequence[str], folder: Path) -> None:
    """Run a script as so many ranks on this host's CPU, one thread each, what they print in ``folder``. Raises
    RuntimeError with the end of the first one's output if one of them fails."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks)}
    common |= {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    started = []
    for rank in range(ranks):
        with (folder / f"rank{rank}.log").open("w") as log:
            own = {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            started.append(subprocess.Popen([sys.executable, script, *words], env=own, stdout=log, stderr=log))
    codes = [process.wait() for process in started]
    if any(codes):
        raise RuntimeError(f"ranks ended with {codes}:\n{(folder / 'rank0.log').read_text()[-3000:]}")
