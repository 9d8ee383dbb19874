"""Step checkpoints: whole tensors in safetensors, committed by one rename, loadable on any ranks and ZeRO stage.

    checkpoints/step-000200/
        rank-00000.safetensors ...   fp32 parameters (frozen ones in their own type, unless they are those of
                                       student.pretrained), the optimizer's moments, their average, the rank's RNG;
                                       rank 0's persistent buffers
        state.json                   updates made, and whatever the trainer adds (its step, its identity)
        manifest.json                sha256 and size of every file, written last

A parameter is written by one rank (its index modulo the ranks), whole, so the files do not depend on the stage.
The commit: write into ``tmp-<step>-<uuid>``, sync, every rank's hashes to rank 0, manifest, sync, rename, sync of
the parent, barrier. What was cut off in between has no manifest in a ``step-`` directory and is never loaded.
On hosts that share no file system each keeps its ranks' files, and commits by itself (``checkpoint.local``).
Nothing here is pickled.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.places import place_of, remove
from tracestill.data_pipeline.base.stage import sync, write_json
from tracestill.trainer.checkpoint.files import (
    FORMAT,
    MANIFEST,
    STATE,
    committed,
    damaged,
    entry_of,
    partial,
    path_of,
    rank_file,
)
from tracestill.trainer.checkpoint.parts import open_parts
from tracestill.trainer.engine import zero
from tracestill.trainer.engine.engine import Engine
from tracestill.trainer.ranks.collectives import exchange, share_json, share_text, together
from tracestill.trainer.ranks.console import say
from tracestill.trainer.ranks.placement import Placement
from tracestill.trainer.student.adapters import plain_name

RNG = "rng/"  # names of a rank's own tensors begin with it
BUFFER = "buffer/"


@dataclass(frozen=True)
class Snapshot:
    """What one rank writes of a checkpoint, as copies in CPU memory, so that training may go on."""

    step: int
    rank: int
    tensors: dict[str, Tensor]
    state: str  # JSON


def save(
    engine: Engine, directory: Path, step: int, state: dict[str, Any], *, keep: int = 2, best: int | None = None
) -> Path:
    """Write ``directory/step-<step>``; as ``snapshot`` and ``write``, one after the other."""
    return write(snapshot(engine, step, state), directory, keep=keep, best=best)


def snapshot(engine: Engine, step: int, state: dict[str, Any]) -> Snapshot:
    """The engine's state after a step, and ``state``: JSON that comes back from ``load``. Called on every rank."""
    updates = zero.count_updates(engine.deepspeed)
    base = {"base": base_of(engine)} if base_of(engine) is not None else {}
    text = json.dumps({**state, **base, "updates": updates, "ranks": engine.ranks})
    return Snapshot(step, engine.rank, owned_tensors(engine, updates), text)


def write(
    held: Snapshot,
    directory: Path,
    *,
    keep: int = 2,
    best: int | None = None,
    group: dist.ProcessGroup | None = None,
    placement: Placement | None = None,
    require: Callable[[], None] = lambda: None,
) -> Path:
    """Write ``directory/step-<step>`` of every rank's snapshot; delete all but the ``keep`` newest and that of step
    ``best``, which does not count among them; with 0 the newest stays, for training goes on from it. Called on every
    rank; the ranks talk in ``group``.

    With ``placement``, ``directory`` lies on each host's own disk: each commits what its ranks wrote, and deletes
    nothing before all have. Else all ranks share it.

    Raises InputError on all ranks, saying why, if one of them cannot write, or if ``require``, which is called before
    the commit, does; what was written so far is deleted.
    """
    name = share_text(f"tmp-{held.step:06d}-{uuid.uuid4().hex}", group)
    work, final = directory / name, path_of(directory, held.step)
    state = share_text(held.state, group)
    leads = held.rank == (placement.first if placement else 0)

    def begin() -> None:
        if leads:
            place_of(directory)  # says so if a link leads nowhere
            work.mkdir(parents=True)

    def put() -> dict[str, Any]:
        path = work / rank_file(held.rank)
        save_file(held.tensors, path, metadata={"step": str(held.step), "rank": str(held.rank)})
        sync(path)
        return entry_of(path)

    def commit() -> None:
        if leads:
            write_json(work / STATE, json.loads(state))
            files = {rank_file(rank): entry for rank, entry in enumerate(entries)}
            files[STATE] = entry_of(work / STATE)
            local = {"local": placement.record()} if placement else {}
            write_json(work / MANIFEST, {"format": FORMAT, "step": held.step, "files": files, **local})
            sync(work)
            require()
            if final.exists():
                move_away(final)
            work.rename(final)
            sync(directory)

    def tidy() -> None:
        if leads:
            prune(directory, held.step, keep, best)

    try:
        together(begin, f"{work}: cannot create the checkpoint", group)
        entries = together(put, f"{work}: cannot write the checkpoint", group)
        together(commit, f"{work}: cannot commit the checkpoint", group)
        together(tidy, f"{directory}: cannot delete old checkpoints", group)
    except InputError:  # on every rank, so none is writing any more
        if leads:
            shutil.rmtree(work, ignore_errors=True)  # it may be what fills the disk
        raise
    return final


