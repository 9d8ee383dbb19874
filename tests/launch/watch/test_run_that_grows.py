"""What `tracestill watch` makes of a run's directory while somebody writes into it."""

import json
import os
import re
import time

import pytest
from fake_run import claim, mini_recipe, run_data_stages, write_train
from growing_run import HELD, LINE, Ranks, shown
from lock_support import leave, quick

from tracestill.data_pipeline.base.content import remembering_nothing
from tracestill.launch.run.now import Now, Telling, now_beside
from tracestill.launch.run.progress import bar
from tracestill.launch.watch import follow as follow_module
from tracestill.launch.watch.follow import Grown, Kept
from tracestill.launch.watch.owner import Feel
from tracestill.launch.watch.plain import Plain
from tracestill.launch.watch.run import RunFollow
from tracestill.trainer.faults.failure import FAILURE
from tracestill.trainer.faults.stopping import MARKER
from tracestill.trainer.lock.run_lock import held
from tracestill.trainer.metrics.headway import PROGRESS
from tracestill.trainer.metrics.log import LOG, Log
from tracestill.trainer.metrics.refreshing import Refreshing, tell_refreshing
from tracestill.trainer.ranks.console import Terminal


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def run(tmp_path):
    return claim(tmp_path / "run", mini_recipe())


def test_a_log_is_read_once_whole_lines_only_and_anew_where_it_was_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(follow_module, "BLOCK", 7)  # lines go over blocks
    path = tmp_path / LOG
    log = Grown(path)
    assert log.new() == ([], False)
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert log.new() == ([{"step": 1}, {"step": 2}], True)
    assert log.new() == ([], False)
    with path.open("r+") as handle:  # what was read is not read again, whatever stands there now
        handle.write('{"step": 9}\n{"step": 9}\n{"step": 3}\nno JSON\n[4]\n')
    assert log.new() == ([{"step": 3}], False)
    Log(path, resume_at=1, write=True).add(step=1, loss=float("nan"))  # as a resumed training does
    found, anew = log.new()
    assert anew
    assert found[-1] == {"step": 1, "loss": None}
    path.write_text('{"step": 7}\n')  # cut in place
    assert log.new() == ([{"step": 7}], True)
    path.unlink()
    assert log.new() == ([], True)


def test_a_small_file_caught_half_written_says_what_it_said(tmp_path):
    path = tmp_path / "a.json"
    kept = Kept(path)
    assert kept.look() is None
    path.write_text('{"a": 1}')
    assert kept.look() == {"a": 1}
    path.write_text('{"a": ')
    assert kept.look() == {"a": 1}
    path.write_text('{"a": 22}')
    assert kept.look() == {"a": 22}
    path.write_text("[1, 2, 3]")
    assert kept.look() == {"a": 22}, "no object: damaged"
    path.unlink()
    assert kept.look() is None


@pytest.mark.parametrize("text", ["[]", "7", '"x"', "{", ""])
def test_damaged_files_of_a_training_are_as_good_as_none(run, text):
    ranks = Ranks(run, "traces")
    for name in ("manifest.json", MARKER, FAILURE, PROGRESS):
        (ranks.directory / name).write_text(text)
    now_beside(run.stage("traces", "encode")).write_text(text)
    leave(run.root, command="")
    seen = RunFollow(run.root).look()
    assert (seen.arms["traces"].state, seen.now) == ("cut off", ())
    assert "traces" in shown(seen)


def test_a_stage_at_work_tells_how_far_it_is_and_takes_its_word_back(run, monkeypatch):
    monkeypatch.setattr("tracestill.launch.run.now.WRITE_SECONDS", 0.0)
    follow, place = RunFollow(run.root), run.stage("traces", "encode")
    assert now_beside(place).parent == place.parent
    with held(run.root), bar("encode traces", Terminal(file=open(os.devnull, "w")), "records", place) as progress:
        progress.set(0, 400)
        time.sleep(0.01)
        progress.set(100, 400, "98% usable")
        (now,) = follow.look().now
        assert (now.label, now.done, now.total, now.unit, now.note) == (
            "encode traces",
            100,
            400,
            "records",
            "98% usable",
        )
        assert now.rate == pytest.approx(100 / 0.01, rel=0.9)
        assert "100/400 records" in shown(follow.look())
        (line,) = (line for line in Plain().lines(follow.look()) if "100 of 400 records" in line)
        assert "98% usable" in line
    assert not now_beside(place).exists()
    assert follow.look().now == ()


