"""The stage score from the command line: on one rank and on two, killed and gone on with, and what it refuses."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from distributed_support import environment
from fake_run import STUDENT, gathered, mini_recipe, run_data_stages
from forked_command import command

from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.base.stage import read_manifest
from tracestill.data_pipeline.channels import BUILT_IN
from tracestill.data_pipeline.tokens.store import TokenStore
from tracestill.launch.report.records.documents import documents
from tracestill.trainer.engine.engine import World
from tracestill.trainer.evaluation.baseline import untrained_student
from tracestill.trainer.ranks.mesh import Mesh
from tracestill.trainer.recipe.run_directory import RunDirectory, open_channels
from tracestill.trainer.scoring.by_attention import influence_by_attention
from tracestill.trainer.scoring.model import open_local

QUESTIONS = {"source": "digit_sum", "train": 300, "test": 4, "options": {"digits": 3, "modulus": 10}}
SCORERS = {
    "base": {"model": "student", "channels": ["nll", "rank", "topk"], "k": 4, "kinds": ["answer"]},
    "steps": {"model": "student", "channels": ["influence"], "approximate": "attention", "zero": 3},
}
PARTITIONED = {"zero_optimization": {"stage3_param_persistence_threshold": 0}}
SHARDS = "arms/traces/score/base/shard-*.arrow"


def changes(**more: object) -> dict[str, object]:
    student = {"config": {**STUDENT, "initializer_range": 0.3}}
    return {"arms": {}, "questions": QUESTIONS, "student": student, "score": SCORERS, "deepspeed": PARTITIONED, **more}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A run of which all is made that scoring reads: some shards of documents."""
    root = tmp_path_factory.mktemp("scored") / "run"
    run_data_stages(RunDirectory.create(root, mini_recipe(**changes())))
    return root


@pytest.fixture(scope="module")
def scored(data, tmp_path_factory) -> tuple[Path, str]:
    """The same, scored on two ranks; and what was said."""
    root = shutil.copytree(data, tmp_path_factory.mktemp("two") / "run")
    said = command("score", root, "--set", "train.ranks=2", "--replace").output
    return root, said


def written(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(root.glob(SHARDS))}


def test_two_ranks_score_what_is_then_up_to_date_and_told_by_kind(scored):
    root, said = scored
    assert "score base" in said
    assert "2 rank(s) on CPU" in said
    assert "MB to be written" in said
    assert re.search(r"score steps traces +influence of [\d,]+ of [\d,]+ steps, [\d.]+ MB", said)
    run = RunDirectory.open(root)
    store = TokenStore(run.stage("traces", "encode") / "tokens.arrow")
    channels = open_channels(run, "traces", store)
    assert list(channels) == ["base", "steps"]
    counts = read_manifest(run.scores("traces")["base"])["counts"]
    assert counts["known"] == counts["targets"]
    nll = np.concatenate([channels["base"].of("nll", document) for document in range(len(store))]).astype(np.float64)
    of_kind = {kind: counts["means"]["nll"][kind] * n for kind, n in counts["known"].items()}
    assert np.nansum(nll) == pytest.approx(sum(of_kind.values()), rel=1e-3)
    assert read_manifest(run.scores("traces")["steps"])["influence"] == "attention"
    whole = RunDirectory(root, mini_recipe(**changes(score={**SCORERS, "steps": {**SCORERS["steps"], "zero": 0}})))
    alone = World(0, 1, 0, torch.device("cpu"), torch.float32, Mesh())
    source = open_local(whole, "traces", "steps", store, (BUILT_IN["influence"],), alone)
    for some in (range(5), range(len(store) - 5, len(store))):  # of each rank
        found = influence_by_attention(source, store, some, Kinds(), capacity=256)
        stored = np.concatenate([channels["steps"].of("influence", document) for document in some])
        assert np.isfinite(stored).all()
        np.testing.assert_allclose(stored, found, rtol=1e-4, atol=1e-5)
    again = command("score", root, "--set", "train.ranks=2").output
    assert again.count("up to date") == 2
    page = command("report", root).output
    html = (root / "report/report.html").read_text()
    assert "Scores" in html, page
    assert "influence (by attention)" in html


