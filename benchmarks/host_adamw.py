"""Which AdamW updates parameters on the host (train.offload): DeepSpeedCPUAdam against torch's fused one.

    python benchmarks/host_adamw.py --json benchmarks/results/host_adamw.json

In turns on the same numbers, one thread, medians of process time: seconds of this process alone, whatever else the
machine does. The errors are those of the parameters after `--steps` updates, against AdamW in float64. DeepSpeed's
compiles its C++ the first time, which takes a minute of a core and more. Exits 1 if torch's is slower.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("DS_ACCELERATOR", "cpu")

import torch
from deepspeed.ops.adam import DeepSpeedCPUAdam
from machine import claim, describe, finish, table

OPTIONS: dict[str, Any] = {"lr": 1e-3, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
PEERS = {
    "torch, fused": lambda parameters: torch.optim.AdamW(parameters, fused=True, **OPTIONS),
    "DeepSpeedCPUAdam": lambda parameters: DeepSpeedCPUAdam(parameters, adamw_mode=True, **OPTIONS),
}


def numbers(elements: int, seed: int) -> torch.Tensor:
    return torch.randn(elements, generator=torch.Generator().manual_seed(seed))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--elements", type=int, default=16_000_000)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    parameters = {name: torch.nn.Parameter(numbers(arguments.elements, 0)) for name in PEERS}
    optimizers = {name: make([parameters[name]]) for name, make in PEERS.items()}
    exact = torch.nn.Parameter(numbers(arguments.elements, 0).double())
    reference = torch.optim.AdamW([exact], fused=True, **OPTIONS)
    seconds: dict[str, list[float]] = {name: [] for name in PEERS}
    for step in range(arguments.steps):
        gradient = numbers(arguments.elements, step + 1)
        exact.grad = gradient.double()
        reference.step()
        for name in PEERS if step % 2 else reversed(PEERS):
            parameters[name].grad = gradient
            began = time.process_time()
            optimizers[name].step()
            seconds[name].append(time.process_time() - began)
    moved = float((exact.detach() - numbers(arguments.elements, 0)).norm())
    found = {
        name: {
            "nanoseconds_an_element": 1e9 * statistics.median(each[2:]) / arguments.elements,
            "spread": (max(each[2:]) - min(each[2:])) / statistics.median(each[2:]),
            "error": float((parameters[name].detach().double() - exact.detach()).norm()) / moved,
        }
        for name, each in seconds.items()
    }
    print(table(["AdamW", *found["torch, fused"]], [[name, *figures.values()] for name, figures in found.items()]))
    ratio = found["torch, fused"]["nanoseconds_an_element"] / found["DeepSpeedCPUAdam"]["nanoseconds_an_element"]
    claims = [claim("process time of torch's AdamW / DeepSpeedCPUAdam", ratio, "<=", 1.1)]
    shape = {"elements": arguments.elements, "steps": arguments.steps}
    return finish({"machine": describe(), **shape, "adamw": found}, claims, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
