"""The command: data made once, arms in processes of their own (here: fake ones), what is told of them, going on."""

import io
import json
import os
import re
import shutil
import signal
from dataclasses import asdict
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from fake_run import HOSTILE, RECIPE, Ended, write_train
from rich.console import Console
from typer.testing import CliRunner

from tracestill.data_pipeline.base.stage import stage
from tracestill.launch import cli
from tracestill.launch.commands import sweep_command
from tracestill.launch.report.sweep_page import sweep as section
from tracestill.launch.run import checks
from tracestill.launch.run.progress import Bar
from tracestill.launch.run.stages import plan_works
from tracestill.launch.sweep import side_by_side
from tracestill.launch.sweep.machine import Place
from tracestill.launch.sweep.outcome import answers_in
from tracestill.launch.sweep.sweep import Sweep
from tracestill.trainer.metrics.headway import PROGRESS, Headway
from tracestill.trainer.recipe.run_directory import RunDirectory

QUESTIONS = 40
PROSE = "weighting.weights.prose"


class Arms:
    """Stands in for the arms' processes: each answers so many questions right, or ends as it is told."""

    def __init__(self, right):
        self.right, self.started, self.codes = right, [], {}

    def start(self, swept, arm, place):
        self.started.append(arm)
        assert swept.run.stage(arm, "plan").is_dir(), "its data is there"
        assert (swept.run.root / "sweep.json").exists(), "after a kill the directory alone tells how to go on"
        code = self.codes.get(arm, 0)
        if code == 0:
            own = swept.run.for_arm(arm)
            self.answer(swept.run, arm, self.right(own))
        else:
            log = swept.log(arm)
            log.parent.mkdir(exist_ok=True)
            swept.begun[arm] = log.write_text("error: of an attempt before\n")
            with log.open("a") as handle:
                handle.write(f"doing\nerror: its {arm} is gone\nerror: and more\n")
        return Ended(code)

    @staticmethod
    def answer(run, arm, right):
        if not run.stage(arm, "train").exists():
            write_train(run, arm)
        work = next(work for work in plan_works(run) if work.stage == "evaluate" and work.arm == arm)
        rows = [{"question_id": f"q{at:02}", "correct": at < right} for at in range(QUESTIONS)]
        share = right / QUESTIONS
        ends = {"accuracy_low": share / 2, "accuracy_high": (1 + share) / 2}
        told = {"accuracy": share, **ends, "questions": QUESTIONS, "truncated": 0, "trace_tokens_mean": 9.0}
        keys = ("question", "gold", "text", "trace", "answer")
        rows = [{**row, **dict.fromkeys(keys, "7"), "verdict": "", "read_by": "whole", "tokens": 3} for row in rows]
        with stage(work.directory, "evaluate", work.config, work.inputs) as writing:
            (writing.path / "result.json").write_text(
                json.dumps({**told, "kinds": {"answer": {"loss": 0.5, "accuracy": 0.9}}})
            )
            pq.write_table(pa.Table.from_pylist(rows), writing.path / "predictions.parquet")


@pytest.fixture
def arms(monkeypatch):
    """Prose that weighs 1 is worth 12 questions, a seed one."""
    found = Arms(lambda own: 10 + 12 * int(own.weighting.weights["prose"] == 1) + own.seed)
    monkeypatch.setattr(Sweep, "start", lambda swept, arm, place: found.start(swept, arm, place))
    monkeypatch.setattr(side_by_side, "POLL_SECONDS", 0)
    monkeypatch.setattr(checks, "check_works", lambda *given, **more: None)
    monkeypatch.setattr("tracestill.launch.sweep.machine.places", lambda recipes, wanted: [Place()] * (wanted or 1))
    return found


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mini.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    return path


def sweep(*words, code=0):
    found = CliRunner().invoke(cli.app, ["sweep", *map(str, words)], env={"COLUMNS": "200"})
    assert found.exit_code == code, found.output
    return found


