"""A rank of the stage score: what it says of itself while it reads."""

from __future__ import annotations

import time
from itertools import pairwise
from types import SimpleNamespace

import torch
from fake_run import mini_recipe, run_data_stages
from odd_server import OddServer
from odd_server import served as serving
from prompt_server import telling
from tiny_export import tiny_model

from tracestill.trainer.engine.engine import World
from tracestill.trainer.ranks.mesh import Mesh
from tracestill.trainer.recipe.run_directory import RunDirectory
from tracestill.trainer.scoring import score, server

ALONE = World(0, 1, 0, torch.device("cpu"), torch.float32, Mesh())
QUESTIONS = {"source": "digit_sum", "train": 4, "test": 2, "options": {"digits": 3, "modulus": 10}}


def test_a_rank_gives_signs_of_life_while_it_waits_for_a_slow_server(tmp_path, monkeypatch):
    monkeypatch.setattr(server, "IDLE_SECONDS", 0.01)
    phases, answered = [], []

    def slow(request, method):
        time.sleep(0.2)
        answered.append(len(phases))
        return told(request, method)

    with serving(OddServer(other=slow)) as busy:
        asked = {"model": "large", "channels": ["nll"], "server": {"url": busy.url}}
        run = RunDirectory.create(tmp_path / "run", mini_recipe(arms={}, questions=QUESTIONS, score={"large": asked}))
        run_data_stages(run)
        model = tmp_path / "model"
        tiny_model(vocab_size=320, max_position_embeddings=512).save_pretrained(model)
        (model / "tokenizer.json").write_bytes((run.stage("traces", "tokenizer") / "tokenizer.json").read_bytes())
        told = telling(model)
        watch = SimpleNamespace(phase=lambda name, step: phases.append(name))
        assert score.score(run, "traces", "large", ALONE, watch) == 0
    assert len(answered) > 1
    assert all(before < after for before, after in pairwise(answered)), "of one pack"
