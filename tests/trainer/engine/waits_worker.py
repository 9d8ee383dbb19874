"""Waits of the host in a step at each ZeRO stage: waits_worker.py OUT, a JSON file. On a GPU torch itself counts them;
on a CPU they are the operations that would wait on one: each reads numbers of a tensor."""

from __future__ import annotations

import json
import sys
import traceback
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from engine_workshop import MicroStep, engine, settings, shared_out, student, take_step
from torch.utils._python_dispatch import TorchDispatchMode

from tracestill.kernels.attention.groups import groups_of
from tracestill.trainer.engine.engine import Engine
from tracestill.trainer.recipe.precision import use_gpu

READING = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "_unique2", "unique_dim")
METHODS = ("tolist", "numpy")  # of which no operation tells


def place() -> str:
    """Which file waits: the innermost that is not torch's."""
    files = [Path(frame.filename) for frame in traceback.extract_stack()]
    own = [path for path in files if path != Path(__file__) and "torch" not in path.parts]
    return "/".join(own[-1].parts[-3:])


class Reads(TorchDispatchMode):
    """Keeps where operations read numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.methods = {name: getattr(torch.Tensor, name) for name in METHODS}

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if operation._schema.name.removeprefix("aten::") in READING:
            self.found.append(place())
        return operation(*args, **(kwargs or {}))

    def __enter__(self) -> Reads:
        for name, method in self.methods.items():
            setattr(torch.Tensor, name, self.reading(method))
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        for name, method in self.methods.items():
            setattr(torch.Tensor, name, method)
        super().__exit__(*error)

    def reading(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def read(*arguments: Any, **named: Any) -> Any:
            self.found.append(place())
            return method(*arguments, **named)

        return read


def waits(step: Callable[[], object]) -> list[str]:
    """Where the host waits for the device."""
    if not use_gpu():
        with Reads() as reads:
            step()
        return reads.found
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        step()
        torch.cuda.set_sync_debug_mode("default")
    return ["/".join(Path(w.filename).parts[-3:]) for w in caught if "synchroniz" in str(w.message)]


def on(device: torch.device, micro: MicroStep) -> MicroStep:
    tensors = {name: part.to(device) for name, part in vars(micro.packed).items() if isinstance(part, torch.Tensor)}
    return replace(micro, packed=replace(micro.packed, **tensors))


def made(stage: int, accumulation: int) -> Engine:
    if not use_gpu():
        return engine(student(None, tied=True), zero=stage, accumulation=accumulation)
    device, dtype = torch.device("cuda"), torch.bfloat16
    return Engine(
        student(None, tied=True, device=device, dtype=dtype),
        settings(zero=stage, clip=0.5, precision="bf16"),
        accumulation=accumulation,
    )


def main(out: Path) -> None:
    found = {}
    for stage in (1, 2, 3) if use_gpu() else (0, 1, 2, 3):
        for accumulation in (1, 3):
            of = made(stage, accumulation)
            micro = [on(of.device, one) for one in shared_out(0, of)]
            for one in micro:
                groups_of(one.packed.cu_seqlens)  # what the backend of CPUs asks, once a row
            for _ in range(3):  # ZeRO-3 learns in which order it needs parameters, and compares that over the ranks
                take_step(of, micro, weight_sum=1.0)
            found[f"{stage}-{accumulation}"] = waits(lambda of=of, micro=micro: take_step(of, micro, weight_sum=1.0))
            of.close()
    out.write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[-1]))
