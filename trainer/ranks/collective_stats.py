"""What the ranks of a training say to each other: every collective of this process, its bytes, and how long it blocks.

For benchmarks only: inside of ``counted_collectives`` torch.distributed's functions keep count. Where the host waits
for the network (gloo) the time is that of the call and of the wait for its handle; NCCL's calls return at once, and
their time is the device's.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch.distributed as dist
from torch import Tensor

WHOLE = {  # operation -> the argument, by place and name, that is as large as what all ranks hold together
    "all_reduce": (0, "tensor"),
    "reduce": (0, "tensor"),
    "broadcast": (0, "tensor"),
    "all_gather": (0, "tensor_list"),
    "all_gather_into_tensor": (0, "output_tensor"),
    "reduce_scatter": (1, "input_list"),
    "reduce_scatter_tensor": (1, "input"),
    "all_to_all_single": (0, "output"),
    "all_to_all": (0, "output_tensor_list"),
    "barrier": (None, None),
}


@dataclass
class CollectiveStats:
    """What was said since the count began."""

    seconds: float = 0.0  # for which the host was blocked
    calls: dict[str, int] = field(default_factory=lambda: dict.fromkeys(WHOLE, 0))
    bytes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(WHOLE, 0))  # of the whole tensors
    depth: int = 0  # of calls inside each other, of which the outermost counts

    def state(self) -> dict[str, tuple[int, int]]:
        """Operation -> (calls, bytes)."""
        return {name: (self.calls[name], self.bytes[name]) for name in WHOLE}


class Handle:
    """Stands for the handle of an operation under way, and counts the wait for it."""

    def __init__(self, stats: CollectiveStats, work: Any) -> None:
        self._stats, self._work = stats, work

    def wait(self, *arguments: Any, **more: Any) -> Any:
        return blocked(self._stats, self._work.wait, *arguments, **more)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._work, name)


def blocked(stats: CollectiveStats, function: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
    """Call a function, and count its time unless it is part of another call that is counted."""
    stats.depth += 1
    begun = time.perf_counter()
    try:
        return function(*arguments, **more)
    finally:
        stats.depth -= 1
        if not stats.depth:
            stats.seconds += time.perf_counter() - begun


@contextlib.contextmanager
def counted_collectives() -> Iterator[CollectiveStats]:
    """Meanwhile this process's collectives are counted. To be entered before ranks meet: DeepSpeed keeps some of the
    functions that it finds then (0.19.8). Raises RuntimeError if they have."""
    if dist.is_initialized():
        raise RuntimeError("collectives can be counted only from before ranks meet")
    stats = CollectiveStats()
    with contextlib.ExitStack() as until_the_end:
        for name, where in WHOLE.items():
            plain = getattr(dist, name)
            counted = count(stats, name, where, plain)
            for module in (dist, dist.distributed_c10d):
                if getattr(module, name) is plain:
                    setattr(module, name, counted)
                    until_the_end.callback(setattr, module, name, plain)
        yield stats


def count(
    stats: CollectiveStats, name: str, where: tuple[int | None, str | None], plain: Callable[..., Any]
) -> Callable[..., Any]:
    place, keyword = where

    @functools.wraps(plain)
    def call(*arguments: Any, **more: Any) -> Any:
        if not stats.depth:
            stats.calls[name] += 1
            if place is not None:
                stats.bytes[name] += size_of(arguments[place] if len(arguments) > place else more[str(keyword)])
        work = blocked(stats, plain, *arguments, **more)
        return Handle(stats, work) if hasattr(work, "wait") else work

    return call


def size_of(value: Tensor | list[Tensor]) -> int:
    """Bytes of a tensor, or of a list of them."""
    return value.nbytes if isinstance(value, Tensor) else sum(tensor.nbytes for tensor in value)
