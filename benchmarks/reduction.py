"""What reducing a step's gradients costs at ZeRO 1 and 2, over gloo, by DeepSpeed's settings and bucket sizes.

    python benchmarks/reduction.py [--json PATH]      # as root: hosts are network namespaces (ip, sshd, pdsh)

Two and four ranks on one host, and on two that are joined by links of 400 Mbit/s (``tc``). Bytes are those through the
loopback device of the one host, which nobody else uses, and through the links of the two; seconds are those of a
backward pass and of a whole step, the settings in turns, medians of their shares of the all-reduce in the same turn. On
a CPU nothing overlaps: ``overlap_comm`` shows its bytes only.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import claim, finish, table

PIECE = 2**19  # elements a rank, 2 MiB: gloo's reduce sends more of a message that is larger
SETTINGS: dict[str, dict[str, Any]] = {
    "all-reduce, one bucket": {"use_multi_rank_bucket_allreduce": True},
    "all-reduce, 2 MiB a rank": {"use_multi_rank_bucket_allreduce": True, "reduce_bucket_size": PIECE},
    "to the owner, one bucket": {"use_multi_rank_bucket_allreduce": False},
    "to the owner, 2 MiB a rank": {"use_multi_rank_bucket_allreduce": False, "reduce_bucket_size": PIECE},
    "reduce_scatter: false": {"reduce_scatter": False},
    "contiguous_gradients: false": {"contiguous_gradients": False},
    "overlap_comm: true": {"use_multi_rank_bucket_allreduce": True, "overlap_comm": True},
}
DEFAULT, _, LARGE, OWNER, *_ = SETTINGS
ELEMENTS, LAYERS, TURNS = 8 * 10**6, 32, 3  # parameters and layers of the model, and turns that are counted
TIME = "backward_over_all_reduce"
CASES = {"1 host, 2 ranks": (1, 2), "1 host, 4 ranks": (1, 4), "2 hosts, 2 ranks": (2, 2), "2 hosts, 4 ranks": (2, 4)}
MBITS = 400


def sent(device: str) -> int:
    """Bytes that a network device sent so far."""
    lines = Path("/proc/net/dev").read_text(encoding="utf-8").splitlines()
    return next(int(line.split(":")[1].split()[8]) for line in lines if line.strip().startswith(f"{device}:"))


def engine_of(stage: int, keys: dict[str, Any]) -> Any:
    """DeepSpeed's engine around some square matrices."""
    import deepspeed
    import torch
    import torch.distributed as dist

    width = round((ELEMENTS / LAYERS) ** 0.5)
    model = torch.nn.Sequential(*[torch.nn.Linear(width, width, bias=False) for _ in range(LAYERS)])
    elements = sum(p.numel() for p in model.parameters())
    bucket = keys["reduce_bucket_size"] * dist.get_world_size() if "reduce_bucket_size" in keys else elements
    block = {"stage": stage, **keys, "reduce_bucket_size": bucket}
    config = {"train_micro_batch_size_per_gpu": 1, "zero_optimization": block}
    optimizer = torch.optim.AdamW(model.parameters())
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    return engine


