"""Two ranks as on two hosts that share no file system: whole trainings through the entry point of a rank.

train_local_worker.py DIRECTORY whole|raises    with a prepared run in shared, host-0 and host-1; of whole trainings
rank 0 writes found.json, the other one ends with rank 1's data
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from mini_training import losses

from tracestill.data_pipeline.base.stage import write_json
from tracestill.trainer.batches.batches import Batches
from tracestill.trainer.engine.engine import leave
from tracestill.trainer.ranks import heartbeat
from tracestill.trainer.ranks.collectives import gather_json
from tracestill.trainer.train import main

RANK = int(os.environ["RANK"])
ROOT, CASE = Path(sys.argv[-2]), sys.argv[-1]  # after what the launcher adds
OWN = ROOT / f"host-{RANK}"
TRAIN = "arms/traces/train"


def train(run: Path, *words: str) -> list[int]:
    """The exit codes of both ranks."""
    return gather_json(main(["--run-dir", str(run), *words]))


def steps() -> list[str]:
    return sorted(path.name for path in (OWN / TRAIN / "checkpoints").iterdir())


def apart() -> dict[str, Any]:
    """Each host's own run: stopped after the first step and gone on with, then asked for again."""
    request = ROOT / "host-0" / TRAIN / "stop"
    if RANK == 0:
        request.parent.mkdir(parents=True)
        request.write_text("a test")
    else:
        (OWN / TRAIN).mkdir(parents=True)
        write_json(OWN / TRAIN / "failure.json", {"of": "an earlier training"})
    found: dict[str, Any] = {"stopped": train(OWN, "--resume", "auto"), "stopped_at": gather_json(steps())}
    if RANK == 0:
        request.unlink()
    found["unfinished"] = train(OWN)
    found["finished"] = train(OWN, "--resume", "must")
    found["files"] = gather_json(sorted(path.name for path in (OWN / TRAIN).iterdir()))
    found["kept"] = gather_json(steps())
    found["again"] = train(OWN, "--resume", "auto")
    if RANK == 1:
        recipe = OWN / "recipe.yaml"
        recipe.write_text(recipe.read_text().replace("log_every: 1", "log_every: 2"))
    found["other recipe"] = train(OWN, "--resume", "auto")
    if RANK == 1:
        recipe.write_text(recipe.read_text().replace("local_checkpoints: true", "local_checkpoints: false"))
    found["other key"] = train(OWN, "--resume", "auto")
    return found


def other_hosts() -> None:
    """From now on the ranks take themselves for ranks of two hosts."""
    heartbeat.node_identity = lambda: hashlib.sha256(b"%d" % RANK).digest()


def boom(*arguments: object) -> float:
    return 1 / 0


def whole() -> None:
    together = train(ROOT / "shared", "--resume", "auto")
    other_hosts()
    found = apart()
    if RANK == 0:
        (ROOT / "found.json").write_text(json.dumps({"shared": together, "losses": losses(OWN), **found}))
    leave(0)


def raises() -> None:
    other_hosts()
    if RANK == 1:
        Batches.step = boom  # type: ignore[method-assign, assignment]
    leave(main(["--run-dir", str(OWN)]))


{"whole": whole, "raises": raises}[CASE]()
