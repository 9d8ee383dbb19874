"""A weighting of one's own: a module beside the recipe, and the recipe. It reaches loss, log, preview and `inspect`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from distributed_support import run_workers
from fake_run import RECIPE, run_data_stages
from typer.testing import CliRunner

from tracestill.data_pipeline.base.stage import read_manifest
from tracestill.data_pipeline.plan.plan import load_plan
from tracestill.data_pipeline.tokens.store import TokenStore
from tracestill.launch import cli
from tracestill.trainer.recipe.recipe import load_recipe
from tracestill.trainer.recipe.run_directory import RunDirectory
from tracestill.trainer.student.student import build_student

WORKER = Path(__file__).parents[1] / "preview" / "telemetry_worker.py"
OWN = """
import numpy as np
from tracestill.trainer.weighting import Weighting, WeightingOptions

class Fading(Weighting):
    class Options(WeightingOptions):
        half: int = 64

    def __init__(self, config, kinds, seed):
        self.half, self.span_kinds = config.options["half"], kinds

    def kinds(self, step):
        return self.span_kinds.table({"prompt": 0.0, "answer": 3.0}, default=1.0)

    def tokens(self, document, step):
        return np.float32(self.half / (self.half + np.arange(len(document.tokens))))
"""
LOSS = {"label_smoothing": 0.1, "z_loss": 0.01}


def recipe_of(normaliser: str) -> dict:
    return {
        **RECIPE,
        "weighting": {"use": "fading:Fading", "options": {"half": 16}, "normaliser": normaliser},
        "train": {"steps": 2, "ranks": 2, "log_every": 1, **LOSS},
        "arms": {},
    }


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, RunDirectory]:
    folder, found = tmp_path_factory.mktemp("own"), {}
    (folder / "fading.py").write_text(OWN)
    for normaliser in ("spans", "examples"):
        (folder / "mini.yaml").write_text(yaml.safe_dump(recipe_of(normaliser)))
        found[normaliser] = RunDirectory.create(folder / normaliser, load_recipe(folder / "mini.yaml"))
        run_data_stages(found[normaliser])
    run_workers(WORKER, *(run.root for run in found.values()), ranks=2)
    return found


def by_hand(run: RunDirectory, normaliser: str) -> tuple[np.ndarray, np.ndarray, float]:
    """Of the first step, by definition and by plain transformers in float64: the sum of w c and of w c nll of each
    kind, and the loss."""
    kinds, encode = run.recipe.span_kinds(), run.stage("traces", "encode")
    about, store = read_manifest(encode), TokenStore(encode / "tokens.arrow", run.recipe.span_kinds())
    ids = {f"{name}_id": about["special_ids"][name] for name in ("bos", "eos", "pad")}
    of = {"vocab_size": about["vocab_size"], "num_kinds": len(kinds), "seed": run.recipe.seed, **ids}
    model = build_student(run.recipe.student, **of).model
    model.set_attn_implementation("eager")
    model = model.double().eval()
    table = np.array([{"pad": 0.0, "prompt": 0.0, "answer": 3.0}.get(name, 1.0) for name in kinds.names])
    rows = []  # document, kind, v, r, t, nll, cost
    for document in np.concatenate(load_plan(run.stage("traces", "plan") / "epoch-000").step(0)).tolist():
        tokens = torch.from_numpy(store.tokens(document).astype(np.int64))
        logits = model(input_ids=tokens[None], use_cache=False).logits[0, :-1].detach()
        nll = F.cross_entropy(logits, tokens[1:], reduction="none")
        cost = F.cross_entropy(logits, tokens[1:], reduction="none", label_smoothing=LOSS["label_smoothing"])
        cost = cost + LOSS["z_loss"] * torch.logsumexp(logits, 1) ** 2
        for at, kind in enumerate(store.kinds(document)[1:].tolist()):
            r, t = float(store.weights[document]), 16 / (16 + at + 1)
            rows.append((document, kind, table[kind], r, t, float(nll[at]), float(cost[at])))
    d, k, v, r, t, nll, cost = (np.array(column) for column in zip(*rows, strict=True))
    if normaliser == "spans":
        amount = np.bincount(k, weights=r * t, minlength=len(table))
        c = 1 / (table[amount > 0].sum() * amount[k])
    else:
        own = np.bincount(d, weights=v * t)
        c = 1 / (sum(float(store.weights[i]) for i in set(d.tolist()) if own[i] > 0) * own[d])
    w = v * r * t * c
    weight, share = (np.bincount(k, weights=x, minlength=len(table)) for x in (w, w * nll))
    return weight, share, float((w * cost).sum())


@pytest.mark.parametrize("normaliser", ["spans", "examples"])
def test_it_reaches_the_loss_the_log_and_the_preview(runs, normaliser):
    run = runs[normaliser]
    names, train = run.recipe.span_kinds().names, run.stage("traces", "train")
    weight, share, loss = by_hand(run, normaliser)
    lines = [json.loads(line) for line in (train / "log.jsonl").read_text().splitlines()]
    first = next(line for line in lines if line.get("step") == 1)
    assert first["loss"] == pytest.approx(loss, rel=1e-5), "label smoothing and z-loss included"
    preview = {row["kind"]: row for row in json.loads((train / "preview.json").read_text())["kinds"]}
    assert weight.sum() == pytest.approx(1)
    for kind, name in enumerate(names):
        found = first["kinds"].get(name, {"weight": 0.0, "share": 0.0})
        assert found["weight"] == pytest.approx(weight[kind], rel=1e-5, abs=1e-12), name
        assert found["share"] == pytest.approx(share[kind] / share.sum(), rel=1e-5, abs=1e-12), name
        if name in preview:
            assert preview[name]["weight_share"] == pytest.approx(weight[kind], rel=1e-5, abs=1e-12), name
            assert preview[name]["loss_share"] == pytest.approx(share[kind] / share.sum(), rel=1e-5, abs=1e-12), name
    assert preview["answer"]["weight"] == 3.0


def test_inspect_shows_what_it_does_without_running_it(runs):
    run = runs["examples"]
    rows = json.loads((run.stage("traces", "train") / "preview.json").read_text())["kinds"]
    shown = CliRunner().invoke(cli.app, ["inspect", str(run.root)], env={"COLUMNS": "200"})
    assert shown.exit_code == 0, shown.output
    assert "weights are fading:Fading's" in shown.stdout
    (answer,) = (row for row in rows if row["kind"] == "answer")
    (line,) = (line for line in shown.stdout.splitlines() if " answer " in line and "%" in line)
    shares = [f"{answer[share]:.1%}" for share in ("weight_share", "loss_share", "gradient_share")]
    assert re.findall(r"[\d.]+%", line) == shares


def test_the_terms_of_the_loss_decide_whether_a_training_is_current(runs):
    run = runs["spans"]
    held = run.train_stage("traces")[0]
    assert held["train"]["label_smoothing"] == 0.1
    for key in LOSS:
        train = run.recipe.train.model_copy(update={key: 0.0})
        other = RunDirectory(run.root, run.recipe.model_copy(update={"train": train}))
        assert other.train_stage("traces")[0] != held
