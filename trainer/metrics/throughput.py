"""How fast training goes, and what holds it up: throughput, MFU, padding, balance, memory, waiting for data."""

from __future__ import annotations

import contextlib
import resource
import sys
import time
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist

from tracestill.trainer.batches.prefetch import Prefetch
from tracestill.trainer.batches.work import Work
from tracestill.trainer.metrics.flops import Cost


class Throughput:
    """Rates over the steps since the last reading. Counts on the host; ranks meet only when it is read."""

    def __init__(
        self, device: torch.device, *, devices: int = 1, cost: Cost | None = None, peak_tflops: float | None = None
    ) -> None:
        """``devices`` share the work; ``cost`` is the student's, ``peak_tflops`` what one device can reach, None if
        unknown: then there is no MFU."""
        self.device, self.devices = device, devices
        self.cost, self.peak_tflops = cost, peak_tflops
        self.waited = 0.0  # of ``Prefetch.waited``, at the last reading
        self.clear()

    def clear(self) -> None:
        self.tokens = self.positions = self.steps = 0
        self.flops = self.balance = 0.0
        self.started = time.perf_counter()

    def end_step(self, work: Work, *, faulty: bool = False) -> None:
        """Count one step; a faulty one took time for nothing."""
        if faulty:
            return
        self.steps += 1
        self.tokens += work.tokens
        self.positions += work.positions
        self.balance += work.balance
        if self.cost is not None:
            self.flops += self.cost.of(work.lengths)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside does not count as time of training."""
        begun = time.perf_counter()
        yield
        self.started += time.perf_counter() - begun

    def read(self, weighted_tokens: int, prefetch: Prefetch) -> dict[str, Any]:
        """Numbers since the last call; called on every rank. A new interval begins.

        ``weighted_tokens`` of all ranks are those whose loss was computed. ``memory_gib`` and ``data_wait`` (seconds)
        are those of the worst rank.
        """
        seconds = time.perf_counter() - self.started
        worst = torch.tensor([peak_memory(self.device), prefetch.waited - self.waited], dtype=torch.float64)
        self.waited = prefetch.waited
        if dist.is_initialized():
            worst = worst.to(self.device)
            dist.all_reduce(worst, op=dist.ReduceOp.MAX)
        memory, wait = worst.tolist()
        tflops = None
        if self.cost is not None:
            flops = self.flops + self.cost.head * weighted_tokens
            tflops = flops / seconds / self.devices / 1e12
        numbers = {
            "tokens": self.tokens,
            "seconds": round(seconds, 4),
            "tokens_per_second": round(self.tokens / seconds, 1),
            "weighted_tokens_per_second": round(weighted_tokens / seconds, 1),
            "tflops": tflops,
            "mfu": tflops / self.peak_tflops if tflops is not None and self.peak_tflops else None,
            "padding": 1 - self.tokens / self.positions if self.positions else 0.0,
            "balance": self.balance / self.steps if self.steps else 1.0,
            "memory_gib": round(memory / 2**30, 3),
            "data_wait": round(wait, 4),
        }
        self.clear()
        return numbers


def peak_memory(device: torch.device) -> int:
    """Bytes: the most that tensors took on this GPU, or that this process held resident, since it began."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
