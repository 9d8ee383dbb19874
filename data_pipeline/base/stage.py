"""The stage contract: a stage reads directories and writes one directory, wholly or not at all.

It writes into a temporary sibling, syncs it to disk and renames it into place. ``manifest.json`` holds the
stage's config, the digests of its inputs and outputs, counts, versions and time. Same config and inputs:
nothing to do. Inputs are known by content: files of a finished stage that were changed later count as they are now.

A config may hold ``contents``: field -> file -> sha256 of what its fields name outside of the run (``content.py``).
They are compared where both sides know them, and then count instead of the path that the field names.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import itertools
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tracestill.data_pipeline.base.content import MEMORY, digests
from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.places import OWNER, draft_of, mark, place_of, remove_drafts, replaceable
from tracestill.data_pipeline.base.room import KEPT, told_of

CONTENTS = "contents"  # in a config: digests of what it names outside of the run
UNKNOWN = "(unknown)"  # in a config: what cannot be known here is taken as unchanged
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


def digest_of(value: Any) -> str:
    """sha256 of a JSON value, independent of the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def read_manifest(directory: Path) -> dict[str, Any] | None:
    """The manifest of a finished stage, or None. Raises InputError if it is there but unreadable, or no stage's."""
    path = directory / MANIFEST
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable as JSON ({error}); delete {directory} to redo the stage") from error
    if not isinstance(found, dict) or not isinstance(found.get("files"), dict):
        raise InputError(f"{path}: is no stage's; if {directory} is of this run, delete it to redo the stage")
    return found


def output_digest(directory: Path) -> str:
    """Digest of what a finished stage's files hold now; one that is missing counts as it was written.

    Raises InputError if the stage has not finished.
    """
    manifest = read_manifest(directory)
    if manifest is None:
        raise InputError(f"{directory}: this stage has not finished; run the stages before it first")
    return digest_of({**manifest["files"], **files_now(directory, manifest)})


def files_now(directory: Path, manifest: Mapping[str, Any]) -> dict[str, str]:
    """Name -> sha256 of the files of a finished stage that are there."""
    return digests({name: directory / name for name in manifest["files"]}, directory / MEMORY)


def changed_files(directory: Path) -> list[str]:
    """Names of a finished stage's files that hold something else than it wrote."""
    manifest = read_manifest(directory) or {"files": {}}
    now = files_now(directory, manifest)
    return sorted(name for name, digest in manifest["files"].items() if now.get(name, digest) != digest)


def missing_files(directory: Path) -> list[str]:
    """Names of a finished stage's files that are gone."""
    names = (read_manifest(directory) or {"files": {}})["files"]
    return sorted(name for name in names if not (directory / name).is_file())


def identity(name: str, config: Mapping[str, Any], inputs: Mapping[str, Path]) -> dict[str, Any]:
    """What decides whether a finished stage is still current."""
    return {
        "stage": name,
        "config": json.loads(json.dumps(config, sort_keys=True, default=str)),
        "inputs": {key: output_digest(path) for key, path in inputs.items()},
    }


