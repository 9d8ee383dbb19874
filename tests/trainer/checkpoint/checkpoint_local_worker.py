"""Two ranks as on two hosts that share no file system: each has the folder host-<rank>; rank 0 writes found.json.

checkpoint_local_worker.py DIRECTORY
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from engine_workshop import engine, equal, fingerprint, shared_out, student, take_step
from safetensors.torch import save_file

from tracestill.data_pipeline.base.errors import InputError
from tracestill.trainer.checkpoint import checkpoint
from tracestill.trainer.checkpoint import local as checkpoint_local
from tracestill.trainer.checkpoint.files import MANIFEST, STATE, rank_file
from tracestill.trainer.checkpoint.parts import Parts
from tracestill.trainer.checkpoint.saver import Saver
from tracestill.trainer.checkpoint.shards import Shard
from tracestill.trainer.engine.engine import Engine, leave
from tracestill.trainer.ranks.collectives import gather_json
from tracestill.trainer.ranks.placement import Placement

WHO = {"stage": "train", "of": "this"}
SAVED_AT, STEPS = 2, 4
OTHER = {0: 1, 2: 3, 3: 2}  # stage -> into which its parts are loaded too


def make(stage: int, seed: int, like: int | None = None) -> Engine:
    """``like``: the student is that of another stage."""
    like = stage if like is None else like
    built = student(None, tied=like == 2, seed=seed, attention_dropout=0.2)
    if like == 3:
        built.model.get_input_embeddings().weight.requires_grad_(False)
    built.model.register_buffer("seed", torch.tensor([float(seed), 1.0]))
    return engine(built, zero=stage, accumulation=2, seed=seed, ema=0.7)


def placement() -> Placement:
    return Placement(("a", "b"), ((0,), (1,)), dist.get_rank())


def own(root: Path, name: str) -> Path:
    return root / f"host-{dist.get_rank()}" / name


def train(of: Engine, first: int, last: int) -> list[float]:
    return [take_step(of, shared_out(step, of)).loss for step in range(first, last)]


@contextmanager
def sending() -> Iterator[set[str]]:
    """What ranks send each other meanwhile."""
    keys, plain = set[str](), Parts.receive

    def receive(parts: Parts, shard: Shard) -> torch.Tensor:
        keys.add(shard.key)
        return plain(parts, shard)

    Parts.receive = receive  # type: ignore[method-assign]
    yield keys
    Parts.receive = plain  # type: ignore[method-assign]


def states(root: Path) -> list[float]:
    """What this rank reads, if each wants a whole tensor that it does not have, and one that nobody else wants."""
    rank, path = dist.get_rank(), own(root, "states")
    path.mkdir(parents=True)
    values = {"of-0": 10.0, "of-1": 11.0, "only-0": 20.0, "only-1": 21.0}
    mine = {key: torch.full((2, 2), value) for key, value in values.items() if key.endswith(str(rank))}
    save_file(mine, path / rank_file(rank))
    wanted = [f"of-{1 - rank}", f"only-{rank}"]
    parts = Parts(path, [rank_file(0), rank_file(1)], [(key, 0, 4) for key in wanted])
    found = {key: parts.whole(key) for key in parts.order(wanted)}
    every = gather_json([found[key].unique().tolist() for key in wanted])
    return [value for rank in every for one in rank for value in one]


def resume(root: Path, stage: int) -> dict[str, Any]:
    """Whether going on from both hosts' parts is the uninterrupted run, and loading them joined gives the same."""
    directory, whole = own(root, f"zero{stage}"), make(stage, 0)
    train(whole, 0, SAVED_AT)
    saver = Saver(directory, keep=2, background=True, placement=placement())
    saver.save(whole, SAVED_AT, {"identity": WHO, "note": [whole.rank]})
    losses = train(whole, SAVED_AT, STEPS)
    saver.wait()
    uninterrupted, random = fingerprint(whole), torch.get_rng_state()
    whole.close()

    second = make(stage, 7)
    take_step(second, shared_out(9, second))
    path = checkpoint_local.latest(directory, placement(), WHO)
    assert path is not None
    with sending() as sent:
        state = checkpoint.load(second, path, local=True)
    loaded, buffer = fingerprint(second), second.module.model.seed.tolist()
    again = train(second, SAVED_AT, STEPS)
    same = equal([*uninterrupted, random], [*fingerprint(second), torch.get_rng_state()])
    second.close()

    joined = root / "joined" / f"zero{stage}" / path.name
    if dist.get_rank() == 0:
        for rank in (0, 1):
            shutil.copytree(root / f"host-{rank}" / f"zero{stage}" / path.name, joined, dirs_exist_ok=True)
    dist.barrier()
    third = make(stage, 8)
    assert checkpoint.latest(joined.parent) == joined
    checkpoint.load(third, joined)
    ordinary = equal(loaded, fingerprint(third))
    third.close()
    fourth = make(OTHER[stage], 9, like=stage)
    checkpoint.load(fourth, path, local=True)
    travelled = fingerprint(fourth)
    take_step(fourth, shared_out(9, fourth))
    checkpoint.load(fourth, joined)
    ordinary &= equal(travelled, fingerprint(fourth))
    fourth.close()
    files = gather_json(sorted(file.name for file in path.iterdir()))
    manifests = gather_json((path / MANIFEST).read_text())
    return {
        **{"same": same, "losses": losses, "again": again, "state": state, "buffer": buffer, "ordinary": ordinary},
        **{"files": files, "manifests": manifests, "sent": sorted(sent)},
    }


