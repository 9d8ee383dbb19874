"""What becomes of attempts that fail: whose words are told, with which exit code, and whether another one follows."""

import errno
import io
import json
import os
import shutil
import signal
from types import SimpleNamespace

import pytest
from fake_run import claim, run_data_stages, write_train
from rich.console import Console
from typer.testing import CliRunner

from tracestill.data_pipeline.base.errors import InputError, NoRoomError
from tracestill.data_pipeline.sampling import sample
from tracestill.launch import cli
from tracestill.launch.hosts import cluster as cluster_module
from tracestill.launch.hosts.cluster import Cluster
from tracestill.launch.hosts.hostfile import Host
from tracestill.launch.hosts.remote import Reply
from tracestill.launch.run import checks, training
from tracestill.launch.start import deepspeed_command, mpi_rank, multinode
from tracestill.launch.start.deepspeed_command import TrainingFailed, TrainingStopped
from tracestill.trainer.checkpoint.files import entry_of
from tracestill.trainer.faults import stopping
from tracestill.trainer.faults.failure import code_of
from tracestill.trainer.recipe.run_directory import RunDirectory

TRACEBACK = (
    'Traceback (most recent call last):\n  File "loop.py", line 7, in boom\nZeroDivisionError: division by zero\n'
)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    run = claim(tmp_path_factory.mktemp("prepared") / "run")
    run_data_stages(run)
    return run.root


@pytest.fixture
def run(prepared, tmp_path):
    return RunDirectory.open(shutil.copytree(prepared, tmp_path / "run"))


class Attempts:
    """What each attempt does, in turn: leaves an alarm, a checkpoint, and ends in an error."""

    def __init__(self, run, *each):
        self.run, self.each, self.made = run, list(each), 0
        self.directory = run.stage("traces", "train")

    def __call__(self, arguments, log, environment, on_poll, watch):
        self.made += 1
        self.directory.mkdir(exist_ok=True)
        assert not (self.directory / "failure.json").exists(), "what an earlier attempt left says nothing of this one"
        self.each.pop(0)(self)

    def alarm(self, *, code=4, step=0, reason="has gone: its process ended in phase forward", text=""):
        rows = [{"rank": rank, "phase": "forward", "step": step - rank, "ended": False} for rank in (0, 1)]
        alarm = {"rank": 1, "reason": reason, "code": code, "by": 0, "host": "here", "ranks": rows, "traceback": text}
        (self.directory / "failure.json").write_text(json.dumps(alarm))

    def saved(self, step, **more):
        folder = self.directory / "checkpoints" / f"step-{step:06d}"
        folder.mkdir(parents=True)
        (folder / "state.json").write_text("{}")
        files = {"state.json": entry_of(folder / "state.json")}
        (folder / "manifest.json").write_text(json.dumps({"format": 2, "step": step, "files": files, **more}))


def fails(step=0, saved=None, error=None, **alarm):
    """An attempt whose ranks come to ``step``; its parent sees only an exit code."""

    def act(of):
        if saved:
            of.saved(saved)
        of.alarm(step=step, **alarm)
        raise error or TrainingFailed("training ended with exit code 247")

    return act


def succeeds(of):
    write_train(of.run, "traces")


@pytest.fixture
def start(run, monkeypatch):
    """Train with these attempts; returns them and what was said."""

    def start(*each, restarts=0, cluster=None):
        attempts, heard = Attempts(run, *each), Console(file=io.StringIO(), width=400)
        monkeypatch.setattr(deepspeed_command, "count_gpus", lambda: 0)
        monkeypatch.setattr(deepspeed_command, "run", attempts)
        attempts.error = None
        try:
            training.train_arm(run, "traces", "train", heard, resume="auto", max_restarts=restarts, cluster=cluster)
        except Exception as error:
            attempts.error = error
        attempts.said = heard.file.getvalue()
        return attempts

    return start


def test_the_ranks_own_words_come_first(start):
    found = start(fails(7, reason="raised ZeroDivisionError: division by zero", text=TRACEBACK))
    said = str(found.error)
    assert type(found.error) is TrainingFailed
    assert said.startswith(TRACEBACK + "failed: rank 1 raised ZeroDivisionError")
    assert "console.log" in said
    assert "exit code" not in said


