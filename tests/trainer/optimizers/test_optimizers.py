"""Every optimizer's update is that of a plain one in float64, at every ZeRO stage, on every number of ranks; and its
state is saved by name, whole, and goes on bit for bit."""

from __future__ import annotations

import json
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import tiny_step
import torch
from distributed_support import run_workers
from safetensors.torch import load_file, save_file
from stored_tensors import stored_tensors

WORKER = Path(__file__).with_name("optimizers_worker.py")
STEPS, CLIP = 3, 0.5
FROZEN = "model.layers.0.self_attn.o_proj.weight"
OPTIMIZERS = ("muon", "adafactor", "lion", "adam8bit")
BOUNDS = {"muon": 2e-4, "adafactor": 2e-5, "lion": 2e-2, "adam8bit": 1e-2}
"""Of the movement. Rounding turns a sign near zero (Lion) and a code of eight bits (adam8bit)."""
RATE, DECAY = tiny_step.ADAM["lr"], tiny_step.WEIGHT_DECAY


@cache
def start(tied: bool) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in tiny_step.plain_model(tied).state_dict().items()}


class Muon:
    """As its authors write it, with Moonlight's scale, one matrix after the other."""

    def __init__(self) -> None:
        self.held: dict[str, Any] = {}

    def step(self, name: str, p: torch.Tensor, decay: float, count: int) -> None:
        g = p.grad
        if "layers" not in name or p.ndim < 2:
            m, v = self.held.get(name, (torch.zeros_like(p), torch.zeros_like(p)))
            (b1, b2), eps = tiny_step.ADAM["betas"], tiny_step.ADAM["eps"]
            m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
            self.held[name] = (m, v)
            update = (m / (1 - b1**count)) / ((v / (1 - b2**count)).sqrt() + eps)
        else:
            m = 0.95 * self.held.get(name, torch.zeros_like(p)) + 0.05 * g
            self.held[name] = m
            x = 0.05 * g + 0.95 * m
            x = x / x.norm()
            for _ in range(5):
                square = x @ x.T
                x = 3.4445 * x - 4.7750 * square @ x + 2.0315 * square @ square @ x
            update = x * 0.2 * max(p.shape) ** 0.5
        p.data = p.data - RATE * decay * p.data - RATE * update


class Lion:
    def __init__(self) -> None:
        self.held: dict[str, torch.Tensor] = {}

    def step(self, name: str, p: torch.Tensor, decay: float, count: int) -> None:
        m = self.held.get(name, torch.zeros_like(p))
        self.held[name] = 0.99 * m + 0.01 * p.grad
        p.data = p.data - RATE * decay * p.data - RATE * torch.sign(0.9 * m + 0.1 * p.grad)


class Adafactor:
    """torch's, of each parameter by itself."""

    def __init__(self) -> None:
        self.held: dict[str, torch.optim.Optimizer] = {}

    def step(self, name: str, p: torch.Tensor, decay: float, count: int) -> None:
        if name not in self.held:
            eps = (torch.finfo(torch.float32).eps, 1e-3)
            self.held[name] = torch.optim.Adafactor([p], lr=RATE, weight_decay=decay, eps=eps, foreach=False)
        self.held[name].step()


class Adam8bit:
    """bitsandbytes', of each whole parameter by itself."""

    def __init__(self) -> None:
        self.held: dict[str, Any] = {}

    def step(self, name: str, p: torch.Tensor, decay: float, count: int) -> None:
        import bitsandbytes

        if name not in self.held:
            stand_in = torch.nn.Parameter(p.detach().float())
            adam = {"lr": RATE, "betas": tiny_step.ADAM["betas"], "eps": tiny_step.ADAM["eps"], "weight_decay": decay}
            self.held[name] = stand_in, bitsandbytes.optim.AdamW8bit([stand_in], min_8bit_size=1000, **adam)
        stand_in, optimizer = self.held[name]
        stand_in.grad = p.grad.float()
        optimizer.step()
        p.data = stand_in.detach().double()


