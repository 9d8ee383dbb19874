"""What a recipe says of its optimizer, and one of the user's own, which is tried before any work."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from engine_workshop import student

from tracestill.data_pipeline.base import own_modules
from tracestill.data_pipeline.base.errors import InputError
from tracestill.trainer.optimizers.making import check_optimizer, make_optimizer
from tracestill.trainer.optimizers.partition import Exchange, Part, owners, rounds
from tracestill.trainer.recipe.optimizers import OPTIMIZERS, optimizer_bytes, without_foreign_options
from tracestill.trainer.recipe.settings import TrainConfig

MODULE = """
import torch

def sgd(groups, lr, momentum=0.5):
    return torch.optim.SGD(groups, lr=lr, momentum=momentum)

def plain(groups, lr):
    return torch.optim.AdamW(groups, lr=lr)

def whole(groups, lr):
    return torch.optim.Adafactor(groups, lr=lr)

class Normed(torch.optim.SGD):
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p.data -= group["lr"] * p.grad / p.grad.norm()

def normed(groups, lr):
    return Normed(groups, lr=lr)

def broken(groups, lr):
    raise KeyError("nothing")

def number(groups, lr):
    return 3
"""


@pytest.fixture
def own(tmp_path):
    name = f"own_optimizers_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    own_modules.search(tmp_path)
    yield name
    own_modules.search(None)
    sys.modules.pop(name, None)


def train(optimizer: Any, zero: int = 2) -> TrainConfig:
    return TrainConfig(steps=1, optimizer=optimizer, zero=zero)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("optimizer", "complaint"),
    [
        ("muno", "no optimizer 'muno'.*muon"),
        ({"use": "muon", "options": {"momentun": 0.9}}, "options.momentun: unknown key.*momentum"),
        ({"use": "muon", "options": {"momentum": 1.5}}, "options.momentum: .*less than 1"),
        ({"use": "adamw", "options": {"eps": 1}}, "options.eps: unknown key"),
        ("no_such_module:make", "cannot import 'no_such_module'"),
        ("json", "'json' is a module; name its function, as in json:make"),
    ],
)
def test_a_wrong_optimizer_is_refused_by_name(optimizer, complaint):
    with pytest.raises(ValueError, match=complaint):
        train(optimizer)


def test_the_resolved_recipe_says_all_options():
    assert train("muon").optimizer.options["scale"] == "match_rms_adamw"
    assert train("adamw").optimizer.options == {}


def test_an_arm_with_another_optimizer_does_not_take_over_options():
    base = train({"use": "muon", "options": {"momentum": 0.9}}).model_dump(mode="json")
    assert without_foreign_options(base, {"optimizer": "lion"})["optimizer"] == {"options": {}, "use": "lion"}
    same = {"optimizer": {"options": {"iterations": 4}}}
    assert without_foreign_options(base, same) == same
    assert without_foreign_options(base, {"lr": 1}) == {"lr": 1}


def test_one_of_the_users_own_is_tried(own):
    assert check_optimizer(train(f"{own}:sgd")) == {"moments": ("momentum_buffer",), "counted": False}
    assert check_optimizer(train(f"{own}:plain")) == {"moments": ("exp_avg", "exp_avg_sq"), "counted": True}
    assert check_optimizer(train(f"{own}:normed", zero=0)) == {"moments": (), "counted": False}
    assert check_optimizer(train("lion")) == {}


@pytest.mark.parametrize(
    ("function", "complaint"),
    [
        ("whole", r"keeps 'row_var' \(a tensor of shape \(4, 1\)\)"),
        ("normed", "does not work element by element, but train.zero: 2 hands it flat pieces.*set train.zero: 0"),
        ("broken", "fails .KeyError"),
        ("number", "gives a int; expected a torch.optim.Optimizer"),
        ("sgdd", "has no function 'sgdd'.*sgd"),
    ],
)
def test_one_that_would_not_be_exact_is_refused_before_any_work(own, function, complaint):
    with pytest.raises(InputError, match=f"train.optimizer: .*{complaint}"):
        check_optimizer(train(f"{own}:{function}"))


def test_one_of_the_users_own_gets_groups_rate_and_options(own):
    built = student(None, tied=False)
    optimizer = make_optimizer(built, train({"use": f"{own}:sgd", "options": {"momentum": 0.3}}), dtype=torch.float32)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    assert {(group["momentum"], group["lr"]) for group in optimizer.param_groups} == {(0.3, 3e-4)}
    assert optimizer.param_groups[0]["moments"] == ("momentum_buffer",)


@pytest.mark.parametrize("tied", [False, True])
def test_muon_gets_the_matrices_inside_of_layers_and_adamw_the_rest(tied):
    built = student(None, tied=tied)
    names = {parameter: name for name, parameter in built.model.named_parameters()}
    optimizer = make_optimizer(built, train("muon"), dtype=torch.float32)
    by_muon = {
        names[p] for group in optimizer.param_groups if group["moments"] == ("momentum",) for p in group["params"]
    }
    assert by_muon == {name for name, p in built.model.named_parameters() if "layers" in name and p.ndim == 2}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(names)
    decays = {names[p]: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert {name for name, decay in decays.items() if not decay} == {n for n in decays if "norm" in n or "embed" in n}


def test_what_optimizers_keep_is_counted():
    assert {name: optimizer_bytes(name, 256e6, 256e6) / 512e6 for name in OPTIMIZERS} == {
        **{"adamw": 8, "muon": 6, "lion": 4, "adafactor": 0},
        **{"adam8bit": pytest.approx(2 + 8 / 256)},
    }


def test_every_part_has_one_owner_and_work_is_shared_out():
    parts = [Part(f"p{i}", (64, 64), (0, 2048), (2048, 2048), 2048 * i) for i in range(6)]
    parts.append(Part("large", (640, 64), (0, 20480), (20480, 20480), 2048 * 6))
    assert [len(some) for some in rounds(parts, limit=5000)] == [2, 2, 2, 1]
    held = owners(parts, 2)
    assert held[-1] == 0
    assert held[:6] == [1] * 6, "the large one is more work than all of the others"
    first, second = Exchange(parts, 0), Exchange(parts, 1)
    assert [p.name for p in (*first.mine, *second.mine)] == ["large", *(f"p{i}" for i in range(6))]
    assert first.into == [20480, 20480]
    assert first.out == second.out == [20480, 6 * 2048]