@pytest.mark.parametrize(("code", "kind"), [(2, InputError), (5, NoRoomError)])
def test_what_the_user_can_mend_is_one_line_and_is_not_tried_again(start, code, kind):
    alarm = {"code": code, "reason": "raised OSError: [Errno 28] No space left on device: 'x: y'"}
    found = start(fails(3, **alarm), restarts=5)
    assert (type(found.error), found.error.exit_code) == (kind, code)
    assert str(found.error) == "[Errno 28] No space left on device: 'x: y'"
    assert found.made == 1
    found = start(fails(3, **alarm, error=InputError("disk: full")))
    assert (type(found.error), str(found.error)) == (kind, "disk: full"), "the whole message, if it was seen"


def test_without_word_of_the_ranks_the_launchers_end_is_told(start):
    def act(of):
        raise TrainingFailed("training ended with exit code 9")

    assert "exit code 9" in str(start(act).error)


def test_it_starts_again_as_often_as_allowed_and_says_so(start):
    found = start(fails(7, saved=5), fails(9), succeeds, restarts=2)
    assert found.error is None
    assert found.made == 3
    first, second = (line for line in found.said.splitlines() if "restart " in line)
    assert "restart 1 of 2, from step 5" in first
    assert "restart 2 of 2, from step 5" in second
    assert found.said.count("failed: rank 1 has gone") == 2
    assert "stacks of all ranks" not in found.said, "that is for the end"


def test_where_hosts_share_no_disk_the_others_may_have_less(start):
    def act(of):
        of.saved(5, local=[["here", []], ["there", []]])
        fails(7)(of)

    found = start(act, succeeds, restarts=1)
    assert "restart 1 of 1, from at most step 5" in found.said


def test_it_gives_up_after_as_many(start):
    found = start(fails(7), fails(9), fails(11), restarts=2)
    assert found.made == 3
    assert "failed: rank 1 has gone" in str(found.error)
    assert "\ngave up after 2 restart(s) (--max-restarts)\n" in str(found.error)
    assert start(fails(7)).made == 1
    assert "gave up" not in str(start(fails(7)).error)


def test_it_gives_up_where_going_on_leads_nowhere(start):
    found = start(fails(7, saved=5), fails(7), fails(7), restarts=50)
    assert found.made == 3
    assert "\ngave up: 2 attempts in a row came no further than step 7\n" in str(found.error)


def test_it_gives_up_where_not_even_a_step_is_made(start):
    assert start(fails(0), fails(0), restarts=50).made == 2


def test_a_checkpoint_counts_as_progress_where_the_ranks_left_no_word(start):
    def dies(step):
        def act(of):
            of.saved(step)
            raise TrainingFailed("training ended with exit code -9")

        return act

    assert start(*(dies(step) for step in (2, 4, 6)), succeeds, restarts=3).error is None


@pytest.mark.parametrize(("elastic", "then"), [(True, ["a", "c"]), (False, ["a", "b", "c"])])
def test_only_an_elastic_restart_leaves_out_hosts_that_no_longer_answer(start, monkeypatch, elastic, then):
    used = []

    def start_on(cluster, root, arm, resume):
        used.append(cluster.names)
        return deepspeed_command.Start([], {}, cluster.ranks, gpus=False)

    def ask_all(targets, script, requests):
        return [Reply(problem="no answer") if name == "b" else Reply({"gpus": []}) for name in targets]

    monkeypatch.setattr(multinode, "start_on", start_on)
    monkeypatch.setattr(cluster_module, "ask_all", ask_all)
    three = Cluster(tuple(Host(name, (0,)) for name in "abc"), elastic=elastic)
    found = start(fails(7), succeeds, restarts=1, cluster=three)
    assert used == [["a", "b", "c"], then]
    assert ("from step 0 on a, c" in found.said) == elastic


def at_step(of, step):
    """Rank 0 of an attempt tells where it is."""
    now = {"micro": 0, "accumulation": 1, "tokens": 0, "total": 0, "saved": None, "step_seconds": None}
    (of.directory / "progress.json").write_text(json.dumps({**now, "step": step, "steps": 9, "save_seconds": None}))


