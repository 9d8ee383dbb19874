import itertools

import pytest
from fake_run import mini_recipe

from tracestill.launch.bench.search import (
    Axes,
    Setting,
    axes_of,
    beside,
    climb,
    everything,
    own_setting,
    recommend,
)
from tracestill.trainer.recipe.recipe import apply_setting, build

OWN = Setting(2, 1024, 8, False)
AXES = Axes((0, 1, 2, 3), (512, 1024, 2048, 4096), (False, True))


def result(speed, gib=1.0):
    return {"tokens_per_second": speed, "memory_gib": gib}


class Landscape:
    """Speeds by a formula, and which settings were measured."""

    def __init__(self, speed):
        self.speed, self.asked = speed, []

    def __call__(self, setting):
        assert setting not in self.asked, "measured twice"
        self.asked.append(setting)
        found = self.speed(setting)
        return found if isinstance(found, dict) else result(found)


def smooth(setting):
    """Best at ZeRO 1 and micro-steps of 2,048, without recomputing."""
    size = {512: 0.7, 1024: 0.9, 2048: 1.0, 4096: 0.8}[setting.capacity]
    return 1000 * size * {0: 0.9, 1: 1.0, 2: 0.95, 3: 0.7}[setting.zero] * (0.75 if setting.recompute else 1)


def best_of(seen):
    return max((s for s in seen if "problem" not in seen[s]), key=lambda s: seen[s]["tokens_per_second"])


def test_climbing_finds_the_best_of_a_landscape_without_measuring_all_of_it():
    few, all_of_it = Landscape(smooth), Landscape(smooth)
    seen, whole = climb(OWN, AXES, few), everything(OWN, AXES, all_of_it)
    assert best_of(seen) == best_of(whole) == Setting(1, 2048, 4, False)
    assert len(whole) == 32
    assert len(seen) < 16
    assert next(iter(seen)) == next(iter(whole)) == OWN


@pytest.mark.parametrize("start", [Setting(3, 4096, 2, True), Setting(0, 512, 16, False), Setting(2, 1024, 8, True)])
def test_climbing_reaches_it_from_elsewhere(start):
    assert best_of(climb(start, AXES, Landscape(smooth))) == Setting(1, 2048, 4, False)


def test_what_does_not_fit_is_tried_with_recomputation():
    def tight(setting):
        if setting.capacity > 1024 and not setting.recompute:
            return {"problem": "out of memory"}
        return 1000 * setting.capacity / 1024 * (0.8 if setting.recompute else 1)

    seen = climb(OWN, Axes((2,), (1024, 2048), (False, True)), Landscape(tight))
    assert best_of(seen) == Setting(2, 2048, 4, True)


def test_what_is_not_asked_for_is_not_measured_but_the_recipes_own_setting():
    landscape = Landscape(smooth)
    seen = climb(OWN, Axes((3,), (1024, 2048), (True,)), landscape)
    assert all((s.zero, s.recompute) == (3, True) for s in landscape.asked if s != OWN)
    assert set(seen) == {OWN, Setting(3, 1024, 8, True), Setting(3, 2048, 4, True)}


def test_nothing_larger_is_tried_than_what_is_out_of_memory_already():
    def tight(setting):
        return {"problem": "out of memory"} if setting.capacity > 512 and not setting.recompute else 1000.0

    landscape = Landscape(tight)
    climb(OWN, AXES, landscape)
    assert all(s.capacity <= 1024 or s.recompute for s in landscape.asked)


def test_what_is_recommended_can_be_said_on_the_command_line():
    recipe = mini_recipe(
        plan={"capacity": 256, "packs_per_step": 8, "group": 8}, arms={"short": {"train": {"zero": 1}}}
    )
    for arm in ("traces", "short"):
        own = own_setting(recipe.for_arm(arm))
        best = Setting(3, 512, 3, True)
        data = recipe.model_dump(mode="json")
        for option in best.as_options(own, "" if arm == "traces" else "arms.short."):
            data = apply_setting(data, option.removeprefix("--set "))
        assert own_setting(build(data, where="test").for_arm(arm)) == best


