"""What a layer costs the host: the time below which no GPU gets a micro-step done, however small the student.

    python benchmarks/launch_time.py [--json PATH]

A host tells its GPU operation by operation what to do, and under ZeRO 3 gathers and lets go of each module's parameters
besides. Here the operations themselves are so small that they hardly count: a Llama of width 16 on 16 tokens, on the
CPU, one rank, our engine and loop at each ZeRO stage. A layer's cost is the difference between 24 layers and 8, forward
and backward, in CPU seconds; the least of several rounds, in turns. On a GPU the same calls launch kernels instead,
which takes a host about as long: the forecast (`trainer/metrics/hardware.py`) takes these figures for want of any
measured on one.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import finish, table

from tracestill.kernels.pack import pack
from tracestill.trainer.engine.engine import Engine, connect
from tracestill.trainer.recipe.settings import TrainConfig
from tracestill.trainer.recipe.student_settings import StudentConfig
from tracestill.trainer.student.student import build_student

TOKENS, KINDS = 16, 8
DEPTHS = (8, 24)
SHAPE = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
}


class Micro:
    """A micro-step of one document."""

    scale, teacher = 1.0, None

    def __init__(self) -> None:
        tokens = np.arange(TOKENS, dtype=np.int32) + 3
        kinds, table = np.full(TOKENS, 3, np.uint8), np.ones(KINDS, np.float32)
        ends, weights = np.array([0, TOKENS]), np.ones(1)
        self.packed = pack(tokens, kinds, ends, weights, table, length=TOKENS, pad_id=0, device="cpu")


def engine_of(zero: int, layers: int, *, recompute: bool) -> Engine:
    from tracestill.trainer.student.adapt import adapt

    settings = TrainConfig(steps=1, zero=zero, precision="fp32")  # type: ignore[arg-type]
    config = StudentConfig(config={**SHAPE, "num_hidden_layers": layers}, activation_checkpointing=recompute)
    ids = {"vocab_size": 64, "bos_id": 1, "eos_id": 2, "pad_id": 0, "num_kinds": KINDS}
    student = build_student(config, **ids)  # type: ignore[arg-type]
    adapt(student, config, seed=0, device=torch.device("cpu"))
    return Engine(student, settings, accumulation=1)


def seconds_of(engine: Engine) -> float:
    """CPU seconds of a forward and backward pass; then the step, which counts for nothing here."""
    micro = Micro()
    started = time.process_time()
    loss, _ = engine.forward(micro)
    engine.backward(loss)
    seconds = time.process_time() - started
    engine.step(1e-3, weight_sum=1.0)
    return seconds


def measure(rounds: int) -> list[dict[str, Any]]:
    """Seconds of a layer at each ZeRO stage, with and without recomputing it."""
    os.environ["OMP_NUM_THREADS"] = "1"  # an engine sets its threads by it
    torch.set_num_threads(1)
    connect(TrainConfig(steps=1))
    cases = [(zero, recompute) for zero in range(4) for recompute in (False, True)]
    found = []
    for zero, recompute in cases:
        engines = {layers: engine_of(zero, layers, recompute=recompute) for layers in DEPTHS}
        times: dict[int, list[float]] = {layers: [] for layers in DEPTHS}
        for _ in range(3 + rounds):
            for layers, engine in engines.items():
                times[layers].append(seconds_of(engine))
        few, many = (min(times[layers][3:]) for layers in DEPTHS)
        found.append({"zero": zero, "recompute": recompute, "layer_seconds": (many - few) / (DEPTHS[1] - DEPTHS[0])})
        for engine in engines.values():
            engine.close()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write every figure and the machine here")
    parser.add_argument("--rounds", type=int, default=40)
    wanted = parser.parse_args()
    found = measure(wanted.rounds)
    rows = [[c["zero"], "yes" if c["recompute"] else "no", 1e3 * c["layer_seconds"]] for c in found]
    print(table(["ZeRO", "recomputed", "ms a layer"], rows))
    return finish({"cases": found}, [], wanted.json)


if __name__ == "__main__":
    sys.exit(main())