def load(engine: Engine, path: Path, *, local: bool = False) -> dict[str, Any]:
    """Put the engine into the state that ``save`` found, and return the trainer's own state.

    The number of ranks and the ZeRO stage may differ. RNG states are restored on as many ranks; on another number
    they start anew from the seed, the step and the rank. Frozen parameters that it leaves to the base model stay as
    they are. With ``local``, each rank reads the files on its own host and sends them to the others. Raises InputError
    if the student, or the base that it was trained on, differs.
    """
    state: dict[str, Any] = json.loads((path / STATE).read_text(encoding="utf-8"))
    updates, ranks, base = state.pop("updates"), state.pop("ranks"), state.pop("base", None)
    if base is not None and base != base_of(engine):
        raise InputError(
            f"{path}: holds what was trained beside another base model (sha256 {base[:12]}, this one: "
            f"{str(base_of(engine))[:12]}); put the model that student.pretrained named back"
        )
    try:
        files = open_parts(path, ranks) if local else [open_file(path, rank) for rank in range(ranks)]
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    where = {key: handle for handle in files for key in handle.keys() if not key.startswith(RNG)}  # noqa: SIM118
    zero.set_moments(engine.deepspeed, updates)
    for piece in zero.pieces(engine.deepspeed):
        if base is not None and piece.key is None and f"parameter/{piece.name}" not in where:
            continue
        piece.value.copy_(read_piece(path, where, f"parameter/{piece.name}", piece))
        for moment in piece.moments if updates else ():
            target = piece.moment(engine.optimizer, moment)
            target.copy_(read_piece(path, where, f"{moment}/{piece.name}", piece))
        if engine.ema is not None and piece.key is not None:
            engine.ema.of(piece).copy_(read_piece(path, where, f"average/{piece.name}", piece))
    for key, tensor in {
        **buffers_of(engine),
        **zero.whole_states(engine.deepspeed, engine.rank, written=False),
    }.items():
        tensor.copy_(holder(path, where, key, tuple(tensor.shape)).get_tensor(key))
    zero.refresh(engine.deepspeed)
    if ranks == engine.ranks:
        own = open_file(path, engine.rank)
        torch.set_rng_state(own.get_tensor(RNG + "cpu"))
        if engine.device.type == "cuda" and RNG + "cuda" in own.keys():  # noqa: SIM118
            torch.cuda.set_rng_state(own.get_tensor(RNG + "cuda"), engine.device)
    else:
        fresh = hashlib.sha256(f"{engine.seed} {updates} {engine.rank} {engine.ranks}".encode()).digest()
        torch.manual_seed(int.from_bytes(fresh[:8], "big") >> 1)
    return state


def latest(directory: Path) -> Path | None:
    """The newest committed checkpoint whose files are all there and whole, or None. The same on every rank.

    Called on every rank, or in a process that is alone. The ranks share the hashing.
    """
    for name in share_json([path.name for path in reversed(committed(directory))]):
        if whole(directory / name):
            return directory / name
    return None


def whole(path: Path) -> bool:
    """Whether a committed checkpoint's files are all there and as they were written; those that are not are named on
    stderr. As ``latest``."""
    rank, ranks = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    bad = damaged(path, rank, ranks)
    if bad:
        say(f"{path} is passed over: {', '.join(bad)} missing or damaged", err=True)
    return bool(torch.stack(exchange(torch.tensor([not bad], dtype=torch.uint8))).all())


def full_state_dict(engine: Engine) -> dict[str, Tensor] | None:
    """All parameters of the transformers model by its own names, whole, fp32 masters, on the CPU of rank 0.

    None on the other ranks. Tied parameters appear under each of their names. Called on every rank.
    """
    whole = {}
    for piece in zero.pieces(engine.deepspeed):
        tensor = gather(engine, piece, piece.value, owner=0)
        if tensor is not None:
            whole[piece.parameter] = tensor
    if engine.rank != 0:
        return None
    return {plain_name(name): whole[p] for name, p in engine.module.model.named_parameters(remove_duplicate=False)}


