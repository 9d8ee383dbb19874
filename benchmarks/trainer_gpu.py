"""Our trainer on one GPU against TRL with Liger's kernels: real tokens a second, MFU, peak memory.

    python benchmarks/trainer_gpu.py [--json PATH] [--peers FOLDER] [--shapes 1.7B] [--capacities 16384]

Randomly initialised Qwen3 students (bf16 with fp32 master weights, AdamW, no recomputation) read random documents
whose lengths are lognormal (median 2,500 tokens, spread 0.8, at most 8,192), of which the second half carries loss:
50 % weighted tokens. A step is two packs. Six cases for each shape and capacity: ours at ZeRO 1 to 3, with Liger's
layers where they are installed, and once with student.compile; TRL twice in between. Each case is a process of its own
on the idle GPU, one after the other: two steps warm up, then the median step counts. A case that does not fit says so,
one that takes too long is stopped and says so. `gpu.py` runs the first four of them among its own.

TRL packs the same documents (bfd) into rows of the same length, with use_liger_kernel (TRL 1.16 then takes its own
chunked loss in place of Liger's) and without checkpointing: "autocast" keeps fp32 weights as ours does, "bf16
weights" keeps none and is shown for comparison. Its attention is FlashAttention 2 where that is installed, else the
backend that ours takes, which isolates documents by the cu_seqlens that TRL hands over.

MFU counts what trainer/metrics/flops.py counts: the layers for every token, attention by the pairs within documents,
the head for weighted targets only (the others need no logits); the peak is the data sheet's for dense bf16. Nothing is
fetched: weights and data are random.

`--device cpu --shapes tiny` runs the same code on a CPU, to see that it runs; its figures mean nothing. Exits 1 if a
claim does not hold.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import as_json, claim, finish, table
from transformers import AutoModelForCausalLM, Qwen3Config

from tracestill.trainer.metrics.flops import Cost, cost_of

SHAPES: dict[str, dict[str, int]] = {  # Qwen3's published sizes
    "0.6B": {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16},
    "1.7B": {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "num_attention_heads": 16},
    "4B": {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32},
    "tiny": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2},
}
COMMON = {"num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "max_position_embeddings": 40960}
SMALL = {"num_key_value_heads": 1, "head_dim": 16, "vocab_size": 199, "max_position_embeddings": 4096}
TRL = ("TRL + Liger, autocast", "TRL + Liger, bf16 weights")
COMPILED = "ours, ZeRO 1, compiled"
WAYS = ("ours, ZeRO 1", TRL[0], "ours, ZeRO 2", TRL[1], COMPILED, "ours, ZeRO 3")
PACKS, WARM_UP = 2, 2
CASE_SECONDS = 420  # a case is stopped after so long


def shape_of(name: str) -> dict[str, Any]:
    return {**SHAPES[name], **(SMALL if name == "tiny" else COMMON), "tie_word_embeddings": True}


def cost_of_shape(name: str) -> Cost:
    """FLOPs of a student of this shape, counted from the model that transformers would make."""
    with torch.device("meta"):
        cost = cost_of(AutoModelForCausalLM.from_config(Qwen3Config(**shape_of(name))))
    assert cost is not None
    return cost


def cases_of(wanted: argparse.Namespace) -> list[dict[str, Any]]:
    """Every case asked for, the ones that the claims are about first."""
    return [
        {"shape": s, "capacity": c, "way": w} for s in wanted.shapes for c in wanted.capacities for w in wanted.ways
    ]


def run_case(
    case: dict[str, Any], folder: Path, *, device: str, steps: int, peers: Path | None = None, limit: float
) -> dict[str, Any]:
    """The case's figures, from a process of its own, which is ended after ``limit`` seconds; or ``error``: why there
    are none."""
    environment = dict(os.environ)
    if peers is not None and "TRL" in case["way"]:
        environment["PYTHONPATH"] = os.pathsep.join([str(peers.resolve()), environment.get("PYTHONPATH", "")])
    environment |= {"HF_HUB_OFFLINE": "1", "USE_HUB_KERNELS": "NO", "TOKENIZERS_PARALLELISM": "false"}
    environment.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    if device == "cpu":
        environment |= {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    out, log = folder / "found.json", folder / "log"
    out.unlink(missing_ok=True)
    task = {**case, "device": device, "steps": steps, "folder": str(folder)}
    command = [sys.executable, str(Path(__file__).with_name("trainer_gpu_case.py")), json.dumps(task), str(out)]
    started = time.perf_counter()
    with log.open("w") as output:
        try:
            code = subprocess.run(
                command, env=environment, stdout=output, stderr=subprocess.STDOUT, timeout=limit
            ).returncode
        except subprocess.TimeoutExpired:
            return {"error": f"stopped after {limit:.0f} s"}
    if out.exists():
        return {**json.loads(out.read_text(encoding="utf-8")), "case_seconds": time.perf_counter() - started}
    text = log.read_text(encoding="utf-8", errors="replace")
    if "out of memory" in text.lower():
        return {"error": "out of memory"}
    lines = [line for line in text.splitlines() if line.strip()]
    print(text[-3000:], file=sys.stderr)
    return {"error": f"exit code {code}: {lines[-1][:300] if lines else 'no output'}"}


def figures(case: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Rates of the median step. A timed step is {seconds, lengths: tokens of its documents, weighted: targets}."""
    peak = found["peak_tflops"]  # of the device; None if nobody says
    cost = cost_of_shape(case["shape"])
    rates, tflops = [], []
    for step in found["steps"]:
        lengths = np.array(step["lengths"])
        rates.append(float(lengths.sum()) / step["seconds"])
        tflops.append((cost.of(lengths) + cost.head * step["weighted"]) / step["seconds"] / 1e12)
    tokens = [sum(step["lengths"]) for step in found["steps"]]
    return {
        **found,
        "tokens_per_second": statistics.median(rates),
        "lowest_highest": [min(rates), max(rates)],
        "tflops": statistics.median(tflops),
        "mfu": statistics.median(tflops) / peak if peak is not None else None,
        "filled": statistics.mean(tokens) / (PACKS * case["capacity"]),
    }