def test_the_report_colours_tokens_by_the_loss_that_a_plain_forward_pass_gives(scored):
    run = RunDirectory.open(scored[0])
    (shown,) = documents(run, gathered(run))
    assert [name for name, *_ in shown["channels"]] == ["base.nll", "steps.influence"]
    store = TokenStore(run.stage("traces", "encode") / "tokens.arrow")
    student = untrained_student(run.for_arm("traces"), run.stage("traces", "tokenizer"), torch.device("cpu")).model
    student.set_attn_implementation("eager")
    for document in shown["documents"][:4]:
        tokens = torch.tensor(store.tokens(document["number"]), dtype=torch.long)
        with torch.no_grad():
            log_p = student(tokens[None], use_cache=False).logits[0, :-1].double().log_softmax(-1)
        nll = -log_p.gather(1, tokens[1:, None])[:, 0].numpy()
        assert document["values"][0][0] is None
        np.testing.assert_allclose(document["values"][0][1:], nll, rtol=1e-3, atol=1e-3)  # kept in 16 bits


def test_what_a_killed_rank_left_is_gone_on_with_by_others_to_the_same_bytes(data, scored, tmp_path):
    root = shutil.copytree(data, tmp_path / "run")
    words = ["-m", "tracestill.trainer.scoring.score", "--run-dir", str(root), "--scorer", "base"]
    alone = subprocess.Popen([sys.executable, *words], env=environment(), stdout=subprocess.DEVNULL)
    draft = root / "arms/traces/score/.base.scoring"
    try:
        deadline = time.monotonic() + 150
        while not list(draft.glob("shard-*.arrow")):
            assert alone.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.002)
    finally:
        os.kill(alone.pid, signal.SIGKILL)
        alone.wait()
    shards = written(scored[0])
    left = {path.name: path.stat().st_mtime_ns for path in draft.glob("shard-*.arrow")}
    assert 0 < len(left) < len(shards), "killed in the middle"
    torn = draft / next(name for name in shards if name not in left)
    torn.write_bytes(shards[torn.name][:-100])
    (draft / ".shard-000009.arrow.0.tmp").write_bytes(b"torn")
    said = command("score", root, "--set", "train.ranks=2", "--replace").output
    assert f"going on behind {len(left)} shards" in said
    assert written(root) == shards
    kept = {path.name: path.stat().st_mtime_ns for path in root.glob(SHARDS)}
    assert all(kept[name] == at for name, at in left.items()), "nothing is done twice"
    assert not list((root / "arms/traces/score/base").glob(".*.tmp"))


def test_a_changed_model_or_question_scores_anew_and_another_scorer_does_not(scored, tmp_path):
    root = shutil.copytree(scored[0], tmp_path / "run")
    run = RunDirectory.open(root)
    steps = (run.scores("traces")["steps"] / "manifest.json").stat().st_mtime_ns
    said = command("score", root, "--set", "score.base.channels=[nll]", "--set", "score.base.kinds=null", "--set",
                   "score.base.k=32", "--set", "train.ranks=2", "--replace").output  # fmt: skip
    assert "done anew: scorer.channels" in said
    assert (run.scores("traces")["steps"] / "manifest.json").stat().st_mtime_ns == steps
    assert json.loads((root / "arms/traces/score/base/manifest.json").read_text())["channels"] == ["nll"]


def test_what_cannot_be_scored_is_refused_in_one_line(data, tmp_path):
    root = shutil.copytree(data, tmp_path / "run")

    def refused(*settings: str) -> str:
        words = [word for setting in settings for word in ("--set", setting)]
        return " ".join(command("score", root, *words, "--replace", code=2).output.split())

    assert "score.base.model: " in refused("score.base.model=nowhere")
    assert "score.base.k: 4000 entries a token of a vocabulary of" in refused("score.base.k=4000")
    assert "unknown span kind or group 'answr'" in refused("score.base.kinds=[answr]")
    assert "this recipe has no such stage; give it a block `score`" in refused("score={}")
    assert not list(root.glob("arms/traces/score/*/shard-*")), "nothing is left of it"


def test_a_document_is_shown_with_what_was_said_of_its_tokens(scored, data):
    said = command("inspect", scored[0], "--scores", "--document", "2").output
    lines = said.splitlines()
    head = next(line.split() for line in lines if "base.nll" in line)
    assert head == ["token", "kind", "base.nll", "base.rank", "base.topk"]
    assert any(line.startswith("steps.influence (by attention) of steps 0 to ") for line in lines)
    store = TokenStore(scored[0] / "arms/traces/encode/tokens.arrow")
    of_tokens = lines[lines.index(next(line for line in lines if "base.nll" in line)) + 1 :][: store.lengths[2]]
    assert "·" in of_tokens[0], "nothing predicts the first token"
    assert (
        sum(line.split().count("·") == 1 for line in of_tokens[1:])
        == sum(store.counts[2]) - store.counts[2][Kinds().id("answer")]
    )
    words = "holds no channels; run `tracestill score` first"
    assert words in " ".join(command("inspect", data, "--scores", code=2).output.split())
