"""Offloading: checkpoints and averages of it, its files, and what DeepSpeed leaves undone."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from deepspeed.ops.op_builder import AsyncIOBuilder
from distributed_support import run_workers
from torch import nn

from tracestill.data_pipeline.base.errors import InputError
from tracestill.trainer.engine import offload
from tracestill.trainer.engine.engine import check_block, deepspeed_config
from tracestill.trainer.recipe.settings import TrainConfig

WORKER = Path(__file__).with_name("offload_worker.py")
NVME = {"optimizer": "nvme", "directory": "/disk"}


def config(**offloading) -> TrainConfig:
    return TrainConfig(steps=1, zero=3, offload=offloading)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    directory = tmp_path_factory.mktemp("offload")
    run_workers(WORKER, directory, ranks=2)
    return json.loads((directory / "found.json").read_text())


@pytest.mark.parametrize("layout", ["1-cpu", "2-cpu", "3-cpu-cpu"])
def test_an_offloaded_training_goes_on_bit_for_bit(outcome, layout):
    found = outcome[layout]
    assert found["same"]
    assert found["back"] == pytest.approx(found["losses"], rel=1e-6), "and without offloading"
    assert found["averaged"]
    assert found["untouched"]


@pytest.mark.soak
@pytest.mark.skipif(not AsyncIOBuilder().is_compatible(), reason="DeepSpeed builds no async_io here (libaio)")
def test_files_change_no_bit(tmp_path):
    run_workers(WORKER, tmp_path, "files", ranks=2, timeout=900)
    found = json.loads((tmp_path / "found.json").read_text())
    assert list(found) == ["none", "cpu", "nvme"]
    for parameters, case in found.items():
        assert (case["same"], case["resumed"], case["left"]) == (True, True, False), parameters
        assert case["files"].pop("optimizer") > 4
        assert [*case["files"]] == ["bfloat16params"] * (parameters == "nvme"), parameters


def test_deepspeeds_keys_for_it(tmp_path):
    def zero_of(settings, block=None, directory=None):
        raw = {"zero_optimization": block} if block else {}
        return deepspeed_config(settings, 1, raw, dtype=torch.float32, directory=directory)

    assert "zero_force_ds_cpu_optimizer" not in zero_of(config())
    assert zero_of(config())["zero_optimization"] == {"stage": 3}
    found = zero_of(config(optimizer="cpu", pin=False), {"offload_optimizer": {"buffer_count": 6}})
    kept = {"device": "cpu", "pin_memory": False, "buffer_count": 6}
    assert found["zero_optimization"] == {"stage": 3, "offload_optimizer": kept}
    assert found["zero_force_ds_cpu_optimizer"] is False, "the optimizer is torch's"
    places = {
        zero_of(config(**NVME), directory=tmp_path / run)["zero_optimization"]["offload_optimizer"]["nvme_path"]
        for run in ("a", "b", "a")
    }
    assert len(places) == 2, "trainings do not share files"
    assert {Path(place).parent for place in places} == {Path("/disk")}


def test_files_are_refused_where_deepspeed_cannot_write_them(monkeypatch):
    monkeypatch.setattr(AsyncIOBuilder, "is_compatible", lambda self, verbose=False: False)
    with pytest.raises(InputError, match=r"train\.offload: nvme needs libaio .*libaio-dev.* or offload to cpu"):
        check_block(config(**NVME), {})


def test_parameters_in_files_have_a_buffer_for_each_that_is_gathered():
    student = nn.ModuleList([nn.Linear(10, 10, bias=False) for _ in range(12)] + [nn.Linear(30, 10, bias=False)])

    def sized(**block):
        block = {"offload_param": {"device": "nvme"}, **block}
        offload.size_buffers(block, student, ranks=2)
        return block["offload_param"]["buffer_size"], block["offload_param"]["buffer_count"]

    assert sized() == (150, 15)
    assert sized(stage3_max_live_parameters=700) == (150, 9)
    assert sized(offload_param={"device": "nvme", "buffer_size": 7, "buffer_count": 3}) == (7, 3)
    assert offload.size_buffers(block := {"offload_param": {"device": "cpu"}}, student, 2) is None
    assert block == {"offload_param": {"device": "cpu"}}


def test_one_sub_group_is_in_memory_at_a_time_and_goes_back_to_its_file():
    said: list[str] = []
    optimizer = SimpleNamespace(
        swap_optimizer=True,
        _swappable_optimizer_subgroup=lambda group: group != 9,  # too small for a file
        _optimizer_states_and_gradient_swap_in=lambda group: said.append(f"in {group}"),
        _optimizer_states_and_gradient_swap_out=lambda group: said.append(f"out {group}"),
    )
    with suppress(ZeroDivisionError), offload.window(optimizer) as bring:
        for group in (0, 9, 0, 1):
            bring(group)
        raise ZeroDivisionError
    assert said == ["in 0", "out 0", "in 1", "out 1"]
    with offload.window(SimpleNamespace()) as bring:  # another stage's, or torch's
        bring(0)


def test_files_of_a_training_are_deleted_and_nothing_else(tmp_path):
    own, other = (offload.place(str(tmp_path), Path(run)) for run in ("a", "b"))
    for place in (own, other):
        for rank in (0, 1):
            (place / f"zero_stage_3/optimizer/rank{rank}").mkdir(parents=True)
            (place / f"zero_stage_3/optimizer/rank{rank}/a.swp").touch()
    (tmp_path / "mine.txt").touch()
    block = {"stage": 3, "offload_optimizer": {"nvme_path": str(own)}, "offload_param": {"device": "cpu"}}
    offload.clear(block, 0)
    assert [path.name for path in (own / "zero_stage_3/optimizer").iterdir()] == ["rank1"], "of another rank"
    offload.clear(block, 1)
    assert {path.name for path in tmp_path.iterdir()} == {other.name, "mine.txt"}
    assert len(list(other.rglob("a.swp"))) == 2