def claims_of(cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """MFU at 1.7B and 16k; tokens/s against TRL with the same precision wherever both ran, and both fitted."""
    claims = []
    for shape, capacity in dict.fromkeys((c["shape"], c["capacity"]) for c in cases):
        here = {c["way"]: c for c in cases if (c["shape"], c["capacity"]) == (shape, capacity) and "error" not in c}
        own = max((c for way, c in here.items() if "ours" in way), key=lambda c: c["tokens_per_second"], default=None)
        if own is None:
            continue
        where = f"{shape}, {capacity} tokens, {own['way']}"
        if (shape, capacity) == ("1.7B", 16384) and own["mfu"] is not None:
            claims.append(claim(f"MFU, {where}", own["mfu"], ">=", 0.45))
        rivals = [way for way in here if "autocast" in way]
        if rivals and shape != "tiny":
            best = max(rivals, key=lambda way: here[way]["tokens_per_second"])
            ratio = own["tokens_per_second"] / here[best]["tokens_per_second"]
            claims.append(claim(f"real tokens/s over {best}: {where}", ratio, ">=", 1.5))
    return claims


def show(cases: list[dict[str, Any]]) -> None:
    rows = []
    for c in cases:
        head = [c["shape"], c["capacity"], c["way"]]
        if "error" in c:
            rows.append([*head, c["error"], "", "", "", ""])
            continue
        mfu = "" if c["mfu"] is None else f"{c['mfu']:.1%}"
        peak = "" if c["peak_gib"] is None else f"{c['peak_gib']:.1f}"
        rows.append([*head, f"{c['tokens_per_second']:,.0f}", mfu, peak, f"{c['filled']:.3f}", c["attention"]])
    print("\n" + table(["shape", "capacity", "", "real tokens/s", "MFU", "peak GiB", "filled", "attention"], rows))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write every figure, the machine and the claims here")
    parser.add_argument("--peers", type=Path, help="folder into which trl, datasets and liger-kernel were installed")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["1.7B"])
    parser.add_argument("--capacities", nargs="+", type=int, default=[16384], help="tokens in a pack")
    parser.add_argument("--steps", type=int, default=5, help="timed steps of a case (default: %(default)s)")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    wanted = parser.parse_args()
    if wanted.device == "cuda" and not torch.cuda.is_available():
        sys.exit("no CUDA device here; --device cpu --shapes tiny shows that the code runs")
    cases = []
    with tempfile.TemporaryDirectory(prefix="trainer-gpu-") as folder:
        for case in cases_of(wanted):
            how = {"device": wanted.device, "steps": wanted.steps, "peers": wanted.peers, "limit": CASE_SECONDS}
            found = run_case(case, Path(folder), **how)
            done = {**case, **(found if "error" in found else figures(case, found))}
            cases.append(done)
            told = done.get("error") or f"{done['tokens_per_second']:,.0f} real tokens/s"
            print(f"{case['shape']} {case['capacity']} {case['way']}: {told}", flush=True)
            write_partial(wanted.json, cases)
    show(cases)
    absent = [name for name in ("trl", "liger_kernel", "flash_attn") if importlib.util.find_spec(name) is None]
    if absent and wanted.peers is None and {*TRL} & {*wanted.ways}:
        print(f"absent here: {', '.join(absent)} (see --peers)")
    return finish({"packs_per_step": PACKS, "cases": cases}, claims_of(cases), wanted.json)


def write_partial(path: Path | None, cases: list[dict[str, Any]]) -> None:
    """Keep what was measured so far: a lent GPU may go at any moment."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(as_json({"unfinished": True, "cases": cases}), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