def test_noise_moves_nothing():
    noise = itertools.cycle((1000.0, 1015.0, 990.0))
    seen = climb(OWN, AXES, Landscape(lambda setting: next(noise)))
    assert recommend(OWN, seen)[0] == OWN


def test_axes_hold_the_longest_document_and_leave_every_rank_a_pack():
    recipe = mini_recipe(plan={"capacity": 256, "packs_per_step": 8})
    found = axes_of(recipe, longest=100, ranks=4)
    assert found.capacity == [128, 256, 512]
    assert found.zero == (0, 1, 2, 3)
    hosted = mini_recipe(
        train={"steps": 2, "offload": {"optimizer": "cpu"}}, plan={"capacity": 256, "packs_per_step": 8}
    )
    assert axes_of(hosted, longest=100, ranks=4).zero == (1, 2, 3), "those that can offload"
    assert found.recompute == [False, True]
    assert axes_of(recipe, longest=100, ranks=1).zero == (0, 1, 3), "on one rank 2 holds what 1 holds"
    found = axes_of(recipe, longest=200, ranks=64, zero=(1,), capacity=(256, 1024), recompute=True)
    assert found == Axes((1,), [256], [True]), "64 ranks need more packs than that, but the recipe's own stays"


def test_a_setting_says_how_it_differs_and_keeps_the_tokens_of_a_step():
    other = Setting(3, 2048, 4, True)
    assert OWN.as_options(OWN) == []
    assert other.as_options(OWN) == [
        "--set train.zero=3",
        "--set plan.capacity=2048",
        "--set plan.packs_per_step=4",
        "--set plan.group=0",
        "--set student.activation_checkpointing=true",
    ]
    assert other.changes()["plan"] == {"capacity": 2048, "packs_per_step": 4, "group": 0}
    assert own_setting(mini_recipe()) == Setting(2, 256, 2, False)
    assert [beside((1, 2, 4), v, way) for v, way in ((2, 1), (2, -1), (4, 1), (1, -1))] == [4, 1, None, None]


def test_the_recommendation_says_why():
    seen = {
        OWN: result(1000, 5.0),
        Setting(1, 1024, 8, False): result(1200, 9.0),
        Setting(3, 1024, 8, False): result(1190, 4.0),
        Setting(3, 2048, 4, False): {"problem": "out of memory"},
        Setting(3, 1024, 8, True): result(900, 2.0),
    }
    best, reasons = recommend(OWN, seen)
    assert best == Setting(3, 1024, 8, False), "as fast as the fastest, with less memory"
    text = "\n".join(reasons)
    assert "+19% tokens a second over the recipe's own setting" in text
    assert "as fast as zero1-8x1024 within 2%, with 4.0 GiB a rank, not 9.0" in text
    assert "recomputing layers: -24%" in text
    assert "micro-steps of 2048 tokens: out of memory" in text
    broken, reasons = recommend(OWN, {**seen, OWN: {"problem": "out of memory"}})
    assert broken == best
    assert "the recipe's own setting does not run: out of memory" in reasons


def test_the_recommendation_compares_only_what_there_is_to_compare():
    """One setting is not the fastest of anything, and what did not run was not slower."""
    tight = {"problem": "out of memory"}
    other = Setting(1, 1024, 8, False)
    assert recommend(OWN, {OWN: result(1000)}) == (
        OWN,
        ["nothing to compare it with: only the recipe's own setting was tried"],
    )
    (alone, *_) = recommend(OWN, {OWN: result(1000), other: tight})[1]
    assert alone == "nothing to compare it with: only the recipe's own setting ran (1 more did not run)"
    (first, *_) = recommend(OWN, {OWN: result(1000), other: result(900)})[1]
    assert first == "the recipe's own setting is the fastest of 2 that ran"
    (noise, *_) = recommend(OWN, {OWN: result(1000), other: result(1010)})[1]
    assert "as good as the fastest of 2 that ran: zero1-8x1024 was 1.0% faster, and less than 2% is noise" in noise