def work(path: Path, device: str) -> None:
    """One rank; rank 0 writes what each setting cost at each stage."""
    import deepspeed
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend="gloo", verbose=False)
    first = torch.tensor(float(int(dist.get_rank() % (dist.get_world_size() // hosts_of(device)) == 0)))  # of its host
    found: dict[str, Any] = {}
    for stage in (1, 2):
        engines = {name: engine_of(stage, keys) for name, keys in SETTINGS.items()}
        rows = torch.ones(1, round((ELEMENTS / LAYERS) ** 0.5))
        told: dict[str, list[list[float]]] = {name: [] for name in SETTINGS}
        for turn in range(TURNS + 1):
            for name, engine in engines.items():
                dist.barrier()
                time.sleep(0.05)
                before, begun = sent(device), time.perf_counter()
                engine.backward(engine(rows).sum())
                dist.barrier()
                reduced, middle = sent(device), time.perf_counter()
                engine.step()
                dist.barrier()
                seconds = [middle - begun, time.perf_counter() - begun]
                through = (reduced - before) * first
                dist.all_reduce(through)
                if turn:
                    told[name].append([float(through), *seconds])
        of_gradients = 4 * sum(p.numel() for p in engines[DEFAULT].module.parameters()) * dist.get_world_size()
        for name, turns in told.items():
            shares = [[a / b for a, b in zip(*pair, strict=True)] for pair in zip(turns, told[DEFAULT], strict=True)]
            found[f"{stage} {name}"] = {
                "bytes": statistics.median(one[0] for one in turns) / of_gradients,
                "backward_seconds": statistics.median(one[1] for one in turns),
                TIME: statistics.median(one[1] for one in shares),
                "step_over_all_reduce": statistics.median(one[2] for one in shares),
            }
        for engine in engines.values():
            engine.destroy()
    if dist.get_rank() == 0:
        path.write_text(json.dumps(found), encoding="utf-8")
    dist.barrier()


def hosts_of(device: str) -> int:
    return 1 if device == "lo" else 2


def measure(hosts: Any, names: list[str], ranks: int, folder: Path) -> dict[str, Any]:
    """So many ranks on these hosts, the first half of them on the first of two."""
    path, device = folder / f"{len(names)}-{ranks}.json", "lo" if len(names) == 1 else hosts.interface
    address = "127.0.0.1" if len(names) == 1 else hosts.addresses[names[0]]
    more = {"MASTER_ADDR": address, "MASTER_PORT": "29700", "WORLD_SIZE": str(ranks), "OMP_NUM_THREADS": "1"}
    started, each = [], ranks // len(names)
    for rank in range(ranks):
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank % each), "GLOO_SOCKET_IFNAME": device}
        command = hosts.on(names[rank // each], [sys.executable, __file__, "--work", str(path), "--device", device])
        environment = hosts.environment(**more, **place)
        quiet = subprocess.DEVNULL
        started.append(subprocess.Popen(command, env=environment, stdout=quiet, stderr=quiet))
    codes = [process.wait() for process in started]
    if any(codes):
        raise SystemExit(f"{ranks} ranks on {len(names)} host(s) failed")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--device", help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    if wanted.work:
        work(wanted.work, wanted.device)
        return 0
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
    import cluster_support

    if reason := cluster_support.why_impossible():
        sys.exit(reason)
    found = {}
    with tempfile.TemporaryDirectory() as folder, cluster_support.hosts(Path(folder), 2) as hosts:
        hosts.interface = cluster_support.INTERFACE
        for space in hosts.spaces.values():
            limit = ["tc", "qdisc", "replace", "dev", hosts.interface, "root", "tbf"]
            limit += ["rate", f"{MBITS}mbit", "burst", "256kb", "latency", "200ms"]
            subprocess.run([str(cluster_support.find("ip")), "netns", "exec", space, *limit], check=True)
        for case, (count, ranks) in CASES.items():
            found[case] = measure(hosts, hosts.names[:count], ranks, Path(folder))
    heads = ["", "bytes a rank / gradients", "backward, ms", "backward / all-reduce's", "step / all-reduce's"]
    rows = [
        [f"{case}, ZeRO {name}", one["bytes"], 1e3 * one["backward_seconds"], *list(one.values())[2:]]
        for case, settings in found.items()
        for name, one in settings.items()
    ]
    print(table(heads, rows))

    def worst(case: str, name: str, key: str) -> float:
        return max(float(found[case][f"{stage} {name}"][key]) for stage in (1, 2))

    def over(case: str) -> float:
        return worst(case, OWNER, "bytes") / worst(case, DEFAULT, "bytes")

    claims = [claim(f"{case}: bytes to the owner over all-reduce", over(case), "<=", 0.8) for case in CASES]
    claims += [
        claim(f"{case}: a backward pass to the owner over all-reduce", worst(case, OWNER, TIME), "<=", 1.1)
        for case in CASES
    ]
    return finish({"elements": ELEMENTS, "mbits_between_hosts": MBITS, "reduction": found}, claims, wanted.json)


if __name__ == "__main__":
    sys.exit(main())
