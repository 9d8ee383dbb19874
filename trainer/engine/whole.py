"""Whole parameters of a student whose pieces lie on many ranks, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist
from torch import Tensor

from tracestill.trainer.engine import zero
from tracestill.trainer.engine.engine import Engine
from tracestill.trainer.student.adapters import plain_name


def whole_parameters(
    engine: Engine, wanted: Callable[[str], bool] = lambda name: True
) -> Iterator[tuple[list[str], Tensor | None]]:
    """The names of each parameter in the transformers model (several if it is tied), and its fp32 master, whole, on the
    CPU of rank 0; None on the other ranks. Only those with a ``wanted`` name. All ranks have to come to the end of it.

    Each rank has one whole parameter on its device at a time, and rank 0 as many in memory as the caller keeps.
    """
    names: dict[int, list[str]] = {}
    for name, parameter in engine.module.model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(plain_name(name))
    for piece in zero.pieces(engine.deepspeed):
        called = names[id(piece.parameter)]
        if any(map(wanted, called)):
            yield called, gather(engine, piece)


def full_state_dict(engine: Engine) -> dict[str, Tensor] | None:
    """All of them at once on rank 0, by each of their names; None on the other ranks. Called on every rank."""
    found = {name: tensor for names, tensor in whole_parameters(engine) for name in names}
    return {name: tensor for name, tensor in found.items() if tensor is not None} if engine.rank == 0 else None


def gather(engine: Engine, piece: zero.Piece) -> Tensor | None:
    """The whole tensor on the CPU of rank 0, None elsewhere.

    The pieces are added up as bytes, each to zeros only, so every bit stays as it is (-0.0 too).
    """
    part = piece.value
    if piece.replicated:
        return part.detach().to("cpu", copy=True).view(piece.shape) if engine.rank == 0 else None
    elements = torch.Size(piece.shape).numel()
    whole = torch.zeros(elements, dtype=part.dtype, device=engine.device)  # an offloaded part lies on the host
    whole.narrow(0, piece.start, len(part)).copy_(part)
    dist.reduce(whole.view(torch.uint8), dst=0)
    return whole.cpu().view(piece.shape) if engine.rank == 0 else None
