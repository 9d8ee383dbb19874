"""Keys, values and seeds become arms of one run; what does not fit is named."""

import pytest
from fake_run import RECIPE, mini_recipe

from tracestill.data_pipeline.base.errors import InputError
from tracestill.launch.sweep.grid import (
    Grid,
    axes_of,
    comparisons,
    grown,
    make_grid,
    parse_axis,
    parse_seeds,
    without_effect,
)
from tracestill.launch.sweep.sweep import what_decides
from tracestill.trainer.recipe.recipe import Recipe, load_recipe
from tracestill.trainer.recipe.run_directory import RunDirectory


def made(*over: str, seeds: tuple[int, ...] = (0,), **changes: object) -> tuple[Grid, Recipe]:
    recipe = mini_recipe(**changes)
    return make_grid(recipe, axes_of(recipe, over), seeds)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("a.b=0,0.3,1", [0, 0.3, 1]),
        ("a.b=[1, 2],[3]", [[1, 2], [3]]),
        ("a.b=null,{x: 1, y: 2},'p,q'", [None, {"x": 1, "y": 2}, "p,q"]),
        ("a.b=dft,focal", ["dft", "focal"]),
        ("a.b=true", [True]),
        ("a.b=x=1", ["x=1"]),
    ],
)
def test_values_are_yaml_between_commas(text, values):
    assert list(parse_axis(text).values) == values


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train.lr", "expected KEY=VALUE,VALUE"),
        ("=1,2", "expected KEY=VALUE,VALUE"),
        ("train.lr=", "names no value"),
        ("train.lr=1,,2", r"--over train\.lr, line 1: not valid YAML"),
        ("train.lr=1],[2", r"--over train\.lr, line 1: not valid YAML"),
        ("train.lr=1,2,1", "the value 1 stands twice"),
        ('train.lr=1,"1"', "the value 1 stands twice"),
        ("rounds.count=1,2", r"share `rounds`; .*: tracestill rounds RECIPE --set rounds\.count=… --run-dir DIR"),
        ("arms.x.train.lr=1,2", "share `arms`; --over arm=NAME,NAME compares arms"),
        ("name=a,b", "share `name`; it changes nothing that is learnt"),
        ("seed=1,2", "give them as --seeds"),
        ("sample.samples=1,2", r"arms of a run share `sample`; .* --set sample\.samples=… --run-dir DIR"),
        ("questions.train=1,2", "arms of a run share `questions`"),
        ("weighting.options.api_key=sk-aB3dE5fG7hJ9kL1mN3pQ5rS7tU9vW1xY", r"--over: weighting\.options\.api_key"),
    ],
)
def test_what_is_no_axis_is_refused(text, message):
    with pytest.raises(InputError, match=message):
        parse_axis(text)


def test_seeds_are_a_number_or_a_list():
    assert parse_seeds("3", 5) == (5, 6, 7)
    assert parse_seeds("0,4,9", 5) == (0, 4, 9)
    for text in ("0", "x", "1,1", "-1", "1,", "²"):
        with pytest.raises(InputError, match="--seeds"):
            parse_seeds(text, 0)


def test_a_recipe_with_rounds_has_no_arms_to_sweep():
    with pytest.raises(InputError, match=r"this recipe has rounds, .* tracestill rounds RECIPE --set KEY=VALUE"):
        made("train.lr=1,2", rounds={"count": 1}, arms={})


def test_each_point_is_an_arm_with_its_values_and_seed():
    grid, recipe = made("weighting.weights.prose=0,0.3", "train.lr=3e-4,1e-3", seeds=(0, 7))
    assert [point.arm for point in grid.points][:3] == [
        "prose-0_lr-3e-4_seed-0",
        "prose-0_lr-3e-4_seed-7",
        "prose-0_lr-1e-3_seed-0",
    ]
    assert list(recipe.arms) == [point.arm for point in grid.points]
    own = recipe.for_arm("prose-0.3_lr-1e-3_seed-7")
    assert (own.weighting.weights["prose"], own.weighting.weights["prompt"], own.train.lr, own.seed) == (
        0.3,
        0,
        1e-3,
        7,
    )
    assert (own.train.steps, own.sample) == (40, recipe.sample)
    assert grid.settings[0] == "weighting.weights.prose=0, train.lr=3e-4"
    assert len(grid.settings) == 4


def test_names_stay_and_tell_values_apart():
    few, _ = made("train.eps=1e-8,1e-6", seeds=(0,))
    more, _ = made("train.eps=1e-9,1e-8,1e-6", seeds=(0, 1))
    assert {point.arm for point in few.points} < {point.arm for point in more.points}
    grid, _ = made("weighting.weights={prompt: 0},{prompt: 0.1},{prompt: 0, answer: 2}", "plan.order=random,length")
    names = [point.arm for point in grid.points]
    assert len(set(names)) == len(names) == 6
    two, _ = made("train.watchdog.step=60,600", "plan.mixture=null", "train.watchdog.save=90")
    assert two.points[0].arm == "step-60_mixture-null_save-90_seed-0"
    alike, _ = made("score.a.k=2", "score.b.k=4", score={n: {"model": "student", "channels": ["topk"]} for n in "ab"})
    assert alike.points[0].arm == "score.a.k-2_score.b.k-4_seed-0"


