"""What ranks send to reduce a step's gradients at ZeRO 1 and 2, over gloo: bytes on the wire, by DeepSpeed's settings.

unshare --net --map-root-user python benchmarks/reduction.py [--json PATH]

The bytes are those of the loopback device, which nobody else uses in a network of its own (``unshare``). Without the
gathering of parameters, which is the same for all settings. On a CPU nothing overlaps: ``overlap_comm`` shows its
bytes only.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import claim, finish, table

SETTINGS: dict[str, dict[str, Any]] = {
    "all-reduce (DeepSpeed's default)": {"use_multi_rank_bucket_allreduce": True},
    "to the owner": {"use_multi_rank_bucket_allreduce": False},
    "to the owner, 8 buckets": {"use_multi_rank_bucket_allreduce": False, "reduce_bucket_size": 0.125},
    "reduce_scatter: false": {"reduce_scatter": False},
    "contiguous_gradients: false": {"contiguous_gradients": False},
    "overlap_comm: true": {"use_multi_rank_bucket_allreduce": True, "overlap_comm": True},
}
ELEMENTS, LAYERS, STEPS = 4 * 10**6, 8, 2  # parameters and layers of the model, and steps that are counted


def sent() -> int:
    """Bytes through the loopback device so far."""
    lines = Path("/proc/net/dev").read_text(encoding="utf-8").splitlines()
    return next(int(line.split(":")[1].split()[0]) for line in lines if line.strip().startswith("lo:"))


def raise_loopback() -> None:
    """Switch the device on, which is off in a new network."""
    with socket.socket() as any_socket:
        up = struct.pack("16sH14s", b"lo", 0x1 | 0x40, b"")
        try:
            fcntl.ioctl(any_socket, 0x8914, up)  # SIOCSIFFLAGS
        except PermissionError:
            print("not in a network of its own: other programs' bytes count too", file=sys.stderr)


def work(path: Path) -> None:
    """One rank: a square matrix's gradient under each setting; rank 0 writes bytes over those of the gradients."""
    import deepspeed
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend="gloo", verbose=False)
    ranks, found = dist.get_world_size(), {}
    for stage in (1, 2):
        for name, keys in SETTINGS.items():
            width = round((ELEMENTS / LAYERS) ** 0.5)
            layers = [torch.nn.Linear(width, width, bias=False) for _ in range(LAYERS)]
            model = torch.nn.Sequential(*layers)
            elements = sum(p.numel() for p in model.parameters())
            block = {"stage": stage, "reduce_bucket_size": elements, **keys}
            if isinstance(block["reduce_bucket_size"], float):
                block["reduce_bucket_size"] = int(elements * block["reduce_bucket_size"])
            config = {"train_micro_batch_size_per_gpu": 1, "zero_optimization": block}
            optimizer = torch.optim.AdamW(model.parameters())
            engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
            rows = torch.ones(1, layers[0].in_features)
            spent = []
            for step in range(STEPS + 1):
                loss = engine(rows).sum()
                dist.barrier()
                time.sleep(0.2)
                before, busy = sent(), time.process_time()
                engine.backward(loss)
                dist.barrier()
                time.sleep(0.2)
                if step:
                    spent.append((sent() - before, time.process_time() - busy))
                dist.barrier()
                engine.step()
            cpu = torch.tensor([sum(one for _, one in spent) / STEPS])
            dist.all_reduce(cpu)
            of_gradients = sum(one for one, _ in spent) / STEPS / (4 * elements) / ranks
            found[f"{stage} {name}"] = {"bytes": of_gradients, "cpu_seconds": float(cpu)}
            engine.destroy()
    if dist.get_rank() == 0:
        path.write_text(json.dumps(found), encoding="utf-8")
    dist.barrier()


def measure(ranks: int, folder: Path) -> dict[str, Any]:
    path = folder / f"{ranks}.json"
    port = 29_700 + ranks
    environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks)}
    environment |= {"GLOO_SOCKET_IFNAME": "lo", "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--work", str(path)]
    places = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)]
    quiet = subprocess.DEVNULL
    started = [subprocess.Popen(command, env={**environment, **place}, stdout=quiet, stderr=quiet) for place in places]
    if any(process.wait() for process in started):
        raise SystemExit(f"{ranks} ranks failed")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    if wanted.work:
        work(wanted.work)
        return 0
    raise_loopback()
    with tempfile.TemporaryDirectory() as folder:
        found = {ranks: measure(ranks, Path(folder)) for ranks in (2, 4)}
    rows = [
        [f"{ranks} ranks, ZeRO {case}", one["bytes"], one["cpu_seconds"]]
        for ranks, cases in found.items()
        for case, one in cases.items()
    ]
    print(table(["", "bytes a rank / gradients", "CPU s, all ranks"], rows))

    def bytes_of(ranks: int, name: str) -> float:
        return max(float(found[ranks][f"{stage} {name}"]["bytes"]) for stage in (1, 2))

    default, owner = list(SETTINGS)[:2]
    claims = [
        claim("4 ranks: to the owner over all-reduce", bytes_of(4, owner) / bytes_of(4, default), "<=", 0.75),
        claim("2 ranks: to the owner over all-reduce", bytes_of(2, owner) / bytes_of(2, default), ">=", 0.95),
    ]
    return finish({"elements": ELEMENTS, "reduction": found}, claims, wanted.json)


if __name__ == "__main__":
    sys.exit(main())
