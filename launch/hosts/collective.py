"""A short test of the network by the ranks themselves: all-reduce, all-gather, and one link after another.

Started on every rank as training is; rank 0 prints one line of JSON. Bandwidths are bus bandwidths: what a link has to
carry for each byte of the data (2 (n-1)/n for an all-reduce, (n-1)/n for an all-gather of n ranks).
"""

from __future__ import annotations

if __name__ == "__main__":  # before anything else is imported: `python -m` has put the working directory first
    from tracestill.data_pipeline.guards.working_directory import leave_working_directory

    leave_working_directory()

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from datetime import timedelta

import psutil
import torch
import torch.distributed as dist

from tracestill.data_pipeline.base.errors import InputError
from tracestill.kernels.attention import choose
from tracestill.launch.hosts.probe import MARK
from tracestill.trainer.faults.failure import EXIT_FAILED
from tracestill.trainer.ranks.collectives import gather_json
from tracestill.trainer.ranks.console import say
from tracestill.trainer.ranks.join_ranks import join
from tracestill.trainer.ranks.rendezvous import NotMet, meet
from tracestill.trainer.timing.step_time import PASSES

MEBIBYTES = {"cpu": 8, "cuda": 256}  # that each collective moves
MATRIX = {"cpu": 512, "cuda": 8192}
DTYPES = {"cpu": torch.float32, "cuda": torch.bfloat16}  # that training computes in
SIZES = {"cpu": (1 << 16, 1 << 24), "cuda": (1 << 18, 1 << 28)}  # bytes of a small and a large message
ROUNDS = 3  # the best of them counts
TYPICAL = (31, 5)  # rounds of a small and of a large message where the median counts
LIMIT = timedelta(seconds=60)  # until a rank gives up waiting for the others


def best_seconds(work: Callable[[], object], device: torch.device) -> float:
    """The shortest of a few runs."""
    return min(all_seconds(work, device, ROUNDS))


def all_seconds(work: Callable[[], object], device: torch.device, rounds: int) -> list[float]:
    """Of so many runs, after one that warms up; all ranks begin together."""
    found = []
    for _ in range(rounds + 1):
        dist.barrier()
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        found.append(time.perf_counter() - started)
    return found[1:]


def slowest(seconds: float, device: torch.device) -> float:
    """The longest time of all ranks."""
    value = torch.tensor([seconds], dtype=torch.float64, device=device)
    dist.all_reduce(value, op=dist.ReduceOp.MAX)
    return float(value.item())


def of_all_ranks(value: float, device: torch.device) -> list[float]:
    values = torch.zeros(dist.get_world_size(), dtype=torch.float64, device=device)
    values[dist.get_rank()] = value
    dist.all_reduce(values)
    return [float(v) for v in values.tolist()]


def link_speed(sender: int, receiver: int, data: torch.Tensor, device: torch.device) -> float:
    """Bytes a second from one rank to another while the others are silent."""

    def work() -> None:
        if dist.get_rank() == sender:
            dist.send(data, receiver)
        elif dist.get_rank() == receiver:
            dist.recv(data, sender)

    return data.nbytes / slowest(best_seconds(work, device), device)


