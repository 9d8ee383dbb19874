"""docs/weighting.md is true: its code runs, its recipe trains on what it says, its figures are what comes out."""

import re
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from fake_run import RECIPE, claim, run_data_stages
from normaliser_cases import weights_of
from pydantic import BaseModel

from tracestill.data_pipeline.plan.plan import load_plan
from tracestill.data_pipeline.tokens.store import TokenStore
from tracestill.trainer.batches.batches import Batches
from tracestill.trainer.recipe.recipe import build
from tracestill.trainer.weighting import BUILT_IN, Schedule, find, make_weighting

PAGE = Path(__file__).parents[3] / "docs" / "weighting.md"


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    _, module, _ = blocks("python")
    (tmp_path / "my_pkg").mkdir()
    (tmp_path / "my_pkg" / "weights.py").write_text(module)
    monkeypatch.syspath_prepend(tmp_path)
    (text,) = blocks("yaml")
    return build({**RECIPE, **yaml.safe_load(text)}, where="docs/weighting.md")


def test_the_example_trains_on_what_it_says(recipe, tmp_path):
    run = claim(tmp_path / "run", recipe)
    run_data_stages(run)
    kinds = recipe.span_kinds()
    store = TokenStore(run.stage("traces", "encode") / "tokens.arrow", kinds)
    reduce = kinds.id("reduce")
    assert (store.counts[:, reduce] > 0).all(), "every trace takes a remainder"
    weighting = make_weighting(recipe.weighting, kinds, recipe.seed)
    batches = Batches(
        store,
        lambda epoch: load_plan(run.stage("traces", "plan") / "epoch-000"),
        weighting,
        normaliser=recipe.weighting.normaliser,
        rank=0,
        ranks=1,
        pad_id=0,
        device=torch.device("cpu"),
    )
    step = batches.step(0)
    share = np.zeros(len(kinds))
    for micro in step.micro:
        np.add.at(share, micro.packed.kinds.numpy(), weights_of(micro))
    named = dict(zip(kinds.names, share / share.sum(), strict=True))
    assert named["prompt"] == 0
    assert named["reduce"] == pytest.approx(2 * named["derive"], rel=1e-5), "kinds count as their weights say"
    assert named["prose"] == pytest.approx(named["answer"], rel=1e-5)
    assert weighting.kinds(300)[kinds.id("prose")] == 0, "faded out"
    first = int(step.micro[0].documents[0])
    weight = step.micro[0].packed.loss_weight[: int(store.lengths[first]) - 1].numpy()
    at = np.flatnonzero(store.kinds(first)[1:] == reduce)
    assert weight[at[0]] / weight[at[-1]] == pytest.approx((32 + at[-1] + 1) / (32 + at[0] + 1), rel=1e-5), "half = 32"


def test_the_multiplier_of_the_example_runs(recipe):
    of = find("my_pkg.weights:Uncertain")(recipe.weighting.model_copy(update={"options": {}}), recipe.span_kinds())
    entropy = torch.tensor([0.0, 1.0])
    assert torch.equal(of.dynamic(entropy, entropy, entropy), 1 - torch.exp(-entropy))


def test_a_wrong_option_of_the_example_is_named(recipe):
    wrong = {**recipe.weighting.model_dump(mode="json"), "options": {"haf": 3}}
    with pytest.raises(ValueError, match=r"options\.haf: unknown key; did you mean 'half'"):
        build({**RECIPE, "kinds": {"reduce": "trace"}, "weighting": wrong}, where="docs/weighting.md")


def test_the_example_of_a_function_weighs_records(tmp_path):
    code, *_ = blocks("python")
    (tmp_path / "my_module.py").write_text(code)
    names = runpy.run_path(str(tmp_path / "my_module.py"))
    records = [SimpleNamespace(weight=2.0, trace="x" * n) for n in (10, 40)]
    assert names["surest"](records) == [2.0, 0.5]


def test_the_worked_example_of_normalisers():
    *_, code = blocks("python")
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    (expected,) = blocks("text")
    assert printed == expected


def test_tables_name_everything_there_is():
    text = PAGE.read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)`[^|]*\| ([^|]*)\|", text, re.M))
    for use in BUILT_IN:
        options: type[BaseModel] = find(use).Options
        told = rows["by_channel"] if rows[use].startswith("as `by_channel`") else rows[use]
        assert set(re.findall(r"`(\w+)`", told)) == set(options.model_fields), use
    assert set(Schedule.model_fields["shape"].annotation.__args__) <= rows.keys()
