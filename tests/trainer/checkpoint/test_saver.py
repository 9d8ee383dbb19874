"""Saving in the background: when a save is due, what it leaves, and how its failure is told."""

from __future__ import annotations

from threading import Event, Timer

import pytest
import torch
from fake_engine import fake_engine
from stored_tensors import stored_tensors

from tracestill.data_pipeline.base.errors import InputError
from tracestill.trainer.checkpoint import checkpoint
from tracestill.trainer.checkpoint import saver as saver_module
from tracestill.trainer.checkpoint.saver import Saver
from tracestill.trainer.engine import zero
from tracestill.trainer.lock.run_lock import held, token_of
from tracestill.trainer.ranks.join_ranks import OWNER


@pytest.fixture
def slow_disk(monkeypatch) -> Event:
    """Tensors are written once it is set."""
    released, plain = Event(), checkpoint.save_file

    def write(*arguments, **more):
        assert released.wait(60)
        plain(*arguments, **more)

    monkeypatch.setattr(checkpoint, "save_file", write)
    return released


def test_in_the_background_or_not(tmp_path, slow_disk):
    saver = Saver(tmp_path, keep=1, background=True)
    saver.save(fake_engine(1.0), 1, {})
    assert checkpoint.latest(tmp_path) is None
    slow_disk.set()
    saver.save(fake_engine(2.0), 2, {})  # waits for the one before
    assert checkpoint.path_of(tmp_path, 1).exists()
    saver.wait()
    assert checkpoint.latest(tmp_path) == checkpoint.path_of(tmp_path, 2)
    assert not checkpoint.path_of(tmp_path, 1).exists(), "retention as ever"
    Saver(tmp_path, keep=1, background=False).save(fake_engine(3.0), 3, {})
    assert checkpoint.latest(tmp_path) == checkpoint.path_of(tmp_path, 3)


def test_room_for_the_first_copy_is_made_once_and_after_an_update(tmp_path):
    saver, in_front = (Saver(tmp_path, keep=1, background=background) for background in (True, False))
    engine = fake_engine(2.0)
    zero.set_moments(engine.deepspeed, 0)
    saver.make_room(engine)
    assert not saver.room, "an optimizer without moments shows too little"
    zero.set_moments(engine.deepspeed, 1)
    saver.make_room(engine)
    in_front.make_room(engine)
    assert in_front.room is None
    saver.wait()
    made = dict(saver.room)
    assert {"parameter/weight", "exp_avg/bias", "rng/cpu"} < made.keys()
    saver.make_room(fake_engine(3.0, width=9))
    saver.save(engine, 1, {})
    saver.wait()
    assert {key: kept.data_ptr() for key, kept in saver.room.items()} == {k: t.data_ptr() for k, t in made.items()}
    stored = stored_tensors(checkpoint.path_of(tmp_path, 1))
    assert torch.equal(stored["parameter/weight"], torch.full((2, 4), 2.0))


def test_a_save_is_due_some_time_after_the_last_one_and_never_while_one_is_under_way(tmp_path, slow_disk, monkeypatch):
    clock = [50.0]
    monkeypatch.setattr(saver_module.time, "monotonic", lambda: clock[0])
    saver, never = (Saver(tmp_path, keep=1, background=True, interval=interval) for interval in (600.0, None))
    clock[0] += 599
    assert not saver.due
    clock[0] += 2
    assert saver.due
    assert not never.due
    saver.save(fake_engine(), 7, {})
    clock[0] += 700
    assert not saver.due, "the one before is still being written"
    assert (saver.seconds, saver.saved) == (None, None)
    slow_disk.set()
    saver.wait()
    assert saver.due
    assert (saver.seconds, saver.saved) == (700.0, 7)


def test_a_failure_in_the_background_is_told_once(tmp_path, monkeypatch):
    def full(*arguments, **more):
        raise OSError(28, "No space left on device")

    saver = Saver(tmp_path, keep=1, background=True)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", full)
        saver.save(fake_engine(), 1, {})
        saver.thread.join()
    assert saver.failed
    with pytest.raises(InputError, match="No space left"):
        saver.save(fake_engine(), 2, {})
    assert not saver.failed
    saver.save(fake_engine(), 3, {})
    saver.wait()
    assert [path.name for path in tmp_path.iterdir()] == ["step-000003"]


def test_training_that_ends_by_an_error_finishes_its_save_first(tmp_path, slow_disk):
    def training():
        with Saver(tmp_path, keep=1, background=True) as saver:
            saver.save(fake_engine(), 1, {})
            Timer(0.2, slow_disk.set).start()
            raise InputError("too many faulty steps")

    with pytest.raises(InputError, match="too many faulty steps"):
        training()
    assert checkpoint.latest(tmp_path) == checkpoint.path_of(tmp_path, 1)


def test_ranks_that_outlive_their_command_commit_nothing_once_another_one_has_the_run(tmp_path, monkeypatch):
    root = tmp_path / "run"
    with held(root):
        monkeypatch.setenv(OWNER, str(token_of(root)))
        saver = Saver(root / "train/checkpoints", keep=1, background=False)
        saver.save(fake_engine(1.0), 1, {})
    saver.save(fake_engine(2.0), 2, {})  # a lock that has gone, or cannot be read, says nothing
    with held(root):
        with pytest.raises(InputError, match=r"cannot commit the checkpoint .*was taken over by `"):
            saver.save(fake_engine(3.0), 3, {})
        Saver(root / "train/checkpoints", keep=1, background=False).save(fake_engine(4.0), 4, {})  # never saw its own
    assert [path.name for path in (root / "train/checkpoints").iterdir()] == ["step-000004"]
