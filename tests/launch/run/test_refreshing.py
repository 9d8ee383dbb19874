"""What the command that trains says while a student writes texts to learn from, and of a stop in it."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.launch.run import training
from tracestill.launch.run.progress import Bar
from tracestill.launch.run.stop_signals import expected
from tracestill.launch.start.deepspeed_command import TrainingStopped
from tracestill.trainer.faults.stopping import MARKER
from tracestill.trainer.metrics.headway import PROGRESS
from tracestill.trainer.metrics.refreshing import REFRESHING, Refreshing, read_refreshing, tell_refreshing

AT = {"step": 3, "steps": 9, "micro": 0, "accumulation": 1, "tokens": 30, "total": 90}
AT |= {"step_seconds": 2.0, "save_seconds": None, "saved": None}
FOUND = Refreshing(1, "writes", 1200, 4800, "texts")


def test_it_is_told_until_it_is_made(tmp_path):
    tell_refreshing(tmp_path, FOUND)
    assert read_refreshing(tmp_path) == FOUND
    assert [path.name for path in tmp_path.iterdir()] == [REFRESHING]
    (tmp_path / REFRESHING).write_text('{"refresh": 1}')
    assert read_refreshing(tmp_path) is None, "of another version"
    tell_refreshing(tmp_path, None)
    assert not [*tmp_path.iterdir()]
    tell_refreshing(tmp_path / "nowhere", FOUND)
    assert read_refreshing(tmp_path / "nowhere") is None


def test_the_bar_says_how_far_it_is_and_a_stop_what_becomes_of_it(tmp_path):
    bar = Bar("train traces", Console(file=io.StringIO()), None, "tokens")
    watch = training.Watch(tmp_path, Kinds(), bar, bar.console)
    tell_refreshing(tmp_path, FOUND)
    watch.poll()
    assert (bar.total, bar.note) == (0, "refresh 1: writes 1,200/4,800 texts"), "before the first step"
    (tmp_path / PROGRESS).write_text(json.dumps(AT))
    watch.poll()
    assert (bar.done, bar.total, bar.note) == (30, 90, "step 3/9  refresh 1: writes 1,200/4,800 texts")
    assert expected(tmp_path) == "refresh 1: writes 1,200/4,800 texts: left unfinished; who goes on begins it anew"
    tell_refreshing(tmp_path, None)
    watch.poll()
    assert bar.note == "step 3/9"
    assert expected(tmp_path).startswith("step 4 of 9 is under way")


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (0, "stopped before its first step (train.stop_after); go on"),
        (3, "stopped after step 3 of 9 (.*) and is saved;"),
    ],
)
def test_a_stop_before_the_first_step_has_saved_nothing(tmp_path, step, said):
    (tmp_path / MARKER).write_text(json.dumps({"step": step, "steps": 9, "reason": "train.stop_after"}))
    run = type("Run", (), {"root": tmp_path})
    with pytest.raises(TrainingStopped, match=said.replace("(train.stop_after)", r"\(train.stop_after\)")):
        training.raise_if_stopped(run, "traces", tmp_path)
