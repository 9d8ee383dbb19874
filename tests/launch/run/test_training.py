import io
import itertools
import json
import os
import re
import signal
import threading

import pytest
from fake_run import RECIPE, STUDENT, claim, mini_recipe, run_data_stages, write_train
from rich.console import Console

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.stage import identity
from tracestill.launch import cli
from tracestill.launch.report.wall_time import wall_seconds
from tracestill.launch.run import progress as progress_module
from tracestill.launch.run import stop_signals, training
from tracestill.launch.run.progress import bar, short
from tracestill.launch.start import deepspeed_command
from tracestill.trainer.checkpoint.files import entry_of
from tracestill.trainer.faults import stopping


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
        assert wall_seconds(directory) == total


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
        at(run.stage("traces", "train"), step=0)
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


def interrupts(run, act):
    """Training whose launcher's parent meets what ``act`` does; what is said, and what it raises."""
    heard = Console(file=io.StringIO(), width=400)

    def launch(*arguments):
        act()

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(deepspeed_command, "count_gpus", lambda: 0)
            patch.setattr(deepspeed_command, "run", launch)
            with pytest.raises(KeyboardInterrupt) as end:
                training.train_arm(run, "traces", "train", heard, resume="auto")
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert not (run.stage("traces", "train") / "stop").exists()
    return heard.file.getvalue(), str(end.value)


@pytest.mark.parametrize(
    ("number", "said"), [(signal.SIGTERM, "SIGTERM"), (signal.SIGHUP, r"SIGHUP \(the terminal has gone\)")]
)
@pytest.mark.parametrize("resumes", [False, True])
def test_a_stop_before_there_is_anything_to_save_ends_it_at_once(run, launched, monkeypatch, number, said, resumes):
    """Even while the ranks wait for one that never comes."""
    directory = run.stage("traces", "train")
    if resumes:
        add_checkpoint(run, 20, identity("train", *run.train_stage("traces")))
    graces = []
    monkeypatch.setattr(stop_signals, "forget_terminal", lambda: None)
    monkeypatch.setattr(deepspeed_command, "end_group", lambda process, grace: graces.append(grace) or process.kill())
    monkeypatch.setattr(deepspeed_command, "run", REAL_RUN)
    monkeypatch.setattr(deepspeed_command, "start_here", waits_for_ever)
    before = signal.signal(number, cli.terminate)
    timer = threading.Timer(0.3, os.kill, [os.getpid(), number])
    timer.start()
    saved = "step 20 is saved; the same command goes on from there" if resumes else "no step of the training was done"
    try:
        with pytest.raises(deepspeed_command.TrainingStopped, match=rf"before the first step \({said}\): {saved}"):
            training.train_arm(run, "traces", "train", Console(quiet=True), resume="auto", max_restarts=3)
        assert signal.getsignal(number) is cli.terminate
    finally:
        signal.signal(number, before)
    assert graces == [deepspeed_command.AT_ONCE]
    assert not (directory / "stop").exists()
    assert not (directory / "stopped.json").exists()


REAL_RUN = deepspeed_command.run


def waits_for_ever(*arguments):
    return deepspeed_command.Start(["sleep", "30"], dict(os.environ), 2, False)


def ctrl_c():
    os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_before_the_first_step_ends_it_at_once(run):
    said, error = interrupts(run, ctrl_c)
    assert "saves after this step" not in said
    assert error.endswith("training of traces: no step of the training was done; the same command begins it anew")


def test_ctrl_c_asks_for_a_save_and_says_how_long_and_twice_ends_it(run):
    directory = run.stage("traces", "train")

    def act():
        at(directory, step=7, micro=1, save_seconds=61.0)
        ctrl_c()
        assert (directory / "stop").read_text() == "Ctrl-C"
        ctrl_c()

    said, error = interrupts(run, act)
    assert "step 8 of 40 is under way: about 6s of the step are left, the last save took 1m 01s" in said
    assert "press Ctrl-C again to stop now" in said
    assert "nothing is saved of 7 steps done and what was done of the next: the same command begins" in error


def test_what_is_saved_is_said_and_what_comes_again(run):
    who = identity("train", *run.train_stage("traces"))
    directory = run.stage("traces", "train")

    def act(step):
        at(directory, step=step)
        ctrl_c()
        ctrl_c()

    add_checkpoint(run, 20, who)
    _, error = interrupts(run, lambda: act(21))
    assert "step 20 of 40 is saved; the same command goes on from there and does 1 step and what was done" in error
    (directory / "log.jsonl").write_text(
        '{"step": 22, "loss": 1.0}\n{"step": 23, "loss": 1.0}\n{"step": 24, "kinds": {}'
    )
    _, error = interrupts(run, lambda: act(21))
    assert "does 3 steps and what was done of the next again" in error, "the log knew more"
    (directory / "log.jsonl").unlink()
    add_checkpoint(run, 40, who)
    said, error = interrupts(run, lambda: act(40))
    assert "its last step is done and saved, and the student is being exported" in said
    assert error.endswith("step 40 of 40 is saved; the same command goes on from there")


