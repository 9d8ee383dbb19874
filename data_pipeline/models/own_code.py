"""Python code that a model directory brings along (``auto_map`` in its config.json): run only where the recipe names
its content, and then exactly what was hashed. Where it names nothing, a model that transformers knows is transformers'
own.

A digest covers every .py file below the directory, with its path. What runs is a copy in a folder of this process,
written from the bytes that were hashed, so that a file that changes meanwhile, or a cache that others write to, has
no part in it.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from tracestill.data_pipeline.base.errors import InputError

CONFIG = "config.json"
KEY = "student.trust_remote_code"
CLEAR_SECONDS = 2.0  # the folder's disk may be what no longer answers
HELD = "tracestill_own_code"  # a model's attribute: path -> bytes of the code that made it
_copies: dict[tuple[Path, str, bytes], Path] = {}

Files = dict[str, bytes]


def files_of(directory: Path) -> Files:
    """Path below the directory -> bytes of each .py file. Raises InputError if one cannot be read."""
    try:
        found = sorted(path for path in directory.rglob("*.py") if path.is_file())
        return {path.relative_to(directory).as_posix(): path.read_bytes() for path in found}
    except OSError as error:
        raise InputError(f"{error.filename or directory}: cannot be read ({error.strerror})") from error


def digest_of(files: Mapping[str, bytes]) -> str:
    """``sha256:`` and the digest of paths and contents."""
    whole = hashlib.sha256()
    for name in sorted(files):
        whole.update(f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n".encode(errors="surrogateescape"))
    return f"sha256:{whole.hexdigest()}"


def named_by(value: Any) -> set[str]:
    """What the ``auto_map``s of a config name, such as ``modeling_own.OwnModel``, wherever in it they stand."""
    maps = [held for key, held in walk(value) if key == "auto_map" and held]
    listed = [one for held in maps for one in (held.values() if isinstance(held, Mapping) else [held])]
    return {str(name) for one in listed for name in (one if isinstance(one, list) else [one]) if name}


def walk(value: Any) -> Iterator[tuple[str, Any]]:
    """All keys of a JSON value, whatever they lie in, and what they hold."""
    due = [value]
    while due:
        held = due.pop()
        if isinstance(held, Mapping):
            yield from held.items()
            due += held.values()
        elif isinstance(held, list):
            due += held


def check(directory: Path, config: Mapping[str, Any], trusted: str | None) -> None:
    """Raises InputError if the directory's ``config`` names code that ``trusted``, a digest, does not allow, unless
    transformers has the model itself, and nothing is trusted: then no code of the directory is asked for."""
    if not is_run(config, trusted):
        return
    named = sorted(named_by(config))
    start = f"{directory / CONFIG}: brings code of its own (auto_map: {', '.join(named)})"
    if away := [name for name in named if "--" in name]:
        raise InputError(f"{start}, and {away[0]} lies in another repository; expected files of this directory")
    kind = config.get("model_type")
    plain = f"; or leave {KEY} out: transformers knows {kind} itself" if known(kind) else ""
    files = files_of(directory)
    if not files:
        lacking = f"of which no .py file lies there; expected them beside it, or a model that transformers knows{plain}"
        raise InputError(f"{start}, {lacking}")
    digest = digest_of(files)
    if digest == trusted:
        return
    if trusted is None:
        raise InputError(f"{start}, which is not run; read it, and if you trust it set {KEY}: {digest}")
    raise InputError(f"{start}: {digest}, but {KEY} allows {trusted} only; read what has changed{plain}")


def is_run(config: Mapping[str, Any], trusted: str | None) -> bool:
    """Whether a model of this config needs code of its own, or shall have it."""
    return bool(named_by(config)) and (trusted is not None or not known(config.get("model_type")))


def known(kind: Any) -> bool:
    """Whether transformers has models of a type that write text."""
    from transformers.models.auto import modeling_auto

    causal, pairs = (
        modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    )
    return isinstance(kind, str) and (kind in causal or kind in pairs)


def copy_to_run(directory: Path, trusted: str) -> tuple[Path, Files]:
    """A folder with the directory's code as it was hashed, its config as it was looked at, and links to all else; and
    that code.

    Raises InputError if the code is not the trusted one (any more).
    """
    files, config = files_of(directory), (directory / CONFIG).read_bytes()
    check(directory, json.loads(config), trusted)
    if digest_of(files) != trusted:
        raise InputError(f"{directory}: its code is {digest_of(files)}, but {KEY} allows {trusted} only")
    key = (directory.resolve(), trusted, config)
    if key not in _copies:
        # by its digest in the module's name: else transformers takes equal config files for one, and their models too
        name = f"own_{trusted.removeprefix('sha256:')[:16]}"
        _copies[key] = lay_out(directory, {**files, CONFIG: config}, home() / str(len(_copies)) / name)
    return _copies[key], files


def lay_out(directory: Path, written: Files, copy: Path) -> Path:
    copy.mkdir(parents=True)
    for name, content in written.items():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes(content)
    for path in directory.iterdir():
        if path.suffix != ".py" and not (copy / path.name).exists():
            (copy / path.name).symlink_to(path.resolve())
    return copy


@cache
def home() -> Path:
    """A folder of this process, for this user alone. transformers puts there what it imports, in place of a cache that
    outlives the process."""
    from transformers import dynamic_module_utils

    folder = Path(tempfile.mkdtemp(prefix="tracestill-code-"))
    atexit.register(clear)
    dynamic_module_utils.HF_MODULES_CACHE = str(folder / "modules")
    return folder


def clear() -> None:
    """Delete the folder, if there is one."""
    if home.cache_info().currsize:
        shutil.rmtree(home(), ignore_errors=True)


def leave(code: int) -> NoReturn:
    """End this process at once, without the interpreter's shutdown; the folder goes first, if its disk answers soon."""
    with contextlib.suppress(RuntimeError):  # no thread is to be had
        thread = threading.Thread(target=clear, daemon=True)
        thread.start()
        thread.join(CLEAR_SECONDS)
    os._exit(code)


def attach(model: Any, files: Files) -> None:
    setattr(model, HELD, files)


def attached(model: Any) -> Files:
    """The code that made a model; empty if it is a class of transformers."""
    return getattr(model, HELD, {})


def write(model: Any, directory: Path) -> None:
    """Put a model's own code into an export, as it was, in place of what transformers writes of it."""
    files = attached(model)
    if files:
        for path in directory.rglob("*.py"):
            path.unlink()
    for name, content in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)
