"""Step checkpoints: whole tensors in safetensors, committed by one rename, loadable on any ranks and ZeRO stage.

    checkpoints/step-000200/
        rank-00000.safetensors ...   fp32 parameters (frozen ones in their own type), AdamW's moments, the rank's RNG
        state.json                   updates made, and whatever the trainer adds (its step, its identity)
        manifest.json                sha256 of every file, written last

A parameter is written by one rank (its index modulo the ranks), whole, so the files do not depend on the stage.
The commit: write into ``tmp-<step>-<uuid>``, sync, every rank's hashes to rank 0, manifest, sync, rename, sync of
the parent, barrier. What was cut off in between has no manifest in a ``step-`` directory and is never loaded.
Nothing here is pickled.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tracestill.data_pipeline.errors import InputError
from tracestill.data_pipeline.stage import digest_of_file, sync, write_json
from tracestill.trainer import zero
from tracestill.trainer.checkpoint_files import MANIFEST, STATE, committed, path_of, verified
from tracestill.trainer.engine import Engine

RNG = "rng/"  # names of a rank's own tensors begin with it


def save(
    engine: Engine, directory: Path, step: int, state: dict[str, Any], *, keep: int = 2, best: int | None = None
) -> Path:
    """Write ``directory/step-<step>``; delete all but the ``keep`` newest and that of step ``best``, which does not
    count among them. Called on every rank.

    ``state`` is JSON that comes back from ``load``. Raises InputError on all ranks if one of them cannot write.
    """
    name = share_text(f"tmp-{step:06d}-{uuid.uuid4().hex}")
    work, final = directory / name, path_of(directory, step)
    updates = zero.count_updates(engine.deepspeed)
    tensors = owned_tensors(engine, updates)

    def begin() -> bytes:
        if engine.rank == 0:
            work.mkdir(parents=True)
        return b""

    def write() -> bytes:
        path = work / rank_file(engine.rank)
        save_file(tensors, path, metadata={"step": str(step), "rank": str(engine.rank)})
        sync(path)
        return bytes.fromhex(digest_of_file(path))

    together(begin, f"{work}: cannot create the checkpoint")
    digests = together(write, f"{work}: cannot write the checkpoint")

    def commit() -> bytes:
        if engine.rank == 0:
            write_json(work / STATE, {**state, "updates": updates, "ranks": engine.ranks})
            files = {rank_file(rank): digest.hex() for rank, digest in enumerate(digests)}
            files[STATE] = digest_of_file(work / STATE)
            write_json(work / MANIFEST, {"format": 1, "step": step, "files": files})
            sync(work)
            if final.exists():
                final.rename(directory / f"tmp-{step:06d}-{uuid.uuid4().hex}")
            work.rename(final)
            sync(directory)
            prune(directory, step, keep, best)
        return b""

    together(commit, f"{work}: cannot commit the checkpoint")
    return final


def load(engine: Engine, path: Path) -> dict[str, Any]:
    """Put the engine into the state that ``save`` found, and return the trainer's own state.

    The number of ranks and the ZeRO stage may differ. RNG states are restored on as many ranks; on another number
    they start anew from the seed, the step and the rank. Raises InputError if the student differs.
    """
    state: dict[str, Any] = json.loads((path / STATE).read_text(encoding="utf-8"))
    updates, ranks = state.pop("updates"), state.pop("ranks")
    try:
        files = [safe_open(path / rank_file(rank), framework="pt") for rank in range(ranks)]
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    where = {key: handle for handle in files for key in handle.keys() if not key.startswith(RNG)}  # noqa: SIM118
    zero.set_moments(engine.deepspeed, updates)
    for piece in zero.pieces(engine.deepspeed):
        piece.value.copy_(read_piece(path, where, f"parameter/{piece.name}", piece))
        for moment in zero.MOMENTS if updates and piece.key is not None else ():
            target = piece.moment(engine.optimizer, moment)
            target.copy_(read_piece(path, where, f"{moment}/{piece.name}", piece))
    zero.refresh(engine.deepspeed)
    if ranks == engine.ranks:
        own = files[engine.rank]
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
    """Whether a committed checkpoint's files are all there and as they were written. As ``latest``."""
    rank, ranks = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    return bool(torch.stack(exchange(torch.tensor([verified(path, rank, ranks)], dtype=torch.uint8))).all())


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
    return {name: whole[p] for name, p in engine.module.model.named_parameters(remove_duplicate=False)}


