"""benchmarks/distil.py: differences by answers, and what a file holds of arms that were not measured again."""

import pytest
from real_data import benchmark

from tracestill.trainer.recipe.recipe import MAIN_ARM


@pytest.fixture(scope="module")
def distil():
    with benchmark("distil") as script:
        yield script


def row(seed, **right):
    return {"seed": seed, "right": right, "about": {arm: {"steps": 9, "plan": ["a"]} for arm in right}}


def test_differences_are_taken_question_by_question(distil):
    made = [row(seed, label_only="1100", jsd_answer="1111", answer_weight="1110") for seed in (0, 1)]
    found = distil.summary(made)
    assert found["jsd_answer"]["minus_label"]["mean"] == 0.5
    assert found["jsd_answer"]["minus_answer_weight"]["by_seed"] == [0.25, 0.25]
    assert "minus_label" not in found["label_only"]
    assert list(found) == ["label_only", "jsd_answer", "answer_weight"]


def test_arms_of_the_file_stand_beside_those_measured_now(distil):
    held = {"by_seed": [row(0, label_only="10", jsd="11"), row(1, label_only="01", jsd="11")]}
    made = distil.joined([row(0, jsd="00"), row(1, jsd="00")], held)
    assert distil.summary(made)["jsd"]["minus_label"]["mean"] == -0.5
    assert all(one["holds"] for one in distil.claims_of(made))
    made[0]["about"]["jsd"]["steps"] = 8
    assert [one["name"] for one in distil.claims_of(made) if not one["holds"]] == ["most over fewest steps of an arm"]


def test_each_divergence_has_an_arm_by_kind(distil):
    of_kinds = {*distil.ANSWERS.values(), *distil.TRACES.values()}
    assert {MAIN_ARM, "reverse", "jsd", "answer_weight", *of_kinds} <= {*distil.EVERY}
    for how, arm in distil.ANSWERS.items():
        assert distil.ARMS[arm] == {"distil": {"divergence": how, "weight": {"trace": 0}}}
