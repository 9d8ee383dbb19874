"""A refresh in which one of two ranks fails: what each of them then raises, and what it had done.

failing_worker.py OUT RUN:HOW ...    HOW: writes, of rank 1 at its first token; begins, of rank 0 where the teacher's
                                     channels are begun; forgets, of rank 0 where those of the refresh before go
"""

from __future__ import annotations

import errno
import json
import sys
from pathlib import Path
from typing import Any

import torch.distributed as dist

from tracestill.data_pipeline.base.errors import InputError
from tracestill.trainer.assembly.prepare import prepare
from tracestill.trainer.assembly.resume import open_directory
from tracestill.trainer.engine.engine import leave
from tracestill.trainer.faults import leaving
from tracestill.trainer.on_policy import on_policy, texts
from tracestill.trainer.on_policy.on_policy import OnPolicy
from tracestill.trainer.ranks.collectives import gather_json
from tracestill.trainer.recipe.run_directory import RunDirectory
from tracestill.trainer.scoring import shard
from tracestill.trainer.writing import generate


def full(*about: Any, **how: Any) -> Any:
    raise OSError(errno.ENOSPC, "No space left on device")


def broken(*about: Any, **how: Any) -> Any:
    raise InputError("a broken tokenizer")


def fail(own: OnPolicy, how: str) -> None:
    rank = dist.get_rank()
    if how == "writes" and rank == 1:
        texts.write_wanted = broken
    if how == "begins" and rank == 0:
        shard.ChannelWriter = full
    if how == "forgets" and rank == 0:
        (own.folder(-1) / on_policy.CHANNELS).mkdir(parents=True)
        on_policy.remove = full


def go(root: Path, how: str) -> list[str]:
    plain = texts.write_wanted, shard.ChannelWriter, on_policy.remove
    job = prepare(RunDirectory.open(root), "traces")
    job.own_texts = own = OnPolicy(job)
    open_directory(job, "auto")
    fail(own, how)
    try:
        own.enter(0, bool)
        said = "nothing"
    except InputError as error:
        said = str(error)
    texts.write_wanted, shard.ChannelWriter, on_policy.remove = plain
    return gather_json(said)


leaving.MEET_SECONDS = generate.TELL_SECONDS = 0.0
out, *runs = (word for word in sys.argv[1:] if not word.startswith("--"))
found = {how: go(Path(root), how) for root, _, how in (run.partition(":") for run in runs)}
if dist.get_rank() == 0:
    Path(out).write_text(json.dumps(found), encoding="utf-8")
leave(0)
