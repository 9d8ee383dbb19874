"""Invariants 1 to 3 for mixtures of experts, their routers' loss included: ranks, accumulation, stages, packing.

Compared with transformers' own models in float64, every document alone (tiny_experts.py).
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tiny_experts
import tiny_step
import torch
from distributed_support import run_workers
from safetensors.torch import load_file

WORKER = Path(__file__).with_name("experts_worker.py")


@pytest.fixture(scope="module", params=[2, 3])
def outcome(request, tmp_path_factory) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    directory = tmp_path_factory.mktemp(f"experts-{request.param}")
    run_workers(WORKER, directory, ranks=request.param)
    found = json.loads((directory / f"ranks-{request.param}.json").read_text())
    return found, load_file(directory / f"ranks-{request.param}.safetensors")


@cache
def reference(kind: str, listed: bool, short: bool) -> tuple[float, dict[str, torch.Tensor]]:
    model = tiny_experts.plain(kind, torch.float64)
    if listed:
        tiny_experts.list_experts(model)
    every = tiny_step.documents(0)
    documents = sorted(every, key=lambda d: len(d.tokens))[:2] if short else every
    loss = tiny_experts.plain_loss(model, documents, tiny_step.normaliser(0), tiny_experts.COEFFICIENT)
    loss.backward()
    found = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in model.named_parameters()}
    return float(loss.detach()), found


def whole(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensors[name].double().flatten() for name in sorted(tensors)])


def test_loss_and_gradient_are_those_of_the_plain_models(outcome):
    found, tensors = outcome
    assert len(found["results"]) in (8, 2)
    for name, case in found["results"].items():
        loss, exact = reference(case["kind"], case.get("listed", False), case.get("short", False))
        assert case["loss"] == pytest.approx(loss, rel=1e-6), name
        gradient = {n.removeprefix(f"{name}/"): t for n, t in tensors.items() if n.startswith(f"{name}/")}
        assert (gradient.keys() < exact.keys()) if case.get("frozen") else (gradient.keys() == exact.keys())
        learning = whole({n: exact[n] for n in gradient})
        assert (whole(gradient) - learning).norm() <= 2e-6 * learning.norm(), name
        assert case["norm"] == pytest.approx(float(learning.norm()), rel=1e-6), name


def test_no_rank_visits_every_expert_of_a_list(outcome):
    short = [case for case in outcome[0]["results"].values() if case.get("short")]
    assert short
    assert all(sum(missed) > 0 for case in short for missed in case["missed"])


def test_what_is_told_of_the_routers_is_of_all_ranks(outcome):
    model = tiny_experts.plain("mixtral")
    counts = torch.zeros(2, 6)
    for document in tiny_step.documents(0):
        ids = torch.from_numpy(document.tokens.astype("int64"))[None]
        logits = model(input_ids=ids, use_cache=False, output_router_logits=True).router_logits
        for layer, count in zip(logits, counts, strict=True):
            chosen = layer[:-1][torch.from_numpy(document.weights()) > 0].topk(2).indices
            count += chosen.flatten().bincount(minlength=6)
    told = [c["told"] for c in outcome[0]["results"].values() if c["kind"] == "mixtral" and not c.get("short")]
    for one in told:
        assert one["busiest"] == pytest.approx(float((counts.max(1).values / counts.mean(1)).max()))
        assert one["idle"] == int((counts == 0).sum())
        assert one["loss"] == pytest.approx(told[0]["loss"], rel=1e-5)


def test_a_resumed_training_is_bit_for_bit_the_uninterrupted_one(outcome):
    assert outcome[0]["same"] is not False
