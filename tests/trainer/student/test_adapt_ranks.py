"""Adapters and frozen parameters under ZeRO: saved on two ranks, resumed on three in a student of another seed."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import tiny_step
import torch
from distributed_support import run_workers
from safetensors.torch import load_file

WORKER = Path(__file__).with_name("adapt_worker.py")
CASES = [
    *(f"lora-{stage}" for stage in range(4)),
    "head-2",
    "head-3",
    *(f"dora-{stage}" for stage in (0, 2, 3)),
    "frozen-0",
    "frozen-3",
]
FOUR_BITS = ["four_bits-1"] if find_spec("bitsandbytes") else []
PLAIN = {name for name, _ in tiny_step.plain_model(tied=False).named_parameters()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, dict[int, dict[str, Any]]]:
    """The workers' directory, and what they found by number of ranks."""
    directory = tmp_path_factory.mktemp("adapted")
    for seed in (0, 7):
        tiny_step.plain_model(tied=False, seed=seed).save_pretrained(directory / f"base-{seed}")
    run_workers(WORKER, "save", directory, ranks=2)
    run_workers(WORKER, "load", directory, ranks=3)
    return directory, {ranks: json.loads((directory / f"ranks-{ranks}.json").read_text()) for ranks in (2, 3)}


def stored(path: Path) -> dict[str, torch.Tensor]:
    files = [load_file(file) for file in sorted(path.glob("rank-*.safetensors"))]
    return {name: tensor for file in files for name, tensor in file.items() if not name.startswith("rng/")}


def trainable(case: str) -> set[str]:
    """Plain names of what learns in a case, written out."""
    layers = [f"model.layers.{i}" for i in (0, 1)]
    if case == "frozen":
        return {name for name in PLAIN if not name.startswith(("model.embed_tokens", "model.layers.0."))}
    parts = {"mlp": ["gate_proj", "up_proj", "down_proj"], "self_attn": ["q_proj", "k_proj", "v_proj", "o_proj"]}
    if case == "head":
        parts = {"mlp": ["down_proj"], "self_attn": ["q_proj"]}
    linear = [f"{layer}.{part}.{name}" for layer in layers for part, names in parts.items() for name in names]
    if case == "dora":
        linear = [name for name in linear if name.endswith("q_proj") or ".layers.1." in name]
    found = {f"{name}.lora_{which}.weight" for name in linear for which in "AB"}
    more = {"head": {"lm_head.weight"}, "dora": {f"{name}.lora_magnitude_vector" for name in linear}}
    return found | more.get(case, set())


@pytest.mark.parametrize("case", CASES + FOUR_BITS)
def test_resuming_in_a_student_of_another_seed_is_bit_for_bit_the_uninterrupted_run(trained, case):
    found = trained[1][2][case]
    assert found["same"]
    assert found["again"] == found["losses"][2:]
    assert found["losses"][-1] != found["losses"][0]
    assert found["partitioned"] == case.endswith("3")


@pytest.mark.parametrize("case", CASES)
def test_checkpoints_hold_everything_by_plain_names(trained, case):
    kind, stage = case.split("-")
    tensors = stored(trained[0] / case / "step-000002")
    learning = trainable(kind)
    assert {n for n in tensors if n.startswith("parameter/")} == {f"parameter/model.{n}" for n in PLAIN | learning}
    for part in ("exp_avg", "exp_avg_sq", "average"):
        assert {n for n in tensors if n.startswith(f"{part}/")} == {f"{part}/model.{n}" for n in learning}
    base = load_file(trained[0] / "base-0" / "model.safetensors")
    changed = {n for n in PLAIN if not torch.equal(tensors[f"parameter/model.{n}"], base[n])}
    assert changed == learning & PLAIN
    if stage == "0":
        assert trained[1][2][case]["masters"] == len(learning), "the optimizer holds what learns, nothing else"


@pytest.mark.parametrize("case", CASES + FOUR_BITS)
def test_on_three_ranks_and_another_stage_everything_is_the_same(trained, case):
    directory, found = trained
    before = stored(directory / case / "step-000002")
    for ranks in (2, 3):
        after = stored(directory / f"again-{ranks}-{case}" / "step-000002")
        assert after.keys() == before.keys()
        assert [n for n in before if not torch.equal(after[n], before[n])] == []
    assert found[3][case]["loaded"] == pytest.approx(found[2][case]["loaded"], rel=1e-6)


@pytest.mark.parametrize(
    ("case", "other"),
    [(case, f"{case[:4]}-0") for case in CASES if case[:4] in ("lora", "dora") and case[-1] != "0"]
    + [("head-3", "head-2")],
)
def test_stages_agree_on_what_is_learned(trained, case, other):
    directory, found = trained
    assert found[2][case]["losses"] == pytest.approx(found[2][other]["losses"], rel=1e-5)
    ours, theirs = (load_file(directory / f"{name}.safetensors") for name in (case, other))
    learning = trainable(case.split("-")[0])
    assert ours.keys() == theirs.keys() == PLAIN | learning
    for name in learning:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-3, atol=1e-5)