def test_a_stage_that_does_not_tell_how_far_it_is_is_at_work(run):
    """Its file is written once: how long ago is not known."""
    with (
        held(run.root),
        bar("tokenizer", Terminal(file=open(os.devnull, "w")), beside=run.stage("traces", "tokenizer")),
    ):
        seen = RunFollow(run.root).look()
    assert "tokenizer  at work" in shown(seen)
    assert "tokenizer: at work" in Plain().lines(seen)


def test_what_a_killed_command_was_at_is_not_taken_for_work(run):
    Telling(run.stage("traces", "encode")).tell(Now("encode traces", "", 1, 2, "", 0.0, None, None))
    Ranks(run, "traces")
    with held(run.root):  # another command's
        seen = RunFollow(run.root).look()
    assert seen.now == ()
    assert seen.arms["traces"].state == "cut off"


def test_a_training_is_followed_from_its_start_to_its_end(run, clock):
    follow, plain = RunFollow(run.root, clock), Plain(clock)

    def states():
        return {arm: training.state for arm, training in follow.look().arms.items()}

    assert states() == {"traces": "waits", "answers_only": "waits"}
    with held(run.root):
        ranks = Ranks(run, "traces")
        assert states() == {"traces": "starts", "answers_only": "waits"}
        ranks.at(0)
        ranks.log(event="preview", step=0, warnings=["weights without effect"])
        assert "warning: traces: weights without effect" in plain.lines(follow.look())
        clock.now += 10
        ranks.at(10)
        ranks.log(step=10, loss=1.25, **LINE, data_wait=0.5)
        ranks.log(event="held_out", step=10, split="test", kinds=HELD)
        ranks.log(event="answers", step=10, accuracy=0.25, count=4, truncated=3, trace_tokens_mean=61.55)
        ranks.log(event="skipped", step=9, reason="loss is not finite")
        ranks.log(event="straggler", step=10, rank=1, phase="forward", seconds=3.0, usual=1.0)
        seen = follow.look()
        found = seen.arms["traces"]
        assert (found.state, found.step, found.steps) == ("trains", 10, 40)
        assert found.left == pytest.approx(30), "1,000 tokens in 10 s, 3,000 are left"
        said = plain.lines(seen)
        numbers = "traces: step 10/40, loss 1.2500, derive 0.5000 D 0.250, prose 2.0000, lr 0.001"
        assert any(line.startswith(numbers) for line in said)
        assert any(line.endswith("30s left") for line in said)
        mean = (30 * 0.5 + 9 * 2.0) / 39
        assert f"traces: held-out loss {mean:.4f} at step 10" in said
        assert "traces: 25.0% right at step 10, 3 of 4 cut off" in said
        for warning in (
            "traces: 1 step(s) skipped, the last at 9: loss is not finite",
            "traces: rank 1 is slow: 3.0 s in phase forward, others 1.0 s",
            "traces: waits for data 50% of the time",
        ):
            assert f"warning: {warning}" in said
        assert plain.lines(follow.look()) == [], "only changes are said"
        text = shown(seen)
        for line in ("step 10/40", "cut off 3 of 4", "trace tokens 61.5"):
            assert line in "\n".join(" ".join(shown_line.split()) for shown_line in text.splitlines())
        assert "0.5000 D 0.250 held 0.500" in text
        assert "(2.0000) held 2.000" in text, "a kind without weight stands in brackets"
        clock.now += 29
        assert not any("nothing was heard" in text for text in follow.look().warnings)
        clock.now += 32
        assert "traces: nothing was heard of the ranks for 1m 01s; the last step took 1s" in follow.look().warnings
        (ranks.directory / "manifest.json").write_text(
            json.dumps({"stage": "train", "files": {}, "counts": {"steps": 40}})
        )
        ranks.telling.end()
        assert states() == {"traces": "done", "answers_only": "waits"}
        assert follow.look().arms["traces"].step == 40
    assert not follow.look().pulse.at_work


