"""Weightings by name: their tables, token weights, schedules, and what is refused."""

import sys

import numpy as np
import pytest
from fake_run import RECIPE
from pydantic import ValidationError

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.trainer.recipe.recipe import build
from tracestill.trainer.weighting import (
    BUILT_IN,
    Document,
    Schedule,
    SpanWeighting,
    WeightingConfig,
    find,
    make_weighting,
    multiplied_kinds,
)
from tracestill.trainer.weighting.base import table_at, tokens_at

KINDS = Kinds()
SHARE = {"share": {"from": 0, "to": 1, "steps": 10}}
NEEDED = {"random_drop": {"keep": 0.5}, "steps_last_first": SHARE, "excess_loss": {"reference": "there", "share": 0.5}}
NEEDED["by_channel"] = {"channel": "base.nll", "share": 0.2}


def table(weights, kinds=KINDS, step=0, **more):
    values = make_weighting(WeightingConfig(weights=weights, **more), kinds).kinds(step)
    return dict(zip(kinds.names, values.tolist(), strict=True))


def document(kinds, steps=None, index=0):
    """A document of these kinds by name, and steps of its trace."""
    ids = np.array([KINDS.id(name) for name in kinds], np.uint8)
    steps = np.zeros(len(ids), np.uint16) if steps is None else np.array(steps, np.uint16)
    return Document(index, np.arange(len(ids), dtype=np.int32), ids, steps)


# Tables


def of_derive(value):
    """What a weight of ``derive`` comes to, where nothing below it is named."""
    return dict.fromkeys(("derive", "expression", "result", "statement"), value)


def test_the_most_specific_name_wins_at_every_depth():
    expected = dict.fromkeys(("answer", "control"), 1.0) | {"pad": 0, "prompt": 0, **of_derive(2)}
    expected |= {"plan": 0.5, "check": 0.5, "prose": 0.5, "result": 4}
    weights = {"result": 4, "derive": 2, "trace": 0.5, "prompt": 0}
    assert table(weights) == table(dict(reversed(weights.items()))) == expected
    kinds = Kinds.with_extra({"unit": "statement", "bare": "result"})
    assert table({"derive": 2, "statement": 3}, kinds)["unit"] == 3
    assert table({"derive": 2, "statement": 3}, kinds)["bare"] == 2
    assert kinds.members("derive") == ("derive", "expression", "result", "statement", "unit", "bare")


def test_a_kind_wins_over_its_group_in_any_order():
    expected = {"pad": 0, "prompt": 0, "plan": 2, "derive": 0.5, "check": 0.5, "prose": 0.5, "answer": 3, "control": 1}
    expected |= of_derive(0.5)
    assert table({"plan": 2, "trace": 0.5, "prompt": 0, "answer": 3}) == expected
    assert table({"answer": 3, "prompt": 0, "trace": 0.5, "plan": 2}) == expected


def test_padding_never_weighs():
    assert table({"pad": 5.0})["pad"] == 0.0


def test_a_kind_of_the_users_joins_the_trace():
    kinds = Kinds.with_extra({"quote": "trace", "aside": None})
    found = table({"trace": 0.25}, kinds)
    assert (found["quote"], found["aside"]) == (0.25, 1.0)
    masked = table({}, kinds, use="answer_only")
    assert (masked["quote"], masked["aside"]) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("use", "options", "expected"),
    [
        ("answer_only", {}, {"answer": 3, "control": 2}),
        ("trace_only", {}, {"plan": 0.5, **of_derive(0.25), "check": 0.5, "prose": 0.5, "control": 2}),
        (
            "prompt_loss",
            {"prompt": 0.125, "response": 0.5},
            {"prompt": 0.125, "plan": 0.25, "check": 0.25, "prose": 0.25, "answer": 1.5, "control": 1}
            | of_derive(0.125),
        ),
    ],
)
def test_weightings_that_are_a_table(use, options, expected):
    weights = {"prompt": 7, "trace": 0.5, "derive": 0.25, "answer": 3, "control": 2}
    assert table(weights, use=use, options=options) == {**dict.fromkeys(KINDS.names, 0.0), **expected}


