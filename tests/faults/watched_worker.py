"""A training with a fault in rank 1's data: in every step, of which there are eight then, or in the fourth.

watched_worker.py RUN none|slow|hang|raise|input
"""

if __name__ == "__main__":
    import gc

    gc.disable()  # as trainer/train.py does until everything is imported

import os
import sys
import time
from typing import Any

from tracestill.data_pipeline.base.errors import InputError
from tracestill.trainer import train
from tracestill.trainer.batches.batches import Batches
from tracestill.trainer.engine.engine import leave

root, fault = sys.argv[-2:]  # after what the launcher adds
plain = Batches.step


def hang() -> None:
    time.sleep(1000)


def boom() -> float:
    return 1 / 0


def step(self: Batches, number: int) -> Any:
    if fault == "slow" and number == 8:
        os._exit(9)
    if fault == "slow" and self.rank == 1:
        time.sleep(0.5)
    if number == 3 and self.rank == 1:
        if fault == "hang":
            hang()
        if fault == "raise":
            boom()
        if fault == "input":
            raise InputError("document 7 is torn; encode again")
    return plain(self, number)


Batches.step = step  # type: ignore[method-assign]
sys.argv = [sys.argv[0], "--run-dir", root]
if __name__ == "__main__":
    gc.freeze()
    gc.enable()
    leave(train.main())
