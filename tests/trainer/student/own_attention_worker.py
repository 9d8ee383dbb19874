"""One rank: a training through its real entry point.

own_attention_worker.py RUN ARM
"""

from __future__ import annotations

import sys

from tracestill.trainer import train
from tracestill.trainer.engine.engine import leave

if __name__ == "__main__":
    leave(train.main(["--run-dir", sys.argv[-2], "--arm", sys.argv[-1]]))
