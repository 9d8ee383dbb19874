"""Trainings on a student's own texts, whole, and stopped and gone on with.

own_texts_worker.py RUN[:STOP_AT] ...    each trains the run until its end, or until so many steps are done; RUN:longer
                                         until its texts are longer than at first
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from stopped_training import train_until

from tracestill.trainer.assembly.first_step import show_first_step
from tracestill.trainer.assembly.prepare import prepare
from tracestill.trainer.assembly.resume import open_directory
from tracestill.trainer.engine.engine import leave
from tracestill.trainer.engine.own_texts import writer
from tracestill.trainer.engine.whole import full_state_dict
from tracestill.trainer.on_policy.on_policy import OnPolicy
from tracestill.trainer.recipe.run_directory import RunDirectory


def go(root: Path, stop_at: int | None, *, longer: bool = False) -> None:
    job = prepare(RunDirectory.open(root), "traces")
    job.own_texts = OnPolicy(job)
    if longer:
        begin_short(job.own_texts.author)
    open_directory(job, "auto")
    if job.progress.step == 0:
        begin(job)
    job.own_texts.enter(job.progress.step)
    if job.progress.step == 0:
        show_first_step(job)
    train_until(job, stop_at)


def begin_short(author) -> None:
    plain, own = author.write, author.own

    def write(number, directory):
        author.own = own if number else own.model_copy(update={"max_new_tokens": 4})
        plain(number, directory)

    author.write = write


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


for word in (word for word in sys.argv[1:] if not word.startswith("--")):
    run, _, how = word.partition(":")
    go(Path(run), int(how) if how.isdecimal() else None, longer=how == "longer")
leave(0)