@pytest.mark.parametrize(("done", "said"), [(None, "before the first step"), (9, "after the last step")])
def test_a_rank_that_was_told_to_end_while_there_was_nothing_to_save_is_a_stop(start, done, said):
    """SIGTERM reached a rank, not its parent, as on a host that is shut down: not the moment to start again."""

    def ends(of):
        if done is not None:
            at_step(of, done)
        error = TrainingFailed("training ended with exit code 3")
        error.of_launcher = 3
        raise error

    found = start(ends, restarts=3)
    assert (type(found.error), found.made) == (TrainingStopped, 1)
    assert f"training of traces stopped {said} (SIGTERM to a rank): no" in str(found.error)

    def fails_too(of):
        of.alarm()
        ends(of)

    assert type(start(fails_too).error) is TrainingFailed, "its word counts for more"


def test_a_signal_between_two_attempts_starts_no_other(start, monkeypatch):
    """No rank runs that could save, whatever progress the last attempt has told of."""

    def act(of):
        at_step(of, 7)
        fails(7, saved=5)(of)

    def left(cluster, root):
        os.kill(os.getpid(), signal.SIGTERM)
        return cluster

    monkeypatch.setattr(training, "what_is_left", left)
    monkeypatch.setattr(multinode, "start_on", lambda *arguments: deepspeed_command.Start([], {}, 2, False))
    found = start(act, succeeds, restarts=2, cluster=SimpleNamespace(elastic=True, names=["a"]))
    assert (type(found.error), found.made) == (TrainingStopped, 1)
    assert "stopped before the first step (SIGTERM)" in str(found.error)


def test_a_requested_stop_is_the_end(start):
    def act(of):
        stopping.request(of.directory, "SIGTERM")
        fails(7)(of)

    found = start(act, restarts=5)
    assert found.made == 1
    assert isinstance(found.error, TrainingFailed)


@pytest.mark.parametrize(("number", "code"), [(errno.ENOSPC, 5), (errno.EDQUOT, 5), (errno.EACCES, 2)])
def test_a_full_disk_in_any_stage_is_one_line_and_its_own_exit_code(tmp_path, monkeypatch, number, code):
    def full(*arguments, **more):
        raise OSError(number, "words", "some/file")

    run = claim(tmp_path / "run")
    monkeypatch.setattr(sample, "run", full)
    result = CliRunner().invoke(cli.app, ["sample", str(run.root)])
    assert result.exit_code == code
    (line,) = result.stderr.splitlines()
    if code == 5:
        assert line.startswith("error: some/file: no room on this disk, or a quota is used up (file: words); finished")
        assert line.endswith("; make room and run the same command again")
    else:
        assert line.startswith("error: some/file: words; let this user read and write there")


def test_a_full_disk_behind_another_error_is_one_too(tmp_path, monkeypatch):
    def check(*arguments, **more):
        try:
            raise OSError(errno.ENOSPC, "No space left on device", "x")
        except OSError as error:
            raise InputError("x: cannot be written to") from error

    run = claim(tmp_path / "run")
    monkeypatch.setattr(checks, "check_works", check)
    result = CliRunner().invoke(cli.app, ["sample", str(run.root)])
    assert result.exit_code == 5
    assert result.stderr == "error: x: cannot be written to; make room and run the same command again\n"


def test_ranks_that_mpirun_started_do_not_start_each_other(run, monkeypatch):
    monkeypatch.setattr(mpi_rank, "is_rank", lambda: True)
    result = CliRunner().invoke(cli.app, ["train", str(run.root), "--max-restarts", "1"])
    assert result.exit_code == 2
    assert "do not start each other again" in result.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("x"), 2),
        (NoRoomError("x"), 5),
        (OSError(errno.ENOSPC, "full", "file"), 5),
        (OSError(errno.EIO, "broken", "file"), 4),
        (Exception("No space left on device (os error 28)"), 5),  # tokenizers
        (ValueError("[Errno 28] in a text"), 4),
    ],
)
def test_what_a_rank_exits_with(error, code):
    assert code_of(error) == code
