"""The engine's own decisions: what it refuses, when it takes no step, which precision lies where."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_step
import torch
from distributed_support import run_workers

from tracestill.data_pipeline.base.errors import InputError
from tracestill.trainer.engine.engine import deepspeed_config, training_dtype
from tracestill.trainer.optimizers.groups import parameter_groups
from tracestill.trainer.recipe.deepspeed_keys import OWNED
from tracestill.trainer.recipe.settings import TrainConfig

HERE = Path(__file__).parent
STAGES = ("0", "1", "2", "3")
HOSTED = ("1-cpu", "2-cpu", "3-cpu-cpu")  # with train.offload


@pytest.fixture(scope="module")
def outcome(tmp_path_factory) -> dict[str, Any]:
    """What two ranks saw (faults_worker.py)."""
    path = tmp_path_factory.mktemp("faults") / "results.json"
    run_workers(HERE / "faults_worker.py", path, ranks=2)
    return json.loads(path.read_text())


CASES = [f"{stage}-{how}" for stage in STAGES for how in ("0.0-fp32", "0.5-fp32", "0.5-bf16")]
CASES += [f"{stage}-0.5-bf16" for stage in HOSTED]
CASES.remove("0-0.5-bf16")  # refused


@pytest.mark.parametrize("case", CASES)
def test_a_skipped_step_is_as_if_it_had_never_been(outcome, case, counted):
    found = outcome["skipped"][case]
    assert found["reasons"] == ["", "loss is not finite", "gradient is not finite", "no weight", "no weight", ""]
    assert found["untouched"]
    assert found["same"]
    counted("one rank with NaN in its loss or its gradient", 2, "no rank takes the step")


@pytest.mark.parametrize("stage", STAGES + HOSTED)
def test_a_parameter_without_gradient_does_not_get_that_of_the_step_before(outcome, stage):
    # gradient 1 in both micro-steps, then none: 2 (1 - b1) b1
    assert outcome["moments"][stage]["xx.."] == pytest.approx(2 * 0.1 * 0.9, rel=1e-5)


@pytest.mark.parametrize("stage", HOSTED)
@pytest.mark.parametrize("used", ["x.x.", ".x.x"])
def test_a_gradient_of_one_micro_step_only_reaches_the_host(outcome, stage, used):
    assert outcome["moments"][stage][used] == pytest.approx(0.1 * (1 + 0.9), rel=1e-5)


@pytest.mark.parametrize("stage", STAGES)
def test_the_rate_of_a_step_is_that_of_all_parameters(outcome, stage):
    """Of matrices, which decay, and of norms and embeddings, which do not; whatever the recipe's own rate."""
    still, moved = outcome["rates"][stage]
    assert still
    assert moved


def test_dropout_differs_between_ranks_and_seeds_and_repeats(outcome):
    first, again, other = outcome["draws"]
    assert first == again
    assert len({tuple(draw) for draw in (*first, *other)}) == 4


@pytest.mark.parametrize("stage", HOSTED)
def test_offloading_changes_nothing_in_bf16(outcome, stage):
    found, plain = outcome["bf16"][stage], outcome["bf16"][stage[0]]
    assert (found["losses"], found["masters"]) == (plain["losses"], plain["masters"])


@pytest.mark.parametrize("stage", STAGES[1:])
def test_bf16_trains_with_masters_and_gradients_in_fp32(outcome, stage):
    found = outcome["bf16"][stage]
    assert found["parameters"] == ["torch.bfloat16"]
    assert found["rope"] == ["torch.float32"], "in bf16 distant positions would be off by radians"
    assert found["masters"] == found["gradients"] == ["torch.float32"]
    assert found["losses"][-1] < 0.9 * found["losses"][0]
    assert found["norm"] == pytest.approx(outcome["bf16"]["1"]["norm"], rel=1e-3)


def test_bf16_sees_the_true_gradient(outcome):
    assert outcome["bf16"]["2"]["norm"] == pytest.approx(tiny_step.exact_norm(seed=0), rel=0.02)