def owned_tensors(engine: Engine, updates: int) -> dict[str, Tensor]:
    """The tensors that this rank writes: its share of the parameters and moments, whole, and its RNG."""
    owned = {RNG + "cpu": torch.get_rng_state()}
    if engine.device.type == "cuda":
        owned[RNG + "cuda"] = torch.cuda.get_rng_state(engine.device)
    for index, piece in enumerate(zero.pieces(engine.deepspeed)):
        if base_of(engine) is not None and piece.key is None:
            continue  # it is what student.pretrained holds
        parts = {f"parameter/{piece.name}": piece.value}
        if updates:
            parts |= {f"{moment}/{piece.name}": piece.moment(engine.optimizer, moment) for moment in piece.moments}
        if engine.ema is not None and piece.key is not None:
            parts[f"average/{piece.name}"] = engine.ema.of(piece)
        for key, part in parts.items():
            whole = gather(engine, piece, part, owner=index % engine.ranks)
            if whole is not None:
                owned[key] = whole
    states = zero.whole_states(engine.deepspeed, engine.rank, written=True)
    for key, tensor in {**states, **(buffers_of(engine) if engine.rank == 0 else {})}.items():
        owned[key] = tensor.detach().to("cpu", copy=True)
    return owned


def buffers_of(engine: Engine) -> dict[str, Tensor]:
    """Key -> buffer of the student's state; what ranks hold of them may differ: rank 0's count."""
    return {BUFFER + name: buffer for name, buffer in persistent_buffers(engine.module).items()}


def base_of(engine: Engine) -> str | None:
    """Digest of the model that frozen parameters come from, and which therefore need not be stored."""
    return getattr(engine, "base", None)


def persistent_buffers(module: nn.Module) -> dict[str, Tensor]:
    """The buffers of a student that belong to its state."""
    state = module.state_dict(keep_vars=True)  # whose parameters ZeRO-3 has emptied
    return {name: buffer for name, buffer in module.named_buffers() if name in state}


def gather(engine: Engine, piece: zero.Piece, part: Tensor, owner: int) -> Tensor | None:
    """The whole tensor on the CPU of rank ``owner``, None elsewhere.

    The pieces are added up as bytes, each to zeros only, so every bit stays as it is (-0.0 too).
    """
    if piece.replicated:
        return part.detach().to("cpu", copy=True).view(piece.shape) if engine.rank == owner else None
    elements = torch.Size(piece.shape).numel()
    whole = torch.zeros(elements, dtype=part.dtype, device=engine.device)  # an offloaded part lies on the host
    whole.narrow(0, piece.start, len(part)).copy_(part)
    dist.reduce(whole.view(torch.uint8), dst=owner)
    return whole.cpu().view(piece.shape) if engine.rank == owner else None


def read_piece(path: Path, where: dict[str, Any], key: str, piece: zero.Piece) -> Tensor:
    """(n,) this rank's piece of a stored tensor; only the rows that hold it are read.

    Raises InputError if the checkpoint has no such tensor, or one of another shape.
    """
    shape = piece.shape
    handle = holder(path, where, key, shape)
    if not shape:
        return handle.get_tensor(key).view(1)[: len(piece.value)]
    row = torch.Size(shape[1:]).numel()
    first, last = piece.start // row, -(-(piece.start + len(piece.value)) // row)
    return handle.get_slice(key)[first:last].reshape(-1).narrow(0, piece.start - first * row, len(piece.value))


def holder(path: Path, where: dict[str, Any], key: str, shape: tuple[int, ...]) -> Any:
    """The open file that holds a tensor. Raises InputError as ``read_piece``."""
    if key not in where:
        raise InputError(f"{path}: holds no '{key}'; it belongs to another student")
    stored = tuple(where[key].get_slice(key).get_shape())
    if stored != shape:
        raise InputError(f"{path}: '{key}' has shape {stored}, the student's {shape}; it is another student")
    return where[key]


def open_file(path: Path, rank: int) -> Any:
    return safe_open(path / rank_file(rank), framework="pt")


def prune(directory: Path, step: int, keep: int, best: int | None) -> None:
    """Delete old checkpoints beyond the ``keep`` newest and the best, and what killed or replaced saves left. For
    one rank of those that share the directory.

    One of a later step than the one just saved was damaged, or training would have resumed from it: it goes too,
    and does not count.
    """
    complete = [path for path in committed(directory) if (path / MANIFEST).exists()]
    later = [path for path in complete if int(path.name.removeprefix("step-")) > step]
    for path in complete[: len(complete) - len(later)][: -max(keep, 1)] + later:
        if best is not None and path == path_of(directory, best):
            continue
        move_away(path)
    for path in partial(directory):
        remove(path)


def move_away(path: Path) -> None:
    """Take the name of a committed checkpoint from it; ``prune`` deletes it."""
    path.rename(path.with_name(f"tmp-{path.name.removeprefix('step-')}-{uuid.uuid4().hex}"))


def pass_over(directory: Path, step: int) -> None:
    """Move away what was passed over for the checkpoint of ``step``: all later ones, damaged or not on every host.
    They must not count among those that are kept once training has come further. For one rank as ``prune``."""
    for path in committed(directory):
        if int(path.name.removeprefix("step-")) > step:
            move_away(path)
