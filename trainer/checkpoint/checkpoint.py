"""Step checkpoints: what each rank holds in safetensors, committed by one rename, loadable on any ranks and ZeRO stage.

    checkpoints/step-000200/
        rank-00000-group-000.safetensors ...   the rank's pieces of the parameters in one of the optimizer's groups:
                            fp32 masters, the optimizer's moments and their average
        rank-00000.safetensors ...   its RNG; its share of what all ranks hold whole; frozen parameters, in their own
                            type, unless they are those of student.pretrained; rank 0's persistent buffers
        state.json          updates made, and whatever the trainer adds (its step, its identity)
        manifest.json       sha256 and size of every file, written last

Saving exchanges no parameters: a rank copies its pieces as they lie (``checkpoint.shards``), and loading takes from
all files what a rank needs now. The commit: write into ``tmp-<step>-<uuid>``, sync, every rank's hashes to rank 0,
manifest, sync, rename, sync of the parent, barrier. What was cut off in between has no manifest in a ``step-``
directory and is never loaded. On hosts that share no file system each keeps its ranks' files, and commits by itself
(``checkpoint.local``). Nothing here is pickled.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
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
    group_file,
    partial,
    path_of,
    rank_file,
    rank_files,
)
from tracestill.trainer.checkpoint.parts import Parts
from tracestill.trainer.checkpoint.shards import Content, Room, Stored
from tracestill.trainer.engine import zero
from tracestill.trainer.engine.engine import Engine
from tracestill.trainer.ranks.collectives import exchange, gather_json, share_json, share_text, together
from tracestill.trainer.ranks.console import say
from tracestill.trainer.ranks.placement import Placement

RNG = "rng/"  # names of a rank's own tensors begin with it
BUFFER = "buffer/"


@dataclass(frozen=True)
class Snapshot:
    """What one rank writes of a checkpoint, as copies in CPU memory, so that training may go on."""

    step: int
    rank: int
    files: dict[str, Content]  # by name; each goes when it has been written
    state: str  # JSON


def save(
    engine: Engine, directory: Path, step: int, state: dict[str, Any], *, keep: int = 2, best: int | None = None
) -> Path:
    """Write ``directory/step-<step>``; as ``snapshot`` and ``write``, one after the other."""
    return write(snapshot(engine, step, state), directory, keep=keep, best=best)


def snapshot(engine: Engine, step: int, state: dict[str, Any], room: Room | None = None) -> Snapshot:
    """The engine's state after a step, and ``state``: JSON that comes back from ``load``. Called on every rank.

    The copies lie in ``room``, if one is given, and are overwritten by the next ones there.
    """
    updates = zero.count_updates(engine.deepspeed)
    base = {"base": base_of(engine)} if base_of(engine) is not None else {}
    text = json.dumps({**state, **base, "updates": updates, "ranks": engine.ranks})
    return Snapshot(step, engine.rank, contents_of(engine, updates, {} if room is None else room), text)


def reserve(engine: Engine, room: Room) -> None:
    """Make the tensors in ``room`` that ``snapshot`` will copy into, whose memory nobody has touched."""
    contents_of(engine, zero.count_updates(engine.deepspeed), room, copied=False)


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
    leads, own = held.rank == (placement.first if placement else 0), dict[str, Any]()

    def begin() -> None:
        if leads:
            place_of(directory)  # says so if a link leads nowhere
            work.mkdir(parents=True)

    def put() -> None:
        for file in [*held.files]:
            content, path = held.files.pop(file), work / file
            about = {"step": str(held.step), "rank": str(held.rank)}
            save_file(content.tensors, path, metadata={**about, **content.header()})
            del content
            sync(path)
            own[file] = entry_of(path)

    def commit() -> None:
        if leads:
            write_json(work / STATE, json.loads(state))
            files = {name: entry for written in entries for name, entry in written.items()}
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
        together(put, f"{work}: cannot write the checkpoint", group)
        entries = gather_json(own, group)
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
    they are. With ``local``, each rank reads its own files, and what others need of them is sent. Raises InputError if
    the student, or the base that it was trained on, differs.
    """
    state: dict[str, Any] = json.loads((path / STATE).read_text(encoding="utf-8"))
    updates, ranks, base = state.pop("updates"), state.pop("ranks"), state.pop("base", None)
    if base is not None and base != base_of(engine):
        raise InputError(
            f"{path}: holds what was trained beside another base model (sha256 {base[:12]}, this one: "
            f"{str(base_of(engine))[:12]}); put the model that student.pretrained named back"
        )
    zero.set_moments(engine.deepspeed, updates)
    whole = {**buffers_of(engine), **zero.whole_states(engine.deepspeed, engine.rank, written=False)}
    stored = open_parts(engine, path, updates, base, whole) if local else Stored(path, rank_files(path))
    for piece in zero.pieces(engine.deepspeed):
        if base is not None and piece.key is None:
            continue
        for key, target in held_of(engine, piece, updates).items():
            stored.fill(target, key, piece.start, piece.shape)
    for key in stored.order(whole):
        wanted = whole.get(key)
        tensor = stored.whole(key, None if wanted is None else tuple(wanted.shape))
        if wanted is not None:
            wanted.copy_(tensor)
    zero.refresh(engine.deepspeed)
    if ranks == engine.ranks:
        own = stored.files[rank_file(engine.rank)]
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


