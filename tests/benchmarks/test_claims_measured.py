"""benchmarks/claims.py: which arms are made, when they are made anew, and what is kept of them."""

import dataclasses
import json
import os
import signal
from argparse import Namespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fake_run import claim, mini_recipe, run_data_stages, write_train
from real_data import benchmark

from tracestill.data_pipeline.base.stage import stage
from tracestill.launch.run.stages import plan_works
from tracestill.trainer.recipe.recipe import load_recipe
from tracestill.trainer.recipe.run_directory import RunDirectory


def answer(run, arm, right):
    """An evaluation in miniature."""
    work = next(work for work in plan_works(run) if work.stage == "evaluate" and work.arm == arm)
    keys = ("question", "gold", "text", "trace", "answer", "read_by", "verdict")
    rows = [{"question_id": f"q{at}", "correct": bool(one), **dict.fromkeys(keys, "7")} for at, one in enumerate(right)]
    with stage(work.directory, "evaluate", work.config, work.inputs) as writing:
        (writing.path / "result.json").write_text(json.dumps({"accuracy": sum(right) / len(right)}))
        pq.write_table(pa.Table.from_pylist(rows), writing.path / "predictions.parquet")


@pytest.fixture
def wanted(tmp_path):
    return Namespace(runs=tmp_path, json=tmp_path / "claims.json", quick=False, at_once=1)


def test_what_came_of_an_arm_is_kept_once_it_is_evaluated(wanted, tmp_path, monkeypatch):
    run = claim(tmp_path / "few/seed-0", mini_recipe(arms={"traces_seed-0": {"seed": 3}, "other_seed-0": {"seed": 4}}))
    run_data_stages(run)
    write_train(run, "traces_seed-0")
    write_train(run, "other_seed-0")
    answer(run, "traces_seed-0", right=[0, 1, 1])
    with benchmark("claims") as script:
        held = script.read(wanted)
        made = {arm: script.about_arm(script.RUNS["few"], arm, wanted, 0) for arm in ("traces", "other")}
        before = {"traces": script.evaluated(run.root, "traces", 0)}
        script.keep(run.root, "few", 0, made, wanted, held, before)
        assert not held["runs"], "it was there before the sweep, which may be about to do it anew"
        script.keep(run.root, "few", 0, made, wanted, held, {})
        found = script.read(wanted)["runs"]["few"]
        assert list(found) == ["traces"]
        assert found["traces"]["0"]["right"] == "011"
        assert found["traces"]["0"]["steps"] == 40
        assert script.done(held, "few", "traces", 0)["settings"] == made["traces"]
        monkeypatch.setattr(script, "SMALL", [*script.SMALL, "train.lr=1e-3"])
        assert not script.read(wanted)["runs"], "of other settings"


def test_only_arms_that_are_missing_or_others_now_are_swept(wanted, monkeypatch):
    class Swept(Exception):
        pass

    def start(words, **more):
        raise Swept(words[words.index("--over") + 1])

    with benchmark("claims") as script:
        monkeypatch.setattr(script.subprocess, "Popen", start)
        held = {"runs": {}}
        for arm in ("traces", "unfiltered"):
            made = script.about_arm(script.RUNS["base"], arm, wanted, 1)
            held["runs"].setdefault("base", {})[arm] = {"1": {"settings": made}}
        assert script.sweep("base", ["traces", "unfiltered"], 1, wanted, held) == 0
        with pytest.raises(Swept, match=r"^arm=one_path$"):
            script.sweep("base", ["traces", "one_path"], 1, wanted, held)
        monkeypatch.setattr(script, "SMALL", [*script.SMALL, "train.lr=1e-3"])
        with pytest.raises(Swept, match=r"^arm=traces,unfiltered$"):
            script.sweep("base", ["traces", "unfiltered"], 1, wanted, held)


