"""Two ranks: checkpoints of an offloaded training, and its average. Rank 0 writes what it saw.

offload_worker.py DIRECTORY          in the host's memory
offload_worker.py DIRECTORY files    in files below DIRECTORY (needs libaio)
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from engine_workshop import PARTITIONED, engine, equal, fingerprint, settings, shared_out, student, take_step

from tracestill.trainer.checkpoint import checkpoint
from tracestill.trainer.engine.engine import Engine, leave
from tracestill.trainer.recipe.offload import OffloadConfig

LARGE = {"hidden_size": 512, "intermediate_size": 768}  # only tensors of a MiB and more go to files
LARGER = {"hidden_size": 1024, "intermediate_size": 1536}  # and of parameters in bf16, on two ranks
IN_FILES = ("none", "cpu", "nvme")  # where the parameters lie


def train(of: Engine, first: int, last: int) -> list[float]:
    return [take_step(of, shared_out(step, of)).loss for step in range(first, last)]


def resumed(layout: str, directory: Path) -> dict[str, Any]:
    """Whether an offloaded training goes on bit for bit, also from what was not offloaded and the other way round."""

    def make(zero: str, seed: int) -> Engine:
        built = student(None, tied=False, seed=seed)
        if layout.startswith("3"):
            built.model.get_input_embeddings().weight.requires_grad_(False)
        return engine(built, zero=zero, accumulation=2, ema=0.7)

    plain = make(layout[0], 0)
    train(plain, 0, 1)
    checkpoint.save(plain, directory / layout, 1, {})
    plain.close()

    first = make(layout, 5)
    checkpoint.load(first, directory / layout / "step-000001")
    train(first, 1, 2)
    path = checkpoint.save(first, directory / layout, 2, {})
    before = fingerprint(first)
    with first.averaged():
        averaged = not equal(before, fingerprint(first))
    untouched = equal(before, fingerprint(first))
    losses = train(first, 2, 4)
    expected = fingerprint(first)
    first.close()

    second = make(layout, 7)
    train(second, 9, 10)
    checkpoint.load(second, path)
    train(second, 2, 4)
    same = equal(expected, fingerprint(second))
    second.close()

    third = make(layout[0], 7)
    checkpoint.load(third, path)
    back = train(third, 2, 4)
    third.close()
    return {"averaged": averaged, "untouched": untouched, "same": same, "losses": losses, "back": back}


def in_files(parameters: str, directory: Path) -> dict[str, Any]:
    """Whether files change a bit of a training in memory, with steps that are left out, and of a resumed one."""

    both = parameters == "nvme"  # which takes bf16
    shape, precision, dtype = (LARGER, "bf16", torch.bfloat16) if both else (LARGE, "fp32", torch.float32)

    def make(kept: dict[str, str], seed: int) -> Engine:
        chosen = settings(zero=3, clip=0.5, precision=precision)
        block: dict[str, Any] = {**PARTITIONED, "sub_group_size": 1_500_000}
        if "nvme" in kept.values() and both:
            block["offload_param"] = {"max_in_cpu": 0}  # else they would stay in memory, being so few
        return Engine(
            student(None, tied=False, seed=seed, dtype=dtype, **shape),
            chosen.model_copy(update={"offload": OffloadConfig(**kept)}),
            accumulation=2,
            raw_deepspeed={"zero_optimization": block},
            directory=directory,
        )

    memory = make({"optimizer": "cpu", "parameters": "cpu" if both else parameters}, 0)
    train(memory, 0, 4)
    expected = fingerprint(memory)
    memory.close()

    kept = {"optimizer": "nvme", "parameters": parameters, "directory": str(directory / "disk")}
    files = make(kept, 0)
    train(files, 0, 2)
    path = checkpoint.save(files, directory / parameters, 2, {})
    take_step(files, shared_out(7, files), weight_sum=0.0)  # changes nothing
    train(files, 2, 4)
    written = [path.parts[-3] for path in (directory / "disk").rglob("*") if path.is_file()]
    same = equal(expected, fingerprint(files))
    files.close()
    dist.barrier()
    left = any((directory / "disk").iterdir())

    again = make(kept, 5)
    train(again, 9, 10)
    checkpoint.load(again, path)
    train(again, 2, 4)
    found = {"same": same, "resumed": equal(expected, fingerprint(again)), "files": Counter(written), "left": left}
    again.close()
    return found


def main() -> None:
    files = sys.argv[-1] == "files"
    directory = Path(sys.argv[-2 if files else -1])
    if files:
        found = {parameters: in_files(parameters, directory) for parameters in IN_FILES}
    else:
        found = {layout: resumed(layout, directory) for layout in ("1-cpu", "2-cpu", "3-cpu-cpu")}
    if dist.get_rank() == 0:
        (directory / "found.json").write_text(json.dumps(found))


main()
leave(0)
