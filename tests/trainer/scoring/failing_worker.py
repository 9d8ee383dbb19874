"""The stage score on two ranks, of which the second fails: what each of them then raises, and what had been written.

failing_worker.py OUT RUN:SCORER:HOW ...    HOW: writes, at its first shard; opens, where it opens the model; fine:
                                            nothing fails
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.channels import ChannelWriter, shards
from tracestill.trainer.engine.engine import World, connect, leave
from tracestill.trainer.faults import leaving
from tracestill.trainer.ranks.collectives import gather_json
from tracestill.trainer.recipe.run_directory import RunDirectory
from tracestill.trainer.scoring import score


def full(*about: Any) -> Any:
    raise OSError("no such luck")


def go(world: World, root: Path, scorer: str, how: str) -> dict[str, Any]:
    plain, run, written = (ChannelWriter.write, score.open_local), RunDirectory.open(root), []
    watch: Any = SimpleNamespace(phase=lambda name, step: None)

    def write(*about: Any) -> None:
        written.append(None)
        plain[0](*about)

    fails = world.rank == 1
    ChannelWriter.write = full if fails and how == "writes" else write  # type: ignore[method-assign]
    if fails and how == "opens":
        score.open_local = full
    try:
        score.score(run, "traces", scorer, world, watch)
        said = "nothing"
    except InputError as error:
        said = str(error)
    ChannelWriter.write, score.open_local = plain  # type: ignore[method-assign]
    return {"said": gather_json(said), "written": gather_json(len(written))}


shards.LEAST, leaving.MEET_SECONDS = 60, 0.0
out, *cases = (word for word in sys.argv[1:] if not word.startswith("--"))
here = connect(RunDirectory.open(Path(cases[0].split(":")[0])).recipe.train)
found = {case.partition(":")[2]: go(here, Path(root), *rest) for case in cases for root, *rest in (case.split(":"),)}
if here.rank == 0:
    Path(out).write_text(json.dumps(found), encoding="utf-8")
leave(0)