@pytest.mark.parametrize("use", BUILT_IN)
def test_every_built_in_weighting_has_formula_and_options(use):
    found = make_weighting(WeightingConfig(use=use, options=NEEDED.get(use, {})), KINDS)
    assert table_at(found, 0, len(KINDS)).shape == (len(KINDS),)
    assert " = " in type(found).__doc__, "the formula"
    assert WeightingConfig.model_validate(use if use not in NEEDED else {"use": use, "options": NEEDED[use]}).use == use


# Schedules


def test_a_weight_may_be_a_schedule():
    falling = {"trace": {"from": 1, "to": 0.2, "steps": 300, "start": 100, "shape": "cosine"}}
    for step, expected in ((0, 1.0), (100, 1.0), (250, 0.6), (400, 0.2), (5000, 0.2)):
        assert table(falling, step=step)["derive"] == pytest.approx(expected, rel=1e-6)
    assert table(falling, step=175)["derive"] == pytest.approx(0.2 + 0.8 * (1 + np.sqrt(0.5)) / 2, rel=1e-6)


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        ({"shape": "constant", "from": 0.5}, {0: 0.5, 1000: 0.5}),
        ({"from": 0, "to": 1, "steps": 4}, {0: 0, 1: 0.25, 3: 0.75, 4: 1, 9: 1}),
        ({"shape": "piecewise", "points": [[2, 1.0], [4, 3.0], [5, 0.0]]}, {0: 1, 2: 1, 3: 2, 4: 3, 5: 0, 99: 0}),
        ({"shape": "piecewise", "points": [[3, 2.0]]}, {0: 2, 9: 2}),
    ],
)
def test_shapes_of_schedules(schedule, values):
    found = Schedule.model_validate(schedule)
    assert {step: found.value(step) for step in values} == values


def test_a_schedule_survives_the_resolved_recipe():
    config = WeightingConfig(
        use="steps_last_first", options=SHARE, weights={"trace": {"from": 1, "to": 0.2, "steps": 3}, "answer": 2}
    )
    assert WeightingConfig.model_validate(config.model_dump(mode="json")) == config


# Token weights


def test_steps_are_learnt_from_the_last_to_the_first():
    kinds = ["control", "prompt", "control", *["derive"] * 5, "check", "control", "answer", "control"]
    steps = [0, 0, 0, 0, 0, 1, 2, 2, 3, 0, 0, 0]
    weighting = make_weighting(WeightingConfig(use="steps_last_first", options=SHARE), KINDS)
    for step, first_learnt in ((0, 4), (1, 3), (5, 2), (6, 1), (8, 0), (10, 0)):
        inside = [kind in ("derive", "check") for kind in kinds]
        learnt = [not trace or s >= first_learnt for trace, s in zip(inside, steps, strict=True)]
        assert weighting.tokens(document(kinds, steps), step).tolist() == [float(flag) for flag in learnt], step
    without = document(["control", "prompt", "answer"])
    assert weighting.tokens(without, 0).tolist() == [1, 1, 1]


def test_rounding_does_not_add_a_step():
    weighting = make_weighting(WeightingConfig(use="steps_last_first", options={"share": 0.1}), KINDS)
    found = weighting.tokens(document(["derive"] * 30, range(30)), 0)
    assert found.sum() == 3, "0.1 * 30 is 3.0000000000000004"