def contents_of(engine: Engine, updates: int, room: Room, *, copied: bool = True) -> dict[str, Content]:
    """What this rank writes, by the names of files: the pieces that it holds, by group; whole parameters that all ranks
    hold, shared out among them; and its RNG."""
    own, groups = (
        Content(room, copied),
        {id(master): index for index, master in enumerate(zero.flat_masters(engine.deepspeed))},
    )
    own.add(RNG + "cpu", torch.get_rng_state())
    if engine.device.type == "cuda":
        own.add(RNG + "cuda", torch.cuda.get_rng_state(engine.device))
    found = {rank_file(engine.rank): own}
    for index, piece in enumerate(zero.pieces(engine.deepspeed)):
        if base_of(engine) is not None and piece.key is None:
            continue  # it is what student.pretrained holds
        if not len(piece.value) or (piece.replicated and index % engine.ranks != engine.rank):
            continue
        content = own
        if piece.key is not None and not piece.replicated:
            content = found.setdefault(group_file(engine.rank, groups[id(piece.key)]), Content(room, copied))
        for key, part in held_of(engine, piece, updates).items():
            content.add_piece(key, part, piece.start, piece.shape)
    states = zero.whole_states(engine.deepspeed, engine.rank, written=True)
    for key, tensor in {**states, **(buffers_of(engine) if engine.rank == 0 else {})}.items():
        own.add(key, tensor)
    return found


def held_of(engine: Engine, piece: zero.Piece, updates: int) -> dict[str, Tensor]:
    """Key -> (n,) view of everything that this rank holds for a piece of a parameter."""
    held = {f"parameter/{piece.name}": piece.value}
    if updates:
        held |= {f"{moment}/{piece.name}": piece.moment(engine.optimizer, moment) for moment in piece.moments}
    if engine.ema is not None and piece.key is not None:
        held[f"average/{piece.name}"] = engine.ema.of(piece)
    return held


def open_parts(engine: Engine, path: Path, updates: int, base: str | None, whole: Mapping[str, Tensor]) -> Parts:
    """The files of a checkpoint on several hosts' disks; ``whole`` are tensors that this rank needs besides its
    pieces. Called on every rank."""
    needs = [(key, 0, tensor.numel()) for key, tensor in whole.items()]
    for piece in zero.pieces(engine.deepspeed):
        if base is None or piece.key is not None:
            needs += [(key, piece.start, len(piece.value)) for key in held_of(engine, piece, updates)]
    return Parts(path, rank_files(path), needs)


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
