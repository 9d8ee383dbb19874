"""Packing in one launch against the same steps in eager PyTorch, and isolated attention against its rivals.

    python benchmarks/pack.py [--json PATH]

On a CPU: the reference path's time, bytes moved by the kernel (a count, needing no GPU), and attention on a row
of short documents. On a GPU also the kernel's own time. A copy over PCIe is not GPU time and is shown apart.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from machine import claim, finish

from tracestill.kernels.attention.groups import group_documents, grouped_attention
from tracestill.kernels.pack import check, pack

TOKENS = 65_536
DOCUMENTS = (40, 1)
ROUNDS = 21


def arguments(documents: int, tokens: int = TOKENS) -> dict[str, Any]:
    """A full row of trace-like documents; prompts, a quarter of the tokens, weigh nothing."""
    rng = np.random.default_rng(documents)
    share = rng.lognormal(0, 0.7, documents)
    edges = np.r_[0, np.round(np.cumsum(share) / share.sum() * tokens)].astype(np.int64)
    return {
        "tokens": rng.integers(0, 150_000, tokens).astype(np.int32),
        "kinds": rng.choice([1, 2, 3, 4, 5, 6, 7], tokens, p=[0.25, 0.1, 0.2, 0.1, 0.2, 0.1, 0.05]).astype(np.uint8),
        "offsets": edges,
        "record_weights": rng.uniform(0.5, 2, documents).astype(np.float32),
        "table": np.array([0, 0, 1.5, 1, 2, 0.2, 3, 1], np.float32),
    }


def eager(
    tokens: torch.Tensor,  # (n,) int32
    kinds: torch.Tensor,  # (n,) uint8
    offsets: torch.Tensor,  # (D + 1,) int64
    record_weights: torch.Tensor,  # (D,) float32
    table: torch.Tensor,  # (K,) float32
) -> tuple[torch.Tensor, ...]:
    """What one writes without a kernel: the same outputs, step by step."""
    n = len(tokens)
    at = torch.arange(n, device=tokens.device)
    document = torch.bucketize(at, offsets[1:], right=True)
    input_ids = tokens.long()
    position_ids = at - offsets[document]
    labelled = at + 1 < offsets[document + 1]
    labels = torch.where(labelled, input_ids.roll(-1), -100)
    label_kinds = torch.where(labelled, kinds.roll(-1), 0)
    by_kind = torch.where(labelled, table[label_kinds.int()], 0.0)
    by_record = record_weights[document]
    active = torch.nonzero((by_kind != 0) & (by_record != 0)).flatten()
    return input_ids, labels, position_ids, by_kind * by_record, label_kinds, offsets.int(), active


def in_turns(candidates: dict[str, Callable[[], Any]], rounds: int = ROUNDS, cuda: bool = False) -> dict[str, Any]:
    """Median and quartiles of each candidate's milliseconds, run in turns so that load meets all of them alike."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for function in candidates.values():
        function()
    order = list(candidates.items())
    for turn in range(rounds):
        shift = turn % len(order)  # nobody always runs after the same neighbour
        for name, function in order[shift:] + order[:shift]:
            if cuda:
                torch.cuda.synchronize()
            start = time.perf_counter()
            function()
            if cuda:
                torch.cuda.synchronize()
            times[name].append((time.perf_counter() - start) * 1e3)
    quartiles = {name: statistics.quantiles(values, n=4) for name, values in times.items()}
    return {name: {"ms": q[1], "quartiles": [q[0], q[2]]} for name, q in quartiles.items()}


def same(got: tuple[torch.Tensor, ...], batch: Any) -> None:
    """Stops the benchmark if the rival computes something else."""
    ours = (batch.input_ids[0], batch.labels, batch.position_ids[0], batch.loss_weight, batch.kinds)
    for a, b in zip(got, (*ours, batch.cu_seqlens, batch.active), strict=True):
        if not torch.equal(a, b):
            sys.exit("eager PyTorch and pack disagree: the comparison means nothing")


