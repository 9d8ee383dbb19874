"""Which checkpoints of a training are there, and whole. Imports no torch, so that the command line can look too."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tracestill.data_pipeline.base.content import digest_of_file
from tracestill.data_pipeline.base.places import remove

CHECKPOINTS = "checkpoints"  # their directory inside that of a training
MANIFEST, STATE = "manifest.json", "state.json"
FORMAT = 3
KNOWN = (2, FORMAT)  # 2: whole tensors only
RANK_FILE = re.compile(r"rank-(\d{5,})(-group-\d{3,})?\.safetensors")
COMMITTED = re.compile(r"step-(\d{6,})")
PARTIAL = re.compile(r"tmp-\d{6,}-[0-9a-f-]{32,36}")  # being written, or to be deleted


def path_of(directory: Path, step: int) -> Path:
    """Where the checkpoint of a step stands, if it is committed."""
    return directory / f"step-{step:06d}"


def committed(directory: Path) -> list[Path]:
    """Directories named like committed checkpoints, oldest first."""
    found = [p for p in directory.glob("step-*") if COMMITTED.fullmatch(p.name) and p.is_dir()]
    return sorted(found, key=lambda p: int(p.name.removeprefix("step-")))


def partial(directory: Path) -> list[Path]:
    """What killed or replaced saves left."""
    return [path for path in directory.glob("tmp-*") if PARTIAL.fullmatch(path.name)]


def written(directory: Path) -> list[Path]:
    """All that saves leave in a directory of checkpoints."""
    return [path for path in directory.glob("step-*") if COMMITTED.fullmatch(path.name)] + partial(directory)


def remove_all(directory: Path) -> None:
    """Delete all checkpoints, and their directory unless it is a link or holds something else."""
    for path in written(directory):
        remove(path)
    if not directory.is_symlink():
        with contextlib.suppress(OSError):
            directory.rmdir()


def rank_file(rank: int) -> str:
    """What a rank wrote besides its groups."""
    return f"rank-{rank:05d}.safetensors"


def group_file(rank: int, group: int) -> str:
    """A rank's pieces of one of the optimizer's groups."""
    return f"rank-{rank:05d}-group-{group:03d}.safetensors"


def rank_of(name: str) -> int:
    """Which rank wrote a file; 0 of a file of no rank."""
    match = RANK_FILE.fullmatch(name)
    return int(match[1]) if match else 0


def rank_files(path: Path) -> list[str]:
    """The names of all ranks' files in a checkpoint, those on other hosts too. Raises as reading JSON does."""
    return sorted({*json.loads((path / MANIFEST).read_text(encoding="utf-8"))["files"]} - {STATE})


def entry_of(path: Path) -> dict[str, Any]:
    """What a manifest says of a file."""
    return {"sha256": digest_of_file(path), "bytes": path.stat().st_size}


def damaged(path: Path, share: int = 0, shares: int = 1) -> list[str]:
    """The files of a checkpoint, of this share of them, that do not match its manifest, or the manifest itself.

    state.json is in every share. One share for each of the ranks that wrote it: each looks at that rank's files.
    """
    return mismatches(path, lambda file, entry: entry_of(file) == entry, share, shares)


def complete(path: Path, *, parts: bool = True) -> bool:
    """Whether the manifest is there and all of its files, in their sizes. Quick: none of them is read.

    With ``parts``, a host's own part is enough of a checkpoint whose other files lie on other hosts' disks.
    """
    bad = set(mismatches(path, lambda file, entry: file.stat().st_size == entry["bytes"]))
    if not bad or not parts or bad & {MANIFEST, STATE}:
        return not bad
    return any({*map(rank_of, bad)}.isdisjoint(ranks) for _, ranks in writers(path))


def writers(path: Path) -> list[tuple[str, list[int]]]:
    """(host, its ranks) for each host that wrote a checkpoint onto a disk of its own; empty if they shared one."""
    try:
        local = json.loads((path / MANIFEST).read_text(encoding="utf-8"))["local"]
        return [(str(host), [int(rank) for rank in ranks]) for host, ranks in local]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def mismatches(path: Path, same: Callable[[Path, Any], bool], share: int = 0, shares: int = 1) -> list[str]:
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        if manifest["format"] not in KNOWN or path_of(path.parent, manifest["step"]) != path:
            return [MANIFEST]
        files = dict(manifest["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return [MANIFEST]

    def matches(name: str) -> bool:
        try:
            return same(path / name, files[name])
        except (OSError, ValueError, KeyError, TypeError):
            return False

    mine = {name for name in files if rank_of(name) % shares == share} | {STATE}
    return [name for name in sorted(mine) if not matches(name)]