def test_one_process_needs_no_launcher(tmp_path):
    script = tmp_path / "alone.py"
    script.write_text(
        "from engine_workshop import engine, shared_out, student, take_step\n"
        "from deepspeed.runtime.zero.muon.original_muon import muon_update\n"
        "of = engine(student(None, tied=True), zero=2)\n"
        "assert (of.rank, of.ranks, of.device.type) == (0, 1, 'cpu')\n"
        "assert not of.deepspeed.tput_timer.config.enabled, 'it waits for the device in every micro-step'\n"
        "print('loss', take_step(of, shared_out(0, of)).loss)\n"
        "assert not hasattr(muon_update, '_torchdynamo_orig_callable'), 'to compile it takes most of a second'\n"
        "try:\n"
        "    of.step(1e-3)\n"
        "except RuntimeError as error:\n"
        "    print(error)\n"
    )
    printed = run_workers(script)
    assert "loss 4." in printed
    assert "0 micro-steps before a step of 1" in printed
    assert not any(noise in printed for noise in ("WARNING", "Warning", "MA ", "INFO")), printed


@pytest.mark.parametrize("key", sorted(OWNED))
def test_a_key_of_the_trainer_is_refused_by_name(key):
    raw: dict[str, Any] = {}
    block, _, inner = key.rpartition(".")
    (raw.setdefault(block, {}) if block else raw)[inner] = 1
    with pytest.raises(InputError, match=rf"deepspeed\.{key}: \w+"):
        deepspeed_config(TrainConfig(steps=1), 1, raw, dtype=torch.float32)


def test_the_raw_block_is_merged_and_left_as_it_was():
    raw = {"zero_optimization": {"overlap_comm": True}, "wall_clock_breakdown": True}
    config = deepspeed_config(TrainConfig(steps=1, zero=3, clip=0.7), 4, raw, dtype=torch.bfloat16)
    assert config["zero_optimization"] == {"overlap_comm": True, "stage": 3}
    assert config["wall_clock_breakdown"] is True
    assert (config["gradient_accumulation_steps"], config["gradient_clipping"]) == (4, 0.7)
    assert config["bf16"] == {"enabled": True}
    assert config["data_types"] == {"grad_accum_dtype": "fp32"}
    assert config["communication_data_type"] == "fp32"
    assert raw == {"zero_optimization": {"overlap_comm": True}, "wall_clock_breakdown": True}


def test_precision_follows_the_device():
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert training_dtype(TrainConfig(steps=1), cpu) == torch.float32
    assert training_dtype(TrainConfig(steps=1), gpu) == torch.bfloat16
    assert training_dtype(TrainConfig(steps=1, precision="fp32", zero=0), gpu) == torch.float32
    with pytest.raises(InputError, match=r"train\.zero: 0 .* set train\.zero: 1"):
        training_dtype(TrainConfig(steps=1, precision="bf16", zero=0), cpu)


@pytest.mark.parametrize("tied", [False, True])
def test_decay_is_for_matrices_only(tied):
    model = tiny_step.plain_model(tied)
    names = {parameter: name for name, parameter in model.named_parameters()}
    decayed, plain = parameter_groups(model, 0.3)
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.3, 0.0)
    assert ("lm_head.weight" in {names[p] for p in decayed["params"]}) is not tied
    assert {names[p] for p in plain["params"]} == {n for n in names.values() if "norm" in n or "embed" in n}
    assert len(decayed["params"]) + len(plain["params"]) == len(names)


def test_ranks_in_bf16_sum_their_gradients_without_rounding_again(tmp_path):
    """Three of them: a division by 3 would show, one by 2 would not."""
    run_workers(HERE / "sums_worker.py", tmp_path / "found.json", ranks=3)
    found = json.loads((tmp_path / "found.json").read_text())
    assert found.keys() == {"1-1", "1-2", "2-1", "2-2"}
    assert max(found.values()) < 1e-6, found  # bf16 rounds by 4e-3