def differences(held: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """In what two identities differ, in words: fields of the config, files that fields name, and inputs."""
    before, now = ({**who.get("config", {})} for who in (held, wanted))
    known, found = before.pop(CONTENTS, {}), now.pop(CONTENTS, {})
    both = known.keys() & found.keys()
    fields = [] if held.get("stage") == wanted.get("stage") else ["stage"]
    fields += [name for name in unequal(before, now) if name not in both]
    for key in sorted(both):
        files = sorted(name for name in known[key] | found[key] if known[key].get(name) != found[key].get(name))
        fields += [f"{key} ({', '.join(files)})" if any(files) else key] if files else []
    inputs, others = held.get("inputs", {}), wanted.get("inputs", {})
    return fields + sorted(key for key in inputs | others if inputs.get(key) != others.get(key))


def unequal(a: Any, b: Any, prefix: str = "") -> list[str]:
    """Dotted names of the parts in which two JSON values differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        pairs: Any = [(key, a.get(key), b.get(key)) for key in {**a, **b}]
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        pairs = [(index, *pair) for index, pair in enumerate(zip(a, b, strict=True))]
    else:
        return [] if a == b or b == UNKNOWN else [prefix]
    return [name for key, x, y in pairs for name in unequal(x, y, f"{prefix}.{key}" if prefix else str(key))]


def same(held: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether two identities are of the same work."""
    return not differences(held, wanted)


def is_current(directory: Path, name: str, config: Mapping[str, Any], inputs: Mapping[str, Path]) -> bool:
    """Whether ``directory`` holds the finished result of this stage with this config on these inputs."""
    manifest = read_manifest(directory)
    return manifest is not None and same(manifest, identity(name, config, inputs))


def why_redone(directory: Path, name: str, config: Mapping[str, Any], inputs: Mapping[str, Path]) -> str:
    """What has changed since a stage finished, in words; empty if nothing has, or it has not finished."""
    manifest = read_manifest(directory)
    if manifest is None:
        return ""
    reasons = []
    for part in differences(manifest, identity(name, config, inputs)):
        edited = changed_files(inputs[part]) if part in inputs else []
        reasons.append(", ".join(f"{part}/{file}" for file in edited) or part)
    gone = [f"{file} is missing" for file in missing_files(directory)]
    return "; ".join([f"{', '.join(reasons)} changed"] * bool(reasons) + gone[:3])


def edited_name(directory: Path) -> Path:
    """Where a stage's directory goes when the stage is done anew after somebody has changed files in it."""
    directory = place_of(directory)
    names = (directory.with_name(f"{directory.name}.edited-{n}") for n in itertools.count(1))
    return next(path for path in names if not path.exists())


def sync(path: Path) -> None:
    """Force a file's or directory's content to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, value: Any) -> None:
    """Write JSON as ``write_whole`` does."""
    write_whole(path, json.dumps(value, indent=2, sort_keys=True, default=str) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Write a text into a temporary sibling, sync it, and rename it into place; nothing is left of it if that fails."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        sync(temporary)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync(path.parent)


def write_manifest(
    directory: Path, who: dict[str, Any], stage: Stage, seconds: float, patterns: Sequence[str] = ("**/*",)
) -> None:
    """Write manifest.json last; ``patterns`` say which files are the stage's result (all of them)."""
    found = {p for pattern in patterns for p in stage.path.glob(pattern)}
    files = sorted(p for p in found if p.is_file() and p.name not in (MANIFEST, MEMORY, OWNER))
    manifest = {
        **who,
        "files": digests({str(p.relative_to(stage.path)): p for p in files}, stage.path / MEMORY),
        "counts": stage.counts,
        "versions": versions(),
        "seconds": round(seconds, 3),
        **stage.extra,
    }
    for path in [*files, *sorted({p.parent for p in files})]:  # of a directory, the names in it
        sync(path)
    write_json(directory / MANIFEST, manifest)


@contextlib.contextmanager
def stage(
    directory: Path,
    name: str,
    config: Mapping[str, Any],
    inputs: Mapping[str, Path],
    kept: str | Callable[[], str] = KEPT,
) -> Iterator[Stage]:
    """Run a stage's body on a temporary directory; on success it becomes ``directory``, or what a link there leads to;
    on failure it is deleted.

    ``inputs`` maps names to directories of finished stages. Raises InputError if one has not finished, and if a link
    leads nowhere, or to what this stage did not write; NoRoomError, which tells what is ``kept``, if the disk is full.
    One process at a time: see ``trainer/lock/run_lock.py``.
    """
    who = identity(name, config, inputs)
    named, directory = directory, replaceable(directory, (MEMORY,))
    work = Stage(draft_of(directory))
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        remove_drafts(directory)
        work.path.mkdir()
        started = time.perf_counter()
        yield work
        write_manifest(work.path, who, work, time.perf_counter() - started)
        mark(work.path, named)
        sync(work.path)
        replaceable(named, (MEMORY,))  # somebody may have put something there meanwhile
        put_in_place(work.path, directory)
    except BaseException as error:
        told = told_of(error, directory, kept) if isinstance(error, Exception) else None  # asks the disk: before this
        shutil.rmtree(work.path, ignore_errors=True)
        if told is not None:
            raise told from error
        raise


def put_in_place(made: Path, directory: Path) -> None:
    """Rename a finished stage into place. What was there goes, or stays beside it if somebody has edited it."""
    if directory.exists():
        edited = edited_name(directory) if changed_files(directory) else None
        old = edited or draft_of(directory)
        directory.replace(old)
        try:
            made.replace(directory)
        except BaseException:
            old.replace(directory)
            raise
        if edited is None:
            shutil.rmtree(old)
    else:
        made.replace(directory)
    sync(directory.parent)