def pack_on_cpu() -> dict[str, Any]:
    found = {}
    for documents in DOCUMENTS:
        given = arguments(documents)
        tensors = [torch.from_numpy(array) for array in given.values()]
        same(eager(*tensors), pack(**given))
        found[f"{documents} documents"] = in_turns(
            {"reference": lambda g=given: pack(**g), "eager PyTorch": lambda t=tensors: eager(*t)}
        )
    return found


def bytes_counted() -> dict[str, Any]:
    """Bytes the kernel loads and stores, the least possible, and what crosses to the device."""
    from tracestill.kernels.pack.triton_pack import Staging, bytes_moved

    found = {}
    for documents in DOCUMENTS:
        staged = Staging("cpu").put(check(**arguments(documents)))
        moved, least = bytes_moved(staged)
        found[f"{documents} documents"] = {
            "moved": moved,
            "least": least,
            "ratio": moved / least,
            "copied to the device, bytes a token": len(staged.buffer) / TOKENS,
        }
    return found


def device_microseconds(function: Callable[[], Any], calls: int = 50) -> float:
    """Microseconds that kernels (not copies) of one call keep the GPU busy, from the profiler's trace."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    function()
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=activities) as trace:
        for _ in range(calls):
            function()
        torch.cuda.synchronize()
    rows = [r for r in trace.key_averages() if r.device_type == torch.autograd.DeviceType.CUDA]
    return sum(r.self_device_time_total for r in rows if not r.key.startswith("Memcpy")) / calls


def pack_on_gpu() -> dict[str, Any]:
    from tracestill.kernels.pack.triton_pack import Staging, launch, pack_kernel, pack_staged
    from tracestill.kernels.pack.triton_pack import allocate as outputs_of

    staging, found = Staging("cuda"), {}
    pack_staged(staging.put(check(**arguments(3, 1000))))
    compiled = sum(len(entry[0]) for entry in pack_kernel.device_caches.values())
    for documents in DOCUMENTS:
        source = check(**arguments(documents))
        staged = staging.put(source)
        outputs = outputs_of(staged)
        tensors = [torch.from_numpy(array).cuda() for array in arguments(documents).values()]
        same(eager(*tensors), pack_staged(staged))
        ours = device_microseconds(lambda s=staged, o=outputs: launch(s, o))
        theirs = device_microseconds(lambda t=tensors: eager(*t))
        wall = in_turns(
            {
                "stage, copy, launch": lambda s=source: pack_staged(staging.put(s)),
                "launch": lambda s=staged, o=outputs: launch(s, o),
                "eager PyTorch": lambda t=tensors: eager(*t),
            },
            cuda=True,
        )
        found[f"{documents} documents"] = {"kernel us": ours, "eager us": theirs, "ratio": theirs / ours, "wall": wall}
    found["recompilations"] = sum(len(entry[0]) for entry in pack_kernel.device_caches.values()) - compiled
    return found


def attention_on_cpu() -> dict[str, Any]:
    return {f"documents of about {mean} tokens": attention_of(mean) for mean in (10, 60)}


def attention_of(mean: int) -> dict[str, Any]:
    """Forward and backward of one layer's attention: 4 heads of 32 (2 for keys), a row of 4,096 tokens."""
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(np.log(mean * 0.9), 0.45, 4096), 1, 4096).astype(np.int64)
    lengths = lengths[: np.searchsorted(np.cumsum(lengths), 4096)]
    bounds = np.r_[0, np.cumsum(lengths)]
    total = int(bounds[-1])
    cu = torch.from_numpy(bounds.astype(np.int32))
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, total, h, 32).transpose(1, 2).requires_grad_() for h in (4, 2, 2))
    up = torch.randn(1, total, 4, 32)
    groups = group_documents(cu)
    document = torch.from_numpy(np.repeat(np.arange(len(lengths)), lengths))
    mask = (document[:, None] == document[None]).tril_()
    valid = torch.arange(int(lengths.max())) < torch.from_numpy(lengths)[:, None]
    slots = torch.from_numpy(bounds[:-1, None] + np.minimum(np.arange(lengths.max()), lengths[:, None] - 1))

    def sdpa(*parts: torch.Tensor, **options: Any) -> torch.Tensor:
        return F.scaled_dot_product_attention(*parts, enable_gqa=True, **options).transpose(1, 2)

    def one_by_one() -> torch.Tensor:
        cuts = [x.split(lengths.tolist(), dim=2) for x in (q, k, v)]
        return torch.cat([sdpa(*parts, is_causal=True) for parts in zip(*cuts, strict=True)], dim=1)

    def one_padded_batch() -> torch.Tensor:
        rows = [x[0].transpose(0, 1)[slots].transpose(1, 2) for x in (q, k, v)]
        out = sdpa(*rows, is_causal=True)
        return out[valid][None]

    ways: dict[str, Callable[[], torch.Tensor]] = {
        "ours": lambda: grouped_attention(q, k, v, groups),
        "document by document": one_by_one,
        "one padded batch": one_padded_batch,
        "whole row with a mask": lambda: sdpa(q, k, v, attn_mask=mask),
    }
    ours = ways["ours"]()
    for name, way in ways.items():
        if not torch.allclose(way(), ours, atol=1e-5):
            sys.exit(f"attention '{name}' disagrees: the comparison means nothing")
    found = in_turns({name: lambda w=way: torch.autograd.grad(w(), (q, k, v), up) for name, way in ways.items()}, 9)
    grouping = in_turns({"grouping, once a row": lambda: group_documents(cu)})
    return {**found, **grouping, "documents": len(lengths), "calls": len(groups.shapes) or len(lengths)}


