import io
import itertools
import json
import os
import re
import signal

import pytest
from fake_run import RECIPE, STUDENT, claim, mini_recipe, run_data_stages, write_train
from rich.console import Console

from tracestill.data_pipeline.errors import InputError
from tracestill.data_pipeline.stage import identity
from tracestill.launch import cli, deepspeed_command, training
from tracestill.launch.progress import bar
from tracestill.trainer.checkpoint_files import entry_of


@pytest.fixture
def run(tmp_path):
    run = claim(tmp_path / "run")
    run_data_stages(run)
    return run


def add_checkpoint(run, step, who, *, whole=True):
    directory = run.stage("traces", "train") / "checkpoints" / f"step-{step:06d}"
    directory.mkdir(parents=True)
    (directory / "state.json").write_text(json.dumps({"step": step, "identity": who}))
    if whole:
        files = {"state.json": entry_of(directory / "state.json")}
        (directory / "manifest.json").write_text(json.dumps({"format": 2, "step": step, "files": files}))
    return directory


def test_resumes_only_what_is_the_same_training(run):
    who = identity("train", *run.train_stage("traces"))
    assert not training.can_resume(run, "traces")
    add_checkpoint(run, 10, who, whole=False)
    assert not training.can_resume(run, "traces"), "torn"
    add_checkpoint(run, 20, who)
    assert training.can_resume(run, "traces")
    add_checkpoint(run, 30, {**who, "config": {}})
    assert not training.can_resume(run, "traces"), "the newest is of another recipe"
    add_checkpoint(run, 1_000_000, who)
    assert training.can_resume(run, "traces"), "the newest by number, not by name"


@pytest.fixture
def launched(monkeypatch):
    """Command lines that would have been started."""
    found = []
    monkeypatch.setattr(deepspeed_command, "count_gpus", lambda: 0)
    monkeypatch.setattr(deepspeed_command, "run", lambda arguments, *rest: found.append(arguments))
    return found


def test_a_damaged_checkpoint_makes_way_and_says_so(run, launched):
    who = identity("train", *run.train_stage("traces"))
    heard = Console(file=io.StringIO(), width=400)

    def said():
        with pytest.raises(deepspeed_command.TrainingFailed):
            training.train_arm(run, "traces", "train", heard, resume="auto")
        return heard.file.getvalue()

    add_checkpoint(run, 10, who)
    newest = add_checkpoint(run, 20, who)
    (newest / "state.json").write_text(json.dumps({"step": 20, "identity": {}}))
    assert "resuming from step 10, 1 rank(s)" in said(), "the older one is whole"
    assert "begins anew" not in said()
    (newest.parent / "step-000010" / "state.json").unlink()
    assert re.search(r"no whole checkpoint of this training in \S+; it begins anew\n.*starting", said())


def test_the_time_of_all_attempts_is_kept(run, launched, monkeypatch):
    directory = run.stage("traces", "train")
    clock = itertools.count(0.0, 1.5)
    monkeypatch.setattr(training.time, "perf_counter", lambda: next(clock))
    directory.mkdir()
    for total in (1.5, 3.0):
        with pytest.raises(deepspeed_command.TrainingFailed):
            training.train_arm(run, "traces", "train", Console(quiet=True), resume="auto")
        assert training.wall_seconds(directory) == total


@pytest.mark.parametrize("resume", ["auto", "must"])
def test_the_ranks_are_told_how_to_resume(run, launched, resume):
    with pytest.raises(deepspeed_command.TrainingFailed, match=r"before its last step.*console\.log"):
        training.train_arm(run, "traces", "train", Console(quiet=True), resume=resume)
    assert launched[0][-2:] == ["--resume", resume]


def stops(run, code):
    """A launcher whose ranks stop on request: they leave the marker, and an exit code that it may change."""

    def launch(arguments, log, environment, on_poll, watch):
        directory = run.stage("traces", "train")
        assert not (directory / "stopped.json").exists(), "an earlier stop is forgotten"
        (directory / "stopped.json").write_text('{"step": 7, "steps": 40, "reason": "SIGTERM"}')
        if code:
            raise deepspeed_command.TrainingFailed(f"training ended with exit code {code}")

    return launch


@pytest.mark.parametrize("code", [0, 1, 3])
def test_a_requested_stop_is_told_by_the_marker_whatever_the_launcher_says(run, launched, monkeypatch, code):
    directory = run.stage("traces", "train")
    directory.mkdir()
    (directory / "stopped.json").write_text("{}")
    monkeypatch.setattr(deepspeed_command, "run", stops(run, code))
    with pytest.raises(deepspeed_command.TrainingStopped, match=r"after step 7 of 40 \(SIGTERM\).*--resume auto"):
        training.train_arm(run, "traces", "train", Console(quiet=True), resume="auto")