def test_random_drop_is_a_function_of_seed_document_position_and_step():
    def drawn(seed=0, index=0, step=0, n=4000):
        weighting = make_weighting(WeightingConfig(use="random_drop", options={"keep": 0.3}), KINDS, seed)
        return weighting.tokens(document(["derive"] * n, index=index), step)

    one = drawn()
    assert set(one.tolist()) == {0.0, 1.0}
    assert np.array_equal(one, drawn())
    assert np.array_equal(one[:100], drawn(n=100)), "a token's fate does not depend on what follows it"
    spread = 4 * np.sqrt(0.3 * 0.7 / 4000)
    assert one.mean() == pytest.approx(0.3, abs=spread)
    for other in (drawn(seed=1), drawn(index=1), drawn(step=1), drawn(seed=2**40), np.roll(one, 1)):
        assert other.mean() == pytest.approx(0.3, abs=spread)
        both = (one * other).mean()  # independent: 0.09
        assert both == pytest.approx(0.09, abs=4 * np.sqrt(0.09 * 0.91 / 4000))
    swapped = drawn(index=3, step=5), drawn(index=5, step=3)
    assert not np.array_equal(*swapped)


def test_random_drop_touches_only_the_kinds_it_names():
    config = WeightingConfig(use="random_drop", options={"keep": 0.01, "kinds": ["plan", "answer"]})
    found = make_weighting(config, KINDS).tokens(document(["prompt", "derive", "control"] * 50 + ["plan"] * 50), 0)
    assert found[:150].all()
    assert found[150:].sum() < 10


# Faults


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use": "spann"}, "unknown weighting 'spann'; did you mean 'span'"),
        ({"use": "no_such_package.module:Mine"}, "cannot import 'no_such_package.module'.*PYTHONPATH"),
        ({"use": "tracestill.trainer.weighting:SpanWeightin"}, "has no 'SpanWeightin'; did you mean 'SpanWeighting'"),
        (
            {"use": "math:sqrt"},
            "math:sqrt is no weighting: expected a class below tracestill.trainer.weighting.SpanWeighting",
        ),
        ({"use": "a..b:Mine"}, "cannot import|is no module name"),
        ({"use": "focal", "options": {"gama": 1}}, "options.gama: unknown key; did you mean 'gamma'"),
        ({"use": "focal", "options": {"gamma": 0}}, "options.gamma: .*greater than 0"),
        ({"use": "dft", "options": {"exponent": "big"}}, "options.exponent: .*got 'big'"),
        ({"use": "dft", "options": {"kind": ["trace"]}}, "options.kind: unknown key; did you mean 'kinds'"),
        ({"use": "dft", "options": {"kinds": []}}, "options.kinds: .*at least 1 item"),
        ({"options": {"keep": 1}}, "options.keep: unknown key; none is known here"),
        ({"options": {"kinds": ["trace"]}}, "options.kinds: unknown key; none is known here"),
        ({"use": "random_drop"}, "options.keep: Field required"),
        ({"use": "steps_last_first", "options": {"share": {"from": 0, "to": 2, "steps": 3}}}, "reaches 2; expected at"),
        ({"use": "excess_loss", "options": {"reference": "x"}}, "exactly one of threshold and share"),
        ({"use": "excess_loss", "options": {"reference": "x", "share": 1, "threshold": 0}}, "exactly one"),
        (
            {"use": "excess_loss", "options": {"reference": "x", "channel": "a.nll", "share": 1}},
            "reference and channel",
        ),
        ({"use": "excess_loss", "options": {"threshold": 0, "control": True}}, "keeps depends on the student"),
        (
            {"use": "excess_loss", "options": {"reference": "x", "share": {"plan": 0.5}, "kinds": ["trace"]}},
            "share names plan, kinds trace; leave out kinds",
        ),
        ({"use": "excess_loss", "options": {"reference": "x", "share": {"plan": 1.5}}}, "share.plan reaches 1.5"),
        ({"weights": {"trace": -0.1}}, "weight of 'trace' is -0.1; expected a finite number >= 0"),
        ({"weights": {"trace": float("nan")}}, "expected a finite number >= 0"),
        ({"weights": {"trace": float("inf")}}, "expected a finite number >= 0"),
        ({"weights": {"trace": "much"}}, "weight of 'trace' is 'much'; expected a number >= 0 or a schedule"),
        ({"weights": {"trace": {"shpae": "linear"}}}, "weight of 'trace'.shpae: unknown key; did you mean 'shape'"),
        ({"weights": {"trace": {"from": 1, "to": 0}}}, "a linear schedule needs from, to, steps; missing: steps"),
        ({"weights": {"trace": {"shape": "constant", "from": 1, "to": 0}}}, "needs from; remove: to"),
        ({"weights": {"trace": {"from": -1, "to": 0, "steps": 2}}}, "trace'.from: .*greater than or equal to 0"),
        ({"weights": {"trace": {"shape": "piecewise", "points": [[4, 1], [2, 1]]}}}, "ascending steps"),
        ({"weights": {"trace": {"shape": "piecewise"}}}, "points belong to shape: piecewise"),
        ({"weights": {"trace": {"shape": "piecewise", "points": [[0, -1]]}}}, "finite values >= 0"),
        ({"normaliser": "mean"}, "'weights', 'tokens', 'spans' or 'examples'"),
    ],
)
def test_a_fault_of_the_config_is_named(changes, message):
    with pytest.raises(ValidationError, match=message):
        WeightingConfig.model_validate(changes)


