"""What asking costs: a price by the token, and a budget that is never exceeded, whatever is under way or dies.

Before a request its greatest cost is reserved; after it what it did cost takes the place of that. What has been drawn,
in steps ahead of what is reserved, is noted in the journal: a run that is killed counts all of it as spent.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from pydantic import BaseModel, ConfigDict, Field

PER = 1_000_000  # tokens that a price is for
STEP = 0.01  # share of the budget that is drawn at a time: what a kill costs at most, besides what was under way


class Price(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    input: float = Field(ge=0, description="of a million tokens read")
    output: float = Field(ge=0, description="of a million tokens written, thought included")

    def of(self, read: int, written: int) -> float:
        return (read * self.input + written * self.output) / PER


class Ledger:
    """One for all teachers of a run; its methods may be called in any thread."""

    def __init__(self, budget: float | None = None, spent: float = 0.0) -> None:
        """``spent``: by earlier runs of this journal, or drawn by one that was killed."""
        self.budget, self.before = budget, spent
        self.spent, self.reserved, self.drawn = 0.0, 0.0, spent
        self.open = 0  # requests for which something is reserved
        self.closed = False
        self._lock = threading.Lock()

    def reserve(self, most: float, keep: Callable[[float], None]) -> bool:
        """Whether ``most`` may be spent; if so it is reserved. ``keep`` writes down what is drawn, durably."""
        if self.budget is None:
            return not self.closed
        with self._lock:
            if self.closed:
                return False
            needed = self.before + self.spent + self.reserved + most
            if needed > self.budget:
                return False
            if needed > self.drawn:
                drawn = min(self.budget, needed + STEP * self.budget)
                keep(drawn)
                self.drawn = drawn
            self.reserved += most
            self.open += 1
            return True

    def settle(self, most: float, cost: float) -> None:
        """A request for which ``most`` was reserved has cost ``cost``."""
        with self._lock:
            self.spent += cost
            if self.budget is not None:
                self.open -= 1
                self.reserved = self.reserved - most if self.open else 0.0  # sums of floats leave a rest

    def close(self) -> float:
        """Nothing more can be reserved; what has been spent, and may be by what is under way. Desks are to be closed
        before: whoever reserves may be waiting for a note to be kept."""
        with self._lock:
            self.closed = True
            return self.total + self.reserved

    @property
    def under_way(self) -> bool:
        """Whether something is reserved that may come back."""
        return self.open > 0

    @property
    def total(self) -> float:
        """Spent by this run and earlier ones."""
        return self.before + self.spent
