"""benchmarks/claims.py: verdicts follow from numbers, the page from results, and claims from arms that there are."""

import dataclasses
import json
import os
import random
import signal
from argparse import Namespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from doc_pages import ROOT
from fake_run import claim, mini_recipe, run_data_stages, write_train
from real_data import benchmark

from tracestill.data_pipeline.base.stage import stage
from tracestill.data_pipeline.sampling.teachers.digit_sum import pose
from tracestill.data_pipeline.soundness import equations
from tracestill.launch.run.stages import plan_works
from tracestill.trainer.recipe.recipe import load_recipe
from tracestill.trainer.recipe.run_directory import RunDirectory

PAGE = ROOT / "docs/claims.md"


@pytest.fixture(scope="module")
def table():
    with benchmark("claims_table") as script:
        yield script


@pytest.fixture(scope="module")
def claims():
    with benchmark("claims_list") as script:
        yield script


@pytest.fixture(scope="module")
def runs():
    with benchmark("claims_runs") as script:
        yield script


def results(table, **arms):
    """Results of arms of a run ``r``: seed by seed, so many of 100 questions right, the same ones first."""
    own = {
        name: {
            str(seed): {
                "questions": f"draw {seed}",
                "right": table.told(at < right for at in range(100)),
                **{"share": right / 100, "rows": 300, "steps": 9, "tokens": 900, "forms": {}},
            }
            for seed, right in enumerate(shares)
        }
        for name, shares in arms.items()
    }
    return table.Results({"runs": {"r": own}})


def test_arms_of_another_benchmark_are_paired_by_question(table):
    """Right on other questions, or on the same ones: the shares are alike, and what is said of them is not."""
    one, other = "1" * 50 + "0" * 50, "0" * 50 + "1" * 50
    rows = [{"seed": seed, "right": {"a": one, "b": other, "c": one[:-1] + "1"}} for seed in range(3)]
    held = table.Results({"runs": {}}, {"distil": {"by_seed": rows}})
    apart, near = (table.kept("distil", arm, "a")(held) for arm in ("b", "c"))
    assert (apart.mean, near.mean) == (0, pytest.approx(0.01))
    assert apart.interval[1] - apart.interval[0] > 10 * (near.interval[1] - near.interval[0])
    assert table.kept("distil", "a", "none")(held) is table.kept("scores", "a", "b")(held) is None


@pytest.mark.parametrize(
    ("interval", "slack", "verdict"),
    [
        ((0.01, 0.2), 0, "supported"),
        ((-0.2, -0.01), 0, "contradicted"),
        ((-0.01, 0.2), 0, "not told apart"),
        ((0.0, 0.2), 0, "not told apart"),
        ((-0.2, 0.0), 0, "not told apart"),
        ((-0.04, 0.03), 0.05, "supported"),
        ((-0.2, -0.06), 0.05, "contradicted"),
        ((-0.2, -0.04), 0.05, "not told apart"),
        (None, 0, "not measured"),
    ],
)
def test_a_verdict_is_where_the_whole_interval_lies(table, interval, slack, verdict):
    assert table.verdict_of(interval, slack) == verdict


@pytest.mark.parametrize(
    ("a", "b", "verdict"),
    [
        ((40, 42, 38), (70, 71, 69), "supported"),
        ((70, 71, 69), (40, 42, 38), "contradicted"),
        ((40, 42, 38), (95, 41, 39), "not told apart"),  # many questions, of one seed alone
        ((40, 40, 40), (40, 40, 40), "not told apart"),
        ((40,), (90,), "not measured"),  # one seed tells of no other
    ],
)
def test_two_arms_are_told_apart_by_seeds_and_questions(table, a, b, verdict):
    claim = table.Claim(1, "b minus a", table.arms("r/b", "r/a"))
    assert claim.verdict(results(table, a=a, b=b)) == verdict


def test_an_interaction_is_a_difference_of_differences(table):
    found = results(table, a=(40, 42, 38), b=(50, 52, 48), c=(40, 42, 38), d=(70, 72, 68))
    gain = table.interaction(("r/d", "r/c"), ("r/b", "r/a"))(found)
    assert gain.by_seed == pytest.approx([0.2] * 3)
    assert (gain.first, gain.second) == (pytest.approx(0.1), pytest.approx(0.3))
    half = 1.96 * (0.2 * 0.8 / 299) ** 0.5  # of 300 questions, 60 of which differ by one
    assert gain.interval == (pytest.approx(0.2 - half, abs=1e-5), pytest.approx(0.2 + half, abs=1e-5))
    found.own["runs"]["r"]["d"]["0"]["questions"] = "another draw"
    assert table.interaction(("r/d", "r/c"), ("r/b", "r/a"))(found) is None


def test_students_of_other_questions_are_not_compared(table):
    found = results(table, a=(40, 42, 38), b=(70, 71, 69))
    for seed, row in found.own["runs"]["r"]["b"].items():
        row["questions"] = f"another draw {seed}"
    assert table.arms("r/b", "r/a")(found) is None


def test_an_interval_of_shares_is_no_narrower_than_either_source_of_chance(table):
    alike = table.by_seed([(150, 300)] * 3, [(160, 300)] * 3)  # seeds agree wholly: what is left are the questions
    half = 1.96 * (0.5 * 0.5 / 900 + 0.533 * 0.467 / 900) ** 0.5
    assert alike.interval[0] == pytest.approx(1 / 30 - half, abs=2e-3)
    apart = table.by_seed([(150, 300)] * 3, [(180, 300), (150, 300), (165, 300)])
    assert apart.interval[1] == pytest.approx(0.05 + 4.303 * 0.05 / 3**0.5, abs=1e-3)  # t of two degrees of freedom


