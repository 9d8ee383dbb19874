"""How many threads are fastest for work that repeats: found out on the work itself, in its first pieces.

All cores are best on a machine that is idle, and far from it where others compute too: threads wait for each other
many times in each layer, for the one that the system has just set aside.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence

import torch

from tracestill.trainer.ranks.cores import usable_cores, wanted_threads

ROUNDS = 4  # in which each number is tried in turn; the first one warms up
HOPELESS = 2.0  # times as long as another number's fastest piece, in the better of two: it is not tried again
NEAR = 1.05  # times the shortest time: of what lies so near, the fewest threads are taken


class ThreadChoice:
    """Tries each of some numbers of threads on pieces of the work, and stays with the fastest."""

    def __init__(
        self,
        candidates: Sequence[int],
        *,
        rounds: int = ROUNDS,
        clock: Callable[[], float] = time.perf_counter,
        use: Callable[[int], None] = torch.set_num_threads,
    ) -> None:
        """``rounds`` > 1 counts the first one for nothing."""
        self.candidates, self.clock, self.use = sorted(set(candidates)), clock, use
        warm = 1 if rounds > 1 else 0
        self.turns = [(n, at >= warm) for at in range(rounds) for n in self.candidates]
        self.seconds = dict.fromkeys(self.candidates, 0.0)
        self.units = dict.fromkeys(self.candidates, 0.0)
        self.best = dict.fromkeys(self.candidates, float("inf"))  # of any piece, seconds a unit
        self.chosen = self.candidates[-1]
        self.begun = clock()
        self.next()

    def next(self) -> None:
        """Go on with the number whose turn it is, or with the one that is chosen."""
        if len(self.candidates) == 1 or not self.turns:
            self.turns = []
            cost = {n: self.seconds[n] / self.units[n] for n in self.candidates if self.units[n]}
            self.chosen = min((n for n in cost if cost[n] <= NEAR * min(cost.values())), default=self.candidates[-1])
        self.use(self.turns[0][0] if self.turns else self.chosen)
        self.begun = self.clock()

    def begin(self) -> None:
        """A piece of work begins now; what came before does not count."""
        self.begun = self.clock()

    def lap(self, units: float = 1.0) -> None:
        """A piece of work of so many units has ended, and the next one begins."""
        if self.turns:
            threads, counts = self.turns.pop(0)
            taken = self.clock() - self.begun
            if counts:
                self.seconds[threads] += taken
                self.units[threads] += units
            self.best[threads] = min(self.best[threads], taken / units)
            if counts and self.best[threads] > HOPELESS * min(self.best.values()):
                self.turns = [turn for turn in self.turns if turn[0] != threads]
            self.next()


def choice_for(device: torch.device) -> ThreadChoice | None:
    """Between 1, 2, 4, ... and all cores of this host; None on a GPU, and if OMP_NUM_THREADS says how many."""
    if device.type != "cpu" or wanted_threads() is not None:
        return None
    cores = usable_cores()
    return ThreadChoice([1 << power for power in range(cores.bit_length()) if 1 << power < cores] + [cores])


@contextlib.contextmanager
def threads_kept() -> Iterator[None]:
    """Afterwards torch computes with as many threads as before."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)
