"""Trainings on a student's own texts, whole, and stopped and gone on with.

own_texts_worker.py RUN[:STOP_AT] ...    each trains the run until its end, or until so many steps are done; RUN:longer
                                         until its texts are longer than at first; RUN:writes=1 until it is asked to
                                         stop while it writes refresh 1, RUN:teacher reads=1 while the teacher reads
                                         it, RUN:killed=1 until a rank is killed in that; RUN:fails until its end,
                                         though a rank had failed in the first of it
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from stopped_training import train_until

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.stage import read_manifest
from tracestill.data_pipeline.channels import ChannelWriter, shards
from tracestill.trainer.assembly.first_step import show_first_step
from tracestill.trainer.assembly.prepare import prepare
from tracestill.trainer.assembly.resume import open_directory
from tracestill.trainer.engine.engine import leave
from tracestill.trainer.engine.own_texts import writer
from tracestill.trainer.engine.whole import full_state_dict
from tracestill.trainer.faults import leaving, stopping
from tracestill.trainer.on_policy.on_policy import OnPolicy
from tracestill.trainer.on_policy.teacher import CHANNELS
from tracestill.trainer.recipe.run_directory import RunDirectory
from tracestill.trainer.writing import generate


def go(root: Path, how: str) -> None:
    doing, _, refresh = how.partition("=")
    stop_at = int(how) if how.isdecimal() else 0 if refresh else None
    job = prepare(RunDirectory.open(root), "traces")
    job.own_texts = OnPolicy(job)
    if how == "longer":
        begin_short(job.own_texts.author)
    if doing == "killed":
        kill(job, int(refresh))
    elif refresh:
        ask_to_stop(job, doing, int(refresh))
    open_directory(job, "auto")
    if job.progress.step == 0:
        begin(job)
    if how == "fails":
        fail_once(job)
    assert job.own_texts.enter(job.progress.step, bool) in ("there", "too long")
    if job.progress.step == 0:
        show_first_step(job)
    is_apart(job)
    train_until(job, stop_at)


def is_apart(job) -> None:
    """Of a teacher whose parameters are shared out nothing is whole between two passes."""
    scorer = job.own_texts.scorer
    if scorer is not None and scorer.local is not None and scorer.local.shared is not None:
        assert all(parameter.numel() == 0 for parameter in scorer.local.student.parameters())


def fail_once(job) -> None:
    """The second rank cannot keep what its teacher says of its first shard; the other one, which waits for its part,
    leaves with it, and what lacks is read when both come again."""
    plain = ChannelWriter.write

    def write(self, shard, values):
        ChannelWriter.write = plain
        raise OSError("no such luck")

    if job.engine.rank == 1:
        ChannelWriter.write = write
    with pytest.raises(InputError, match=r"cannot score the student's texts \(rank 1: no such luck\)"):
        job.own_texts.enter(0, bool)
    assert read_manifest(job.own_texts.folder(0) / CHANNELS) is None


def kill(job, refresh: int) -> None:
    """The second rank, when the teacher has read a pack of this refresh, and the other one waits for its part."""
    plain = job.own_texts.meeting

    def meeting(number, what, *more):
        if (number, what, job.engine.rank) == (refresh, "teacher reads", 1):
            meet = leaving.Meetings.meet
            calls = []

            def then(self, **how):
                calls.append(meet(self, **how))
                if len(calls) > 1:
                    os.kill(os.getpid(), signal.SIGKILL)
                return calls[-1]

            leaving.Meetings.meet = then
        return plain(number, what, *more)

    job.own_texts.meeting = meeting


def begin_short(author) -> None:
    plain, own = author.write, author.own

    def write(number, directory, meeting):
        author.own = own if number else own.model_copy(update={"max_new_tokens": 4})
        plain(number, directory, meeting)

    author.write = write


def ask_to_stop(job, doing: str, refresh: int) -> None:
    """The first rank is asked as soon as this begins: the ranks hear it at the first token, or pack."""
    plain = job.own_texts.meeting

    def meeting(number, what, *more):
        if (number, what) == (refresh, doing) and job.engine.rank == 0:
            stopping.request(job.directory, "")
        return plain(number, what, *more)

    job.own_texts.meeting = meeting


def begin(job) -> None:
    """Keep the weights that the student begins with; it writes with these, and none of them is copied."""
    whole = full_state_dict(job.engine)
    student = dict(job.engine.module.model.named_parameters())
    with writer(job.engine) as model:
        for name, own in model.named_parameters():
            assert own.data_ptr() == student[name].data_ptr()
            assert own.device.type == "cpu"
            if whole is not None:
                assert torch.equal(own, whole[name])
    if job.engine.settings.zero == 3:
        assert all(parameter.numel() == 0 for parameter in student.values()), "gathered only while it writes"
    if whole is not None:
        save_file(
            {name: tensor.contiguous().clone() for name, tensor in whole.items()}, job.run.root / "begins.safetensors"
        )


shards.LEAST = 60  # else a rank has all that the teacher reads
leaving.MEET_SECONDS = generate.TELL_SECONDS = 0.0  # else all is written before ranks meet
for word in (word for word in sys.argv[1:] if not word.startswith("--")):
    run, _, how = word.partition(":")
    go(Path(run), how)
leave(0)
