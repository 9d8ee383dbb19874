"""Where DeepSpeed keeps the pieces of a student at each ZeRO stage, as plain tensors.

DeepSpeed 0.19 has four optimizer classes with layouts of their own:

- stage 0: torch's optimizer; every rank holds everything
- stages 1 and 2: a flat fp32 copy of each parameter group, cut into one partition a rank
- stage 1 in bf16: the same, in another class (``BF16_Optimizer``) that also keeps flat gradients
- stage 3: each parameter cut into one (padded) partition a rank; fp32 copies in flat sub-groups

With ``train.offload`` those of stages 1 to 3 lie on the host, and so do the gradients (``offload.py``).

This file is the one place that knows them. It imports nothing of DeepSpeed's: it is handed the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from tracestill.trainer.engine import offload
from tracestill.trainer.optimizers.groups import MOMENTS
from tracestill.trainer.optimizers.partition import Part, Partitioned
from tracestill.trainer.ranks.collectives import exchange
from tracestill.trainer.student.adapters import plain_name

ROUNDING = 1e-6  # that torch and DeepSpeed add to a norm before they divide by it
UPDATES = "tracestill_updates"  # attribute of the engine: how many its optimizer has made


@dataclass(frozen=True)
class Piece:
    """The part of one parameter that this rank holds: elements [start, start + len(value)) of it, flattened."""

    name: str  # without what an adapter's wrapping adds to it
    parameter: nn.Parameter
    shape: tuple[int, ...]  # of the whole parameter
    start: int
    value: Tensor  # (n,) view: the fp32 master copy, or of a frozen parameter the parameter itself
    key: Tensor | None  # what the optimizer's state hangs on; None if frozen
    offset: int  # of this piece in ``key``, flattened
    replicated: bool  # every rank holds the same piece
    moments: tuple[str, ...] = ()  # what the optimizer keeps for each of its elements

    def moment(self, optimizer: torch.optim.Optimizer, name: str) -> Tensor:
        """(n,) view of one of ``moments`` for this piece."""
        assert self.key is not None, f"{self.name} is frozen"
        return optimizer.state[self.key][name].view(-1).narrow(0, self.offset, len(self.value))


def kind_of(engine: Any) -> str:
    """Which layout: ``plain``, ``flat`` (stages 1 and 2), ``bf16`` (stage 1 in bf16) or ``sliced`` (stage 3)."""
    if engine.zero_optimization_partition_weights():
        return "sliced"
    if hasattr(engine.optimizer, "fp32_groups_flat_partition"):
        return "bf16"
    return "flat" if hasattr(engine.optimizer, "single_partition_of_fp32_groups") else "plain"


def flat_masters(engine: Any) -> list[Tensor]:
    """The tensors that torch's optimizer updates on this rank."""
    layout = kind_of(engine)
    if layout == "plain":
        return [p for group in engine.basic_optimizer.param_groups for p in group["params"]]
    names = {
        "flat": "single_partition_of_fp32_groups",
        "bf16": "fp32_groups_flat_partition",
        "sliced": "fp32_partitioned_groups_flat",
    }
    return list(getattr(engine.optimizer, names[layout]))


def pieces(engine: Any) -> Iterator[Piece]:
    """This rank's piece of every parameter, in the order of ``named_parameters``; empty pieces included. With
    train.offload.optimizer: nvme its tensors are there until the next one is asked for, and written back then."""
    layout, masters = kind_of(engine), flat_masters(engine)
    groups = dict(zip(map(id, masters), groups_of(engine), strict=True))
    places = flat_places(engine) if layout in ("flat", "bf16") else {}
    with offload.window(engine.optimizer) as bring:
        for name, parameter in engine.module.named_parameters():
            name = plain_name(name)
            if layout == "sliced":
                piece = sliced_piece(engine, name, parameter, masters, bring)
            elif layout == "plain" or not parameter.requires_grad:
                key = parameter if parameter.requires_grad else None
                piece = Piece(name, parameter, tuple(parameter.shape), 0, parameter.data.view(-1), key, 0, True)
            else:
                piece = flat_piece(name, parameter, masters[places[id(parameter)]])
            yield piece if piece.key is None else replace(piece, moments=moments_of(groups.get(id(piece.key), {})))


