"""train.label_smoothing and train.z_loss: a step of two ranks against transformers and PyTorch in float64."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny_step
import torch
import torch.nn.functional as F
from distributed_support import run_workers
from safetensors.torch import load_file, save_file

CASES = [
    {"zero": 1, "accumulation": 1, "loss": {"label_smoothing": 0.1}},
    {"zero": 2, "accumulation": 3, "loss": {"z_loss": 0.02}},
    {"zero": 3, "accumulation": 2, "loss": {"label_smoothing": 0.3, "z_loss": 0.001}},
    {"zero": 2, "accumulation": 3, "loss": {}},
]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[float], dict[str, torch.Tensor]]:
    directory = tmp_path_factory.mktemp("smoothing")
    start = {name: tensor.clone() for name, tensor in tiny_step.plain_model(tied=False).state_dict().items()}
    save_file(start, directory / "start.safetensors")
    run_workers(Path(__file__).with_name("smoothing_worker.py"), directory, json.dumps(CASES), ranks=2)
    return json.loads((directory / "losses.json").read_text()), load_file(directory / "gradients.safetensors")


def by_torch(dtype: torch.dtype, *, label_smoothing: float = 0.0, z_loss: float = 0.0) -> tuple[float, torch.Tensor]:
    """Loss and whole gradient of the step: every document alone, PyTorch's own label smoothing."""
    model = tiny_step.plain_model(tied=False).to(dtype)
    total = torch.zeros((), dtype=dtype)
    for document in tiny_step.documents(0):
        ids = torch.from_numpy(document.tokens.astype("int64"))
        logits = model(input_ids=ids[None], use_cache=False).logits[0, :-1]
        each = F.cross_entropy(logits, ids[1:], reduction="none", label_smoothing=label_smoothing)
        each = each + z_loss * torch.logsumexp(logits, 1) ** 2
        total = total + (torch.from_numpy(document.weights()).to(dtype) * each).sum()
    total = total * tiny_step.normaliser(0)
    total.backward()
    return float(total), torch.cat([parameter.grad.double().flatten() for _, parameter in named(model)])


def named(model: torch.nn.Module) -> list[tuple[str, torch.nn.Parameter]]:
    return sorted(model.named_parameters())


@pytest.mark.parametrize("at", range(len(CASES)))
def test_loss_and_gradient_are_those_of_pytorch(found, at: int) -> None:
    loss, gradient = by_torch(torch.float64, **CASES[at]["loss"])
    whole = torch.cat([t.double().flatten() for name, t in sorted(found[1].items()) if name.startswith(f"{at}/")])
    assert found[0][at] == pytest.approx(loss, rel=1e-6)
    assert float((whole - gradient).norm() / gradient.norm()) < 2e-6
    if CASES[at]["loss"]:
        plain = by_torch(torch.float64)
        assert abs(loss / plain[0] - 1) > 1e-3
        assert float((plain[1] - gradient).norm() / gradient.norm()) > 1e-3, "and they change something"
