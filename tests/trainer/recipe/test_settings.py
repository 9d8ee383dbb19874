"""Learning-rate schedules and the checks on the train block."""

import itertools
import math

import pytest
import torch
from pydantic import ValidationError

from tracestill.trainer.recipe.settings import TrainConfig, learning_rate, seconds_of


def rates(**settings):
    config = TrainConfig(steps=100, lr=2.0, **settings)
    return [learning_rate(config, step, 100) for step in range(100)]


def test_warmup_rises_linearly_to_the_peak_and_cosine_falls_to_its_floor():
    found = rates(warmup=10, schedule="cosine", final_lr=0.1)
    assert found[:10] == pytest.approx([0.2 * (i + 1) for i in range(10)])
    assert found[10] == 2.0
    assert found[99] == pytest.approx(0.2, rel=0.01)
    assert found[99] > 0.2, "the last step still moves"
    assert found[10:] == sorted(found[10:], reverse=True)


def test_cosine_equals_torch():
    """torch's CosineAnnealingLR walks the same curve: it reaches the floor after the last step."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=2.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=100, eta_min=0.5)
    for ours in rates(schedule="cosine", final_lr=0.25):
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        schedule.step()


def test_linear_falls_in_equal_steps():
    found = rates(warmup=20, schedule="linear")
    falls = [a - b for a, b in itertools.pairwise(found[20:])]
    assert falls == pytest.approx([2.0 / 80] * 79)
    assert found[99] == pytest.approx(2.0 / 80)


def test_constant_stays():
    assert rates(schedule="constant", warmup=5)[5:] == [2.0] * 95


def test_warmup_stable_decay_holds_then_falls_linearly():
    found = rates(schedule="wsd", warmup=10, decay=20)
    assert found[10:80] == [2.0] * 70
    falls = [a - b for a, b in itertools.pairwise(found[79:])]
    assert falls == pytest.approx([2.0 / 21] * 20)
    assert found[99] == pytest.approx(2.0 / 21)


def test_every_schedule_ends_above_its_floor():
    """One step more would be at 0.25 * 2; by hand at the start, half way, and at the last step."""
    linear = rates(warmup=20, schedule="linear", final_lr=0.25)
    assert [linear[at] for at in (19, 20, 60, 99)] == pytest.approx([2.0, 2.0, 1.25, 0.5 + 1.5 / 80])
    wsd = rates(warmup=10, schedule="wsd", decay=20, final_lr=0.25)
    assert [wsd[at] for at in (79, 80, 89, 99)] == pytest.approx([2.0, 2 - 1.5 / 21, 2 - 15 / 21, 0.5 + 1.5 / 21])
    cosine = rates(warmup=20, schedule="cosine", final_lr=0.25)
    assert [cosine[at] for at in (20, 60, 80)] == pytest.approx([2.0, 1.25, 1.25 - 0.75 * math.sqrt(0.5)])


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_a_single_step_has_a_finite_rate(schedule):
    assert math.isfinite(learning_rate(TrainConfig(steps=1, schedule=schedule), 0, 1))


@pytest.mark.parametrize(
    ("text", "seconds"), [("55m", 3300), ("90s", 90), ("1h30m", 5400), ("1.5h", 5400), ("1h2m3s", 3723), ("0.5s", 0.5)]
)
def test_durations_are_read(text, seconds):
    assert seconds_of(text) == seconds
    assert TrainConfig(steps=1, stop_after=text).stop_after == text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "exactly one of train.steps and train.epochs"),
        ({"steps": 10, "epochs": 1}, "exactly one of train.steps and train.epochs"),
        ({"steps": 10, "warmup": 10}, "smaller than train.steps"),
        ({"steps": 10, "schedule": "wsd"}, "train.decay belongs to"),
        ({"steps": 10, "decay": 3}, "train.decay belongs to"),
        ({"steps": 10, "zero": 4}, "zero"),
        ({"steps": 10, "ranks": 3, "sequence_parallel": 2}, r"train\.ranks \(3\) must be a multiple of"),
        ({"steps": 10, "tiled_mlp": 1}, "tiled_mlp"),
        ({"steps": 10, "precision": "fp16"}, "precision"),
        ({"steps": 10, "stop_after": "55"}, r"units h, m or s, such as 55m or 1h30m, got '55'"),
        ({"steps": 10, "stop_after": "5 m"}, "units h, m or s"),
        ({"steps": 10, "stop_after": "m"}, "units h, m or s"),
        ({"steps": 10, "stop_after": "0s"}, "a duration above 0"),
        ({"steps": 10, "patience": 3}, "train.patience needs train.metric"),
        ({"steps": 10, "export": "best"}, "train.export: best needs train.metric"),
        ({"steps": 10, "metric": "answer.loss"}, "needs train.held_out_every"),
        (
            {"steps": 10, "metric": "generation.accuracy", "held_out_every": 5},
            "generation.accuracy needs train.held_out_questions",
        ),
        (
            {"steps": 10, "metric": "generation.loss", "held_out_every": 5, "held_out_questions": 9},
            "has no loss",
        ),
        ({"steps": 10, "held_out_questions": 9}, "train.held_out_questions needs train.held_out_every"),
        ({"steps": 10, "ema": 1.0}, "ema"),
        ({"steps": 10, "metric": "answer", "held_out_every": 5}, "expected <kind or group>.loss or .accuracy"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        TrainConfig(**settings)