def test_an_arm_is_made_anew_after_its_recipe_or_its_teachers_program_changed(wanted, tmp_path, monkeypatch):
    with benchmark("claims") as script:
        runs, program = script.RUNS, tmp_path / script.TEACHER.name

        def made():
            script.recipe_in.cache_clear()
            return {name: script.about_arm(runs[name], "traces", wanted, 0) for name in ("base", "orders", "general")}

        before = made()
        program.write_text(script.TEACHER.read_text() + "# changed")
        monkeypatch.setattr(script, "TEACHER", program)
        after = made()
        assert [name for name in before if before[name] != after[name]] == ["orders"], "the others' is the demo's own"
        recipe = tmp_path / "demo.yaml"
        text = script.RECIPE.read_text().replace("schedule: cosine", "schedule: constant  # a note")
        recipe.write_text(text)
        monkeypatch.setattr(script, "RECIPE", recipe)
        monkeypatch.setitem(runs, "base", dataclasses.replace(runs["base"], recipe=recipe))
        changed = made()
        assert changed["base"] != after["base"]
        recipe.write_text(text.replace("# a note", "# another"))
        assert made() == changed, "words of a comment"


def test_who_begins_with_students_of_another_run_waits_for_them_and_is_made_anew_with_them(wanted, monkeypatch):
    class Swept(Exception):
        pass

    def start(words, **more):
        raise Swept(words)

    def swept(held):
        with pytest.raises(Swept) as raised:
            script.sweep("taught", ["near", "far"], 2, wanted, held)
        words = raised.value.args[0]
        return words[words.index("--over") + 1], {one.partition("=")[0]: one.partition("=")[2] for one in words}

    with benchmark("claims") as script:
        monkeypatch.setattr(script.subprocess, "Popen", start)
        bases, taught = script.RUNS["bases"], script.RUNS["taught"]
        done = {arm: {"2": {"settings": script.about_arm(bases, arm, wanted, 2)}} for arm in bases.arms}
        held = {"runs": {"bases": done}}
        assert swept(held)[0] == "arm=first,last", "measured, but their students are not here"
        for arm in bases.arms:
            script.export(taught, arm, wanted, 2).mkdir(parents=True)
        assert swept({"runs": {}})[0] == "arm=first,last", "left by other settings"
        arms, settings = swept(held)
        assert arms == "arm=near,far"
        first = wanted.runs / "bases/seed-2/arms/first_seed-2/train/export"
        assert json.loads(settings["encode.tokenizer"]) == {"path": str(first)}
        begun = {arm: of["student"]["pretrained"] for arm, of in json.loads(settings["arms"]).items()}
        assert begun["near"] == begun["near_unfiltered"] == str(first)
        assert begun["far"] == str(first).replace("first_", "last_")
        before = script.about_arm(taught, "near", wanted, 2)
        monkeypatch.setitem(script.RUNS, "bases", dataclasses.replace(bases, settings=[*bases.settings, "train.lr=1"]))
        assert script.about_arm(taught, "near", wanted, 2) != before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_who_is_asked_to_stop_asks_the_sweep_once_and_waits_until_it_has_saved(wanted, monkeypatch, number):
    class Sweeping:
        heard, looks, kind = [], 0, {}

        def __init__(self, words, **more):
            Sweeping.kind = more

        def poll(self):
            Sweeping.looks += 1
            if Sweeping.looks == 2:
                os.kill(os.getpid(), number)
            return None if Sweeping.looks < 5 else 3

        def send_signal(self, number):
            self.heard.append(number)

        def terminate(self):
            assert self.looks == 5, "while it saves"

        def wait(self):
            return 3

    def heard(number, frame):
        raise AssertionError("while it sweeps, this is the sweep's to hear")

    outside = signal.signal(number, heard)  # under nohup SIGHUP is ignored, and stays so
    try:
        with benchmark("claims") as script:
            monkeypatch.setattr(script, "POLL_SECONDS", 0.0)
            monkeypatch.setattr(script.subprocess, "Popen", Sweeping)
            assert script.sweep("few", ["traces"], 0, wanted, {"runs": {}}) == 3
            assert signal.getsignal(number) is heard
    finally:
        signal.signal(number, outside)
    assert Sweeping.heard == [number]
    assert Sweeping.kind["start_new_session"], "a terminal's Ctrl-C would be a second one"


