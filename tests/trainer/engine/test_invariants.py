"""Invariants 1 to 3: loss and gradient do not depend on ranks, accumulation, ZeRO stage, chunk size or packing.

Real processes, one start for each number of ranks. They are compared with transformers' own Llama in one process in
float64, every document alone (tiny_step.py).
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tiny_step
import torch
from distributed_support import run_workers
from safetensors.torch import load_file, save_file

WORKER = Path(__file__).with_name("invariants_worker.py")
STEPS = 2


@cache
def start(tied: bool) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in tiny_step.plain_model(tied).state_dict().items()}


@cache
def reference(tied: bool, clip: float, dtype: torch.dtype) -> tiny_step.Reference:
    return tiny_step.reference(start(tied), tied=tied, clip=clip, steps=STEPS, dtype=dtype)


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


def whole(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensors[name].double().flatten() for name in sorted(tensors)])


def of_case(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


@pytest.fixture(scope="module", params=[1, 2, 3])
def outcome(request, tmp_path_factory) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Results and tensors of all combinations on one number of ranks."""
    directory = tmp_path_factory.mktemp(f"ranks-{request.param}")
    for tied in (False, True):
        parameters = {k: v for k, v in start(tied).items() if not (tied and k == "lm_head.weight")}
        save_file(parameters, directory / f"start-{'tied' if tied else 'untied'}.safetensors")
    run_workers(WORKER, directory, request.param, ranks=0 if request.param == 1 else request.param)
    results = json.loads((directory / f"ranks-{request.param}.json").read_text())
    assert len(results) == (17 if request.param == 1 else 23)
    return results, load_file(directory / f"ranks-{request.param}.safetensors")


def test_the_loss_and_the_norm_are_those_of_the_plain_model(outcome):
    for name, case in outcome[0].items():
        exact = reference(case["tied"], case["clip"], torch.float64)
        assert case["losses"] == pytest.approx(exact.losses, rel=1e-6), name
        assert case["norms"] == pytest.approx(exact.norms, rel=1e-6), name
        assert case["skipped"] == [False] * STEPS, name


def test_the_reduced_gradient_is_that_of_the_plain_model(outcome):
    results, tensors = outcome
    for name, case in results.items():
        exact = reference(case["tied"], case["clip"], torch.float64).gradient
        plain = reference(case["tied"], case["clip"], torch.float32).gradient
        found = of_case(tensors, f"{name}/gradient/")
        assert found.keys() == exact.keys()
        assert distance(whole(found), whole(exact)) <= 2e-6, name
        for parameter, gradient in found.items():
            bound = 4 * distance(plain[parameter], exact[parameter])
            assert distance(gradient, exact[parameter]) <= bound, (name, parameter)


def test_updates_are_those_of_torch_adamw_with_clipping_of_the_true_gradient(outcome):
    results, tensors = outcome
    for name, case in results.items():
        exact = reference(case["tied"], case["clip"], torch.float64).final
        found = of_case(tensors, f"{name}/final/")
        assert found.keys() == exact.keys()
        moved = whole(exact) - whole({k: v for k, v in start(case["tied"]).items() if k in exact})
        assert (whole(found) - whole(exact)).norm() <= 1e-4 * moved.norm(), name


def test_stage_3_does_partition_the_head(outcome):
    for case in outcome[0].values():
        assert case["partitioned"] == [str(case["zero"]).startswith("3")] * len(case["partitioned"])


def test_clipping_is_at_work():
    assert min(reference(False, 0.5, torch.float64).norms) > 1.0
    apart = distance(
        whole(reference(False, 0.0, torch.float64).final), whole(reference(False, 0.5, torch.float64).final)
    )
    assert apart > 1e-5