def test_a_gain_by_votes_is_over_the_greedy_answer(table):
    found = results(table, a=(40, 40, 40))
    for row in found.own["runs"]["r"]["a"].values():
        row["majority"] = " ".join(["1"] * 60 + ["0.5"] * 20 + ["0"] * 20)
    gain = table.votes("r/a")(found)
    assert gain.by_seed == pytest.approx([0.3] * 3)
    assert gain.interval[0] > 0.2


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


def test_the_page_is_what_the_tool_makes_of_the_results(table):
    with benchmark("claims_page") as script:
        assert PAGE.read_text(encoding="utf-8") == script.page(table.Results.read(table.RESULTS))


def test_a_claim_that_fails_stands_on_the_page(table, claims):
    with benchmark("claims_page") as script:
        found = results(table, one_order=(40, 42, 38), two_orders=(90, 91, 92))
        text = script.page(table.Results({"runs": {"orders": found.own["runs"]["r"]}}))
    contradicts = text.partition("## Where it contradicts")[2].partition("\n## ")[0]
    assert "one order minus two opposite ones: -51.0 points" in contradicts
    assert "| 40.0 %, 91.0 % | -51.0" in text


def test_the_page_has_what_each_arm_answers_in_other_forms(table):
    found = results(table, one_order=(40, 42, 38), two_orders=(90, 91, 92))
    for seed, row in found.own["runs"]["r"]["one_order"].items():
        forms = {"held_out/plain": [40, 100], "held_out/digits": [10, 100], "modulo_9/plain": [int(seed), 100]}
        row["forms"] = forms if seed != "2" else {"held_out/digits": [10, 100]}
    with benchmark("claims_page") as script:
        text = script.page(table.Results({"runs": {"orders": found.own["runs"]["r"]}}))
        none = script.page(results(table, one_order=(40,)))
    rows = text.partition("## In other forms")[2].splitlines()
    assert [line for line in rows if line.startswith("| ")] == [
        "| run, arm | digits | modulo 9 |",
        "| `orders`, `one_order` | 10 % [7 %, 14 %] | 0 % [0 %, 7 %] |",  # Wilson's of 300; Student's t of two seeds
    ]
    assert "In other forms" not in none


def test_the_page_says_what_the_results_were_measured_with(table):
    settings = ["questions.options.digits=9", "questions.train=8", "questions.test=7", "train.steps=6"]
    with benchmark("claims_page") as script:
        text = script.page(table.Results({"runs": {}, "settings": [*settings, "plan.capacity=5"]}))
    assert "**Steps**: 6 for every arm, each one full pack of 5 tokens" in " ".join(text.split())


def test_texts_of_its_own_are_compared_with_any_arm(table):
    runs = [{"right": {"own": "1110", "traces": "1100", "equal": "1000"}} for _ in range(2)]
    held = table.Results({"runs": {}}, {"on_policy": {"runs": runs}})
    assert [table.own_texts("own", arm)(held).mean for arm in ("traces", "equal")] == [0.25, 0.5]
    assert table.own_texts("own", "none")(held) is None, "not measured"


def test_the_page_says_how_many_arms_lack_seeds(table, runs):
    arms = {(run, arm) for _, of in runs.PARTS.values() for run, named in of for arm in named}
    found = results(table, one_order=(40, 42, 38), two_orders=(90,))
    with benchmark("claims_page") as script:
        text = script.page(table.Results({"runs": {"orders": found.own["runs"]["r"]}}))
    assert f"of the {len(arms)} arms\n  1 have all three so far, and 1 fewer" in text


def test_every_arm_of_a_claim_is_one_that_a_part_trains(claims, runs, table):
    class Seen(table.Results):
        def arm(self, path):
            asked.add(path)
            return {}

    asked = set()
    for each in claims.CLAIMS:
        each.found(Seen({"runs": {}}))
    trained = {f"{run}/{arm}" for _, of in runs.PARTS.values() for run, arms in of for arm in arms}
    assert asked == trained
    assert {each.claim for each in claims.CLAIMS} == set(claims.HEADS) == set(range(1, 12))


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


def test_recipes_of_all_arms_are_recipes(runs, tmp_path):
    for name, run in runs.RUNS.items():
        recipe = tmp_path / run.recipe.name
        recipe.write_text(run.recipe.read_text(encoding="utf-8"), encoding="utf-8")
        (tmp_path / "claims_teacher.py").write_bytes((ROOT / "benchmarks/claims_teacher.py").read_bytes())
        small = runs.SMALL if run.recipe == runs.RECIPE else []
        found = load_recipe(recipe, [*small, *run.settings, f"arms={json.dumps(run.arms)}"])
        trained = {arm for _, of in runs.PARTS.values() for of_run, arms in of if of_run == name for arm in arms}
        trained |= {*run.arms} if name in {one.students for one in runs.RUNS.values()} else set()
        steps = {found.for_arm(arm).train.steps for arm in trained}
        assert len(steps) == 1, name
        assert trained <= {runs.MAIN, *run.arms}


def test_the_teachers_own_slips_cancel_and_its_orders_are_opposite():
    with benchmark("claims_teacher") as script:
        question = pose((7, 4, 9, 3), 10, "train")
        slips = script.Teacher(script.TeacherOptions(cancels=1.0))
        said = slips.solve(question, style="", temperature=1.0, seed=random.Random(1).randrange(9))
        assert said.answer == question.gold
        assert sum(not one.holds for one in equations(said.trace)) == 3
        right = script.Teacher(script.TeacherOptions())
        traces = [right.solve(question, style=style, temperature=1.0, seed=3) for style in (script.FIRST, script.LAST)]
        assert [one.trace.split(".")[0] for one in traces] == ["Order 7,4,9,3", "Order 3,9,4,7"]
        assert all(one.holds for each in traces for one in equations(each.trace))
