"""Numbers of a run by span kind, and how a line of the log, and its end, look in the console."""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
import torch.distributed as dist
from rich.table import Table

from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.kernels.loss import Statistic

UNKNOWN = {"count": 0, "weight": 0.0, "loss": math.nan, "accuracy": math.nan, "entropy": math.nan, "share": 0.0}
"""Numbers of the label's term of a kind that only the teacher weighs, and of which no sample was taken."""


class Tally(Protocol):
    """What else is counted while training: the routers of a mixture of experts."""

    def end_step(self, *, faulty: bool) -> None: ...
    def read(self) -> dict[str, Any]: ...


class Meter:
    """Means over the steps since the last reading. Statistics stay on the device until they are read."""

    def __init__(self, kinds: Kinds, device: torch.device, routers: Tally | None = None) -> None:
        self.kinds, self.routers = kinds, routers
        shape = 2, len(kinds), len(Statistic)  # of weighted targets, and of a sample of the others
        self.sums = torch.zeros(shape, dtype=torch.float64, device=device)
        self.of_step = torch.zeros_like(self.sums)  # micro-steps since the last step
        self.clear()

    def clear(self) -> None:
        self.sums.zero_()
        self.of_step.zero_()
        self.loss = 0.0
        self.steps = 0

    def add(self, statistics: torch.Tensor) -> None:
        """Add the (K, S) sums of one micro-step of this rank, columns as in ``Statistic``."""
        self.of_step[0] += statistics

    @property
    def unweighted(self) -> torch.Tensor:
        """(K, S): to be added to, the sums over a sample of targets without weight; columns of weights stay 0."""
        return self.of_step[1]

    def end_step(self, loss: float, *, faulty: bool = False) -> None:
        """Count one step and its loss. A faulty one leaves no trace: it may be NaN."""
        if not faulty:
            self.sums += self.of_step
            self.loss += loss
            self.steps += 1
        self.of_step.zero_()
        if self.routers is not None:
            self.routers.end_step(faulty=faulty)

    def read(self) -> dict[str, Any]:
        """Means over all ranks since the last call, as plain numbers; called on every rank. A new interval begins.

        A kind of which no target had weight shows what its sample says, with ``weight`` and ``share`` 0. Outside of
        steps, all that was added counts as one.
        """
        self.sums += self.of_step
        if dist.is_initialized():
            dist.all_reduce(self.sums)
        weighted, unweighted = self.sums.cpu()
        steps = max(1, self.steps)
        of_sample, own = by_kind(self.kinds, unweighted, steps), by_kind(self.kinds, weighted, steps)
        found = {name: of_sample.get(name, {}) | row for name, row in own.items()}
        found = of_sample | {name: UNKNOWN | row for name, row in found.items()}
        looked_at = torch.maximum(weighted[:, Statistic.COUNT], weighted[:, Statistic.TEACHER_COUNT])
        result = {
            "loss": self.loss / steps,
            "weighted_tokens": int(looked_at.sum()),
            "kinds": {name: found[name] for name in self.kinds.names if name in found},
            **({} if self.routers is None else {"routers": self.routers.read()}),
        }
        self.clear()
        return result


def by_kind(kinds: Kinds, sums: torch.Tensor, steps: int) -> dict[str, dict[str, float]]:
    """Kind -> its numbers in a line of the log, of (K, S) sums over ``steps`` steps; see docs/telemetry.md. Those of
    the label's term, and those of the teacher's, are there for kinds that have weight in it."""
    total = float(sums[:, [Statistic.WEIGHTED_NLL, Statistic.WEIGHTED_DIVERGENCE]].sum())
    result = {}
    for index, name in enumerate(kinds.names):
        row = sums[index].tolist()
        if count := row[Statistic.COUNT]:
            result[name] = {
                "count": int(count),
                "weight": row[Statistic.WEIGHT] / steps,
                "loss": row[Statistic.NLL] / count,
                "accuracy": row[Statistic.CORRECT] / count,
                "entropy": row[Statistic.ENTROPY] / count,
                "share": row[Statistic.WEIGHTED_NLL] / total if total else 0.0,
            }
        if count := row[Statistic.TEACHER_COUNT]:
            result[name] = result.get(name, {}) | {
                "teacher_count": int(count),
                "teacher_weight": row[Statistic.TEACHER_WEIGHT] / steps,
                "divergence": row[Statistic.DIVERGENCE] / count,
                "teacher_share": row[Statistic.WEIGHTED_DIVERGENCE] / total if total else 0.0,
            }
    return result


def line_of(step: int, steps: int, numbers: dict[str, Any]) -> str:
    """A line of the log for the console: what a glance is for. Kinds without weight stand in brackets."""
    parts = [f"step {step}/{steps}", f"loss {numbers['loss']:.4f}"]
    for name, found in numbers["kinds"].items():
        text = f"{name} {found['loss']:.3f} {found['accuracy']:.0%}"
        text += f" D {found['divergence']:.3f}" if "divergence" in found else ""
        parts.append(text if found["weight"] or found.get("teacher_weight") else f"({text})")
    parts.append(f"grad {numbers['grad_norm']:.3g}")
    parts.append(f"{numbers['tokens_per_second']:,.0f} tokens/s")
    if numbers["mfu"] is not None:
        parts.append(f"MFU {numbers['mfu']:.1%}")
    parts.append(f"{numbers['memory_gib']:.1f} GiB")
    if numbers["data_wait"] > 0.01 * numbers["seconds"]:
        parts.append(f"waits for data {numbers['data_wait'] / numbers['seconds']:.0%}")
    if (time := numbers.get("time")) is not None:
        parts.append("time: " + ", ".join(f"{name} {share:.0%}" for name, share in time.items()))
    if "ratio" in numbers:
        parts.append(f"ratio {numbers['ratio']:.3f} ({numbers['ratio_bound']:.1%} at the bound)")
    return "  ".join(parts)


def table_of(kinds: dict[str, dict[str, float]]) -> Table:
    """Every kind's numbers over the steps since the last line."""
    table = Table(title="The last steps by span kind", title_justify="left")
    taught = any("divergence" in found for found in kinds.values())
    more = ("D", "its share") if taught else ()  # the divergence from the teacher
    for heading in ("kind", "tokens", "loss", "accuracy", "entropy", "share of loss", *more):
        table.add_column(heading, justify="left" if heading == "kind" else "right")
    for name, found in kinds.items():
        means = (f"{found['loss']:.4f}", f"{found['accuracy']:.1%}", f"{found['entropy']:.4f}")
        share = f"{found['share']:.1%}" if found["weight"] else "no weight (sample)"
        of_teacher = (f"{found['divergence']:.4f}", f"{found['teacher_share']:.1%}") if "divergence" in found else ()
        table.add_row(name, f"{found['count']:,}", *means, share, *of_teacher)
    return table