def flat_places(engine: Any) -> dict[int, int]:
    """Id of a parameter -> the number of its group, at stages 1 and 2."""
    held = engine.optimizer.bf16_groups if kind_of(engine) == "bf16" else engine.optimizer.bit16_groups
    return {id(parameter): index for index, group in enumerate(held) for parameter in group}


def groups_of(engine: Any) -> list[dict[str, Any]]:
    """The optimizer's group of each of ``flat_masters``."""
    groups, layout = engine.basic_optimizer.param_groups, kind_of(engine)
    if layout == "plain":
        return [group for group in groups for _ in group["params"]]
    if layout == "sliced":
        every = range(len(engine.optimizer.fp32_partitioned_groups_flat))
        return [groups[engine.optimizer.sub_group_to_group_id[index]] for index in every]
    return list(groups)


def moments_of(group: dict[str, Any]) -> tuple[str, ...]:
    """Names of what the optimizer keeps for each element of a group."""
    return tuple(group.get("moments", MOMENTS))


def flat_piece(name: str, parameter: nn.Parameter, master: Tensor) -> Piece:
    mapping = parameter._hp_mapping  # type: ignore[attr-defined]  # None where another rank holds all of it
    shape = tuple(parameter.shape)
    if mapping is None:
        return Piece(name, parameter, shape, 0, master.detach()[:0], master, 0, False)
    at = mapping.hp_fragment_address
    value = master.detach().narrow(0, at.start, at.numel)
    return Piece(name, parameter, shape, mapping.lp_fragment_address.start, value, master, at.start, False)


def sliced_piece(engine: Any, name: str, parameter: Any, masters: list[Tensor], bring: Callable[[int], None]) -> Piece:
    shape, optimizer = tuple(parameter.ds_shape), engine.optimizer
    size = parameter.partition_numel()
    start = min(size * optimizer._get_param_partition_rank(parameter), parameter.ds_numel)
    held = min(size, parameter.ds_numel - start)  # the last partitions are padded
    if not parameter.requires_grad:
        return Piece(name, parameter, shape, start, parameter.ds_tensor.data.view(-1)[:held], None, 0, False)
    index, offset, _ = optimizer.grad_position[optimizer.get_param_id(parameter)]
    bring(index)
    value = masters[index].detach().narrow(0, offset, held)
    return Piece(name, parameter, shape, start, value, masters[index], offset, False)


def gradients(engine: Any, rank: int) -> list[Tensor]:
    """This rank's share of the reduced gradient after the last backward, no element of which belongs to two ranks; or,
    where it went to the host, tensors of the same norm on the device."""
    layout, optimizer = kind_of(engine), engine.optimizer
    if offload.offloaded(engine):
        offload.complete(optimizer)
        return offload.norms(optimizer)
    if layout == "plain":
        every = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        return every if rank == 0 else []
    if layout == "bf16":
        return list(optimizer.fp32_groups_gradient_flat_partition)
    return [g for group in optimizer.averaged_gradients.values() if group is not None for g in group]


def hand_over_norm(engine: Any, norm: float, clip: float) -> None:
    """Let the coming ``engine.step`` clip by this norm of the gradient, where it would compute it again, in one pass
    over all gradients (0.19.8: in fp64 at stages 1 to 3). With offloading it adds up what it noted of each gradient."""
    layout, optimizer = kind_of(engine), engine.optimizer
    if offload.offloaded(engine):
        return
    if layout == "plain":
        scale = min(1.0, clip / (norm + ROUNDING)) if clip else 1.0  # as torch's clip_grad_norm_
        engine.clip_fp32_gradients = lambda: scale_gradients(engine, scale)
        return
    found = torch.tensor(norm)  # on the host, which would wait for the device to look at it
    if layout == "flat":
        optimizer.check_grad_overflow = False  # another pass; a gradient that is not finite does not come here
        optimizer.scaled_global_norm = lambda norm_type=2: found
    elif layout == "sliced":
        optimizer._get_norm_groups = lambda: [found]
    else:
        grads = type(optimizer).get_grads_for_norm

        def of_one(for_clipping: bool = False) -> Any:
            return grads(optimizer, for_clipping=True) if for_clipping else ([found], {})

        optimizer.get_grads_for_norm = of_one


def scale_gradients(engine: Any, scale: float) -> None:
    if scale < 1.0 and (every := gradients(engine, rank=0)):
        torch._foreach_mul_(every, scale)


