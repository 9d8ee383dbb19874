"""Inputs known by content: each file is hashed once, then remembered by its size and times in a file beside the run.

A file whose size, mtime and ctime are as they were when it was hashed is not read again; any other is, so a copy or a
restored backup costs one reading and changes nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import uuid
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from tracestill.data_pipeline.base.errors import InputError

MEMORY = ".known.json"  # name -> [size, mtime_ns, ctime_ns, sha256] of each state it was seen in, the newest first
STATES = 64  # remembered of a name: hosts that share a run may each have a model of their own under one path
MODEL_FILES = re.compile(  # of a directory in transformers' form; notes, results and a trainer's state lie beside them
    r"(config|generation_config|adapter_config|preprocessor_config)\.json"
    r"|(tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab)\.json|vocab\.txt|merges\.txt|chat_template\..+"
    r"|[^.].*\.(safetensors|model|tiktoken|gguf|index\.json)|(pytorch_model|adapter_model).*\.(bin|pt)"
    r"|(modeling|configuration|tokenization)_.+\.py"
)

Mark = list[int]
_hashed: dict[str, tuple[Mark, str]] = {}  # by this process, where nothing could be written down
_writes: ContextVar[bool] = ContextVar("writes", default=True)


@contextlib.contextmanager
def remembering_nothing() -> Iterator[None]:
    """Meanwhile no file is written or locked to remember digests: this process remembers alone."""
    token = _writes.set(False)
    try:
        yield
    finally:
        _writes.reset(token)


def digest_of_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_digest(path: Path) -> str:
    """As ``digest_of_file``. Raises InputError if the file cannot be read."""
    try:
        return digest_of_file(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); let this user read it") from error


def digests(files: Mapping[str, Path], memory: Path | None) -> dict[str, str]:
    """Name -> sha256 of each file that is there; others are left out.

    ``memory`` is the file in which they are remembered by name. It is written if its directory is there and can be
    written to; with None, or else, this process remembers alone. Of several processes on a host one hashes. Raises
    InputError naming a file that cannot be read.
    """
    marks = {name: mark for name, path in files.items() if (mark := mark_of(path)) is not None}
    held = read_memory(memory)
    memory = memory if _writes.get() else None
    found = {name: known for name, mark in marks.items() if (known := recall(held, name, mark, files[name]))}
    if len(found) < len(marks):
        with alone(memory):
            held = read_memory(memory) if memory is not None else held  # another process may have hashed meanwhile
            for name in marks.keys() - found.keys():
                found[name] = recall(held, name, marks[name], files[name]) or read_digest(files[name])
                if mark_of(files[name]) == marks[name]:  # else it was written to while it was read
                    _hashed[str(files[name].absolute())] = (marks[name], found[name])
    new = {n: [*marks[n], found[n]] for n in found if [*marks[n], found[n]] not in states_of(held, n)}
    if new:
        write_memory(memory, {**held, **{n: [state, *states_of(held, n)][:STATES] for n, state in new.items()}})
    return {name: found[name] for name in files if name in found}


def mark_of(path: Path) -> Mark | None:
    """What changes when a file does, ctime even where a replaced file has the old mtime. None if there is no file."""
    try:
        about = path.stat()
    except OSError:
        return None
    return [about.st_size, about.st_mtime_ns, about.st_ctime_ns] if path.is_file() else None


def recall(held: Mapping[str, Any], name: str, mark: Mark, path: Path) -> str | None:
    """The digest of a file that has not changed since it was hashed, or None."""
    for state in states_of(held, name):
        if isinstance(state, list) and state[:-1] == mark:
            return str(state[-1])
    known = _hashed.get(str(path.absolute()))
    return known[1] if known is not None and known[0] == mark else None


def states_of(held: Mapping[str, Any], name: str) -> list[Any]:
    states = held.get(name, [])
    return states if isinstance(states, list) else []


def read_memory(path: Path | None) -> dict[str, Any]:
    """What is remembered; nothing if it cannot be read, which costs a reading of the files."""
    with contextlib.suppress(OSError, ValueError):
        held = json.loads(path.read_text(encoding="utf-8")) if path is not None else {}
        return held if isinstance(held, dict) else {}
    return {}


def write_memory(path: Path | None, held: Mapping[str, Any]) -> None:
    """Not synced, and no failure tells: whoever finds less in it hashes again."""
    if path is None or not path.parent.is_dir():
        return
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        temporary.write_text(json.dumps(held), encoding="utf-8")
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def alone(memory: Path | None) -> Iterator[None]:
    """Meanwhile no other process of this host hashes for the same memory, where the file system knows locks."""
    handle = None
    with contextlib.suppress(OSError):
        if memory is not None:
            handle = os.open(memory.parent, os.O_RDONLY)
            fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        yield
    finally:
        if handle is not None:
            os.close(handle)


def model_files(directory: Path) -> dict[str, Path]:
    """Name -> path of the files of a directory in transformers' form that decide what it holds: config, weights,
    tokenizer; or of a GGUF file, that file. Of peft's adapter also those of the model that it adapts, where that is a
    directory.

    Raises InputError if the directory cannot be read.
    """
    try:
        inside = sorted(directory.iterdir()) if directory.is_dir() else [directory]
        found = {path.name: path for path in inside if MODEL_FILES.fullmatch(path.name) and path.is_file()}
    except OSError as error:
        raise InputError(f"{directory}: cannot be read ({error.strerror}); let this user read it") from error
    base = base_of(directory)
    return found | {f"base/{name}": path for name, path in (model_files(base) if base else {}).items()}


def base_of(directory: Path) -> Path | None:
    """Where the model lies that peft's adapter in a directory adapts, if it says so; a name on a hub is a path, too."""
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
        settings = json.loads((directory / "adapter_config.json").read_text(encoding="utf-8"))
        base = Path(settings["base_model_name_or_path"])
        return base if base.resolve() != directory.resolve() else None
    return None


def named_files(value: Any, field: str) -> dict[str, dict[str, Path]]:
    """Field -> the files that an option's text names: a file, or a directory that holds a model.

    ``value`` is any part of a recipe, ``field`` its dotted name.
    """
    if isinstance(value, Mapping):
        parts: Any = value.items()
    elif isinstance(value, list | tuple):
        parts = enumerate(value)
    elif isinstance(value, str | Path) and str(value).strip():
        return {field: files} if (files := files_at(Path(value))) else {}
    else:
        return {}
    return {name: files for key, part in parts for name, files in named_files(part, f"{field}.{key}").items()}


def files_at(path: Path) -> dict[str, Path]:
    try:
        if path.is_file():
            return {"": path}
        is_model = any((path / name).is_file() for name in ("config.json", "adapter_config.json"))
    except (OSError, ValueError):  # a text too long, or with a null, is no path
        return {}
    return model_files(path) if is_model else {}


def contents(named: Mapping[str, Mapping[str, Path]], memory: Path | None) -> dict[str, dict[str, str]]:
    """Field -> name -> sha256 of the files that fields of a recipe name. Fields without a file are left out."""
    found = {}
    for field, files in named.items():
        keys = {str(path.absolute()): path for path in files.values()}
        known = digests(keys, memory)
        of_field = {name: known[str(path.absolute())] for name, path in files.items() if str(path.absolute()) in known}
        if of_field:
            found[field] = of_field
    return found
