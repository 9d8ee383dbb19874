"""Numbers of a run by span kind, and the log they go to."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tracestill.data_pipeline.kinds import Kinds

# Columns of the statistics that the loss kernel returns for each kind.
WEIGHT, WEIGHTED_NLL, COUNT, NLL, CORRECT, ENTROPY = range(6)


class Meter:
    """Means and rates over the steps since the last reading. Statistics stay on the device until they are read."""

    def __init__(self, kinds: Kinds, device: torch.device) -> None:
        self.kinds = kinds
        self.sums = torch.zeros(len(kinds), 6, dtype=torch.float64, device=device)
        self.of_step = torch.zeros_like(self.sums)  # micro-steps since the last step
        self.clear()

    def clear(self) -> None:
        self.sums.zero_()
        self.of_step.zero_()
        self.loss = 0.0
        self.steps = self.tokens = 0
        self.started = time.perf_counter()

    def add(self, statistics: torch.Tensor) -> None:
        """Add the (K, 6) sums of one micro-step of this rank."""
        self.of_step += statistics

    def end_step(self, loss: float, tokens: int, *, faulty: bool = False) -> None:
        """Count one step: its loss, and the tokens that all ranks read. A faulty one leaves no trace: it may be NaN."""
        if not faulty:
            self.sums += self.of_step
            self.loss += loss
            self.tokens += tokens
            self.steps += 1
        self.of_step.zero_()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside does not count as time of training."""
        begun = time.perf_counter()
        yield
        self.started += time.perf_counter() - begun

    def read(self) -> dict[str, Any]:
        """Means over all ranks since the last call, as plain numbers; called on every rank. A new interval begins."""
        self.sums += self.of_step
        if dist.is_initialized():
            dist.all_reduce(self.sums)
        sums, seconds = self.sums.cpu(), time.perf_counter() - self.started
        result = {
            "loss": self.loss / max(1, self.steps),
            "tokens": self.tokens,
            "weighted_tokens": int(sums[:, COUNT].sum()),
            "seconds": round(seconds, 4),
            "tokens_per_second": round(self.tokens / seconds, 1),
            "kinds": by_kind(self.kinds, sums),
        }
        self.clear()
        return result


def by_kind(kinds: Kinds, sums: torch.Tensor) -> dict[str, dict[str, float]]:
    """Kind -> its sum of weights, mean nll, accuracy and entropy over weighted targets, and share of the loss."""
    total = float(sums[:, WEIGHTED_NLL].sum())
    result = {}
    for index, name in enumerate(kinds.names):
        weight, weighted_nll, count, nll, correct, entropy = sums[index].tolist()
        if count:
            result[name] = {
                "count": int(count),
                "weight": weight,
                "loss": nll / count,
                "accuracy": correct / count,
                "entropy": entropy / count,
                "share": weighted_nll / total if total else 0.0,
            }
    return result


class Log:
    """``log.jsonl``: one line for each logged step, written by rank 0 and flushed at once."""

    def __init__(self, path: Path, *, resume_at: int, write: bool) -> None:
        """On resuming, lines of steps past the checkpoint are cut: those steps will come again."""
        self.write = write
        if not write:
            return
        kept = [line for line in self.lines(path) if line.get("step", 0) <= resume_at] if resume_at else []
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        temporary.replace(path)
        self.handle = path.open("a", encoding="utf-8")

    @staticmethod
    def lines(path: Path) -> list[dict[str, Any]]:
        """The log's lines; a last line torn by a crash is left out."""
        if not path.exists():
            return []
        found = []
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                break
        return found

    def add(self, **line: Any) -> None:
        if self.write:
            self.handle.write(json.dumps(finite(line), allow_nan=False) + "\n")
            self.handle.flush()


def finite(value: Any) -> Any:
    """The value with null for every number that JSON cannot hold: NaN and the infinities."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