def table_of(root):
    return json.loads((root / "sweep.json").read_text())


def test_an_arm_counts_when_it_has_ended_and_for_the_time_left_before(tmp_path):
    swept, out = SimpleNamespace(run=SimpleNamespace(stage=lambda arm, stage: tmp_path / arm)), io.StringIO()
    for arm in ("a", "b"):
        (tmp_path / arm).mkdir()
        told = Headway(4, 4, 0, 1, 100, 100, None, None, None)
        (tmp_path / arm / PROGRESS).write_text(json.dumps(asdict(told)))
    progress = Bar("sweep", Console(file=out), None, "arms")
    Sweep.show(swept, progress, 0, 4, ["a", "b"])
    progress.speak()
    assert "sweep: 0 of 4 arms" in out.getvalue()
    assert "a 4/4, b 4/4" in out.getvalue()
    assert progress.estimate.points[-1][1] == pytest.approx(1.8)


def test_a_sweep_from_values_to_a_verdict(arms, recipe, tmp_path):
    found = sweep(recipe, "--over", f"{PROSE}=0,0.3,1", "--seeds", 2)
    root = tmp_path / "runs/mini-sweep"
    assert arms.started == [f"prose-{value}_seed-{seed}" for value in ("0", "0.3", "1") for seed in (0, 1)]
    assert len(list(root.glob("arms/*/encode"))) == 1, "the data is made once"
    assert len(list(root.glob("arms/*/plan"))) == 2, "a plan for each seed"
    told = table_of(root)
    assert [row["state"] for row in told["arms"]] == ["done"] * 6
    assert [row["right"] for row in told["settings"]] == pytest.approx([10.5 / 40, 10.5 / 40, 22.5 / 40])
    assert told["arms"][0] | {"setting": f"{PROSE}=0", "seed": 0, "accuracy": 0.25, "steps": 40} == told["arms"][0]
    pairs = {(row["first"][-1], row["second"][-1]): row for row in told["pairs"]}
    assert (pairs["0", "3"]["p_questions"], pairs["0", "3"]["differs"]) == (1.0, False)
    worth = pairs["0", "1"]
    assert worth["mean"] == pytest.approx(12 / 40)
    assert worth["holm"] == pytest.approx(3 * worth["p"])
    assert (worth["differs"], worth["by_seed"]) == (True, pytest.approx([0.3, 0.3]))
    assert re.search(r"0 +│ +1 +│ +\+30\.0% .* yes", found.stdout)
    assert "of two seeds: their t asks for 12.7 standard errors" in found.stdout
    page = (root / "report/report.html").read_text()
    assert ">Sweep</h2>" in page
    assert "+30.0%" in page
    assert "Not in this report" not in page, "the recipe's own arm was not asked for"

    before = (root / "sweep.json").read_bytes()
    arms.started.clear()
    again = sweep(recipe, "--over", f"{PROSE}=0,0.3,1", "--seeds", 2)
    assert arms.started == []
    assert "up to date, skipped: " in again.stderr
    assert (root / "sweep.json").read_bytes() == before


def test_one_seed_says_what_it_cannot_tell(arms, recipe, tmp_path):
    found = sweep(recipe, "--over", f"{PROSE}=0,1", "--seeds", 1)
    assert "of one seed: nothing here tells how other seeds would come out" in found.stdout
    (pair,) = table_of(tmp_path / "runs/mini-sweep")["pairs"]
    assert (pair["p"], pair["p_seeds"]) == (pytest.approx(2 * 0.5**12), None), "McNemar's"


