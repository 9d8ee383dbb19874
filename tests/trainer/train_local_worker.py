"""Two ranks as on two hosts that share no file system: whole trainings through the entry point of a rank.

train_local_worker.py DIRECTORY    with a prepared run in shared, host-0 and host-1; rank 0 writes found.json
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from tracestill.data_pipeline.stage import write_json
from tracestill.trainer import heartbeat
from tracestill.trainer.agree import gather_json
from tracestill.trainer.engine import leave
from tracestill.trainer.train import main

RANK = int(os.environ["RANK"])
ROOT = Path(sys.argv[-1])
OWN = ROOT / f"host-{RANK}"
TRAIN = "arms/traces/train"


def train(run: Path, *words: str) -> list[int]:
    """The exit codes of both ranks."""
    return gather_json(main(["--run-dir", str(run), *words]))


def losses() -> list[float]:
    lines = map(json.loads, (OWN / TRAIN / "log.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "event" not in line and "loss" in line]


def steps() -> list[str]:
    return sorted(path.name for path in (OWN / TRAIN / "checkpoints").iterdir())


def apart() -> dict[str, Any]:
    """Each host's own run: stopped after the first step and gone on with, then asked for again."""
    heartbeat.node_identity = lambda: hashlib.sha256(b"%d" % RANK).digest()
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
    return found


def run() -> None:
    together = train(ROOT / "shared", "--resume", "auto")
    found = apart()
    if RANK == 0:
        (ROOT / "found.json").write_text(json.dumps({"shared": together, "losses": losses(), **found}))


run()
leave(0)