@pytest.mark.parametrize(
    "config",
    [
        {"weights": {"derivee": 1.0}},
        {"use": "random_drop", "options": {"keep": 1, "kinds": ["derivee"]}},
        {"use": "dft", "options": {"kinds": ["answer", "derivee"]}},
    ],
)
def test_an_unknown_kind_is_refused_with_the_nearest(config):
    with pytest.raises(ValueError, match="unknown span kind or group 'derivee'; did you mean 'derive'"):
        make_weighting(WeightingConfig(**config), KINDS)


# Kinds that a multiplier multiplies


OWN = """
from pydantic import BaseModel
from tracestill.trainer.weighting import Weighting
class Halving(Weighting):
    def __init__(self, config, kinds, seed): pass
    def kinds(self, step): return [0, *[1] * 10]
    def dynamic(self, nll, p, entropy): return 0.5 * p
class Scaled(Halving):
    class Options(BaseModel, extra="forbid"):
        factor: float = 2.0
class Otherwise(Halving):
    class Options(BaseModel, extra="forbid"):
        kinds: int = 3
"""


def test_any_multiplier_may_be_told_its_kinds(tmp_path, monkeypatch):
    (tmp_path / "their_multipliers.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    for use in ("dft", "focal", "excess_loss", "their_multipliers:Halving", "their_multipliers:Scaled"):
        config = WeightingConfig(use=use, options={**NEEDED.get(use, {}), "kinds": ["trace", "control"]})
        expected = [name in ("plan", *of_derive(0), "check", "prose", "control") for name in KINDS.names]
        assert multiplied_kinds(config, KINDS).tolist() == expected, use
        assert multiplied_kinds(WeightingConfig(use=use, options=NEEDED.get(use, {})), KINDS) is None, "all"
        make_weighting(config, KINDS)
        assert WeightingConfig(**config.model_dump(mode="json")) == config
    assert WeightingConfig(use="their_multipliers:Scaled").options == {"factor": 2.0, "kinds": None}
    other = WeightingConfig(use="their_multipliers:Otherwise", options={"kinds": 4})
    assert multiplied_kinds(other, KINDS) is None, "an option of the same name is its own affair"


def test_kinds_of_no_multiplier_are_none():
    drop = WeightingConfig(use="random_drop", options={"keep": 0.5, "kinds": ["trace"]})
    assert multiplied_kinds(drop, KINDS) is None
    assert multiplied_kinds(WeightingConfig(), KINDS) is None


def test_the_kinds_that_are_multiplied_are_meant_to_be_told_apart():
    found = make_weighting(WeightingConfig(use="dft", options={"kinds": ["check"]}), KINDS)
    assert found.named() == ["check", "prompt"]
    assert make_weighting(WeightingConfig(use="dft"), KINDS).named() == ["prompt"]


class Bad(SpanWeighting):
    """Says what ``answer`` tells it to."""

    says = np.ones(11)

    def kinds(self, step):
        return self.says

    def tokens(self, document, step):
        return self.says


@pytest.mark.parametrize("says", [np.ones(7), -np.ones(11), np.full(11, np.nan), np.full(11, np.inf), np.ones((11, 1))])
def test_what_a_weighting_says_is_checked(says):
    weighting = Bad(WeightingConfig(), KINDS)
    weighting.says = says
    with pytest.raises(InputError, match=r"Bad.kinds\(3\).*expected"):
        table_at(weighting, 3, 11)
    with pytest.raises(InputError, match=r"Bad.tokens\(document 9, step 3\).*expected"):
        tokens_at(weighting, document(["derive"] * 11, index=9), 3)


def test_the_table_of_a_users_weighting_is_copied_and_pad_is_zero():
    weighting = Bad(WeightingConfig(), KINDS)
    assert table_at(weighting, 0, 11).tolist() == [0, *[1] * 10]
    assert weighting.says[0] == 1


def test_naming_a_weighting_imports_no_torch():
    import subprocess

    code = (
        "import sys\nfrom tracestill.data_pipeline.base.kinds import Kinds\n"
        "from tracestill.trainer.weighting import BUILT_IN, WeightingConfig, make_weighting\n"
        f"needed = {NEEDED!r}\n"
        "for use in BUILT_IN:\n"
        "    make_weighting(WeightingConfig(use=use, options=needed.get(use, {})), Kinds())\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_import_path_names_any_class(tmp_path, monkeypatch):
    kinds = "    def kinds(self, step):\n        return 1\n"
    (tmp_path / "their_weighting_module.py").write_text(
        f"from tracestill.trainer.weighting import Weighting\nclass Plain(Weighting):\n{kinds}"
        f"class Duck:\n{kinds}class Empty(Weighting):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert find("their_weighting_module:Plain").__name__ == "Plain"
    assert WeightingConfig(use="their_weighting_module:Plain").options == {}
    for name in ("Duck", "Empty", "Weighting"):
        with pytest.raises(InputError, match=f"{name} is no weighting: expected a class below .* with kinds"):
            find(f"their_weighting_module:{name}")
    with pytest.raises(InputError, match="has no 'Plan'; did you mean 'Plain'"):
        find("their_weighting_module:Plan")


def test_an_arm_that_uses_another_weighting_leaves_its_options_behind():
    arms = {
        "drop": {"weighting": {"use": "random_drop", "options": {"keep": 0.25}}},
        "plain": {"weighting": {"use": "span"}},
        "short": {"weighting": "dft"},
        "sharp": {"weighting": {"options": {"gamma": 5}}},
    }
    recipe = build({**RECIPE, "weighting": {"use": "focal", "weights": {"prompt": 0.5}}, "arms": arms}, where="test")
    found = {arm: recipe.for_arm(arm).weighting for arm in recipe.arm_names()}
    options = {arm: (config.use, config.options) for arm, config in found.items()}
    assert options == {
        "traces": ("focal", {"gamma": 2.0, "kinds": None}),
        "drop": ("random_drop", {"keep": 0.25, "kinds": ["trace"]}),
        "plain": ("span", {}),
        "short": ("dft", {"exponent": 1.0, "kinds": None}),
        "sharp": ("focal", {"gamma": 5.0, "kinds": None}),
    }
    assert found["drop"].weights == {"prompt": 0.5}, "weights are those of the recipe"


def test_a_fault_of_the_weighting_is_one_line_of_the_recipe():
    with pytest.raises(InputError) as error:
        build({**RECIPE, "weighting": {"use": "focal", "options": {"gama": 1}}}, where="mine.yaml")
    assert str(error.value) == "mine.yaml: weighting.options: options.gama: unknown key; did you mean 'gamma'?"
    with pytest.raises(
        InputError, match=r"mine.yaml: weighting: unknown span kind or group 'derivee'; did you mean 'derive'"
    ):
        build({**RECIPE, "weighting": {"weights": {"derivee": 1}}}, where="mine.yaml")
