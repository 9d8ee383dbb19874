"""How long a step takes on a cluster that nobody here has: arithmetic, checked against what can be measured.

    step = data + compute + optimizer + communication that nothing hides

Compute is FLOPs over the rate that a device was seen to reach (``Machine.rate``), of the rank that has most to do: at
ZeRO 0 and 1 the ranks meet once a step, from 2 on in every micro-step. What ranks say to each other is what DeepSpeed
0.19.8 was counted to say (tests/trainer/timing/test_step_time.py), for a student of n parameters of which t are
trained, g bytes of a gradient's and p of a parameter's number, and A micro-steps a step:

    ZeRO 0    all-reduce g t
    ZeRO 1    all-reduce g t, all-gather p t
    ZeRO 2    A times all-reduce g t, all-gather p t
    ZeRO 3    A times reduce-scatter g t, and all-gather p n: A times if the student's parameters may stay gathered
              from the forward to the backward pass (``stage3_max_live_parameters``, 1e9), else in each of both;
              tensors of at most ``stage3_param_persistence_threshold`` elements (1e5) once

On a CPU gradients of ZeRO 1 and 2 are reduced to who keeps them, with (ranks + 1) / (2 ranks) of an all-reduce's bytes,
or where a recipe's ``use_multi_rank_bucket_allreduce`` says so.

A collective of S bytes takes hops * latency + passes * (n - 1) / n * S / bandwidth; an all-reduce passes twice, the
others once. A ring visits every rank; an all-reduce between nodes may go up and down a tree instead. The slower of the
links inside and between nodes is the bandwidth. DeepSpeed hides communication behind computation only where
``overlap_comm`` says so, by default at ZeRO 3, and only on GPUs; a bucket of gradients is sent when it is full, so a
student that fills one only, at the end of its backward pass, has nothing to hide them behind. A GPU computes no layer
faster than its host launches it (``Machine.launch``), at ZeRO 3 with a call for each module around its own. Not in the
model: Ulysses' exchanges.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from tracestill.trainer.metrics.hardware import Link
from tracestill.trainer.recipe.settings import BUCKET, PIECE

PASSES = {"all_reduce": 2, "all_gather": 1, "reduce_scatter": 1}
LIVE = 1_000_000_000  # DeepSpeed's stage3_max_live_parameters
PERSISTENT = 100_000  # DeepSpeed's stage3_param_persistence_threshold: tensors of so few elements are never released
PREFETCH = 50_000_000  # DeepSpeed's stage3_prefetch_bucket_size: elements gathered at a time
UPDATE_BYTES = 28  # an element that AdamW updates: parameter, gradient and two moments read, three of them written


@dataclass(frozen=True)
class Machine:
    """A cluster. Rates are what was measured on one of its nodes, or assumed."""

    rate: float  # FLOP/s of one device in forward and backward passes
    update: float  # bytes a second of one device's memory, in the optimizer
    inside: Mapping[str, Link]  # operation of PASSES -> the link between devices of a node
    between: Mapping[str, Link]  # and between nodes
    devices: int  # of a node
    cores: int | None = None  # of a node whose ranks compute on the CPU: ranks beyond them share
    crowding: float = 1.0  # by which computing takes longer than that where ranks share cores
    # ranks a core, and the links between them when there were so many; None: each takes as many times longer
    crowded: tuple[float, Mapping[str, Link]] | None = None
    data: float = 0.0  # seconds a micro-step that a rank spends on its data
    fixed: float = 0.0  # seconds a step of what is left: checks, numbers, Python
    slower: Mapping[int, float] = field(default_factory=dict)  # ZeRO stage -> its compute over that of stage 0
    # ZeRO stage -> seconds in which the host launches a layer's forward and backward pass; computing takes no less
    launch: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """What is trained, and how."""

    parameters: int
    loads: np.ndarray  # (A, ranks) FLOPs of each micro-step and rank, recomputed ones included
    tokens: float  # of a step, all ranks
    zero: int = 2
    gradient_bytes: int = 4
    parameter_bytes: int = 2
    layers: int = 1
    tensors: int = 1  # that its parameters are
    kept: int = 0  # elements of those that ZeRO 3 never releases, so that a step gathers them once (PERSISTENT)
    kept_tensors: int = 0  # and how many tensors these are
    tied: int = 0  # elements that two layers share, so that both gather them
    frozen: int = 0  # of the parameters, those that do not learn
    bucket: int | None = None  # elements of gradients reduced at a time, at most; None: the engine's default
    to_owners: bool | None = None  # gradients of ZeRO 1 and 2 reach only who keeps them; None: the engine's default
    overlap: bool | None = None  # DeepSpeed's overlap_comm; None: its default
    live: int = LIVE
    scattered: bool = False  # below ZeRO 3 gradients reach only who keeps them; DeepSpeed 0.19.8 sends them to all

    @property
    def ranks(self) -> int:
        return int(self.loads.shape[1])

    @property
    def trained(self) -> int:
        return self.parameters - self.frozen

    @property
    def buckets(self) -> int:
        """In how many parts the gradients of a micro-step are reduced."""
        return max(1, math.ceil(self.trained / (self.bucket or BUCKET)))


@dataclass(frozen=True)
class Times:
    """Seconds of one step."""

    data: float
    compute: float  # of the busiest rank
    optimizer: float
    communication: float  # that is not hidden
    hidden: float
    tokens: float

    @property
    def step(self) -> float:
        return self.data + self.compute + self.optimizer + self.communication

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.step


def forecast(task: Task, machine: Machine) -> Times:
    """The time of a step with the task's ranks, on as many nodes as they need."""
    ranks = task.ranks
    nodes = -(-ranks // machine.devices)
    here = min(ranks, machine.devices)
    share = max(1.0, here / machine.cores) if machine.cores else 1.0
    slower = machine.slower.get(task.zero, 1.0)
    seconds = np.maximum(task.loads * slower / machine.rate, task.layers * machine.launch.get(task.zero, 0.0))
    meetings = seconds.sum(axis=0, keepdims=True) if task.zero < 2 else seconds
    busiest = sum(computing(work, machine) for work in meetings)
    steps = len(task.loads)
    own = task.trained / (ranks if task.zero else 1)
    update = own * UPDATE_BYTES * share / machine.update
    spoken = communication(task, machine, nodes, share)
    hidden = 0.0 if machine.cores else hidden_part(task, spoken, float(busiest))  # a CPU is busy while it talks
    exposed = sum(spoken.values()) - hidden
    data = steps * machine.data * share
    return Times(data, float(busiest), update + machine.fixed * share, exposed, hidden, task.tokens)


def computing(work: np.ndarray, machine: Machine) -> float:
    """Seconds until the last rank is done with its ``work``, (ranks,) seconds alone; on each node ranks beyond the
    cores share them until the first of them have nothing left to do."""
    nodes = [work[first : first + machine.devices] for first in range(0, len(work), machine.devices)]
    if not machine.cores:
        return float(work.max())
    slowest = 0.0
    for node in nodes:
        passed = done = 0.0
        for place, seconds in enumerate(np.sort(node)):
            busy = len(node) - place
            share = machine.crowding * busy / machine.cores if busy > machine.cores else 1.0
            passed, done = passed + (seconds - done) * share, float(seconds)
        slowest = max(slowest, passed)
    return slowest


def volumes(task: Task, *, coalesced: bool = True) -> dict[str, tuple[str, float, int]]:
    """What -> (operation, bytes of the whole tensors, calls), of one step. ``coalesced``: one call gathers a layer, as
    on NCCL; else each tensor takes a call of its own, and by default gradients of ZeRO 1 and 2 go to their owners only,
    in buckets of PIECE elements a rank. A bucket may have two owners."""
    if task.ranks == 1:
        return {}
    n, steps = task.parameters, len(task.loads)
    sharded = task.zero in (1, 2)
    if sharded and not coalesced and task.bucket is None:
        task = replace(task, bucket=PIECE * task.ranks)
    gradients, buckets = float(task.gradient_bytes * task.trained), task.buckets
    reduce = "reduce_scatter" if task.scattered else "all_reduce"
    if sharded and (not coalesced if task.to_owners is None else task.to_owners):
        gradients *= (1 + 1 / task.ranks) / 2  # of an all-reduce's bytes (``benchmarks/reduction.py``)
        buckets += task.ranks - 1
    if task.zero < 2:
        found = {"gradients": (reduce, gradients, buckets)}
    elif task.zero == 2:
        found = {"gradients": (reduce, steps * gradients, steps * buckets)}
    else:
        passing = n - task.kept  # gathered for a pass and then released
        twice = n > task.live
        times = steps * (2 if twice else 1)
        parameters = float(task.parameter_bytes * (task.kept + times * (passing + (task.tied if twice else 0))))
        if coalesced:
            gathers = max(task.layers + 2, math.ceil(passing / PREFETCH)) if passing else 0
            calls = min(task.kept, 1) + times * gathers
        else:
            calls = task.kept_tensors + times * (task.tensors - task.kept_tensors)
        return {
            "gradients": ("reduce_scatter", steps * gradients, steps * buckets),
            "parameters": ("all_gather", parameters, calls),
        }
    if task.zero:
        found["parameters"] = (
            "all_gather",
            float(task.parameter_bytes * task.trained),
            2,
        )  # one a group of the optimizer
    return found


def communication(task: Task, machine: Machine, nodes: int, share: float) -> dict[str, float]:
    """Seconds for each of ``volumes``, hidden or not; ``share``: ranks that share a core."""
    said = volumes(task, coalesced=machine.cores is None)

    def spoken(inside: Mapping[str, Link]) -> dict[str, float]:
        return {
            what: call_seconds(task.ranks, nodes, inside[operation], machine.between[operation], operation, size, calls)
            for what, (operation, size, calls) in said.items()
        }

    alone = spoken(machine.inside)
    if machine.crowded is None:
        return {what: share * seconds for what, seconds in alone.items()}
    most, links = machine.crowded
    part = (share - 1) / (most - 1)
    return {what: alone[what] + part * max(0.0, seconds - alone[what]) for what, seconds in spoken(links).items()}


def call_seconds(ranks: int, nodes: int, inside: Link, between: Link, operation: str, size: float, calls: int) -> float:
    """Seconds that so many calls take, which carry ``size`` bytes in all."""
    bandwidth = inside.bandwidth if nodes == 1 else min(inside.bandwidth, between.bandwidth)
    if nodes == ranks:  # nothing is passed on inside of nodes
        bandwidth = between.bandwidth
    carried = PASSES[operation] * (ranks - 1) / ranks * size / bandwidth
    return calls * latency(operation, ranks, nodes, inside, between) + carried


def latency(operation: str, ranks: int, nodes: int, inside: Link, between: Link) -> float:
    """Seconds that one call takes however little it carries."""
    crossing = nodes if nodes > 1 else 0
    ring = PASSES[operation] * (
        (ranks - 1 - max(0, crossing - 1)) * inside.latency + max(0, crossing - 1) * between.latency
    )
    if operation != "all_reduce" or nodes < 3:
        return ring
    tree = 2 * (math.ceil(math.log2(nodes)) * between.latency + (ranks // nodes - 1) * inside.latency)
    return min(ring, tree)


def hidden_part(task: Task, spoken: Mapping[str, float], compute: float) -> float:
    """Seconds of communication that computation hides: with ``overlap_comm`` gradients behind the backward pass (two
    thirds of the computation; below ZeRO 2 that of the last micro-step), all buckets but the last behind what follows
    the first, and at ZeRO 3 parameters behind the rest, but the first layer's. At ZeRO 0 other trainers than DeepSpeed
    overlap so."""
    overlap = task.zero == 3 if task.overlap is None else task.overlap
    if not overlap or not spoken:
        return 0.0
    steps = len(task.loads)
    later = 1 - 1 / task.buckets  # nothing is sent before the first bucket is full, and the last is full at the end
    behind = compute * 2 / 3 / (steps if task.zero < 2 else 1) * later
    gradients = min(spoken["gradients"] * later, behind)
    if task.zero < 3:
        return gradients
    room = compute - gradients
    if task.parameters <= task.live:  # gathered in forward passes only
        room = min(room, compute / 3)
    return gradients + max(0.0, min(spoken["parameters"] * (1 - 1 / (task.layers + 1)), room))


def even(flops: float, steps: int, ranks: int) -> np.ndarray:
    """(steps, ranks) loads that are all alike, of ``flops`` in all."""
    return np.full((steps, ranks), flops / steps / ranks)
