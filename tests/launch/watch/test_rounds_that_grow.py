"""What `tracestill watch` makes of rounds while their command is at work, between two of them, and at their end."""

import contextlib
import json
import re

import pytest
from growing_run import LINE, Ranks, shown
from lock_support import leave
from rounds_support import begin, fake, recipe

from tracestill.launch.rounds import writing
from tracestill.launch.run import student_stages
from tracestill.launch.watch.live_report import LiveReport
from tracestill.launch.watch.plain import Plain
from tracestill.launch.watch.run import RunFollow
from tracestill.trainer.lock.run_lock import held
from tracestill.trainer.metrics.refreshing import Refreshing, tell_refreshing
from tracestill.trainer.recipe.run_directory import RunDirectory

SMALL = {"evaluate": {"batch_size": 16}}
ALL = {"stop": {"coverage": None, "differ": None}}


class Killed(BaseException):
    """What no code expects."""


class Rounds:
    """Rounds of students that are formulas, under the lock of their command, and somebody who looks."""

    def __init__(self, root, monkeypatch, **formulas):
        self.root, self.patch = root, monkeypatch
        fake(monkeypatch, **formulas)
        monkeypatch.setattr(writing, "BATCHES", 1)
        monkeypatch.setattr("tracestill.launch.run.now.WRITE_SECONDS", 0.0)
        self.follow, self.plain = RunFollow(root), Plain()
        self.said = []

    def look(self):
        seen = self.follow.look()
        self.said.append(self.plain.lines(seen))
        return seen

    def run(self, rounds, **changes):
        asked = recipe(rounds, **SMALL, **changes)
        with held(self.root):
            RunDirectory.create(self.root, asked, replace=False)
            return begin(self.root, asked).run()

    def at_training(self, number, look):
        """Call ``look`` with rank 0 of a round's training, before its last step."""
        real = student_stages.train_arm

        def train(run, arm, label, console, **more):
            if run.root.name == str(number):
                ranks = Ranks(run, arm)
                look(ranks)
                ranks.telling.end()
            real(run, arm, label, console, **more)

        self.patch.setattr(student_stages, "train_arm", train)

    def at_writing(self, chunk, look):
        """Call ``look`` where the chunk of that number, from 1 on, is to be written."""
        real, asked = writing.ask, []

        def ask(*given):
            asked.append(1)
            if len(asked) == chunk:
                look()
            return real(*given)

        self.patch.setattr(writing, "ask", ask)


