"""One group of gpu.py's measurements in a process of its own: gpu_case.py GROUP OUT [--tiny] [--done NAME ...].

Each figure is written into OUT, a JSON file of name -> figures, as soon as it is there: what is cut off is not lost.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import as_json

Figures = dict[str, Any]
Named = Iterator[tuple[str, Callable[[], Figures]]]
WEIGHTLESS = (0.0, 0.5, 0.7)  # shares of rows without weight
LOSS = ((16384, 4096, 128256), (16384, 2048, 151936))  # rows, width, vocabulary
TINY_LOSS = ((64, 32, 1000), (64, 16, 1504))
BARS = {0.0: 1.15, 0.5: 1.20, 0.7: 1.20}  # time over the floor, by that share
ATTENTION = {"heads": 16, "keys": 8, "size": 128, "tokens": 16384, "median": 2500}  # Qwen3-1.7B's layers
TINY_ATTENTION = {"heads": 4, "keys": 2, "size": 16, "tokens": 256, "median": 40}
GENERATION = {"shape": "0.6B", "prompts": 64, "prompt": 256, "tokens": 128}
TINY_GENERATION = {"shape": "tiny", "prompts": 2, "prompt": 8, "tokens": 4}
PACK_BAR = 15.0  # microseconds


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() and os.environ.get("DS_ACCELERATOR") != "cpu" else "cpu")


def milliseconds(function: Callable[[], object], rounds: int = 9) -> float:
    """The median of some calls, after two that warm up."""
    from linear_cross_entropy_gpu import Clock

    clock = Clock(device().type)
    return statistics.median([clock(function) for _ in range(rounds + 2)][2:])


def ceilings(tiny: bool) -> Named:
    """What this machine can do: products in the type of training, copies, launches."""

    def measure() -> Figures:
        where = device()
        dtype = torch.bfloat16 if where.type == "cuda" else torch.float32
        side, count = (64, 2**12) if tiny else (8192, 2**30)
        a, b = (torch.randn(side, side, device=where, dtype=dtype) for _ in range(2))  # zeros would run faster
        out = torch.empty_like(a)
        source = torch.randn(count, device=where, dtype=dtype)
        target, small = torch.empty_like(source), torch.zeros(8, device=where)
        many = 100
        return {
            "product_tflops": 2 * side**3 / milliseconds(lambda: torch.mm(a, b, out=out)) / 1e9,
            "copy_tb_s": 2 * source.nbytes / milliseconds(lambda: target.copy_(source)) / 1e9,
            "launch_us": milliseconds(lambda: [small.add_(1) for _ in range(many)]) / many * 1e3,
            "dtype": str(dtype),
        }

    yield "ceilings", measure


def loss(tiny: bool) -> Named:
    """The loss against the three products on the weighted rows, at the rate of the same run, and its peers."""
    from linear_cross_entropy_gpu import measure_case

    where = device()
    dtype = torch.bfloat16 if where.type == "cuda" else torch.float32
    for shape in TINY_LOSS if tiny else LOSS:
        for share in WEIGHTLESS:
            case = (*shape, share, BARS[share], 0.0)
            name = f"loss {'x'.join(map(str, shape))}, {share:.0%} of rows without weight"
            yield name, lambda case=case: measure_case(where.type, case, 2 if tiny else 7, dtype, quick=True)


def pack(tiny: bool) -> Named:
    import pack as benchmark

    def measure() -> Figures:
        if device().type == "cuda":
            return {"on": "GPU", **benchmark.pack_on_gpu()}
        given = benchmark.arguments(4, 500 if tiny else benchmark.TOKENS)
        return {"on": "CPU", **benchmark.in_turns({"reference": lambda: benchmark.pack(**given)}, 3)}

    yield "pack", measure


def attention(tiny: bool) -> Named:
    """Forward and backward of one layer in every backend that runs here, on one row of documents."""
    from tracestill.kernels.attention import BACKENDS, Needs

    wanted, where = TINY_ATTENTION if tiny else ATTENTION, device()
    dtype = torch.bfloat16 if where.type == "cuda" else torch.float32
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(np.log(wanted["median"]), 0.8, 100), 8, wanted["tokens"]).astype(np.int64)
    bounds = np.minimum(np.r_[0, np.cumsum(lengths)], wanted["tokens"])
    bounds = np.unique(bounds)
    pairs = float((np.diff(bounds).astype(float) ** 2).sum() / 2)
    cu = torch.from_numpy(bounds.astype(np.int32)).to(where)
    heads = (wanted["heads"], wanted["keys"], wanted["keys"])
    needs = Needs(gqa="num_key_value_heads", head_dim=wanted["size"], head_divisor=wanted["size"])
    longest = int(np.diff(bounds).max())
    for backend in BACKENDS:

        def measure(backend: Any = backend) -> Figures:
            if problem := backend.obstacle(where, dtype, needs):
                return {"left_out": problem}
            shape = [(1, h, wanted["tokens"], wanted["size"]) for h in heads]
            q, k, v = (torch.randn(s, device=where, dtype=dtype).requires_grad_() for s in shape)
            out = backend.attend(q, k, v, cu, longest, scale=None)
            up = torch.randn_like(out)

            def both() -> None:
                torch.autograd.grad(backend.attend(q, k, v, cu, longest, scale=None), (q, k, v), up)

            ms = milliseconds(both, 3 if tiny else 9)
            return {"ms": ms, "tflops": 12 * wanted["heads"] * wanted["size"] * pairs / ms / 1e9}

        yield f"attention {backend}", measure


def generation(tiny: bool) -> Named:
    """Tokens a second that ``evaluate`` would write, from a student with random weights."""
    from trainer_gpu import shape_of
    from transformers import AutoModelForCausalLM, Qwen3Config

    from tracestill.trainer.writing.generate import generate

    def measure() -> Figures:
        wanted, where = TINY_GENERATION if tiny else GENERATION, device()
        dtype = torch.bfloat16 if where.type == "cuda" else torch.float32
        shape = shape_of(str(wanted["shape"]))
        with where:
            model = AutoModelForCausalLM.from_config(Qwen3Config(**shape), dtype=dtype).eval()
        rng = np.random.default_rng(0)
        prompts = [
            rng.integers(3, shape["vocab_size"], wanted["prompt"]).tolist() for _ in range(int(wanted["prompts"]))
        ]

        def write(tokens: int) -> list[list[int]]:
            asked = {"stops": [shape["vocab_size"] - 1], "pad_id": 0, "batch_size": len(prompts)}
            return generate(model, prompts, max_new_tokens=tokens, **asked)

        write(2)
        start = time.perf_counter()
        written = sum(map(len, write(int(wanted["tokens"]))))
        return {"tokens": written, "tokens_per_second": written / (time.perf_counter() - start), **wanted}

    yield "generation", measure


GROUPS: dict[str, Callable[[bool], Named]] = {
    "ceilings": ceilings,
    "loss": loss,
    "pack": pack,
    "attention": attention,
    "generation": generation,
}


def write(path: Path, found: dict[str, Any]) -> None:
    """Whole or not at all: the process may be ended at any moment."""
    beside = path.with_name(path.name + ".tmp")
    beside.write_text(as_json(found), encoding="utf-8")
    beside.replace(path)


def measured(function: Callable[[], Figures]) -> Figures:
    """Its figures and the seconds they took; or ``error``: one that fails does not stop the rest."""
    start = time.perf_counter()
    try:
        found = function()
    except Exception as error:
        found = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    if device().type == "cuda":
        torch.cuda.empty_cache()
    return {**found, "seconds": time.perf_counter() - start}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("group", choices=GROUPS)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--done", nargs="*", default=[])
    wanted = parser.parse_args()
    found: dict[str, Figures] = {}
    for name, function in GROUPS[wanted.group](wanted.tiny):
        if name not in wanted.done:
            found[name] = measured(function)
            write(wanted.out, found)


if __name__ == "__main__":
    main()
