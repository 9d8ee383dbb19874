"""Steps of a run, each made ready while the device still computes the one before."""

from __future__ import annotations

import time

from tracestill.trainer.batches.batches import Batches, Step


class Prefetch:
    """Hands out the steps of ``Batches`` and holds at most one that is still to come.

    Between the last backward of a step and its update the host of a GPU has nothing to do but wait; in that time the
    next step's documents are gathered, and their copy runs on a stream of its own beside the computation. Every rank
    does so at the same point, so the all-reduce of token weights keeps its place among the other collectives. No
    thread: on a CPU packing takes less than a thousandth of a step of a student of a million parameters.

    A weighting that keeps count (``end_step`` or ``state``) may weigh the next step by how this one ends; its steps
    are made when they are asked for.
    """

    def __init__(self, batches: Batches, steps: int) -> None:
        """``steps``: of the whole run; nothing beyond them is prepared."""
        self.batches, self.steps = batches, steps
        self.possible = not batches.weights.weighting.keeps_count
        self.asynchronous = batches.device.type != "cpu"
        self.held: tuple[int, Step] | None = None
        self.waited = 0.0  # seconds that the loop spent on making steps ready while no device computed

    def step(self, step: int) -> Step:
        """Everything this rank needs for optimizer step ``step`` (from 0)."""
        begun = time.perf_counter()
        held, self.held = self.held, None
        found = held[1] if held is not None and held[0] == step else self.batches.step(step)
        self.waited += time.perf_counter() - begun
        return found

    def prepare(self, step: int) -> None:
        """Make ``step`` ready; called on every rank once the last backward of the step before is under way."""
        if not self.possible or step >= self.steps or not self.batches.holds(step):
            return
        begun = time.perf_counter()
        self.held = step, self.batches.step(step)
        if not self.asynchronous:
            self.waited += time.perf_counter() - begun