def measure(first_ranks: list[int], device: torch.device) -> dict[str, object]:
    """Bytes a second of collectives and of links, and each rank's floating-point operations a second."""
    ranks = dist.get_world_size()
    data = torch.ones(MEBIBYTES[device.type] << 18, dtype=torch.float32, device=device)
    gathered = torch.empty(data.numel() // ranks * ranks, dtype=torch.float32, device=device)
    share = data[: data.numel() // ranks]
    reduce = slowest(best_seconds(lambda: dist.all_reduce(data, op=dist.ReduceOp.MAX), device), device)
    gather = slowest(best_seconds(lambda: dist.all_gather_into_tensor(gathered, share), device), device)
    links = []
    if len(first_ranks) > 1:  # a ring over the hosts
        for place, sender in enumerate(first_ranks):
            receiver = first_ranks[(place + 1) % len(first_ranks)]
            links.append(link_speed(sender, receiver, data, device))
    size = MATRIX[device.type]
    a, b = (torch.ones(size, size, dtype=DTYPES[device.type], device=device) for _ in range(2))
    compute = best_seconds(lambda: a @ b, device)
    return {
        "device": device.type,
        "all_reduce": 2 * (ranks - 1) / ranks * data.nbytes / reduce,
        "all_gather": (ranks - 1) / ranks * gathered.nbytes / gather,
        "links": links,
        "flops": of_all_ranks(2 * size**3 / compute, device),
    }


def fit(device: torch.device) -> dict[str, dict[str, float]]:
    """Operation -> latency of a hop (seconds) and bandwidth (bytes a second) of the model in ``timing.step_time``,
    from the median of some small and some large messages; the same on every rank."""
    ranks = dist.get_world_size()
    found = {}
    for name, passes in PASSES.items():
        small, large = (
            slowest(statistics.median(all_seconds(operation(name, size, device), device, rounds)), device)
            for size, rounds in zip(SIZES[device.type], TYPICAL, strict=True)
        )
        carried = passes * (ranks - 1) / ranks
        less, more = SIZES[device.type]
        bandwidth = carried * (more - less) / max(large - small, 1e-9)
        hops = passes * (ranks - 1)
        found[name] = {"latency": max(0.0, small - carried * less / bandwidth) / hops, "bandwidth": bandwidth}
    return found


def operation(name: str, size: int, device: torch.device) -> Callable[[], object]:
    """A collective whose whole tensor has about ``size`` bytes."""
    ranks = dist.get_world_size()
    part = torch.ones(size // 4 // ranks, dtype=torch.float32, device=device)
    whole = torch.ones(part.numel() * ranks, dtype=torch.float32, device=device)
    if name == "all_reduce":
        return lambda: dist.all_reduce(whole, op=dist.ReduceOp.MAX)
    if name == "all_gather":
        return lambda: dist.all_gather_into_tensor(whole, part)
    return lambda: dist.reduce_scatter_tensor(part, whole)


def firsts(slots: list[int]) -> list[int]:
    """The first rank of each host."""
    return [sum(slots[:i]) for i in range(len(slots))]


def listens() -> list[str]:
    """Addresses at which this process takes connections."""
    own = psutil.Process().net_connections("tcp")
    return sorted({connection.laddr.ip for connection in own if connection.status == psutil.CONN_LISTEN})


def attention(device: torch.device) -> str:
    """The attention backend that ``auto`` would take here for a model that needs nothing special, and why."""
    backend, reason = choose("auto", device, DTYPES[device.type])
    return f"{backend}: {reason}"


def main(words: Sequence[str] | None = None) -> int:
    """Measure, as one of the ranks. Exit codes as of ``trainer.train``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--slots", required=True, help="ranks on each host, in order, separated by commas")
    parser.add_argument("--fit", action="store_true", help="fit the model of collectives instead")
    parser.add_argument("--local_rank", type=int, default=0)
    arguments = parser.parse_args(words)
    slots = [int(word) for word in arguments.slots.split(",")]
    try:
        device = join_others()
    except InputError as error:
        say(f"error: {error}", err=True)
        return error.exit_code
    except NotMet as error:
        say(f"failed: {error}", err=True)
        return EXIT_FAILED
    found: dict[str, object] = dict(fit(device)) if arguments.fit else measure(firsts(slots), device)
    if not arguments.fit:
        found["listens"] = sorted({address for of_rank in gather_json(listens()) for address in of_rank})
        found["attention"] = sorted(set(gather_json(attention(device))))
    if dist.get_rank() == 0:
        print(MARK + json.dumps(found), flush=True)
    dist.barrier()
    dist.destroy_process_group()
    return 0


def join_others() -> torch.device:
    """Meet the other ranks; this one's device. Raises as ``join`` and ``meet`` do."""
    join(os.environ)
    cuda = torch.cuda.is_available() and os.environ.get("DS_ACCELERATOR") != "cpu"
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    gpu = device if cuda else None
    meet("nccl" if cuda else "gloo", wait=LIMIT.total_seconds(), timeout=LIMIT, device=gpu)
    return device


if __name__ == "__main__":
    sys.exit(main())
