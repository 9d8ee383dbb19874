"""Where the time of a step goes: the time of each phase, and of what ranks wait for in it.

``train.train`` tells its phases; the marks between them are the host's clock on a CPU, where everything is done when
a call returns, and events on the device's own timeline on a GPU. Communication is what keeps a rank from computing:
on a CPU the time for which collectives block the host, on a GPU the time in which NCCL's kernels run and no others do
(``exposed``), taken by torch's profiler in further steps that count for nothing else.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from tracestill.trainer.ranks.collective_stats import CollectiveStats
from tracestill.trainer.ranks.phases import Phase

PARTS = {"data": "data", "forward": "forward", "backward": "backward", "communication": "optimizer"}
"""Phase of the loop -> what its time is called once the communication in it is taken out."""
COLLECTIVE = "nccl"  # in the name of a kernel, in small letters
Interval = tuple[float, float]


class Stopwatch:
    """Hears of a training's phases (``Phases.subscribe``); ``split`` tells afterwards."""

    def __init__(self, stats: CollectiveStats, device: torch.device, *, first: int, steps: int) -> None:
        """Steps ``first`` to ``first + steps`` (from 0) are counted; on a GPU those that follow are profiled."""
        self.stats, self.device, self.first, self.last = stats, device, first, first + steps
        self.begun: list[float] | None = None  # ``clocks`` when the counted steps began
        self.ended: list[float] | None = None
        self.said: list[dict[str, tuple[int, int]]] = []  # what ``stats`` held when they began, and when they ended
        self.marks: list[tuple[Phase, int, Any, float]] = []  # phase, step, when, seconds of communication so far
        self.profiler: torch.profiler.profile | None = None
        if device.type == "cuda":  # the first use takes a while, a different one on each rank, which others wait for
            with profile():
                torch.cuda.synchronize(device)

    def phase(self, name: Phase, step: int) -> None:
        if step >= self.first and self.begun is None:
            self.begun = clocks()
            self.said.append(self.stats.state())
        if step >= self.last and self.ended is None:
            self.ended = clocks()
            self.said.append(self.stats.state())
        if name in PARTS or (self.marks and self.marks[-1][0] in PARTS):
            self.marks.append((name, step, self.now_there(), self.stats.seconds))
        if self.device.type == "cuda" and name == "data" and step == self.last and self.profiler is None:
            self.profiler = profile()
            self.profiler.__enter__()

    def now_there(self) -> Any:
        """An event on a GPU's timeline, or the host's time in seconds."""
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def split(self) -> dict[str, float]:
        """Seconds of a mean counted step of this rank: ``data``, ``forward``, ``backward``, ``optimizer`` and
        ``communication``, which is in none of the others. On a GPU, whose profile does not tell phases apart, it is
        taken from the last three in proportion to their lengths."""
        found = dict.fromkeys([*PARTS.values(), "communication"], 0.0)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        for (name, step, begun, said), (_, _, ended, later) in zip(self.marks, self.marks[1:], strict=False):
            if name in PARTS and self.first <= step < self.last:
                seconds = begun.elapsed_time(ended) / 1e3 if self.device.type == "cuda" else ended - begun
                spoken = later - said if self.device.type != "cuda" else 0.0
                found[PARTS[name]] += seconds - spoken
                found["communication"] += spoken
        steps = self.last - self.first
        found = {name: seconds / steps for name, seconds in found.items()}
        return found if self.profiler is None else apart(found, self.profiled())

    def collectives(self) -> dict[str, list[float]]:
        """Operation -> its calls and the bytes of whole tensors in a mean counted step of this rank; those that ran."""
        before, after = [*self.said, self.stats.state()][:2]
        steps = self.last - self.first
        told = {name: [(after[name][i] - before[name][i]) / steps for i in (0, 1)] for name in after}
        return {name: pair for name, pair in told.items() if pair[0]}

    def load(self) -> list[float]:
        """Of the counted steps: seconds on the clock, CPU seconds of this process, CPU seconds of all processes of this
        host (NaN where nobody tells), and its cores."""
        ended = self.ended or clocks()
        assert self.begun is not None
        return [*(end - begin for end, begin in zip(ended, self.begun, strict=True)), float(os.cpu_count() or 1)]

    def profiled(self) -> float:
        """Seconds a step in which this GPU did nothing but communicate."""
        assert self.profiler is not None
        self.profiler.__exit__(None, None, None)
        steps = 1 + max(step for name, step, *_ in self.marks if name in PARTS) - self.last
        kernels = [event for event in self.profiler.events() or () if event.device_type.name == "CUDA"]
        spans = [(event.name.lower(), (event.time_range.start, event.time_range.end)) for event in kernels]
        talk = [span for name, span in spans if COLLECTIVE in name]
        return exposed(talk, [span for name, span in spans if COLLECTIVE not in name]) / 1e6 / steps


def clocks() -> list[float]:
    """Seconds on the clock, CPU seconds of this process, and those of all processes of this host together."""
    try:
        with open("/proc/stat", encoding="ascii") as stat:
            user, nice, system, _, _, interrupts, softly, stolen, *_ = (
                int(word) for word in stat.readline().split()[1:]
            )
        everybody = (user + nice + system + interrupts + softly + stolen) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError):
        everybody = math.nan
    return [time.perf_counter(), time.process_time(), everybody]


def others(loads: Sequence[Sequence[float]], hosts: Iterable[Sequence[int]]) -> float | None:
    """The share of the cores that work beside the training kept busy, on the busiest of the hosts; None if no host
    tells. ``loads``: every rank's ``Stopwatch.load``; ``hosts``: the ranks on each."""
    shares = []
    for ranks in hosts:
        seconds, _, everybody, cores = loads[ranks[0]]
        if not math.isnan(everybody):
            own = sum(loads[rank][1] for rank in ranks)
            shares.append(max(0.0, everybody - own) / (seconds * cores))
    return max(shares, default=None)


def profile() -> torch.profiler.profile:
    return torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA])


def apart(split: dict[str, float], communication: float) -> dict[str, float]:
    """Phases on a GPU's timeline with the communication in them taken out."""
    names = ("forward", "backward", "optimizer")
    share = min(1.0, communication / max(sum(split[name] for name in names), 1e-12))
    return split | {name: split[name] * (1 - share) for name in names} | {"communication": communication}


def exposed(talk: Iterable[Interval], work: Iterable[Interval]) -> float:
    """The time that intervals of communication cover and those of work do not, in their unit."""
    busy = union(work)
    both = union([*talk, *busy])
    return sum(end - begin for begin, end in both) - sum(end - begin for begin, end in busy)


def union(intervals: Iterable[Interval]) -> list[Interval]:
    """The same time as intervals that do not touch, in order."""
    found: list[Interval] = []
    for begin, end in sorted(intervals):
        if found and begin <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((begin, end))
    return found