@pytest.fixture
def root(tmp_path):
    return tmp_path / "run"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Three rounds, looked at in each training: what was seen and said, the picture, and two live reports of each."""
    with pytest.MonkeyPatch.context() as patch:
        rounds, found = Rounds(tmp_path_factory.mktemp("whole") / "run", patch, spread=lambda number: 0.0), []
        clock = Clock()
        report = LiveReport(rounds.root, clock)

        def page():
            clock.now += 1000
            return report.page()

        def look(ranks):
            ranks.at(10)
            ranks.log(step=10, loss=1.25, **LINE)
            seen = rounds.look()
            before = tree(rounds.root)
            pages = [page()]
            assert tree(rounds.root) == before, "nothing is written into the run"
            ranks.log(step=12, loss=1.0, **LINE)
            pages.append(page())
            tell_refreshing(ranks.directory, Refreshing(2, "writes", 12, 48, "texts"))
            found.append((seen, rounds.said[-1], rounds.look(), pages))

        for number in (0, 1, 2):
            rounds.at_training(number, look)
        RunDirectory.create(rounds.root, recipe(ALL, **SMALL), replace=False)
        with held(rounds.root):
            begun = rounds.look()
        rounds.run(ALL)
        yield rounds.root, begun, found, page()


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def tree(root):
    return {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.name != ".lock"}


def test_before_the_first_round_there_is_nothing_to_follow(whole):
    _, begun, _, _ = whole
    assert (begun.rounds.head, begun.arms, begun.pulse.word) == ("no round yet", {}, "alive")
    assert "no round yet" in shown(begun)


def test_the_round_at_hand_is_followed_and_what_came_of_those_before(whole):
    root, _, found, _ = whole
    seen, said, later, _ = found[1]
    assert (seen.name, seen.root, seen.pulse.word) == ("mini", root, "alive")
    training = seen.arms["traces"]
    assert (training.state, training.step, training.steps, training.ranks) == ("trains", 10, 40, 2)
    assert training.line["loss"] == 1.25
    assert [each.label for each in seen.finished][:3] == ["write student-0", "sample", "select"]
    assert "questions solved" in seen.finished[0].summary
    assert seen.rounds.head == "round 1 of 2"
    first, now = seen.rounds.rows
    assert (first["round"], first["accuracy"], first["trained"]) == (0, 0.5, True)
    assert (now["round"], now["trained"]) == (1, None), "it has its traces, and no student yet"
    assert now["warnings"]
    assert set(seen.rounds.warnings) <= set(seen.warnings)
    assert (seen.rounds.over, seen.rounds.ending) == (False, ())
    text = shown(seen, height=40)
    for line in (
        r"round 1 of 2 *\n",
        r"round 0 \(best\) +90 traces, .* right, .* kept, differ \d+%",
        r"round 1 +60 traces, \d+ right, \d+ kept, differ \d+% \(\d+%\)",
        r"step +10/40",
        r"! round 1: ",
    ):
        assert re.search(line, text), (line, text)
    assert len(text.splitlines()) <= 40
    assert len(shown(found[2][0], height=24).splitlines()) <= 24
    assert "and 2 before" in shown(found[2][0], height=24), "the newest one is left"
    assert re.search(r"refresh +2 writes 25%", shown(later)), "a round of on-policy"
    assert "accuracy 50.0% (40%-60%), 100 test questions" in " ".join(shown(later, 200).split())
    assert said[0].startswith("round 0: 90 traces, ")
    assert "accuracy 50.0%" in said[0]
    assert any(line.startswith("warning: round 1: ") for line in said)
    told = json.loads(json.dumps(later.as_json(), default=str))
    assert (told["name"], told["arms"]["traces"]["step"], told["at_work"]) == ("mini", 12, True)
    rounds = told["rounds"]
    assert (rounds["at"], rounds["count"], rounds["best"], rounds["over"]) == (1, 2, 0, False)
    assert [row["round"] for row in rounds["rows"]] == [0, 1]


def test_each_round_says_its_own_stages_and_steps_again(whole):
    for number, (_, said, _, _) in enumerate(whole[2]):
        assert f"round {number} of 2" in said
        for begun in ("select: kept", "encode traces: ", "traces: step 10/", "traces: trains"):
            assert any(line.startswith(begun) for line in said), (begun, said)
    assert not any(line.startswith("round 0:") for line in whole[2][2][1]), "only changes are said"


def test_the_live_report_shows_all_rounds_and_the_one_at_hand(whole):
    _, _, found, (last, _) = whole
    (text, token), (_, other) = found[1][3]
    assert token != other, "a log of the round has grown"
    assert "<h1>mini: round 1 of 2</h1>" in text
    assert "student-0" in text
    assert "50.0% (40%-60%)" in text
    assert "not trained" not in text, "it is, at the moment"
    assert "tokens a second" in text, "the curves of its training"
    assert "<h1>mini: round 2 of 2</h1>" in last


def test_how_far_a_student_is_that_writes_the_traces_of_a_round(root, monkeypatch):
    rounds, found = Rounds(root, monkeypatch), []

    def kill():
        raise Killed

    for chunk in (1, 3):
        rounds.at_writing(chunk, lambda: found.append(rounds.look()))
    rounds.at_writing(4, kill)
    with contextlib.suppress(Killed):
        rounds.run({"count": 1})
    for seen, done in zip(found, (0, 32), strict=True):
        assert seen.rounds.head == "round 1 of 1"
        (now,) = seen.now
        assert (now.label, now.done, now.total, now.unit) == ("write student-0", done, 60, "traces")
        assert f"{done}/60 traces" in shown(seen)
        assert [training.state for training in seen.arms.values()] == ["waits"]
        assert [row["round"] for row in seen.rounds.rows] == [0]
    assert any(line.startswith("write student-0: 0 of 60 traces") for line in rounds.said[0])
    assert not (root / "rounds/1/.written.now.json").exists()
    for folder in (root, root / "rounds/1"):
        leave(folder, born=1)
    seen = rounds.look()
    assert (seen.pulse.word, seen.rounds.head, seen.rounds.over) == ("dead", "round 1 of 1", False)
    assert "write student-0: cut off; 3 chunks of what it wrote are kept" in seen.warnings
    assert "DEAD" in shown(seen)


def test_ended_rounds_say_why_and_which_is_best(root, monkeypatch):
    rounds = Rounds(root, monkeypatch, skill=lambda number: (0.9, 0.7, 0.9)[number])
    result = rounds.run({})
    seen = rounds.look()
    assert (seen.pulse.word, seen.rounds.over, seen.rounds.head) == ("nobody", True, "round 1 of 2")
    stopped = f"stopped after round 1 (accuracy): {result['stopped']['why']}"
    best = f"best: round 0, 90.0% (82.6% to 94.5%) of 100 test questions: {root}/rounds/0/arms/traces/train/export"
    assert seen.rounds.ending[:2] == (stopped, best)
    assert [stopped, best] == [line for line in rounds.said[0] if line in (stopped, best)]
    assert stopped in shown(seen, 300)
    assert json.loads(json.dumps(seen.as_json(), default=str))["rounds"]["ending"][0] == stopped
    kept = (root / "rounds.json").read_text()
    rounds.run({"count": 1, "stop": {"accuracy": False}})
    assert rounds.look().rounds.ending[0] == "ended: all rounds are done"
    rows = [dict.fromkeys(row) for row in json.loads(kept)["rounds"]]
    (root / "recipe.yaml").write_text("name: mini\nunheard_of: 1\n")
    seen = RunFollow(root).look()
    assert (seen.rounds.head, seen.arms["traces"].state) == ("round 1", "done"), "directories still tell"
    assert "unheard_of" in seen.warnings[0]
    for text in ("[]", '{"rounds": 7}', '{"rounds": [{}, 1]}', json.dumps({"rounds": rows, "stopped": {}}), "{"):
        (root / "rounds.json").write_text(text)  # damaged, or of another version
        assert "round 1" in shown(RunFollow(root).look())


def test_a_round_that_its_traces_end_is_not_trained(root, monkeypatch):
    rounds = Rounds(root, monkeypatch, spread=lambda number: 0.0)
    rounds.run({"count": 3, "keep": 0})
    seen = rounds.look()
    assert (seen.rounds.head, seen.rounds.over) == ("round 1 of 3", True)
    assert seen.rounds.told()[1][1].endswith(", not trained")
    assert seen.rounds.ending[0].startswith("stopped after round 1 (coverage): its traces show")
    assert [training.state for training in seen.arms.values()] == ["waits"]


def test_the_round_that_the_command_is_in_counts_and_not_the_newest(root, monkeypatch):
    """The same command goes through finished rounds again; what rounds.json said of them is of another time."""
    rounds, found = Rounds(root, monkeypatch), []
    rounds.run({"count": 1})
    train = root / "rounds/0/arms/traces/train"
    (train / "manifest.json").unlink()
    leave(root / "rounds/1", born=1)
    rounds.at_training(0, lambda ranks: found.append(rounds.look()))
    rounds.run({"count": 1})
    (seen,) = found
    assert (seen.pulse.word, seen.rounds.head, seen.arms["traces"].state) == ("alive", "round 0 of 1", "starts")
    assert not any(row["trained"] for row in seen.rounds.rows)
    assert not any("dead" in text for text in seen.warnings)
