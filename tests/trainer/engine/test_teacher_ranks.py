"""Invariant 1 with a teacher's term: two ranks, every stage, rows that ranks share, against plain models in float64."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import teacher_cases
import tiny_step
import torch
from distributed_support import run_workers
from safetensors.torch import load_file, save_file

from tracestill.kernels.loss import Statistic

WORKER = Path(__file__).with_name("teacher_worker.py")
DISTIL = {
    "zero 0": {},
    "zero 1": {"divergence": "reverse"},
    "zero 2": {"mix": 1.0},
    "zero 3": {"divergence": "jsd"},
    "shared rows": {"divergence": "jsd", "normaliser": "tokens"},
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    place = tmp_path_factory.mktemp("teacher")
    teacher_cases.write(place)
    save_file({k: v.clone() for k, v in tiny_step.plain_model(False).state_dict().items()}, place / "start.safetensors")
    run_workers(WORKER, place, ranks=2)
    return place


@pytest.mark.parametrize("name", DISTIL)
@tiny_step.one_thread()
def test_loss_and_reduced_gradient_do_not_depend_on_ranks_and_stages(directory, name):
    case = json.loads((directory / "found.json").read_text())[name]
    of = teacher_cases.config(**DISTIL[name])
    model = teacher_cases.plain()
    exact, seen = teacher_cases.expected(directory, np.array(case["documents"]), teacher_cases.of_decoder(model), of)
    exact.backward()
    assert case["loss"] == pytest.approx(exact.item(), rel=1e-6)
    assert not case["skipped"]
    assert case["partitioned"] == (name in ("zero 3", "shared rows"))
    found = {k.removeprefix(f"{name}/"): v for k, v in load(directory).items() if k.startswith(f"{name}/")}
    whole = {key: p.grad for key, p in model.named_parameters()}
    assert found.keys() == whole.keys()
    ours, theirs = (torch.cat([g[n].double().flatten() for n in sorted(whole)]) for g in (found, whole))
    assert float((ours - theirs).norm() / theirs.norm()) <= 2e-6
    counts = torch.tensor(case["statistics"])[:, Statistic.TEACHER_COUNT]
    assert int(counts.sum()) == sum(row["count"] for row in seen.values())


@cache
def load(directory):
    return load_file(directory / "found.safetensors")
