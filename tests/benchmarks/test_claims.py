"""benchmarks/claims.py: verdicts follow from numbers, the page from results, and claims from arms that there are."""

import json
import random

import pytest
from doc_pages import ROOT
from real_data import benchmark

from tracestill.data_pipeline.sampling.teachers.digit_sum import pose
from tracestill.data_pipeline.soundness import equations
from tracestill.trainer.recipe.recipe import load_recipe

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
    found = results(table, one_order=(40, 42, 38, 41, 40), two_orders=(90,))
    with benchmark("claims_page") as script:
        text = script.page(table.Results({"runs": {"orders": found.own["runs"]["r"]}}))
    assert f"of the {len(arms)} arms\n  1 have all of them so far, and 1 fewer" in text


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