def test_a_failed_arm_leaves_the_others_and_the_exit_code_tells(arms, recipe, tmp_path):
    root, broken = tmp_path / "run", "prose-0_seed-1"
    arms.codes[broken] = 4
    words = (recipe, "--over", f"{PROSE}=0,1", "--seeds", 3, "--run-dir", root)
    found = sweep(*words, code=4)
    assert len(arms.started) == 6
    assert f"failed: {broken}: its {broken} is gone" in found.stderr
    told = table_of(root)
    assert [row["state"] for row in told["arms"]].count("failed") == 1
    assert [row["seeds"] for row in told["settings"]] == [[0, 2], [0, 1, 2]]
    assert told["pairs"][0]["seeds"] == [0, 2], "paired by the seeds that both have"
    assert f"train {broken}" in (root / "report/report.html").read_text()

    arms.started.clear()
    arms.codes.clear()
    sweep(root)
    assert arms.started == [broken], "the directory alone goes on with what is left"
    assert [row["state"] for row in table_of(root)["arms"]] == ["done"] * 6


def test_fail_fast_starts_no_further_arm(arms, recipe, tmp_path):
    arms.codes["prose-0_seed-1"] = 2
    sweep(recipe, "--over", f"{PROSE}=0,1", "--fail-fast", "--at-once", 1, code=2)
    assert len(arms.started) == 2
    states = [row["state"] for row in table_of(tmp_path / "runs/mini-sweep")["arms"]]
    assert states == ["done", "failed", *["missing"] * 4]


def test_arms_without_data_fail_alone(arms, recipe, tmp_path):
    """A capacity that no document fits into breaks the encoding of its arms, not of the others."""
    arms.right = lambda own: 20
    found = sweep(recipe, "--over", "plan.capacity=256,8", "--seeds", 2, code=2)
    assert arms.started == ["capacity-256_seed-0", "capacity-256_seed-1"]
    assert "capacity-8_seed-1   " in found.stderr
    assert "left out: its data could not be made" in found.stderr
    assert [row["state"] for row in table_of(tmp_path / "runs/mini-sweep")["arms"]] == ["done"] * 2 + ["failed"] * 2


def test_a_stop_is_passed_on_and_the_same_command_goes_on(arms, recipe, tmp_path):
    real = arms.start

    def start(swept, arm, place):
        if len(arms.started) == 2:
            os.kill(os.getpid(), signal.SIGINT)
            arms.codes[arm] = 3
        return real(swept, arm, place)

    arms.start = start
    words = (recipe, "--over", f"{PROSE}=0,1", "--seeds", 2)
    found = sweep(*words, code=3)
    assert "Ctrl-C: arms that run save and stop; no further one starts" in found.stderr
    assert "sweep stopped: 2 of 4 arms are not finished" in found.stderr
    assert "tracestill sweep runs/mini-sweep" in found.stderr
    root = tmp_path / "runs/mini-sweep"
    assert [row["state"] for row in table_of(root)["arms"]] == ["done", "done", "missing", "missing"]
    arms.start, arms.codes, arms.started = real, {}, []
    sweep(*words)
    assert arms.started == ["prose-1_seed-0", "prose-1_seed-1"]


def test_an_arm_that_stops_by_itself_ends_as_one_that_was_asked(arms, recipe, tmp_path):
    """As train.stop_after makes it."""
    arms.codes["prose-0_seed-0"] = 3
    found = sweep(recipe, "--over", f"{PROSE}=0,1", "--seeds", 1, code=3)
    assert arms.started == ["prose-0_seed-0", "prose-1_seed-0"]
    assert "sweep stopped: 1 of 2 arms are not finished" in found.stderr
    arms.codes["prose-0_seed-1"] = 4
    sweep(recipe, "--over", f"{PROSE}=0,1", "--seeds", 2, code=4)


