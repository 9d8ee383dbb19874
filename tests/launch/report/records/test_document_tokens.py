"""Training documents token by token: the weights that training uses, and what scorers said of each token."""

from __future__ import annotations

import re
import shutil
from io import StringIO

import numpy as np
import pytest
from fake_run import RECIPE, claim, gathered
from rich.console import Console
from scored_run import made_up, write_scores

from tracestill.data_pipeline.base.stage import read_manifest
from tracestill.data_pipeline.tokens.store import TokenStore
from tracestill.launch.look.inspect_run import Shown, inspect_run
from tracestill.launch.report.records import documents as module
from tracestill.launch.report.records.documents import documents
from tracestill.launch.run.stages import plan_works
from tracestill.trainer.recipe.recipe import build
from tracestill.trainer.recipe.run_directory import open_channels

WEIGHTS = {"prompt": 0, "plan": 0.5, "derive": 2, "check": 3, "answer": 1.5}
OF_KIND = {**WEIGHTS, "expression": 2, "result": 2, "statement": 2}  # and 1 for the others
RECIPE_OF = {
    **RECIPE,
    "questions": {**RECIPE["questions"], "train": 20},
    "sample": {"teachers": [{"name": "solver", "options": {"error_rate": 0.3}}], "samples": 3},
    "select": {"policy": "none", "weight": "per_question"},
    "score": {"base": {"model": "student", "channels": ["nll", "influence"]}},
    "weighting": {"weights": WEIGHTS},
    "arms": {
        "sure": {"weighting": {"use": "known", "options": {"share": 0.25}}},
        "short": {"encode": {"trace": "drop"}},
    },
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    made = claim(tmp_path_factory.mktemp("tokens") / "run", build(RECIPE_OF, where="tokens"))
    for work in plan_works(made):
        if work.stage in ("sample", "select", "tokenizer", "encode"):
            work.spec.do(work, Console(quiet=True))
    write_scores(made, "traces", made_up)
    return made


def test_numbers_are_those_of_the_weighting_and_of_the_channels(run):
    shared, short = documents(run, gathered(run))
    assert shared["arms"] == ["traces", "sure"]
    assert [name for name, *_ in shared["channels"]] == ["base.nll", "base.influence"]
    assert shared["unknown"] == {}
    assert shared["weighs"] == [0, 1]
    store = TokenStore(run.stage("traces", "encode") / "tokens.arrow")
    channels = open_channels(run, "traces", store)
    assert len(shared["documents"]) == min(len(store), module.COLOURED // 2)
    for one in shared["documents"]:
        at = one["number"]
        names = [store.kind_names[kind] for kind in store.kinds(at)]
        assert [shared["kinds"][kind][0] for kind in one["kinds"]] == names
        record = 1 / store.question_ids.count(store.question_ids[at])
        assert one["record_weight"] == pytest.approx(record)
        expected = np.array([record * OF_KIND.get(name, 1) for name in names])
        expected[0] = 0
        np.testing.assert_allclose(np.array(one["weights"][0], float), expected, rtol=1e-5)
        nll = channels["base"].of("nll", at).astype(np.float64)
        assert one["values"][0][0] is None, "nothing predicts the first token"
        np.testing.assert_allclose(np.array(one["values"][0][1:], float), nll[1:], rtol=1e-5)
        influence, steps = channels["base"].of("influence", at), store.steps(at)
        for token, name in enumerate(names):
            inside = name in ("plan", "derive", "expression", "result", "statement", "check", "prose")
            value = one["values"][1][token]
            assert value == pytest.approx(float(influence[steps[token]]), rel=1e-5) if inside else value is None
        shown = "".join(text for text in one["tokens"] if text != "‥")
        assert one["question"] in shown
    assert short["channels"] == []
    assert short["arms"] == ["short"]


def inspected(run, arm, document, kinds):
    """Kind and weight of each token, as `inspect` prints them."""
    console = Console(file=StringIO(), width=200)
    inspect_run(run, arm, Shown(first=document), console)
    lines = console.file.getvalue().splitlines()
    legend = next(at for at, line in enumerate(lines) if line.startswith("kind "))
    stretches = lines[legend + 1 + kinds :]
    found = [re.match(r"(\w+) +([\d.e-]+)  (.*)", line) for line in stretches]
    return [(each[1], float(each[2])) for each in found if each for _ in each[3].split("|")]


def test_weights_are_those_that_inspect_tells(run):
    shared, _ = documents(run, gathered(run))
    zero = 0
    for one in shared["documents"][:5]:
        names = [shared["kinds"][kind][0] for kind in one["kinds"]]
        for at, arm in enumerate(shared["arms"]):
            told = inspected(run, arm, one["number"], len(set(names)))[: len(names)]
            assert [kind for kind, _ in told] == names
            assert [weight for _, weight in told] == pytest.approx(one["weights"][shared["weighs"][at]], rel=1e-4)
        zero += sum(one["weights"][1][i] == 0 for i, weight in enumerate(one["weights"][0]) if weight)
    assert zero > 0, "tokens that are known weigh nothing"


def test_half_of_them_are_the_hardest_and_the_others_are_drawn(run, monkeypatch):
    monkeypatch.setattr(module, "COLOURED", 12)
    shared, short = documents(run, gathered(run))
    why = [one["why"] for one in shared["documents"]]
    assert [text.partition(",")[0] for text in why] == ["highest loss"] * 3 + ["drawn at random"] * 3
    store = TokenStore(run.stage("traces", "encode") / "tokens.arrow")
    held = open_channels(run, "traces", store)["base"]
    outside = ("prompt", "control", "pad")
    means = {}
    for at in range(len(store)):
        inside = np.array([store.kind_names[kind] not in outside for kind in store.kinds(at)])
        means[at] = held.of("nll", at).astype(np.float64)[inside].mean()
    assert [one["number"] for one in shared["documents"][:3]] == sorted(means, key=means.get, reverse=True)[:3]
    assert why[0] == f"highest loss, {max(means.values()):.2f}"
    drawn = [one["number"] for one in shared["documents"][3:]]
    assert len({one["number"] for one in shared["documents"]}) == 6
    assert [one["number"] for one in documents(run, gathered(run))[0]["documents"][3:]] == drawn, "by the seed"
    assert {one["why"] for one in short["documents"]} == {"drawn at random"}


def test_long_documents_are_fewer(run, monkeypatch):
    whole, _ = documents(run, gathered(run))
    lengths = [len(one["tokens"]) for one in whole["documents"]]
    monkeypatch.setattr(module, "TOKENS", 2 * sum(lengths[:3]))
    assert [len(one["tokens"]) for one in documents(run, gathered(run))[0]["documents"]] == lengths[:3]
    monkeypatch.setattr(module, "TOKENS", 0)
    assert [len(store["documents"]) for store in documents(run, gathered(run))] == [1, 1]


def test_steps_that_are_false_are_named_by_their_tokens(run):
    (shared, _) = documents(run, gathered(run))
    false = [(one, step) for one in shared["documents"] for step in one["false"]]
    assert false, "a teacher that errs, and a policy that lets it"
    for one, step in false:
        words = "".join(t for t, s, k in zip(one["tokens"], one["steps"], one["kinds"], strict=True)
                        if s == step and k in shared["trace"] and t != "‥")  # fmt: skip
        said = one["false"][step]
        assert said.split("; ")[0].replace(" ", "") in words.replace(" ", ""), (said, words)


def test_what_has_not_run_or_holds_a_secret_is_not_shown(run, tmp_path, monkeypatch):
    root = shutil.copytree(run.root, tmp_path / "run")
    bare = claim(root, run.recipe)
    shutil.rmtree(bare.scores("traces")["base"])
    shared, _ = documents(bare, gathered(bare))
    assert shared["channels"] == []
    assert {one["why"] for one in shared["documents"]} == {"drawn at random"}
    assert shared["unknown"] == {"sure": "weights follow base.nll: run `tracestill score` first"}
    assert all(one["weights"][1] is None and one["weights"][0] for one in shared["documents"])
    monkeypatch.setattr(module, "mask", lambda text: "***")
    hidden, _ = documents(bare, gathered(bare))
    assert (hidden["documents"], hidden["hidden"]) == ([], len(shared["documents"]))
    shutil.rmtree(bare.stage("traces", "encode"))
    found = documents(bare, gathered(bare))
    assert [store["arms"] for store in found] == [["short"]]
    assert read_manifest(bare.stage("short", "encode")) is not None
