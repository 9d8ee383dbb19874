"""Monitors beside the log: what they are given, and what a recipe hears before training if one is missing."""

import importlib.util
import json
import os
import sys
from types import SimpleNamespace

import pytest
from fake_run import RECIPE

from tracestill.data_pipeline.base.errors import InputError
from tracestill.trainer.metrics.log import Log
from tracestill.trainer.metrics.telemetry import line_of
from tracestill.trainer.recipe.monitor import MonitorConfig, check_installed, events
from tracestill.trainer.recipe.recipe import build

LINE = {
    **{"step": 7, "epoch": 0, "loss": 0.5, "mfu": None, "grad_norm": 1.25, "tokens_per_second": 12345.0},
    **{"memory_gib": 2.5, "data_wait": 0.5, "seconds": 2.0},
    "kinds": {"answer": {"weight": 4.0, "loss": 1.5, "accuracy": 0.25, "count": 3}},
}


def test_events_are_the_numbers_of_a_line():
    assert events(LINE)[:3] == [
        ("train/loss", 0.5, 7),
        ("train/grad_norm", 1.25, 7),
        ("train/tokens_per_second", 12345.0, 7),
    ]
    assert events(LINE)[-3:] == [
        ("train/answer/loss", 1.5, 7),
        ("train/answer/accuracy", 0.25, 7),
        ("train/answer/count", 3, 7),
    ]
    assert "train/mfu" not in {name for name, _, _ in events(LINE)}


def test_events_of_another_kind_of_line_have_its_name_and_texts_are_left_out():
    line = {"event": "held_out", "step": 2, "split": "test", "kinds": {"answer": {"loss": 2.0}}}
    assert events(line) == [("held_out/answer/loss", 2.0, 2)]
    assert events({"event": "skipped", "step": 3, "reason": "no weight", "documents": ["a"]}) == []
    assert events({"event": "preview", "step": 0, "kinds": [{"kind": "answer", "weight": 1.0}], "document": {}}) == []


def test_the_log_passes_on_what_it_writes(tmp_path):
    seen = []
    log = Log(tmp_path / "log.jsonl", resume_at=0, write=True, also=seen.append)
    log.add(step=1, loss=float("nan"))
    assert seen == [json.loads((tmp_path / "log.jsonl").read_text())] == [{"step": 1, "loss": None}]
    Log(tmp_path / "other.jsonl", resume_at=0, write=False, also=seen.append).add(step=1)
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("name", "config"), [("wandb", {"wandb": {"project": "p"}}), ("comet", {"comet": {"project": "p"}})]
)
def test_a_missing_package_is_named(monkeypatch, name, config):
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None if package != "tensorboard" else object())
    check_installed(MonitorConfig(tensorboard=True))
    with pytest.raises(InputError, match=rf"train\.monitor\.{name}: (wandb|comet_ml) is not installed; pip install"):
        check_installed(MonitorConfig(**config))


def test_a_recipe_says_where_to_in_one_place():
    train = {**RECIPE["train"], "monitor": {"tensorboard": True, "wandb": {"project": "traces"}}}
    recipe = build({**RECIPE, "train": train}, where="r")
    assert recipe.train.monitor.wanted() == ["tensorboard", "wandb"]
    with pytest.raises(InputError, match=r"deepspeed\.wandb: set train\.monitor\.wandb"):
        build({**RECIPE, "deepspeed": {"wandb": {"enabled": True}}}, where="r")
    with pytest.raises(InputError, match=r"unknown key 'train\.monitor\.tensorbord'; did you mean 'tensorboard'"):
        build({**RECIPE, "train": {**train, "monitor": {"tensorbord": True}}}, where="r")


def test_the_line_for_the_console_is_short_and_says_what_matters():
    assert line_of(7, 40, LINE) == (
        "step 7/40  loss 0.5000  answer 1.500 25%  grad 1.25  12,345 tokens/s  2.5 GiB  waits for data 25%"
    )
    assert "MFU 41.2%" in line_of(7, 40, {**LINE, "mfu": 0.412})


def test_a_backend_that_does_not_start_is_an_error_of_one_line(monkeypatch, tmp_path):
    from tracestill.trainer.engine import engine

    def start(config):
        raise RuntimeError("no API key\nconfigured")

    monkeypatch.setattr(engine, "MonitorMaster", start)
    for rank in (0, 1):
        monkeypatch.setattr(engine.dist, "get_rank", lambda rank=rank: rank)
        assert engine.open_monitor(MonitorConfig(), tmp_path) is None, "none is wanted"
        if rank:
            assert engine.open_monitor(MonitorConfig(tensorboard=True), tmp_path) is None, "rank 0 writes"
            continue
        with pytest.raises(InputError, match=r"train\.monitor \(tensorboard\) does not start: no API key configured"):
            engine.open_monitor(MonitorConfig(tensorboard=True), tmp_path)


def test_weights_and_biases_and_comet_are_told_where_and_get_every_number(monkeypatch, tmp_path):
    from tracestill.trainer.engine import engine

    told = []
    experiment = SimpleNamespace(
        set_name=lambda name: told.append(("name", name)),
        __internal_api__log_metric__=lambda name, value, step: told.append(("comet", name, value, step)),
    )
    wandb = SimpleNamespace(
        init=lambda **options: told.append(("init", options)),
        log=lambda data, step, commit: told.append(("wandb", data, step)),
    )
    comet = SimpleNamespace(__version__="3.50.0", start=lambda **options: told.append(("start", options)) or experiment)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setitem(sys.modules, "comet_ml", comet)
    monkeypatch.setattr(engine.dist, "get_rank", lambda: 0)
    monkeypatch.setattr(engine.deepspeed.comm, "get_rank", lambda: 0)
    monkeypatch.setenv("WANDB_DIR", "")  # restored afterwards
    monkeypatch.delenv("WANDB_DIR")
    config = MonitorConfig(wandb={"project": "w", "team": "t"}, comet={"project": "c", "experiment_name": "e"})
    write = engine.open_monitor(config, tmp_path)
    assert told[0] == ("init", {"project": "w", "group": None, "entity": "t"})
    assert told[1][0] == "start"
    assert told[1][1]["project"] == "c"
    assert told[2] == ("name", "e")
    for step in (1, 2):  # Comet would pass over steps that are close to each other
        write({"step": step, "loss": 0.5})
    assert told[3:] == [
        *(("wandb", {"train/loss": 0.5}, 1), ("comet", "train/loss", 0.5, 1)),
        *(("wandb", {"train/loss": 0.5}, 2), ("comet", "train/loss", 0.5, 2)),
    ]
    assert not list(tmp_path.iterdir())
    assert os.environ["WANDB_DIR"] == str(tmp_path), "its files lie in the run, too"