def owned_tensors(engine: Engine, updates: int) -> dict[str, Tensor]:
    """The tensors that this rank writes: its share of the parameters and moments, whole, and its RNG."""
    owned = {RNG + "cpu": torch.get_rng_state()}
    if engine.device.type == "cuda":
        owned[RNG + "cuda"] = torch.cuda.get_rng_state(engine.device)
    for index, piece in enumerate(zero.pieces(engine.deepspeed)):
        parts = {f"parameter/{piece.name}": piece.value}
        if updates and piece.key is not None:
            parts |= {f"{moment}/{piece.name}": piece.moment(engine.optimizer, moment) for moment in zero.MOMENTS}
        for key, part in parts.items():
            whole = gather(engine, piece, part, owner=index % engine.ranks)
            if whole is not None:
                owned[key] = whole
    return owned


def gather(engine: Engine, piece: zero.Piece, part: Tensor, owner: int) -> Tensor | None:
    """The whole tensor on the CPU of rank ``owner``, None elsewhere.

    The pieces are added up as bytes, each to zeros only, so every bit stays as it is (-0.0 too).
    """
    if piece.replicated:
        return part.detach().cpu().clone().view(piece.shape) if engine.rank == owner else None
    elements = torch.Size(piece.shape).numel()
    whole = torch.zeros(elements, dtype=part.dtype, device=part.device)
    whole.narrow(0, piece.start, len(part)).copy_(part)
    dist.reduce(whole.view(torch.uint8), dst=owner)
    return whole.cpu().view(piece.shape) if engine.rank == owner else None


def read_piece(path: Path, where: dict[str, Any], key: str, piece: zero.Piece) -> Tensor:
    """(n,) this rank's piece of a stored tensor; only the rows that hold it are read.

    Raises InputError if the checkpoint has no such tensor, or one of another shape.
    """
    if key not in where:
        raise InputError(f"{path}: holds no '{key}'; it belongs to another student")
    stored = where[key].get_slice(key)
    shape = tuple(stored.get_shape())
    if shape != piece.shape:
        raise InputError(f"{path}: '{key}' has shape {shape}, the student's {piece.shape}; it is another student")
    if not shape:
        return where[key].get_tensor(key).view(1)[: len(piece.value)]
    row = torch.Size(shape[1:]).numel()
    first, last = piece.start // row, -(-(piece.start + len(piece.value)) // row)
    return stored[first:last].reshape(-1).narrow(0, piece.start - first * row, len(piece.value))


def rank_file(rank: int) -> str:
    return f"rank-{rank:05d}.safetensors"


def prune(directory: Path, step: int, keep: int, best: int | None) -> None:
    """Delete old checkpoints beyond the ``keep`` newest and the best, and what killed or replaced saves left. Rank 0
    only.

    One of a later step than the one just saved was damaged, or training would have resumed from it: it goes too,
    and does not count.
    """
    complete = [path for path in committed(directory) if (path / MANIFEST).exists()]
    later = [path for path in complete if int(path.name.removeprefix("step-")) > step]
    for path in complete[: len(complete) - len(later)][:-keep] + later:
        if best is not None and path == path_of(directory, best):
            continue
        path.rename(directory / f"tmp-{path.name.removeprefix('step-')}-{uuid.uuid4().hex}")
    for path in directory.glob("tmp-*"):
        shutil.rmtree(path)


def wire() -> str:
    """The device whose tensors the ranks exchange."""
    return "cuda" if dist.get_backend() == "nccl" else "cpu"


def exchange(value: Tensor) -> list[Tensor]:
    """Every rank's ``value`` (uint8, the same shape everywhere)."""
    if not dist.is_initialized():
        return [value]
    received = [torch.empty_like(value, device=wire()) for _ in range(dist.get_world_size())]
    dist.all_gather(received, value.to(wire()))
    return [tensor.cpu() for tensor in received]


def share_text(text: str) -> str:
    """Rank 0's text, on every rank."""
    if not dist.is_initialized():
        return text
    size = torch.tensor(len(text.encode()), device=wire())
    dist.broadcast(size, src=0)
    data = torch.tensor(list(text.encode().ljust(int(size), b"\0")[: int(size)]), dtype=torch.uint8, device=wire())
    dist.broadcast(data, src=0)
    return bytes(data.tolist()).decode()


def share_json(value: Any) -> Any:
    """Rank 0's value, on every rank."""
    return json.loads(share_text(json.dumps(value)))


def together(action: Any, complaint: str) -> list[bytes]:
    """Run ``action`` on every rank and return every rank's 32 bytes (zeros where it returns none).

    A barrier as well. Raises InputError on all ranks if it fails with OSError on one.
    """
    result, failure = b"", None
    try:
        result = action()
    except (OSError, SafetensorError) as error:
        failure = error
    answers = exchange(torch.tensor([failure is not None, *result.ljust(32, b"\0")], dtype=torch.uint8))
    failed = [rank for rank, answer in enumerate(answers) if answer[0]]
    if failed:
        raise InputError(f"{complaint} (rank {failed[0]}{f': {failure}' if failure else ''})") from failure
    return [bytes(answer[1:].tolist()) for answer in answers]