def test_items_of_a_list_are_reached_by_number():
    _, recipe = made("train.betas.1=0.9,0.99")
    assert [recipe.for_arm(arm).train.betas for arm in recipe.arms] == [(0.9, 0.9), (0.9, 0.99)]
    _, recipe = made("train.betas.0=0.5,0.6", "train.betas.1=0.7")
    assert recipe.for_arm("betas.0-0.5_betas.1-0.7_seed-0".replace("betas.", "")).train.betas == (0.5, 0.7)
    with pytest.raises(InputError, match=r"--over train\.betas\.2: '2' is no item of this list of 2"):
        made("train.betas.2=0.9")


def test_null_lists_and_whole_blocks_are_values():
    _, recipe = made("train.ema=null,0.99")
    assert [recipe.for_arm(arm).train.ema for arm in recipe.arms] == [None, 0.99]
    _, recipe = made("train=none,{steps: 9}")
    assert [recipe.for_arm(arm).train.steps for arm in recipe.arms] == [0, 9]


def test_arms_of_the_recipe_are_an_axis():
    arms = {"bare": {"encode": {"trace": "drop"}, "train": {"lr": 0.5}}}
    grid, recipe = made("arm=traces,bare", "train.lr=0.1,0.2", arms=arms)
    assert [point.arm for point in grid.points][2] == "bare_lr-0.1_seed-0"
    own = recipe.for_arm("bare_lr-0.1_seed-0")
    assert (own.encode.trace, own.train.lr) == ("drop", 0.1), "the grid's value stands above the arm's"
    assert "bare" not in recipe.arms
    assert [point.setting for point in made(arms=arms)[0].points] == ["arm=traces", "arm=bare"]
    with pytest.raises(InputError, match="no arm 'bear'; did you mean 'bare'"):
        made("arm=bear", arms=arms)
    with pytest.raises(InputError, match="this recipe has no arms to compare"):
        made(arms={})


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ("trian.lr=1", r"--over trian\.lr=1: unknown key 'trian'; did you mean 'train'"),
        ("train.lrr=1", r"--over train\.lrr=1: unknown key 'train\.lrr'; did you mean 'lr'"),
        ("weighting.weights.prosse=1", r"--over weighting\.weights\.prosse=1: .*did you mean 'prose'"),
        ("train.lr=0.1,-1", r"--over train\.lr=-1: train\.lr: .*greater than 0"),
        ("train.lr=abc", r"--over train\.lr=abc: train\.lr"),
        ("train.warmup=2,90", r"--over train\.warmup=90: .*must be smaller than train\.steps"),
    ],
)
def test_what_a_recipe_does_not_take_is_named_with_key_and_value(over, message):
    with pytest.raises(InputError, match=message):
        made(over)


def test_a_key_twice_is_refused():
    with pytest.raises(InputError, match=r"--over train\.lr: is given twice"):
        made("train.lr=1", "train.lr=2")


def test_keys_without_effect_are_said(tmp_path):
    def said(*over: str, **changes: object) -> list[str]:
        grid, recipe = made(*over, **changes)
        return without_effect(grid, what_decides(RunDirectory(tmp_path, recipe), grid.points))

    assert said("train.log_every=1,2,3", "train.lr=0.1,0.2") == [
        "train.log_every: changes nothing that an arm reads; all its values come to the same"
    ]
    (line,) = said("weighting.weights.prose=0,1,1.0,2")
    assert line == "weighting.weights.prose: 1 and 1.0 come to the same"
    for over in ("train.lr=1e-3,2e-3", "select.policy=strict,none", "encode.trace=keep,drop", "plan.capacity=256,512"):
        assert said(over) == [], over
    assert said("evaluate.max_new_tokens=64,128") == []


def test_a_grown_sweep_keeps_its_arms_in_front():
    _, few = made("train.lr=0.2", seeds=(0, 1))
    _, more = made("train.lr=0.1,0.2", seeds=(0, 1, 2))
    found = grown(few, more)
    assert list(found.arms)[:2] == ["lr-0.2_seed-0", "lr-0.2_seed-1"]
    assert found.arms.keys() == more.arms.keys()
    assert grown(None, more) is more
    other = few.model_copy(update={"arms": {"lr-0.2_seed-0": {"train": {"lr": 0.3}}}})
    with pytest.raises(InputError, match=r"arm lr-0\.2_seed-0: is another one"):
        grown(other, more)


def test_settings_are_compared_where_one_key_differs():
    grid, _ = made("train.lr=0.1,0.2", "train.clip=1,2", seeds=(0, 1))
    found = list(comparisons(grid))
    assert len(found) == 4
    assert ("train.clip", "train.lr=0.1, train.clip=1", "train.lr=0.1, train.clip=2") in found
    assert all(a.split(", ")[0] == b.split(", ")[0] or a.split(", ")[1] == b.split(", ")[1] for _, a, b in found)


def test_a_seed_of_an_arm_changes_packs_and_student_alone(tmp_path):
    run = RunDirectory(tmp_path, made("train.lr=0.1,0.2", seeds=(0, 1))[1])
    first, second, other = "lr-0.1_seed-0", "lr-0.1_seed-1", "lr-0.2_seed-1"
    for stage in ("sample", "select", "tokenizer", "encode"):
        assert run.stage(first, stage) == run.stage(second, stage), stage
    assert run.stage(first, "plan") != run.stage(second, "plan") == run.stage(other, "plan")
    assert (run.train_stage(first)[0]["seed"], run.train_stage(second)[0]["seed"]) == ({}, 1), "0 is the default"


def test_a_dumped_recipe_is_read_again(tmp_path):
    import yaml

    path = tmp_path / "mini.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    assert load_recipe(path, ["arms.a={seed: 3}"]).for_arm("a").seed == 3