def outcome(act: Callable[[], Path | None]) -> str:
    """The name of the checkpoint that is found, or the error; both ranks must come to the same."""
    try:
        path = act()
        said = path.name if path else "none"
    except InputError as error:
        said = str(error)
    told = gather_json(re.sub(r"host-\d", "host", said))
    return told[0] if told[0] == told[1] else f"DIFFERENT: {told}"


def disagreements(root: Path) -> dict[str, str]:
    """What the ranks take after something has happened to the disk of one of them; steps 1 to 3 are saved on both."""
    of, base = make(1, 0), own(root, "base")
    for step in (1, 2, 3):
        write(of, base, step)
    found = {}

    def case(name: str, change: Callable[[Path], Any], *, on: tuple[int, ...] = (1,), who: Any = WHO) -> None:
        directory = own(root, name)
        shutil.copytree(base, directory)
        dist.barrier()
        if dist.get_rank() in on:
            change(directory)
        dist.barrier()
        found[name] = outcome(lambda: checkpoint_local.latest(directory, placement(), who))

    def swap(directory: Path) -> None:
        shutil.rmtree(directory)
        shutil.copytree(root / f"host-{1 - dist.get_rank()}" / "base", directory)

    def join(directory: Path) -> None:
        for rank in (0, 1):
            shutil.copytree(root / f"host-{rank}" / "base", directory, dirs_exist_ok=True)

    newest = "step-000003"
    case("untouched", lambda directory: None)
    case("newer on one", lambda directory: shutil.rmtree(directory / newest))
    case("another one", lambda directory: append(directory / newest / MANIFEST, b" "))
    case("unreadable on both", lambda directory: (directory / newest / MANIFEST).unlink(), on=(0, 1))
    case("damaged", lambda directory: flip(directory / newest / rank_file(1)))
    case("damaged state", lambda directory: flip(directory / newest / STATE))
    case("damaged everywhere", lambda directory: [flip(path / rank_file(0)) for path in directory.iterdir()], on=(0,))
    case("lost", shutil.rmtree)
    case("lost, another training", shutil.rmtree, who={"of": "another"})
    case("swapped", swap, on=(0, 1))
    case("joined on both", join, on=(0, 1))
    case("nothing", shutil.rmtree, on=(0, 1))
    found |= commits(of, base)
    of.close()
    return found


def write(of: Engine, directory: Path, step: int, keep: int = 5) -> None:
    held = checkpoint.snapshot(of, step, {"identity": WHO})
    checkpoint.write(held, directory, keep=keep, placement=placement())


def append(path: Path, data: bytes) -> None:
    path.write_bytes(path.read_bytes() + data)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def commits(of: Engine, base: Path) -> dict[str, str]:
    """One host cannot commit; then it can."""
    plain, found = Path.rename, {}

    def full(path: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    if dist.get_rank() == 1:
        Path.rename = full  # type: ignore[method-assign]

    def save() -> Path:
        write(of, base, 4, keep=1)
        return base / "written"

    found["full"] = outcome(save).partition("tmp-")[2].partition(": ")[2]
    Path.rename = plain  # type: ignore[method-assign]
    found["after full"] = outcome(lambda: checkpoint_local.latest(base, placement(), WHO))
    found["again"] = outcome(save)
    found["left"] = " ".join(sorted(path.name for path in base.iterdir()))
    found["after again"] = outcome(lambda: checkpoint_local.latest(base, placement(), WHO))
    return found


def sharing(root: Path) -> dict[str, str]:
    def on(directory: Path) -> Path:
        checkpoint_local.refuse_shared(directory, placement())
        assert list(directory.iterdir()) == []
        return directory

    def parts(directory: Path, who: Any = WHO) -> Path:
        checkpoint_local.refuse_parts(directory, None, who)
        return directory

    first, joined, cut = root / "host-0" / "zero0", root / "joined" / "zero0", root / "joined" / "cut"
    if dist.get_rank() == 0:
        shutil.copytree(joined, cut)
        (file,) = cut.glob(f"*/{rank_file(1)}")
        file.write_bytes(file.read_bytes()[:-1])
    dist.barrier()
    return {
        "own": outcome(lambda: on(own(root, "empty"))),
        "shared": outcome(lambda: on(root / "shared")),
        "parts": outcome(lambda: parts(first)),
        "parts of another": outcome(lambda: parts(first, {"of": "another"})),
        "joined": outcome(lambda: parts(joined)),
        "joined, one cut off": outcome(lambda: parts(cut)),
    }


def main() -> None:
    root = Path(sys.argv[-1])
    make(0, 0).close()  # the ranks have met
    found = {
        "resume": {stage: resume(root, stage) for stage in (0, 2, 3)},
        "latest": disagreements(root),
        "sharing": sharing(root),
        "states": states(root),
    }
    if dist.get_rank() == 0:
        (root / "found.json").write_text(json.dumps(found))


main()
leave(0)