def test_ties_of_votes_count_by_chance():
    with benchmark("claims") as script:
        rows = [("a", 0), ("a", 0), ("a", 1), ("b", 0), ("b", 1), ("b", -1), ("c", 2), ("c", 2), ("c", 0), ("d", -1)]
        found = script.majorities([{"question_id": name, "vote": vote} for name, vote in rows])
    assert found == {"a": 1.0, "b": 0.5, "c": 0.0, "d": 0.0}


def test_an_evaluation_with_other_settings_is_never_kept_as_one_with_these(wanted, tmp_path, monkeypatch):
    """The sweep is slow to begin: until it does the arm anew, the old result lies where the new one will."""
    root = tmp_path / "few/seed-0"
    run = claim(root, mini_recipe(arms={"traces_seed-0": {"seed": 3}}))
    run_data_stages(run)
    write_train(run, "traces_seed-0")
    answer(run, "traces_seed-0", right=[0, 0, 1])

    class Sweeping:
        looks, code = 0, 0

        def __init__(self, words, **more):
            pass

        def poll(self):
            self.looks += 1
            if self.looks == 2 and self.code == 0:
                answer(RunDirectory.open(root), "traces_seed-0", right=[1, 1, 1])
            return None if self.looks < 3 else self.code

        def terminate(self):
            pass

        def wait(self):
            return self.code

    with benchmark("claims") as script:
        monkeypatch.setattr(script, "POLL_SECONDS", 0.0)
        monkeypatch.setattr(script.subprocess, "Popen", Sweeping)
        held = script.read(wanted)
        monkeypatch.setattr(Sweeping, "code", 4)
        assert script.sweep("few", ["traces"], 0, wanted, held) == 4
        assert not held["runs"], "the sweep failed before it came so far"
        monkeypatch.setattr(Sweeping, "code", 0)
        assert script.sweep("few", ["traces"], 0, wanted, held) == 0
        assert script.done(held, "few", "traces", 0)["right"] == "111"


def test_a_real_run_reads_no_files_but_those_it_is_given(wanted, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wanted.data, wanted.student = tmp_path / "given", tmp_path / "given/student"
    with benchmark("claims") as script:
        run = script.RUNS["general"]
        found = load_recipe(run.recipe, [*script.settings_of(run, wanted, 0), *script.places_of(run, wanted, 0)])
    assert found.evaluate.also == {}, "recipes/gsm8k.yaml asks files that --data need not hold"
    places = [found.questions.source, *(each.path for each in found.questions.all_files()), found.student.pretrained]
    places += [found.encode.tokenizer.path, found.evaluate.general.source]
    assert all(str(place).startswith(f"{tmp_path}/") for place in places)


def test_a_quick_look_has_one_seed_fewer_questions_and_a_file_of_its_own(tmp_path, monkeypatch, capsys):
    swept = []

    def sweep(name, arms, seed, wanted, held):
        swept.append((name, seed, wanted.json))
        run = script.RUNS[name]
        found = load_recipe(run.recipe, script.settings_of(run, wanted, seed))
        assert (found.questions.train, found.train.steps, found.seed) == (60, 10, 4)
        return 0

    with benchmark("claims") as script:
        monkeypatch.setattr(script, "sweep", sweep)
        monkeypatch.setattr(script.sys, "argv", ["claims.py", "--runs", str(tmp_path), "--quick", "--parts", "paths"])
        monkeypatch.setattr(script.sys, "argv", [*script.sys.argv, "--seeds", "4", "5"])
        assert script.main() == 0
    assert swept == [(name, 4, tmp_path / "claims.json") for name in ("base", "few")]
    assert "two paths minus one" in capsys.readouterr().out
