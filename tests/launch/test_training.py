import json

import pytest
from fake_run import claim, run_data_stages, write_train
from rich.console import Console

from tracestill.data_pipeline.stage import identity
from tracestill.launch import deepspeed_command, training
from tracestill.launch.progress import bar


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
        (directory / "manifest.json").write_text("{}")


def test_resumes_only_what_is_the_same_training(run):
    who = identity("train", *run.train_stage("traces"))
    assert not training.can_resume(run, "traces")
    add_checkpoint(run, 10, who, whole=False)
    assert not training.can_resume(run, "traces"), "torn"
    add_checkpoint(run, 20, who)
    assert training.can_resume(run, "traces")
    add_checkpoint(run, 30, {**who, "config": {}})
    assert not training.can_resume(run, "traces"), "the newest is of another recipe"


@pytest.fixture
def launched(monkeypatch):
    """Command lines that would have been started."""
    found = []
    monkeypatch.setattr(deepspeed_command, "count_gpus", lambda: 0)
    monkeypatch.setattr(deepspeed_command, "run", lambda arguments, *rest: found.append(arguments))
    return found


def test_an_interrupted_training_is_resumed(run, launched):
    add_checkpoint(run, 10, identity("train", *run.train_stage("traces")))
    with pytest.raises(deepspeed_command.TrainingFailed, match=r"before its last step.*console\.log"):
        training.train_arm(run, "traces", "train", Console(quiet=True), resume=False)
    assert launched[0][-1] == "--resume"
    with pytest.raises(deepspeed_command.TrainingFailed):
        training.train_arm(run, "answers_only", "train", Console(quiet=True), resume=False)
    assert "--resume" not in launched[1]


def test_an_older_training_is_no_success(run, launched, monkeypatch):
    """The launcher ended with 0, and the directory holds a finished training of other data."""
    write_train(run, "traces")
    manifest = run.stage("traces", "train") / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(deepspeed_command.TrainingFailed):
        training.train_arm(run, "traces", "train", Console(quiet=True), resume=False)


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