def test_a_long_step_is_no_silence(run, clock):
    follow = RunFollow(run.root, clock)
    with held(run.root):
        Ranks(run, "traces").at(3, step_seconds=100.0, save_seconds=20.0)
        follow.look()
        clock.now += 359
        assert follow.look().warnings == ()
        clock.now += 2
        assert "nothing was heard" in follow.look().warnings[0]


def test_a_resumed_training_forgets_the_steps_that_come_again(run):
    follow = RunFollow(run.root)
    with held(run.root):
        ranks = Ranks(run, "traces")
        for step in (10, 20):
            ranks.log(step=step, loss=1.0 / step, **LINE)
        ranks.log(event="skipped", step=15, reason="made up")
        assert follow.look().arms["traces"].line["step"] == 20
        Log(ranks.directory / LOG, resume_at=10, write=True)
        found = follow.look().arms["traces"]
        assert (found.line["step"], found.losses, found.warnings) == (10, (0.1,), ())


@pytest.mark.parametrize(
    ("file", "held_in_it", "state", "why"),
    [
        (MARKER, {"step": 7, "steps": 40, "reason": "SIGTERM"}, "stopped", "after step 7 (SIGTERM), all of it saved"),
        (MARKER, {"step": 0, "steps": 40, "reason": "SIGTERM"}, "stopped", "before its first step (SIGTERM)"),
        (
            FAILURE,
            {"rank": 1, "reason": "gave no sign of life for 30 s", "by": 0, "host": "node3"},
            *("failed", "rank 1 gave no sign of life for 30 s (seen by rank 0 on node3)"),
        ),
        (None, {}, "cut off", "it has not finished, and nobody is at work on it"),
    ],
)
def test_how_a_training_ended_before_its_end(run, file, held_in_it, state, why):
    ranks = Ranks(run, "traces")
    ranks.at(7)
    if file:
        (ranks.directory / file).write_text(json.dumps(held_in_it))
    seen = RunFollow(run.root).look()
    assert (seen.arms["traces"].state, seen.arms["traces"].why) == (state, why)
    assert f"traces: {state}: {why}" in seen.warnings


def test_a_sweep_shows_the_arms_that_it_trains(tmp_path):
    run = claim(tmp_path / "run", mini_recipe(arms={"lr-1": {"train": {"lr": 1e-3}}}))
    follow = RunFollow(run.root)
    assert list(follow.look().arms) == ["traces", "lr-1"]
    (run.root / "sweep.json").write_text('{"arms": [{"arm": "lr-1"}]}')
    assert list(follow.look().arms) == ["lr-1"], "nobody waits for the recipe's own"
    Ranks(run, "traces")
    assert list(follow.look().arms) == ["lr-1", "traces"], "which was trained all the same"


def test_a_dead_owner_is_said_to_be_dead(run):
    Ranks(run, "traces")  # killed before its first step
    leave(run.root, born=1)  # a process of this number began at another time
    seen = RunFollow(run.root).look()
    assert seen.pulse.word == "dead"
    assert seen.arms["traces"].why == "the process that trained is gone"
    assert "DEAD" in shown(seen)
    assert any(line.startswith("warning: dead: `") for line in Plain().lines(seen))


def test_an_owner_on_another_host_is_known_by_its_signs(run, clock, monkeypatch):
    quick(monkeypatch)
    leave(run.root, node="0" * 16)
    feel = Feel(run.root, clock)
    assert feel.look().word == "unseen"
    os.utime(run.root / ".lock", ns=(1, 1))
    assert feel.look().word == "alive"
    clock.now += 0.2
    assert feel.look().word == "alive"
    clock.now += 0.2
    assert feel.look().word == "silent"
    os.utime(run.root / ".lock", ns=(2, 2))
    assert feel.look().word == "alive"


@pytest.mark.parametrize("words", [["--arm", "answers_only"], ["--arm=answers_only"]])
def test_ranks_that_were_started_by_hand_train_too(run, monkeypatch, words):
    ranks = Ranks(run, "answers_only")
    ranks.telling.end()
    ranks.at(3)
    monkeypatch.setattr("sys.argv", ["/x/train.py", "--local_rank=0", "--run-dir", "r", *words])
    with held(run.root):
        found = RunFollow(run.root).look().arms
    assert found["answers_only"].state == "trains"
    assert found["traces"].state == "waits"