@cache
@tiny_step.one_thread()
def reference(optimizer: str, tied: bool) -> dict[str, torch.Tensor]:
    """Parameters after the steps, in one process in float64, without DeepSpeed."""
    model = tiny_step.plain_model(tied)
    model.load_state_dict(start(tied))
    model = model.double()
    model.get_parameter(FROZEN).requires_grad_(False)
    plain = {"muon": Muon, "lion": Lion, "adafactor": Adafactor, "adam8bit": Adam8bit}[optimizer]()
    for step in range(STEPS):
        tiny_step.plain_loss(model, step).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        for name, p in model.named_parameters():
            if name == FROZEN:
                continue
            plain.step(name, p, 0.0 if p.ndim < 2 or "embed" in name else DECAY, step + 1)
            p.grad = None
    return {name: p.detach().clone() for name, p in model.named_parameters()}


@pytest.fixture(scope="module", params=[1, 2, pytest.param(3, marks=pytest.mark.soak)])
def outcome(request, tmp_path_factory) -> tuple[Path, dict[str, torch.Tensor]]:
    directory = tmp_path_factory.mktemp(f"ranks-{request.param}")
    for tied in (False, True):
        parameters = {k: v for k, v in start(tied).items() if not (tied and k == "lm_head.weight")}
        save_file(parameters, directory / f"start-{'tied' if tied else 'untied'}.safetensors")
    run_workers(WORKER, directory, request.param, ranks=0 if request.param == 1 else request.param)
    return directory, load_file(directory / f"ranks-{request.param}.safetensors")


@pytest.mark.parametrize(("optimizer", "stage", "accumulation"), [*product(OPTIMIZERS, (0, 1, 2, 3), (1, 2))])
def test_updates_are_those_of_one_plain_process(outcome, optimizer, stage, accumulation):
    if optimizer == "adam8bit":
        pytest.importorskip("bitsandbytes")
    tied = (stage + accumulation) % 2 == 1
    exact, prefix = reference(optimizer, tied), f"{optimizer}-zero{stage}-acc{accumulation}/"
    found = {name.removeprefix(prefix): t.double() for name, t in outcome[1].items() if name.startswith(prefix)}
    assert found.keys() == exact.keys()
    for name, tensor in exact.items():
        moved = (tensor - start(tied)[name].double()).norm()
        error = (found[name] - tensor).norm()
        assert error <= BOUNDS[optimizer] * moved, (name, float(error / moved))


@pytest.fixture(scope="module")
def saved(outcome) -> tuple[Path, dict[str, Any]]:
    file = outcome[0] / "resumed.json"
    if not file.exists():
        pytest.skip("only two ranks save")
    return outcome[0], json.loads(file.read_text())


MOMENTS = {
    "muon": {"momentum", "exp_avg", "exp_avg_sq"},
    "adafactor": {"variance", "row_variance", "column_variance"},
    "lion": {"exp_avg"},
    "adam8bit": {"exp_avg", "exp_avg_sq", "moment_8bit", "square_8bit", "moment_scale", "square_scale"},
}


def test_training_resumes_bit_for_bit_and_elsewhere_with_the_same_state(saved):
    directory, found = saved
    for case, seen in found["resumed"].items():
        optimizer, _, precision = case.split("-")
        assert seen["same"], case
        assert seen["again"] == seen["losses"], case
        assert seen["elsewhere"] == pytest.approx(seen["losses"][0], rel=1e-6 if precision == "fp32" else 2e-2), case
        first, again = (stored_tensors(directory / f"{how}-{case}/step-000002") for how in ("saved", "again"))
        assert first.keys() == again.keys()
        assert all(torch.equal(first[name], again[name]) for name in first), case
        names = {name.partition("/")[0] for name in first}
        assert names == {"parameter", "average", *MOMENTS[optimizer]}
        matrix = "model.model.layers.0.mlp.up_proj.weight"
        if optimizer == "adafactor":
            assert {first[f"{f}_variance/{matrix}"].shape for f in ("row", "column")} == {(1, 48), (1, 32)}
            assert f"variance/{matrix}" not in first
        elif optimizer == "muon":
            assert first[f"momentum/{matrix}"].shape == (48, 32)
            assert f"exp_avg/{matrix}" not in first
            assert "exp_avg/model.lm_head.weight" in first


def test_a_step_that_is_left_out_changes_nothing(saved):
    assert set(saved[1]["skipped"].values()) == {True}
