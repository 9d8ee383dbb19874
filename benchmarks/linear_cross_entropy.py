"""linear_cross_entropy against plain PyTorch, torch's own chunked loss and the bare matrix products.

    python benchmarks/linear_cross_entropy.py [--json PATH] [--device cpu|cuda] [--rounds 9] [--tiny]

On a CPU: fp32, N 4096, H 256, V 32000, chunks of 1024 rows, all statistics on. Everything is measured in turns in
this process and compared as the median of the ratios of a turn's two times, so that a load that comes and goes
counts for both (on a machine with other work the CPU seconds beside them are steadier). Peak memory is that of a
subprocess each. On a GPU: see linear_cross_entropy_gpu.py. `--tiny` runs the same code on small shapes, to see that
it runs; its claims would mean nothing and are left out.
Exits 1 if a claim does not hold.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from linear_cross_entropy_ours import CHUNK, inputs, ours, ratio
from linear_cross_entropy_peers import Loss, gradients, is_weighted, naive, peers, selected
from machine import claim, finish, table

SHAPE = (4096, 256, 32000)
TINY = (128, 16, 512)


def products(shape: tuple[int, int, int], zero: float, chunk: int = CHUNK) -> Callable[[], None]:
    """The floor: the three matrix products on the weighted rows, into buffers that are there already."""
    hidden, weight, _, weights = inputs(shape, zero)
    x = hidden[weights != 0]
    logits, total = torch.empty(min(chunk, len(x)), len(weight)), torch.empty_like(weight)

    def run() -> None:
        for start in range(0, len(x), chunk):
            part = x[start : start + chunk]
            z = torch.mm(part, weight.t(), out=logits[: len(part)])
            torch.mm(z, weight)
            if start:
                total.addmm_(z.t(), part)
            else:
                torch.mm(z.t(), part, out=total)

    return run


Times = dict[str, list[float]]


def in_turns(functions: dict[str, Callable[[], object]], rounds: int) -> tuple[Times, Times]:
    """Seconds on the clock and CPU seconds of each function, in turns, after one round that does not count."""
    clock: Times = {name: [] for name in functions}
    cpu: Times = {name: [] for name in functions}
    for turn in range(rounds + 1):
        for name, function in functions.items():
            start, worked = time.perf_counter(), time.process_time()
            function()
            if turn:
                clock[name].append(time.perf_counter() - start)
                cpu[name].append(time.process_time() - worked)
    return clock, cpu


def summary(times: list[float]) -> dict[str, float]:
    return {"median_s": statistics.median(times), "min_s": min(times), "max_s": max(times), "runs": len(times)}


def peak_mib(name: str, shape: tuple[int, int, int], zero: float) -> float:
    """Resident memory that one loss and its gradients add at the peak, in MiB, in a process of its own."""
    command = [sys.executable, __file__, "--peak", name, "--zero", str(zero), "--shape", *map(str, shape)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(run.stdout.strip().splitlines()[-1])


def measure_peak(name: str, shape: tuple[int, int, int], zero: float) -> float:
    """In the subprocess: peak after minus peak before, everything having run once on a small shape."""
    functions = {"naive": naive, "index_select + naive": selected(naive)}
    small = inputs((64, shape[1], 512), 0.5)
    gradients(functions.get(name) or ours(small[3]), small)
    data = inputs(shape, zero)
    function = functions.get(name) or ours(data[3])
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = resident_kib("VmRSS")
    grads = gradients(function, data)
    assert len(grads) == 2
    return (resident_kib("VmHWM") - before) / 1024


def resident_kib(field: str) -> int:
    """Resident memory of this process, in KiB. (getrusage's peak would include that of the process that forked it.)"""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {field}")


def measure(shape: tuple[int, int, int], rounds: int) -> dict[str, Any]:
    """Times by share of zero rows, ratios, peaks, and the peers that are not here."""
    dense, absent = peers(torch.device("cpu"))
    found: dict[str, Any] = {"shape": shape, "chunk_rows": CHUNK, "absent": absent, "zero": {}}
    for zero in (0.0, 0.5, 0.7):
        data = inputs(shape, zero)
        losses: dict[str, Loss] = {"ours": ours(data[3]), "naive": naive}
        if zero:
            losses["index_select + naive"] = selected(naive)
        if not zero:
            losses |= {name: loss for name, loss in dense.items() if "torch" in name}
        runs: dict[str, Callable[[], object]] = {"three products": products(shape, zero)}
        runs |= {name: lambda loss=loss, data=data: gradients(loss, data) for name, loss in losses.items()}
        times, cpu = in_turns(runs, rounds)
        fastest = min(
            (n for n in times if n.startswith("torch")), key=lambda n: statistics.median(times[n]), default=""
        )
        found["zero"][f"{zero:.0%}"] = {
            "times": {name: summary(t) | {"weighted": is_weighted(name)} for name, t in times.items()},
            "ours_over": {name: ratio(times, "ours", name) for name in times if name != "ours"},
            "ours_over_in_cpu_seconds": {name: ratio(cpu, "ours", name) for name in times if name != "ours"},
            "fastest_torch": fastest,
            "peak_mib": {n: peak_mib(n, shape, zero) for n in ("ours", "naive", "index_select + naive")},
        }
    return found


def claims_of(found: dict[str, Any]) -> list[dict[str, Any]]:
    claims = []
    zero, half = found["zero"]["0%"], found["zero"]["50%"]
    claims.append(claim("50% zero rows: naive's time over ours", 1 / half["ours_over"]["naive"], ">=", 2.3))
    rival = 1 / half["ours_over"]["index_select + naive"]
    claims.append(claim("50% zero rows: index_select + naive's time over ours", rival, ">=", 1.3))
    if zero["fastest_torch"]:
        over = zero["ours_over"][zero["fastest_torch"]]
        claims.append(claim(f"0% zero rows: our time over {zero['fastest_torch']}'s", over, "<=", 1.05))
    for share, case in found["zero"].items():
        over = case["ours_over"]["three products"]
        claims.append(claim(f"{share} zero rows: our time over the three products'", over, "<=", 1.45))
    peak = zero["peak_mib"]
    claims.append(claim("0% zero rows: our peak memory over naive's", peak["ours"] / peak["naive"], "<=", 1 / 6))
    return claims


def show(found: dict[str, Any]) -> None:
    for share, case in found["zero"].items():
        rows = []
        for name, times in case["times"].items():
            over = 1 / case["ours_over"].get(name, 1.0)
            cpu = 1 / case["ours_over_in_cpu_seconds"].get(name, 1.0)
            peak = f"{case['peak_mib'][name]:.0f}" if name in case["peak_mib"] else ""
            rows.append([name, times["median_s"], times["min_s"], times["max_s"], over, cpu, peak])
        print(f"\n{share} of {found['shape'][0]} rows of zero weight")
        print(table(["", "median s", "min s", "max s", "time / ours", "cpu s / ours", "peak MiB"], rows))
    for name, reason in found["absent"].items():
        print(f"absent: {name} ({reason})")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write every figure here")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=9, help="turns that count")
    parser.add_argument("--tiny", action="store_true", help="small shapes, no claims")
    parser.add_argument("--gpu-part", action="store_true", help="the GPU's measurements even on a CPU (with --tiny)")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    parser.add_argument("--zero", type=float, default=0.0, help=argparse.SUPPRESS)
    parser.add_argument("--shape", type=int, nargs=3, help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    if wanted.peak:
        print(measure_peak(wanted.peak, tuple(wanted.shape), wanted.zero))
        return 0
    if wanted.device == "cuda" or wanted.gpu_part:
        import linear_cross_entropy_gpu as gpu

        found = gpu.measure(wanted.device, wanted.rounds, wanted.tiny)
        gpu.show(found)
        return finish(found, [] if wanted.tiny else gpu.claims_of(found), wanted.json)
    found = measure(TINY if wanted.tiny else SHAPE, wanted.rounds)
    show(found)
    return finish(found, [] if wanted.tiny else claims_of(found), wanted.json)


if __name__ == "__main__":
    sys.exit(main())