def begin_step(engine: Any) -> None:
    """Call before the first micro-step. Stage 3 would take the last step's gradient again for a parameter that the
    coming step does not touch: it overwrites that buffer only where a gradient arrives."""
    if kind_of(engine) == "sliced":
        engine.optimizer.grad_partitions_flat_buffer.zero_()
    if offload.offloaded(engine):
        offload.begin(engine.optimizer, flat_masters(engine))


def clear_gradients(engine: Any) -> None:
    """Forget the gradients of the micro-steps so far, as the engine does after a step."""
    layout, optimizer = kind_of(engine), engine.optimizer
    if layout == "plain":
        engine.zero_grad()
        return
    optimizer.zero_grad()
    if offload.offloaded(engine):
        offload.forget(optimizer)
    if layout != "bf16":
        for group in optimizer.averaged_gradients:  # stage 2 adds to them in bf16
            optimizer.averaged_gradients[group] = None


def begin_optimizer(engine: Any, rank: int) -> None:
    """Tell an optimizer that has to know it which pieces lie where. Called on every rank, once."""
    setattr(engine, UPDATES, 0)
    optimizer = engine.basic_optimizer
    if not isinstance(optimizer, Partitioned):
        return
    found = [piece for piece in pieces(engine) if piece.key is not None]
    own = torch.tensor([[piece.start, len(piece.value)] for piece in found], dtype=torch.int64)
    every = [own] if kind_of(engine) == "plain" else exchange(own)
    starts, lengths = torch.stack(every).unbind(dim=-1)  # (ranks, pieces) each
    parts: dict[Tensor, list[Part]] = {master: [] for master in flat_masters(engine)}
    for index, piece in enumerate(found):
        assert piece.key is not None
        where = tuple(starts[:, index].tolist()), tuple(lengths[:, index].tolist())
        parts[piece.key].append(Part(piece.name, piece.shape, *where, piece.offset))
    optimizer.begin(parts, rank)


def whole_states(engine: Any, rank: int, *, written: bool) -> dict[str, Tensor]:
    """Key -> tensor of what the optimizer keeps for whole parameters on this rank; without updates, nothing. With
    ``written``, no key is there on two ranks."""
    optimizer = engine.basic_optimizer
    if not isinstance(optimizer, Partitioned) or not count_updates(engine):
        return {}
    alike, own = optimizer.whole_states(), optimizer.own_states()
    if written and rank != 0:
        return {} if kind_of(engine) == "plain" else own
    return {**alike, **own}


def set_moments(engine: Any, steps: int) -> None:
    """Give every master tensor a zeroed state of the optimizer that counts ``steps`` updates; with 0, none at all."""
    state = engine.basic_optimizer.state
    state.clear()
    setattr(engine, UPDATES, steps)
    if hasattr(engine.optimizer, "_hp_optimizer_states_linked"):
        engine.optimizer._hp_optimizer_states_linked = False  # DeepSpeed's own accessors look again
    offload.forget_states(engine.optimizer)
    masters = zip(flat_masters(engine), groups_of(engine), strict=True) if steps else ()
    with offload.window(engine.optimizer) as bring:
        for index, (master, group) in enumerate(masters):
            bring(index)
            counter = torch.tensor(float(steps), dtype=torch.float32)
            if engine.basic_optimizer.defaults.get("fused"):
                counter = counter.to(master.device)
            counted = {"step": counter} if group.get("counted", True) else {}
            state[master] = {**counted, **{name: torch.zeros_like(master.detach()) for name in moments_of(group)}}


def count_update(engine: Any) -> None:
    """Call after each update."""
    setattr(engine, UPDATES, count_updates(engine) + 1)


def count_updates(engine: Any) -> int:
    """Updates that the optimizer has made."""
    return int(getattr(engine, UPDATES))


def refresh(engine: Any) -> None:
    """After writing into ``Piece.value``: bring the parameters that the student computes with up to date."""
    layout, optimizer = kind_of(engine), engine.optimizer
    if layout in ("flat", "bf16"):
        optimizer.update_lp_params()
    elif layout == "sliced":
        optimizer.checkpoint_event_prologue()  # nothing stays gathered
        with offload.window(optimizer) as bring:
            for group in range(len(optimizer.fp16_groups)):
                bring(group)
                optimizer._reassign_or_swap_out_partitioned_parameters(group)
        optimizer.checkpoint_event_epilogue()