def test_more_values_and_seeds_add_arms(arms, recipe, tmp_path):
    root = tmp_path / "runs/mini-sweep"
    sweep(recipe, "--over", f"{PROSE}=0", "--seeds", 2)
    arms.started.clear()
    sweep(recipe, "--over", f"{PROSE}=1,0", "--seeds", 3)
    assert sorted(arms.started) == ["prose-0_seed-2", "prose-1_seed-0", "prose-1_seed-1", "prose-1_seed-2"]
    assert list(RunDirectory.open(root).recipe.arms)[:2] == ["prose-0_seed-0", "prose-0_seed-1"]
    arms.started.clear()
    sweep(recipe, "--over", f"{PROSE}=0", "--seeds", 2)
    assert arms.started == []
    assert "Not in this report" not in (root / "report/report.html").read_text()
    sweep(root, "--seeds", 4)
    assert arms.started == ["prose-0_seed-3"], "the directory with other seeds is the sweep with these"
    found = sweep(recipe, "--over", f"{PROSE}=0,1", "--set", "train.lr=0.5", code=2)
    assert "holds another recipe (differs in train.lr)" in found.stderr


def test_a_run_that_is_there_lends_its_data(arms, recipe, tmp_path):
    words = ["run", str(recipe), "--until", "plan"]
    assert CliRunner().invoke(cli.app, words).exit_code == 0
    made = (tmp_path / "runs/mini/sample/manifest.json").read_bytes()
    found = sweep("runs/mini", "--over", f"{PROSE}=0,1", "--seeds", 2)
    assert re.search(r"encode traces +up to date, skipped", found.stderr)
    assert (tmp_path / "runs/mini/sample/manifest.json").read_bytes() == made
    assert "answers_only" in RunDirectory.open(tmp_path / "runs/mini").recipe.arms


def test_an_evaluation_anew_is_said_to_be_newer(arms, recipe, tmp_path):
    root = tmp_path / "runs/mini-sweep"
    sweep(recipe, "--over", f"{PROSE}=0,1", "--seeds", 1)
    run = RunDirectory.open(root)
    arms.answer(run, "prose-1_seed-0", 3)
    assert CliRunner().invoke(cli.app, ["report", str(root)]).exit_code == 0
    assert "summed up: prose-1_seed-0; sweep again" in (root / "report/report.html").read_text()
    sweep(root)
    assert table_of(root)["settings"][1]["right"] == 3 / 40
    assert "sweep again" not in (root / "report/report.html").read_text()


def test_questions_without_a_gold_answer_count_for_nobody(tmp_path):
    """As in an arm's accuracy: no share of the sweep is another one."""
    columns = ("question_id", "gold", "answer", "correct", "verdict")
    rows = [("a", "7", "7", True, "right"), ("b", "7", None, False, ""), ("c", " ", "8", False, "cannot_tell")]
    rows = [dict(zip(columns, row, strict=True)) for row in rows]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "predictions.parquet")
    assert answers_in(tmp_path) == {"a": True, "b": False}


@pytest.mark.parametrize("text", ["{}", "[1]", '{"format": 99, "arms": []}', "{"])
def test_a_sweep_that_is_damaged_is_named(arms, recipe, tmp_path, text):
    root = tmp_path / "runs/mini-sweep"
    sweep(recipe, "--over", f"{PROSE}=0,1", "--seeds", 1)
    (root / "sweep.json").write_text(text)
    for words in (["report", str(root)], ["sweep", str(root)]):
        found = CliRunner().invoke(cli.app, words)
        assert found.exit_code == 2, found.output
        assert found.stderr.startswith(f"error: {root}/sweep.json: not ")
    sweep(recipe, "--over", f"{PROSE}=0,1", "--seeds", 1)
    assert [row["state"] for row in table_of(root)["arms"]] == ["done"] * 2


def test_predictions_that_are_damaged_are_named_and_made_again_as_it_says(arms, recipe, tmp_path):
    sweep(recipe, "--over", f"{PROSE}=0,1", "--seeds", 1)
    root = tmp_path / "runs/mini-sweep"
    directory = root / "arms/prose-0_seed-0/evaluate"
    (directory / "predictions.parquet").write_bytes(b"PAR1")
    found = sweep(root, code=2)
    assert found.stderr.splitlines()[-1].endswith(f"delete {directory}, and evaluate again")
    shutil.rmtree(directory)
    arms.started.clear()
    sweep(root)
    assert arms.started == ["prose-0_seed-0"]
    assert [row["state"] for row in table_of(root)["arms"]] == ["done"] * 2


