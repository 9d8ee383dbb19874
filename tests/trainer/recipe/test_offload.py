"""The block train.offload, and DeepSpeed's own names for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tracestill.data_pipeline.base.errors import InputError
from tracestill.trainer.recipe.offload import OffloadConfig, adopt
from tracestill.trainer.recipe.recipe import load_recipe

DEMO = Path(__file__).parents[3] / "recipes/demo.yaml"
BLOCK = "deepspeed={zero_optimization: {overlap_comm: true, offload_optimizer: {device: cpu, pin_memory: false, "


def test_deepspeeds_own_names_mean_the_same():
    ours = load_recipe(DEMO, ["train.offload={optimizer: cpu, pin: false}"])
    theirs = load_recipe(DEMO, [BLOCK + "buffer_count: 6}}}"])
    assert theirs.train == ours.train
    assert theirs.train.offload == OffloadConfig(optimizer="cpu", pin=False)
    assert theirs.deepspeed == {"zero_optimization": {"overlap_comm": True, "offload_optimizer": {"buffer_count": 6}}}
    both = load_recipe(DEMO, [BLOCK + "}}}", "train.offload.optimizer=cpu"])
    assert both.deepspeed == {"zero_optimization": {"overlap_comm": True}}
    assert load_recipe(DEMO, ["deepspeed={zero_optimization: {offload_param: {device: none}}}"]).deepspeed == {}


def test_an_arm_may_say_it_by_either_name():
    block = "arms.answers_only.deepspeed={zero_optimization: {offload_optimizer: {device: cpu}}}"
    recipe = load_recipe(DEMO, [block])
    assert [recipe.for_arm(arm).train.offload.optimizer for arm in recipe.arm_names()] == ["none", "cpu"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["train.offload.optimizer=cpu", "train.zero=0"], r"offload .optimizer: cpu. needs train.zero: 1 or 2 or 3"),
        (["train.offload.optimizer=cpu", "train.zero=auto"], r"needs train.zero: 1 or 2 or 3, not auto"),
        (["train.offload.optimizer=cpu", "train.optimizer=lion"], r"cpu is for adamw, not for train.optimizer: lion"),
        (["train.offload.parameters=cpu"], r"offload .parameters: cpu. needs train.zero: 3, not 2"),
        (["train.offload={optimizer: nvme, directory: d}"], r"offload .optimizer: nvme. needs train.zero: 3, not 2"),
        (["train.offload.optimizer=nvme", "train.zero=3"], r"directory belongs to nvme, which needs it"),
        (["train.offload={optimizer: cpu, directory: d}"], r"directory belongs to nvme"),
        (
            ["train.offload={optimizer: nvme, directory: d}", "train.zero=3", "train.ema=0.9"],
            r"train\.ema: .*in memory",
        ),
        (
            ["train.offload={parameters: nvme, directory: d}", "train.zero=3", "student.freeze=[embeddings]"],
            r"nvme keeps no frozen parameters; set it to cpu",
        ),
        (
            ["train.offload.optimizer=cpu", BLOCK.replace("cpu", "nvme") + "}}}"],
            r"offload_optimizer\.device is 'nvme', but train\.offload\.optimizer is 'cpu': say it once",
        ),
        (
            ["train.offload.pin=false", BLOCK.replace("false", "true") + "}}}"],
            r"pin_memory is True, but .*pin is False",
        ),
        ([BLOCK.replace("cpu", "gpu") + "}}}"], r"offload_optimizer\.device: expected none, cpu, nvme, got 'gpu'"),
        (["deepspeed={zero_optimization: {offload_param: cpu}}"], r"offload_param: expected a mapping, got 'cpu'"),
        ([BLOCK + "ratio: 0.5}}}"], r"offload_optimizer\.ratio: .*second optimizer.*leave it out"),
        ([BLOCK + "super_offload: true}}}"], r"offload_optimizer\.super_offload: .*process.*leave it out"),
        (["deepspeed={zero_optimization: {zenflow: {}}}"], r"zenflow: .*largest gradients only.*leave it out"),
        (["deepspeed={zero_optimization: {cpu_offload: true}}"], r"cpu_offload: set train\.offload\.optimizer: cpu"),
    ],
)
def test_what_cannot_be_or_is_said_twice_is_refused(settings, said):
    with pytest.raises(InputError, match=said):
        load_recipe(DEMO, settings)


def test_what_says_nothing_passes():
    load_recipe(DEMO, [BLOCK + "ratio: 1.0, super_offload: false}}}"])


@pytest.mark.parametrize("data", [None, [], {"train": "none"}, {"train": {}, "deepspeed": {"zero_optimization": 3}}])
def test_what_is_no_recipe_is_left_to_its_own_checks(data):
    assert adopt(data) is data
