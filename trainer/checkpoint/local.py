"""Training on hosts that share no file system: each keeps a run directory of its own (``train.local_checkpoints``).

Every host's checkpoint holds its ranks' files, and the same state.json and manifest.json, which also says who wrote
what: ``"local": [["worker-1", [0, 1]], ["worker-2", [2, 3]]]``. A checkpoint counts once every host has committed it
with the same manifest. All rank files copied into one directory are an ordinary checkpoint.
"""

from __future__ import annotations

import json
import socket
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch.distributed as dist

from tracestill.data_pipeline.base.content import digest_of_file
from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.stage import digest_of, identity, same
from tracestill.trainer.checkpoint.checkpoint import whole
from tracestill.trainer.checkpoint.files import MANIFEST, STATE, committed, complete, rank_files, rank_of, writers
from tracestill.trainer.checkpoint.train_place import is_done
from tracestill.trainer.ranks.collectives import gather_json, share_json, share_text, together
from tracestill.trainer.ranks.console import say
from tracestill.trainer.ranks.placement import Placement, spelled
from tracestill.trainer.recipe.run_directory import RunDirectory

KEY = "train.local_checkpoints"


def refuse_mixed(local: bool) -> None:
    """Called on every rank as soon as they have met: what they do next together depends on this key.

    Raises InputError on all ranks if their hosts' recipes differ in it.
    """
    found = gather_json([local, socket.gethostname()])
    hosts = {value: ", ".join(dict.fromkeys(host for v, host in found if v == value)) for value in (True, False)}
    if all(hosts.values()):
        raise InputError(f"{KEY} is true on {hosts[True]}, false on {hosts[False]}; copy one recipe to every host")


def is_done_on_first_host(run: RunDirectory, arm: str) -> bool:
    """Whether an arm's training has finished, as the first rank's host knows. Called on every rank.

    Raises InputError on all ranks if the hosts' recipes or data differ, or one lacks them.
    """

    def look() -> list[Any]:
        try:
            config, inputs = run.train_stage(arm)
            held = digest_of([run.recipe.for_arm(arm).model_dump(mode="json"), identity("train", config, inputs)])
            done = dist.get_rank() == 0 and is_done(run, arm)
        except InputError as error:
            raise InputError(f"{socket.gethostname()}: {error}") from error
        return [held, done, socket.gethostname()[:200]]

    found = together(look, f"{run.root}: not a whole copy on every host ({KEY})")
    others = [f"{host} (rank {rank})" for rank, (held, _, host) in enumerate(found) if held != found[0][0]]
    if others:
        raise InputError(
            f"{run.root}: {', '.join(others)} has another recipe or other data than {found[0][2]} (rank 0); copy "
            f"{run.root} from there to every host ({KEY})"
        )
    return bool(found[0][1])


def refuse_shared(directory: Path, placement: Placement) -> None:
    """Raise InputError on all ranks if two hosts see one train directory: they would overwrite each other's files."""
    mark = directory / f".{share_text(uuid.uuid4().hex)}"

    def put() -> None:
        if dist.get_rank() == placement.first:
            directory.mkdir(parents=True, exist_ok=True)
            mark.touch(exist_ok=False)

    try:
        together(put, f"{directory}: hosts share it, or cannot write to it; set {KEY}: false if they share it")
    finally:
        mark.unlink(missing_ok=True)


def latest(directory: Path, placement: Placement, who: dict[str, Any]) -> Path | None:
    """The newest checkpoint that every host has committed, and whose files are whole where their readers are.

    Called on every rank; ``who`` is the identity of the training. None if no host has one of it. Raises InputError,
    saying which host has what, if one does and there is none to go on from: no work is lost in silence.
    """
    ranks = gather_json({path.name: about(path, who) for path in committed(directory)})
    hosts = [ranks[members[0]] for members in placement.ranks]
    names = {name for held in ranks for name in held}
    ordered = sorted(names, key=lambda name: int(name.removeprefix("step-")), reverse=True)
    for name in ordered:
        digests = {held.get(name, {}).get("manifest") for held in ranks}
        if None in digests or len(digests) > 1:
            if dist.get_rank() == 0:
                say(f"{directory / name} is passed over: not the same on every host", err=True)
        elif whole(directory / name):
            return directory / name
    for name in ordered:
        if any(held.get(name, {}).get("same") for held in hosts):
            raise InputError(lost(directory / name, placement, [held.get(name) for held in hosts]))
    return None


def about(path: Path, who: dict[str, Any]) -> dict[str, Any]:
    """What this host has of a committed checkpoint: the manifest's digest (None: unreadable), ranks whose files are
    there, who wrote which, and whether it is of this training."""
    found: dict[str, Any] = {"manifest": None, "parts": [], "local": [], "same": False}
    try:
        found["manifest"] = digest_of_file(path / MANIFEST)
        names = rank_files(path)
        absent = {rank_of(name) for name in names if not (path / name).exists()}
        found["parts"] = sorted({*map(rank_of, names)} - absent)
        found["local"] = writers(path)
        found["same"] = json.loads((path / STATE).read_text(encoding="utf-8"))["identity"]
        found["same"] = same(found["same"], who)
    except (OSError, ValueError, KeyError, TypeError):
        pass  # the ranks that need it will find it damaged
    return found


def lost(path: Path, placement: Placement, hosts: list[dict[str, Any] | None]) -> str:
    """Why training cannot go on from a checkpoint that some host has, in one line."""
    known = [held for held in hosts if held]
    wanted = {rank for held in known for _, ranks in held["local"] for rank in ranks}
    has, placed = [], wanted <= {rank for held in known for rank in held["parts"]}  # else a host is not among these
    for host, held in zip(placement.record(), hosts, strict=True):
        what = f"the file(s) of {spelled(held['parts'])}" if held and held["parts"] else "nothing of it"
        has.append(f"{listed([host])} has {what}")
        placed &= held is not None and set(host[1]) <= set(held["parts"])
    written = listed(next((held["local"] for held in hosts if held and held["local"]), []))
    return (
        f"{path}: cannot be resumed from{' (the lines above say which file is damaged)' if placed else ''}: "
        f"{'; '.join(has)}. "
        + (f"It was written by {written}: train on these hosts, in this order ({KEY}). " if written else "")
        + f"Or copy all of its files into one directory that all hosts share, and set {KEY}: false. To begin anew, "
        f"delete {path.parent} on every host"
    )


def listed(hosts: Iterable[Any]) -> str:
    """Hosts and their ranks in words."""
    return " and ".join(f"{host} ({spelled(ranks)})" for host, ranks in hosts)


def refuse_parts(directory: Path, found: Path | None, who: dict[str, Any]) -> None:
    """Raise InputError on all ranks if a checkpoint of this training, newer than the one found, lies here in part only:
    files of it are absent. Those that are cut off or changed are damage, and no reason to refuse.

    Called on every rank of hosts that share the directory.
    """

    def text() -> str:
        for path in reversed([] if dist.get_rank() else committed(directory)):
            if path == found:
                break
            held = about(path, who)
            absent = {rank for _, ranks in held["local"] for rank in ranks} - set(held["parts"])
            if held["same"] and complete(path) and absent:
                return (
                    f"{path}: lacks files that lie on other hosts: it was written by {listed(held['local'])}. Set "
                    f"{KEY}: true and train on these hosts, in this order; or copy all of its files into this directory"
                )
        return ""

    complaint = share_json(text())
    if complaint:
        raise InputError(complaint)