def test_texts_of_the_recipe_are_escaped(arms, recipe, tmp_path):
    found = sweep(recipe, "--over", f"{PROSE}=0,1", "--over", "train.clip=1,2", "--seeds", 1)
    assert re.search(r"prose 0, clip 1 │ +prose 1, clip 1 │ +\+30", found.stdout)
    text = json.dumps(table_of(tmp_path / "runs/mini-sweep"))
    page = section({"sweep": {**json.loads(text.replace("clip", HOSTILE)), "stale": [HOSTILE]}})
    assert HOSTILE not in page
    assert page.count("&lt;script&gt;") > 12


def test_looking_first_writes_nothing(arms, recipe, tmp_path):
    words = (recipe, "--over", f"{PROSE}=0,1", "--over", "train.log_every=1,2", "--seeds", "4,9", "--dry-run")
    found = sweep(*words)
    assert not (tmp_path / "runs").exists()
    assert "8 arms: 4 setting(s) x 2 seed(s) (4, 9), in runs/mini-sweep" in found.stdout
    assert re.search(
        r"prose-0_log_every-1_seed-4 +to do +weighting\.weights\.prose=0, train\.log_every=1", found.stdout
    )
    assert re.search(r"encode +once for all arms\n  plan +2 times for 8 arms", found.stdout)
    assert "time: not known before a step was timed" in found.stdout
    assert "--over train.log_every: changes nothing that an arm reads" in found.stderr


def test_time_is_told_by_the_arms_that_have_finished_or_by_bench(arms, recipe, tmp_path):
    bench = tmp_path / "runs/mini/bench/traces"
    bench.mkdir(parents=True)
    cases = [{"setting": {"name": "other"}, "step_seconds": 9.0}, {"setting": {"name": "own"}, "step_seconds": 0.5}]
    (bench / "bench.json").write_text(json.dumps({"own": "own", "cases": cases}))
    words = (recipe, "--over", f"{PROSE}=0,1", "--seeds", 3)
    found = sweep(*words, "--dry-run", "--at-once", 2)
    assert "about 1m 00s for 240 steps of training at 0.5 s each (runs/mini/bench/traces/bench.json)" in found.stdout
    arms.codes["prose-1_seed-2"] = 4
    sweep(*words, code=4)
    for arm in arms.started[:-1]:
        (tmp_path / f"runs/mini-sweep/arms/{arm}/train/launch.json").write_text('{"seconds": 80}')
    found = sweep(*words, "--dry-run")
    assert "about 1m 20s for 40 steps of training at 2 s each (as the arms that have finished" in found.stdout
    assert found.stdout.count("up to date") >= 5


def test_many_arms_want_a_yes(arms, recipe, tmp_path, monkeypatch):
    arms.right = lambda own: 20
    monkeypatch.setattr(sweep_command, "MANY", 3)
    words = (recipe, "--over", "train.lr=1e-4,2e-4", "--seeds", 2)
    found = sweep(*words, code=2)
    assert "4 arms, more than 3: look at them with --dry-run, then add --yes" in found.stderr
    assert arms.started == []
    assert not (tmp_path / "runs").exists()
    sweep(*words, "--yes")
    assert len(arms.started) == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--over", "weighting.weights.prosse=1"), "did you mean 'prose'"),
        (("--over", "sample.samples=1,2"), "arms of a run share `sample`"),
        (("--over", f"{PROSE}=1", "--seeds", "x"), "expected how many, such as 3, or which"),
    ],
)
def test_bad_input_is_a_line(recipe, tmp_path, words, message):
    found = sweep(recipe, *words, code=2)
    (line,) = found.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not (tmp_path / "runs").exists()