def test_looking_changes_nothing_in_a_run(run):
    run_data_stages(run)
    write_train(run, "traces")
    before = tree(run.root)
    follow = RunFollow(run.root)
    seen = follow.look()
    assert [each.label for each in seen.finished[:2]] == ["sample", "select"]
    assert "kept" in seen.finished[1].summary
    assert seen.arms["traces"].state == "done"
    with remembering_nothing():
        follow.look()
    assert tree(run.root) == before


def tree(root):
    return {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in [root, *root.rglob("*")]}


@pytest.mark.parametrize("width", [20, 40, 60, 200])
def test_it_fits_any_terminal_and_further_arms_are_a_key_away(tmp_path, width):
    arms = {f"arm{at}": {"train": {"lr": at * 1e-4}} for at in range(1, 6)}
    run = claim(tmp_path / "run", mini_recipe(arms=arms))
    for arm in ("traces", *arms):
        write_train(run, arm, finished=False)
    seen = RunFollow(run.root).look()
    many, names = max(1, (width - 16) // 18), ["traces", *arms]
    for first in range(7):
        text = shown(seen, width, height=50, first=first)
        assert max(map(len, text.splitlines())) <= width
        if many < 6:
            (heading,) = [line for line in text.splitlines() if line.startswith("Tab")]
            wanted = [names[(first + at) % 6] for at in range(many)]
            assert heading.split()[-many:] == wanted or width == 20, "which leaves no room for a name"
    assert all(shown(seen, width).count(name) for name in names if width > 20), "where nothing has to fit all are shown"
    assert len(shown(seen, width, height=24).splitlines()) <= 24


def test_a_recipe_that_cannot_be_read_leaves_what_directories_tell(run):
    write_train(run, "traces", finished=False)
    (run.root / "recipe.yaml").write_text("name: mini\nunheard_of: 1\n")
    seen = RunFollow(run.root).look()
    assert seen.arms["traces"].state == "cut off"
    assert "unheard_of" in seen.warnings[0]


def test_hostile_texts_are_shown_and_not_obeyed(run):
    ranks = Ranks(run, "traces")
    ranks.log(event="preview", step=0, warnings=["\x1b]0;title\x07[red]\nsecond line"])
    seen = RunFollow(run.root).look()
    text = shown(seen)
    assert "\\x1b]0;title\\x07[red]" in text
    assert "\x1b]" not in text
    assert all("\n" not in line for line in Plain().lines(seen))


def test_a_refresh_in_progress_is_shown_in_place_of_a_step_that_stands_still(run, clock):
    follow, plain = RunFollow(run.root, clock), Plain(clock)
    with held(run.root):
        ranks = Ranks(run, "traces")
        tell_refreshing(ranks.directory, Refreshing(0, "writes", 12, 48, "texts"))  # before the first step
        seen = follow.look()
        assert re.search(r"refresh +0 writes 25%", shown(seen))
        assert seen.as_json()["arms"]["traces"]["refreshing"]["done"] == 12
        assert [line for line in plain.lines(seen) if "s: refresh" in line] == ["traces: refresh 0 writes 25%"]
        ranks.at(4)
        ranks.log(event="refresh", step=4, refresh=1, **{"in": 48, "right": 12, "tokens_mean": 31.25})
        tell_refreshing(ranks.directory, None)
        seen = follow.look()
        assert re.search(r"own texts right +25% at 4\s+own text tokens +31.2", shown(seen))
        assert " writes " not in shown(seen)
        assert "traces: own texts right 25% at 4, 31.2 tokens" in plain.lines(seen)
        clock.now += 25
        tell_refreshing(ranks.directory, Refreshing(2, "teacher reads", 10, 40, "tokens"))
        follow.look()
        clock.now += 25  # the ranks were heard of meanwhile
        seen = follow.look()
        assert not any("nothing was heard" in text for text in seen.warnings)
        assert [line for line in plain.lines(seen) if "s: refresh" in line] == ["traces: refresh 2 teacher 25%"]
    assert " teacher " not in shown(follow.look()), "killed ranks write nothing"