def claims_of(found: dict[str, Any]) -> list[dict[str, Any]]:
    claims = []
    for documents in DOCUMENTS:
        case = f"{documents} documents"
        if "bytes" in found:
            claims.append(claim(f"bytes moved over the least, {case}", found["bytes"][case]["ratio"], "<=", 1.3))
        if "pack on GPU" in found:
            gpu = found["pack on GPU"][case]
            claims.append(claim(f"kernel time in us, {TOKENS} tokens, {case}", gpu["kernel us"], "<=", 15.0))
            claims.append(claim(f"eager PyTorch's GPU time over ours, {case}", gpu["ratio"], ">=", 8.0))
    if "pack on GPU" in found:
        claims.append(claim("recompilations as lengths change", found["pack on GPU"]["recompilations"], "<=", 0))
    return claims


def show(name: str, value: Any, depth: int = 0) -> None:
    indent = "  " * depth
    if isinstance(value, dict) and "ms" in value:
        low, high = value["quartiles"]
        print(f"{indent}{name:<32} {value['ms']:9.3f} ms   quartiles {low:.3f} to {high:.3f}")
    elif isinstance(value, dict):
        print(f"{indent}{name}")
        for key, inner in value.items():
            show(key, inner, depth + 1)
    else:
        print(f"{indent}{name:<32} {value:9.3f}" if isinstance(value, float) else f"{indent}{name:<32} {value}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write every figure, the machine and the claims here")
    wanted = parser.parse_args()
    found: dict[str, Any] = {"pack on CPU": pack_on_cpu(), "attention on CPU": attention_on_cpu()}
    absent = []
    try:
        found["bytes"] = bytes_counted()
    except ImportError:
        absent.append("triton")
    if torch.cuda.is_available() and "bytes" in found:
        found["pack on GPU"] = pack_on_gpu()
    else:
        absent.append("a CUDA device")
    for name, value in found.items():
        show(name, value)
    if absent:
        print(f"absent, so not measured: {', '.join(absent)}")
    sys.exit(finish({"tokens": TOKENS, **found, "absent": absent}, claims_of(found), wanted.json))


if __name__ == "__main__":
    main()
