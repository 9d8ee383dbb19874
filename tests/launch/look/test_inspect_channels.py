"""A run whose weighting, plan and order read channels: its inputs, and what `inspect` and the plan's summary show."""

from __future__ import annotations

from io import StringIO

import numpy as np
import pytest
from fake_run import RECIPE, claim
from rich.console import Console
from scored_run import made_up, write_scores

from tracestill.data_pipeline.base.errors import InputError
from tracestill.launch.look.inspect_run import Shown, inspect_run
from tracestill.launch.run.stages import plan_works
from tracestill.trainer.recipe.recipe import build
from tracestill.trainer.weighting import make_weighting

SCORE = {
    "base": {"model": "student", "channels": ["nll", "rank"]},
    "ref": {"model": "student", "channels": ["influence"]},
}
RECIPE_OF = {
    **RECIPE,
    "questions": {**RECIPE["questions"], "train": 30},
    "score": SCORE,
    "plan": {**RECIPE["plan"], "keep": {"channel": "base.rank", "between": [0.1, 0.9]}},
    "weighting": {"use": "known", "options": {"share": 0.25}},
    "arms": {
        "critical": {"weighting": {"use": "critical", "options": {"channel": "ref.influence"}}},
        "plain": {"weighting": {"use": "span"}},
    },
}


def works(run, *stages):
    return [work for work in plan_works(run) if work.stage in stages]


def shown(run, arm="traces"):
    console = Console(file=StringIO(), width=200)
    inspect_run(run, arm, Shown(first=1), console)
    return console.file.getvalue()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    made = claim(tmp_path_factory.mktemp("channels") / "run", build(RECIPE_OF, where="channels"))
    for work in works(made, "sample", "select", "tokenizer", "encode"):
        work.spec.do(work, Console(quiet=True))
    assert "weights follow base.nll: run `tracestill score` first" in shown(made)
    (plan,) = [work for work in works(made, "plan") if work.arm == "traces"]
    with pytest.raises(InputError, match=r"base: holds no channels; run `tracestill score` first|has not finished"):
        plan.spec.do(plan, Console(quiet=True))
    write_scores(made, "traces", made_up)
    return made


def test_inspect_shows_the_weights_and_what_the_channel_did(run):
    text = shown(run)
    assert "weights follow" not in text
    line = next(line for line in text.splitlines() if line.startswith("base.nll, 'trace', the 25.0% with the largest"))
    assert "25.0% of" in line
    weights = [line.split() for line in text.splitlines() if line.startswith("derive ")]
    assert {words[1] for words in weights} >= {"0", "1"}
    assert "ref.influence, 'trace' above 0:" in shown(run, "critical")


def test_a_plan_says_what_it_left_out_and_follows_its_scorer_alone(run):
    (plan,) = [work for work in works(run, "plan") if work.arm == "traces"]
    plan.spec.do(plan, Console(quiet=True))
    assert plan.is_current()
    assert "; by mean of base.rank over trace:" in plan.summary()
    assert " outside of the band" in plan.summary()
    assert set(plan.inputs) == {"encode", "score/base"}
    assert "by mean of base.rank over trace:" in shown(run)

    def louder(store, document):
        found = made_up(store, document)
        return {**found, "influence": found["influence"] * 2}

    for name in ("ref", "base"):
        one = {name: run.recipe.score[name]}
        own = type(run)(run.root, run.recipe.model_copy(update={"score": one}))
        write_scores(own, "traces", louder if name == "ref" else made_up)
    assert plan.is_current(), "the other scorer is not read by it"


def test_training_follows_the_scorers_that_its_weighting_reads(run):
    inputs = {arm: set(run.train_stage(arm)[1]) - {"tokenizer", "encode", "plan"} for arm in run.recipe.arm_names()}
    assert inputs == {"traces": {"score/base"}, "critical": {"score/ref"}, "plain": set()}


def test_a_weighting_without_its_channels_says_what_to_do(run):
    recipe = run.recipe
    weighting = make_weighting(recipe.weighting, recipe.span_kinds())
    with pytest.raises(InputError, match=r"'base\.nll': nothing is known of 'base' yet; run `tracestill score RUN`"):
        weighting.by_kind(0)
    assert np.isfinite(weighting.kinds(0)).all(), "a recipe is checked without them"
