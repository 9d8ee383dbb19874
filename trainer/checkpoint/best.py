"""Which measurement on held-out documents was the best so far, and whether to wait for a better one."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.trainer.recipe.settings import GENERATION


@dataclass
class Best:
    """The best value of ``metric`` (<kind or group>.loss or .accuracy, or generation.accuracy). Its state goes into
    checkpoints."""

    metric: str
    patience: int | None  # measurements without a better one after which ``over``; None: never
    kinds: Kinds = field(default_factory=Kinds)
    step: int | None = None  # after which it was measured; None before the first measurement
    value: float | None = None
    waited: int = 0  # measurements since

    def add(self, step: int, measured: dict[str, dict[str, float]]) -> bool:
        """Take a measurement into account; whether it is the best so far (the first of equal ones stays best)."""
        value = self.read(measured)
        lower = self.metric.endswith(".loss")
        better = not math.isnan(value) and (self.value is None or (value < self.value if lower else value > self.value))
        if better:
            self.step, self.value, self.waited = step, value, 0
        else:
            self.waited += 1
        return better

    def read(self, measured: dict[str, dict[str, float]]) -> float:
        """The metric, over all targets of its kinds. Raises InputError if no document has a target of them."""
        name, _, column = self.metric.rpartition(".")
        members = [name] if name == GENERATION else self.kinds.members(name)
        rows = [measured[kind] for kind in members if kind in measured]
        count = sum(row["count"] for row in rows)
        if not count:
            raise InputError(f"train.metric: {self.metric}, but no validation document has a token of kind '{name}'")
        return sum(row[column] * row["count"] for row in rows) / count

    @property
    def over(self) -> bool:
        """Whether patience has run out."""
        return self.patience is not None and self.waited >= self.patience

    def state(self) -> dict[str, Any]:
        """What ``restore`` takes; JSON."""
        return {key: asdict(self)[key] for key in ("metric", "step", "value", "waited")}

    def restore(self, state: dict[str, Any]) -> None:
        if state["metric"] == self.metric:
            self.step, self.value, self.waited = state["step"], state["value"], state["waited"]
