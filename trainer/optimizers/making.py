"""The optimizer that a recipe names, made for a student."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from tracestill.data_pipeline.base import own_modules
from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.kinds import nearest
from tracestill.trainer.optimizers.groups import parameter_groups
from tracestill.trainer.recipe.optimizers import KEY, OPTIMIZERS, own_optimizer
from tracestill.trainer.recipe.settings import TrainConfig

Make = Callable[..., torch.optim.Optimizer]
NO_BITSANDBYTES = (
    f"{KEY}: adam8bit needs bitsandbytes, which is not installed: pip install 'tracestill[8bit]'; adamw and adafactor "
    "need nothing"
)
SHAPE, STEPS = (4, 6), 3  # of the parameter that one of the user's own is tried on, and its updates


def make_optimizer(student: nn.Module, settings: TrainConfig, *, dtype: torch.dtype) -> torch.optim.Optimizer:
    """For the parameters of a student that learn; ``dtype`` is what it computes in. Raises InputError for one of the
    user's own as ``check_optimizer``."""
    config = settings.optimizer
    if own_optimizer(config) is None:
        module, _, name = OPTIMIZERS[config.use].made_by.partition(":")
        made: torch.optim.Optimizer = getattr(importlib.import_module(module), name)(student, settings, dtype=dtype)
        return made
    kept = check_optimizer(settings)
    optimizer = call(own_function(settings), settings, parameter_groups(student, settings.weight_decay, lambda *_: {}))
    for group in optimizer.param_groups:
        group.update(kept)
    return optimizer


def check_optimizer(settings: TrainConfig) -> dict[str, Any]:
    """What an optimizer of the user's own keeps: ``moments``, the names of what each element has, and ``counted``,
    whether it counts its updates. Found out by trying it on a matrix, and on the same matrix in two flat pieces.

    Raises InputError if it cannot be made, if it keeps what no checkpoint could hold by the names of parameters, or if
    ``train.zero`` cuts matrices and it is not element by element. Of one built in only whether it is there is looked
    at: nothing is kept.
    """
    if own_optimizer(settings.optimizer) is None:
        if settings.optimizer.use == "adam8bit" and find_spec("bitsandbytes") is None:
            raise InputError(NO_BITSANDBYTES)
        return {}
    make, name = own_function(settings), settings.optimizer.use
    torch_state = torch.get_rng_state()
    whole, state = tried(make, settings, [SHAPE])
    pieces, _ = tried(make, settings, [(9,), (15,)])
    torch.set_rng_state(torch_state)
    kept = {}
    for key, value in state.items():
        if isinstance(value, Tensor) and tuple(value.shape) == SHAPE:
            kept[key] = True
        elif key != "step" or not isinstance(value, Tensor) or value.numel() != 1:
            raise InputError(
                f"{KEY}: {name} keeps '{key}' ({about(value)}) for a parameter of shape {SHAPE}; checkpoints hold what "
                f"has the parameter's shape, and a tensor 'step'"
            )
    if settings.zero and not torch.equal(whole, pieces):
        raise InputError(
            f"{KEY}: {name} does not work element by element, but train.zero: {settings.zero} hands it flat pieces of "
            f"parameters; set train.zero: 0 (and train.precision: fp32)"
        )
    return {"moments": tuple(kept), "counted": "step" in state}


def own_function(settings: TrainConfig) -> Make:
    module, _, name = settings.optimizer.use.partition(":")
    held = vars(own_modules.load(module, KEY))
    if not callable(held.get(name)):
        offered = [key for key, value in held.items() if callable(value) and not key.startswith("_")]
        raise InputError(f"{KEY}: {module} has no function '{name}'" + (nearest(name, offered) if offered else ""))
    found: Make = held[name]
    return found


def call(make: Make, settings: TrainConfig, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    config = settings.optimizer
    try:
        made = make(groups, lr=settings.lr, **config.options)
    except Exception as error:  # somebody's code: whatever it raises, it is not ready to be used
        raise InputError(f"{KEY}: {config.use} fails ({type(error).__name__}: {error})") from error
    if not isinstance(made, torch.optim.Optimizer):
        raise InputError(f"{KEY}: {config.use} gives {about(made)}; expected a torch.optim.Optimizer")
    return made


def tried(make: Make, settings: TrainConfig, shapes: list[tuple[int, ...]]) -> tuple[Tensor, dict[str, Any]]:
    """The elements of one parameter, cut into tensors of these shapes, after updates; and the first one's state."""
    draw = torch.Generator().manual_seed(0)
    start = torch.randn(torch.Size(SHAPE).numel(), generator=draw)
    sizes = [torch.Size(shape).numel() for shape in shapes]
    tensors = [nn.Parameter(piece.clone().view(shape)) for piece, shape in zip(start.split(sizes), shapes, strict=True)]
    optimizers = [call(make, settings, [{"params": [tensor], "weight_decay": 0.1}]) for tensor in tensors]
    for _ in range(STEPS):
        gradient = torch.randn(start.shape, generator=draw)
        for tensor, piece, optimizer in zip(tensors, gradient.split(sizes), optimizers, strict=True):
            tensor.grad = piece.clone().view(tensor.shape)
            try:
                optimizer.step()
            except Exception as error:  # as above
                name = settings.optimizer.use
                shape = tuple(tensor.shape)
                raise InputError(
                    f"{KEY}: {name} fails on a parameter of shape {shape} ({type(error).__name__}: {error})"
                ) from error
    return torch.cat([tensor.detach().view(-1) for tensor in tensors]), dict(optimizers[0].state[tensors[0]])


def about(value: Any) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
