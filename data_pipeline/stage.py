"""The stage contract: a stage reads directories and writes one directory, wholly or not at all.

It writes into a temporary sibling, syncs it to disk and renames it into place. ``manifest.json`` holds the
stage's config, the digests of its inputs and outputs, counts, versions and time. Same config and inputs:
nothing to do.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tracestill.data_pipeline.errors import InputError

MANIFEST = "manifest.json"
DISTRIBUTIONS = ("tracestill", "torch", "deepspeed", "transformers", "tokenizers", "numpy", "pyarrow")


@dataclass
class Stage:
    """What a stage writes to while it runs."""

    path: Path  # the temporary directory
    counts: dict[str, Any] = field(default_factory=dict)  # records in, out, and rejected by reason
    extra: dict[str, Any] = field(default_factory=dict)  # whatever else belongs into the manifest


def versions() -> dict[str, str]:
    """Installed versions of the distributions that can change a result."""
    found = {}
    for name in DISTRIBUTIONS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def digest_of_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def digest_of(value: Any) -> str:
    """sha256 of a JSON value, independent of the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def read_manifest(directory: Path) -> dict[str, Any] | None:
    """The manifest of a finished stage, or None. Raises InputError if it is there but unreadable."""
    path = directory / MANIFEST
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable as JSON ({error}); delete {directory} to redo the stage") from error


def output_digest(directory: Path) -> str:
    """Digest of what a finished stage wrote (its files, not when). Raises InputError if it has not finished."""
    manifest = read_manifest(directory)
    if manifest is None:
        raise InputError(f"{directory}: this stage has not finished; run the stages before it first")
    return digest_of(manifest["files"])


def identity(name: str, config: Mapping[str, Any], inputs: Mapping[str, Path]) -> dict[str, Any]:
    """What decides whether a finished stage is still current."""
    return {
        "stage": name,
        "config": json.loads(json.dumps(config, sort_keys=True, default=str)),
        "inputs": {key: output_digest(path) for key, path in inputs.items()},
    }


def is_current(directory: Path, name: str, config: Mapping[str, Any], inputs: Mapping[str, Path]) -> bool:
    """Whether ``directory`` holds the finished result of this stage with this config on these inputs."""
    manifest = read_manifest(directory)
    if manifest is None:
        return False
    wanted = identity(name, config, inputs)
    return all(manifest.get(key) == wanted[key] for key in wanted)


def sync(path: Path) -> None:
    """Force a file's or directory's content to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, value: Any) -> None:
    """Write JSON into a temporary sibling, sync it, and rename it into place."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    temporary.write_text(json.dumps(value, indent=2, sort_keys=True, default=str) + "\n", encoding="utf-8")
    sync(temporary)
    temporary.replace(path)
    sync(path.parent)


def write_manifest(
    directory: Path, who: dict[str, Any], stage: Stage, seconds: float, patterns: Sequence[str] = ("**/*",)
) -> None:
    """Write manifest.json last; ``patterns`` say which files are the stage's result (all of them)."""
    found = {p for pattern in patterns for p in stage.path.glob(pattern)}
    files = sorted(p for p in found if p.is_file() and p.name != MANIFEST)
    manifest = {
        **who,
        "files": {str(p.relative_to(stage.path)): digest_of_file(p) for p in files},
        "counts": stage.counts,
        "versions": versions(),
        "seconds": round(seconds, 3),
        **stage.extra,
    }
    for path in files:
        sync(path)
    write_json(directory / MANIFEST, manifest)


@contextlib.contextmanager
def stage(directory: Path, name: str, config: Mapping[str, Any], inputs: Mapping[str, Path]) -> Iterator[Stage]:
    """Run a stage's body on a temporary directory; on success it becomes ``directory``, on failure it is deleted.

    ``inputs`` maps names to directories of finished stages. Raises InputError if one has not finished.
    """
    who = identity(name, config, inputs)
    directory.parent.mkdir(parents=True, exist_ok=True)
    for left in directory.parent.glob(f".{directory.name}.*.partial"):  # of a run that was killed
        shutil.rmtree(left)
    work = Stage(directory.with_name(f".{directory.name}.{uuid.uuid4().hex[:8]}.partial"))
    work.path.mkdir()
    started = time.perf_counter()
    try:
        yield work
        write_manifest(work.path, who, work, time.perf_counter() - started)
        sync(work.path)
        if directory.exists():
            old = directory.with_name(f".{directory.name}.{uuid.uuid4().hex[:8]}.partial")
            directory.replace(old)
            work.path.replace(directory)
            shutil.rmtree(old)
        else:
            work.path.replace(directory)
        sync(directory.parent)
    except BaseException:
        shutil.rmtree(work.path, ignore_errors=True)
        raise