def test_a_failure_says_what_is_saved(run, launched):
    add_checkpoint(run, 20, identity("train", *run.train_stage("traces")))
    with pytest.raises(deepspeed_command.TrainingFailed, match="traces: step 20 is saved; the same command goes on"):
        training.train_arm(run, "traces", "train", Console(quiet=True), resume="auto")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_signals_that_are_ignored_stay_so(run, launched, monkeypatch, number):
    """As nohup and a shell's background jobs want it."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        monkeypatch.setattr(deepspeed_command, "run", lambda *arguments: os.kill(os.getpid(), number))
        with pytest.raises(deepspeed_command.TrainingFailed):
            training.train_arm(run, "traces", "train", Console(quiet=True), resume="auto")
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_a_terminal_that_goes_away_tells_it_more_than_once(run, monkeypatch):
    """The shell and the kernel send a SIGHUP each."""
    monkeypatch.setattr(stop_signals, "forget_terminal", lambda: None)
    directory, heard = run.stage("traces", "train"), []
    at(directory, step=0)

    def handler(number, frame):
        heard.append(number)

    before = signal.signal(signal.SIGHUP, handler)
    try:
        with stop_signals.stop_on_signals(directory, Console(quiet=True)):
            for _ in range(3):
                os.kill(os.getpid(), signal.SIGHUP)
            assert "SIGHUP" in (directory / stopping.REQUEST).read_text()
        assert heard == []
        assert signal.getsignal(signal.SIGHUP) is handler
    finally:
        signal.signal(signal.SIGHUP, before)


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


def at(directory, **changes):
    """Rank 0 tells where it is."""
    directory.mkdir(exist_ok=True)
    rest = {"steps": 40, "accumulation": 4, "total": 40_000, "step_seconds": 8.0, "save_seconds": None, "saved": None}
    (directory / "progress.json").write_text(json.dumps({"step": 0, "micro": 0, "tokens": 0, **rest, **changes}))


def test_progress_moves_with_the_ranks_and_the_note_follows_the_log(run, capsys):
    directory = run.stage("traces", "train")
    write_train(run, "answers_only")  # only its log is wanted, as what an earlier attempt left
    directory.mkdir()
    log = directory / "log.jsonl"
    log.write_text((run.stage("answers_only", "train") / "log.jsonl").read_text())
    console = Console(force_terminal=False)
    with bar("train", console, "tokens") as progress:
        watch = training.Watch(directory, run.recipe.span_kinds(), progress, console)
        watch.poll()
        assert (progress.done, progress.note) == (0, "starting"), "an older attempt's log says nothing"
        at(directory, step=2, micro=3, tokens=2750)
        log.unlink()
        line = {"step": 3, "loss": 1.5, "tokens_per_second": 1234.5}
        log.write_text(json.dumps(line) + '\n{"event": "skipped", "step": 4}\n{"step": 5, "lo')
        watch.poll()
        assert (progress.done, progress.total) == (2750, 40_000)
        assert progress.note == "step 2/40  loss 1.5000  1,234 tokens/s"
        at(directory, step=3, micro=0, tokens=3000)
        with log.open("a") as handle:
            handle.write('ss": 1.25, "tokens_per_second": 1.0}\n')
        watch.poll()
        assert progress.done == 3000
        assert "loss 1.25" in progress.note


def test_the_note_behind_the_bar_says_what_the_log_knows():
    old = {"step": 3, "loss": 1.5, "tokens_per_second": 1234.5}
    assert training.note_of(old) == "loss 1.5000  1,234 tokens/s"
    new = {**old, "kinds": {"answer": {"loss": 0.25}}, "mfu": 0.412, "data_wait": 0.5, "seconds": 2.0}
    assert training.note_of(new) == "loss 1.5000  answer 0.250  1,234 tokens/s  MFU 41.2%  waits for data 25%"
    assert "waits" not in training.note_of({**new, "data_wait": 0.05})
    assert training.note_of({**old, "loss": None, "kinds": {"answer": {"loss": None}}}) == "1,234 tokens/s"
    assert "MFU" not in training.note_of({**new, "mfu": None})


def test_a_terminal_gets_a_bar():
    loud = io.StringIO()
    with bar("sample", Console(file=loud, force_terminal=True, width=120)) as progress:
        progress.set(250, 1000, "note")
        progress.progress.refresh()
    assert "250/1000" in loud.getvalue()
    assert "note" in loud.getvalue()


def test_elsewhere_a_line_comes_now_and_then_also_while_nothing_moves(monkeypatch):
    quiet = io.StringIO()
    with bar("sample", Console(file=quiet, force_terminal=False)) as progress:
        for done in range(1000):
            progress.set(done, 1000)
    assert quiet.getvalue() == "", "that took no half minute"
    monkeypatch.setattr(progress_module, "QUIET_SECONDS", 0.01)
    with bar("train", Console(file=quiet, force_terminal=False), "tokens") as progress:
        progress.set(1000, 8000, "step 3/24")
        while quiet.getvalue().count("\n") < 3:
            pass
    lines = quiet.getvalue().splitlines()
    assert lines[-1] == "  train: 1,000 of 8,000 tokens, 0s so far, step 3/24"
    with bar("tokenizer", Console(file=quiet, force_terminal=False)):
        while quiet.getvalue().count("\n") < len(lines) + 2:
            pass
    assert "  tokenizer: 0s so far" in quiet.getvalue()


def test_counts_are_short():
    assert [short(n) for n in (7, 99_999, 123_456, 9_876_543, 1.25e9)] == ["7", "99999", "123.5k", "9.877M", "1.25G"]
