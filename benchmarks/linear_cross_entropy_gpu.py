"""The GPU part of linear_cross_entropy.py: bf16, against the floor of three matrix products measured in the same run.

Started by `linear_cross_entropy.py --device cuda`. Each case is timed with CUDA events, in turns over all losses;
peak memory is what the allocator adds between the inputs and the gradients, these included.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from linear_cross_entropy_ours import Data, inputs, ours, ratio
from linear_cross_entropy_peers import Loss, gradients, is_weighted, peers, selected
from machine import claim, table

# N, H, V, share of zero rows, bar over the floor, bar in GiB of extra memory (0: none)
CASES = [
    (16384, 4096, 128256, 0.0, 1.15, 4.5),
    (16384, 4096, 128256, 0.5, 1.20, 4.5),
    (16384, 4096, 128256, 0.7, 1.20, 4.5),
    (16384, 2048, 151936, 0.0, 1.20, 4.0),
    (16384, 2048, 151936, 0.5, 1.20, 4.0),
    (16384, 2048, 151936, 0.7, 1.20, 4.0),
    (4096, 4096, 128256, 0.0, 1.20, 0.0),
]
TINY = [(64, 32, 1000, 0.0, 1.0, 1.0), (64, 32, 1000, 0.5, 1.0, 0.0)]
CHUNKS = (None, 4096)  # rows; None: as training takes them, by bytes
FLOOR_ROWS = 4096
SLEEP = 20_000_000  # cycles, some 10 ms: longer than the host takes to launch a case


class Clock:
    """Milliseconds of a function: by events on a GPU, by the wall elsewhere."""

    def __init__(self, device: str) -> None:
        self.cuda = device == "cuda"

    def __call__(self, function: Callable[[], object]) -> float:
        if not self.cuda:
            start = time.perf_counter()
            function()
            return (time.perf_counter() - start) * 1e3
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        torch.cuda._sleep(SLEEP)  # the host is ahead of the GPU before anything is timed
        first.record()
        function()
        last.record()
        torch.cuda.synchronize()
        return first.elapsed_time(last)


def floor(data: Data, chunk: int) -> Callable[[], None]:
    """The three products on the weighted rows, in the inputs' type, into buffers that are there already."""
    hidden, weight, _, weights = data
    x = hidden[weights != 0]
    z = torch.empty(min(chunk, len(x)), len(weight), dtype=x.dtype, device=x.device)
    dx, dw = torch.empty_like(x[: len(z)]), torch.empty_like(weight)

    def run() -> None:
        for start in range(0, len(x), chunk):
            part = x[start : start + chunk]
            torch.mm(part, weight.t(), out=z[: len(part)])
            torch.mm(z[: len(part)], weight, out=dx[: len(part)])
            torch.mm(z[: len(part)].t(), part, out=dw)

    return run


def peak_gib(device: str, function: Callable[[], object]) -> float | None:
    """GiB that the allocator adds at the peak; None where there is no GPU to ask."""
    if device != "cuda":
        function()
        return None
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    kept = function()
    peak = torch.cuda.max_memory_allocated()
    del kept
    return (peak - before) / 2**30


def measure_case(device: str, case: tuple, rounds: int, dtype: torch.dtype, *, quick: bool = False) -> dict[str, Any]:
    """One row of the table: times, ratios and memory of everything that runs. `quick` leaves out what compiles for
    half a minute."""
    rows, width, vocabulary, zero = case[:4]
    data = inputs((rows, width, vocabulary), zero, device, dtype)
    dense, absent = peers(torch.device(device))
    if quick:
        dense.pop("compiled naive", None)
    losses: dict[str, Loss] = {"ours" + (f", {chunk} rows" if chunk else ""): ours(data[3], chunk) for chunk in CHUNKS}
    losses |= dense
    if zero:
        losses |= {f"index_select + {name}": selected(loss) for name, loss in dense.items() if "compiled" not in name}
    runs: dict[str, Callable[[], object]] = {"floor": floor(data, FLOOR_ROWS)}
    for name, loss in losses.items():
        runs[name] = lambda loss=loss: gradients(loss, data)
    peaks: dict[str, float | None] = {}
    for name in list(losses):
        try:  # also the warm-up: compiles, and tells which peers fail here
            runs[name]()
            peaks[name] = peak_gib(device, runs[name])
        except Exception as error:  # a peer's failure is a result, not ours to raise
            if name.startswith("ours"):
                raise
            absent[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
            del runs[name]
    clock = Clock(device)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, function in runs.items():
            taken = clock(function)
            if turn:
                times[name].append(taken)
    best = min((n for n in times if n.startswith("ours")), key=lambda n: statistics.median(times[n]))
    return {
        "shape": [rows, width, vocabulary],
        "zero": zero,
        "bars": {"over_floor": case[4], "extra_gib": case[5]},
        "best": best,
        "ms": {n: {"median": statistics.median(t), "min": min(t), "max": max(t)} for n, t in times.items()},
        "over_floor": {name: ratio(times, name, "floor") for name in times if name != "floor"},
        "over_ours": {name: ratio(times, name, best) for name in times if name != best},
        "weighted": {name: is_weighted(name) for name in losses},
        "extra_gib": peaks,
        "absent": absent,
    }


def measure(device: str, rounds: int, tiny: bool) -> dict[str, Any]:
    """All cases; on a CPU (tiny shapes only) in fp32."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    cases = []
    for case in TINY if tiny else CASES:
        cases.append(measure_case(device, case, rounds, dtype))
        if device == "cuda":
            torch.cuda.empty_cache()
    return {"device": device, "dtype": str(dtype), "cases": cases}


def claims_of(found: dict[str, Any]) -> list[dict[str, Any]]:
    claims = []
    for case in found["cases"]:
        name = f"{'x'.join(map(str, case['shape']))}, {case['zero']:.0%} zero rows"
        best, bars = case["best"], case["bars"]
        claims.append(
            claim(f"{name}: time over the floor ({best})", case["over_floor"][best], "<=", bars["over_floor"])
        )
        if bars["extra_gib"] and case["extra_gib"][best] is not None:
            claims.append(claim(f"{name}: extra GiB ({best})", case["extra_gib"][best], "<=", bars["extra_gib"]))
    return claims


def show(found: dict[str, Any]) -> None:
    for case in found["cases"]:
        print(f"\n{'x'.join(map(str, case['shape']))} (N x H x V), {case['zero']:.0%} of rows of zero weight")
        rows = []
        for name, ms in sorted(case["ms"].items(), key=lambda item: item[1]["median"]):
            memory = case["extra_gib"].get(name)
            memory = "" if memory is None else f"{memory:.2f}"
            weighted = "" if case["weighted"].get(name, True) else "no"
            rows.append([name, ms["median"], float(case["over_floor"].get(name, 1.0)), memory, weighted])
        print(table(["", "median ms", "x floor", "extra GiB", "weights"], rows))
        for name, reason in case["absent"].items():
            print(f"absent: {name} ({reason})")