def test_sigterm_becomes_a_request_and_a_second_one_ends_it(run, launched, monkeypatch):
    requests = []

    def launch(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        requests.append((run.stage("traces", "train") / "stop").exists())
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(deepspeed_command, "run", launch)
    before = signal.signal(signal.SIGTERM, cli.terminate)
    try:
        with pytest.raises(SystemExit) as end:
            training.train_arm(run, "traces", "train", Console(quiet=True), resume="auto")
        assert signal.getsignal(signal.SIGTERM) is cli.terminate
    finally:
        signal.signal(signal.SIGTERM, before)
    assert end.value.code == 128 + signal.SIGTERM
    assert requests == [True]
    assert not (run.stage("traces", "train") / "stop").exists()


def test_what_does_not_change_the_result_may_change_when_training_goes_on(run):
    who = identity("train", *run.train_stage("traces"))
    train = {"steps": 40, "ranks": 2, "stop_after": "5m", "keep": 7, "checkpoint_every": 3}
    train |= {"sequence_parallel": 2, "tiled_mlp": 4, "held_out_every": 5}
    changed = claim(run.root, mini_recipe(train=train, student={"config": STUDENT, "activation_checkpointing": True}))
    assert identity("train", *changed.train_stage("traces")) == who
    assert changed.recipe.train.stop_after == "5m"
    with pytest.raises(InputError, match=r"differs in train\.lr"):
        claim(run.root, mini_recipe(train={**train, "lr": 1.0}))
    with pytest.raises(InputError, match=r"differs in student\.freeze"):
        claim(run.root, mini_recipe(train=train, student={"config": STUDENT, "freeze": ["head"]}))


def test_measurements_that_choose_a_student_are_part_of_the_training(tmp_path):
    questions = {**RECIPE["questions"], "validation": 4}

    def recipe(**train):
        return mini_recipe(questions=questions, sample={**RECIPE["sample"], "test_samples": 1}, train=train)

    chosen = {"steps": 40, "metric": "answer.loss", "held_out_every": 10}
    run = claim(tmp_path / "run", recipe(**chosen))
    with pytest.raises(InputError, match=r"differs in train\.held_out_every"):  # it would begin anew
        claim(run.root, recipe(**{**chosen, "held_out_every": 5}))
    claim(run.root, recipe(**chosen, keep=9))


def test_an_older_training_is_no_success(run, launched, monkeypatch):
    """The launcher ended with 0, and the directory holds a finished training of other data."""
    write_train(run, "traces")
    manifest = run.stage("traces", "train") / "manifest.json"
    held = json.loads(manifest.read_text())
    held["config"]["train"]["lr"] = 1.0
    manifest.write_text(json.dumps(held))
    with pytest.raises(deepspeed_command.TrainingFailed):
        training.train_arm(run, "traces", "train", Console(quiet=True), resume="auto")


def test_progress_follows_the_log(run, capsys):
    directory = run.stage("traces", "train")
    write_train(run, "answers_only")  # only its log is wanted, as what an earlier attempt left
    directory.mkdir()
    log = directory / "log.jsonl"
    log.write_text((run.stage("answers_only", "train") / "log.jsonl").read_text())
    console = Console(force_terminal=False)
    with bar("train", console) as progress:
        watch = training.Watch(directory, 40, run.recipe.span_kinds(), progress, console)
        watch.poll()
        assert progress.done == 0, "an older attempt's log says nothing"
        log.unlink()
        line = {"step": 3, "loss": 1.5, "tokens_per_second": 1234.5}
        log.write_text(json.dumps(line) + '\n{"event": "skipped", "step": 4}\n{"step": 5, "lo')
        watch.poll()
        assert (progress.done, progress.total) == (3, 40)
        assert "loss 1.5000" in progress.note
        with log.open("a") as handle:
            handle.write('ss": 1.25, "tokens_per_second": 1.0}\n')
        watch.poll()
        assert progress.done == 5


def test_the_note_behind_the_bar_says_what_the_log_knows():
    old = {"step": 3, "loss": 1.5, "tokens_per_second": 1234.5}
    assert training.note_of(old) == "loss 1.5000  1,234 tokens/s"
    new = {**old, "kinds": {"answer": {"loss": 0.25}}, "mfu": 0.412, "data_wait": 0.5, "seconds": 2.0}
    assert training.note_of(new) == "loss 1.5000  answer 0.250  1,234 tokens/s  MFU 41.2%  waits for data 25%"
    assert "waits" not in training.note_of({**new, "data_wait": 0.05})
    assert "MFU" not in training.note_of({**new, "mfu": None})


def test_length_of_a_training(run):
    plan = run.stage("traces", "plan")
    steps = json.loads((plan / "manifest.json").read_text())["steps_per_epoch"]
    assert training.total_steps(7, None, plan) == 7
    assert training.total_steps(None, 3, plan) == 3 * steps


def test_plain_output_is_rare_and_terminals_get_a_bar(monkeypatch):
    import io

    quiet = io.StringIO()
    with bar("sample", Console(file=quiet, force_terminal=False)) as progress:
        for done in range(1000):
            progress.set(done, 1000)
    assert quiet.getvalue() == ""
    loud = io.StringIO()
    with bar("sample", Console(file=loud, force_terminal=True, width=120)) as progress:
        progress.set(250, 1000, "note")
        progress.progress.refresh()
    assert "250/1000" in loud.getvalue()
    assert "note" in loud.getvalue()
