"""A full disk, in the words of every library that writes for us, becomes one error: ``NoRoomError``.

Python and Arrow say ``Errno 28``; the Rust in tokenizers and safetensors says ``os error 28``, of a type of its own or
of none (anybody else who says so may quote a server that has no room);
NumPy only counts what it could not write; SQLite says "database or disk is full", but of its own shared memory, and of
a quota, "disk I/O error", as it does of a broken disk. Where the words leave it open, the disk is asked.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from tracestill.data_pipeline.base.errors import InputError, NoRoomError

FULL = (errno.ENOSPC, errno.EDQUOT)
CODES = "|".join(map(str, FULL))
NO_ROOM = re.compile(rf"(Errno|errno|os error) ({CODES})\b")  # Python's, Arrow's, Rust's words
OF_RUST = re.compile(rf"\(os error ({CODES})\)")
SHORT = re.compile(r"\d+ requested and \d+ written")  # NumPy's
RUSTIC = ("safetensors", "safetensors_rust", "tokenizers")  # packages
OF_SQLITE = "database or disk is full"
UNCLEAR = ("disk I/O error", "unable to open database file")  # SQLite's, for a full disk among other things
PROBE_BYTES = 1 << 16  # more than what SQLite asks for at once
KEPT = "finished stages are kept"
AGAIN = "make room and run the same command again"


def tells_of_no_room(text: str) -> bool:
    """Whether an error's message says that a disk is full, or a quota used up."""
    return NO_ROOM.search(text) is not None


def cause_of(error: BaseException, folder: Path | None = None) -> BaseException | None:
    """The error that says that a disk is full: this one, or one that led to it; None if none does.

    ``folder`` is where was written: its disk is asked where an error's words leave it open.
    """
    seen: set[int] = set()
    now: BaseException | None = error
    while now is not None and id(now) not in seen:
        seen.add(id(now))
        if isinstance(now, NoRoomError) or is_of_full_disk(now, folder):
            return now
        now = now.__cause__ or (None if now.__suppress_context__ else now.__context__)
    return None


def is_of_full_disk(error: BaseException, folder: Path | None) -> bool:
    """Whether this very error is one of a full disk."""
    text = str(error)
    if isinstance(error, OSError):
        sure = error.errno in FULL or (type(error) is OSError and tells_of_no_room(text))  # a lost connection quotes
        return sure or (SHORT.search(text) is not None and not has_room(folder))
    if isinstance(error, sqlite3.Error):
        return OF_SQLITE in text or (any(words in text for words in UNCLEAR) and not has_room(folder))
    return is_of_rust(type(error)) and OF_RUST.search(text) is not None


def is_of_rust(type_: type[BaseException]) -> bool:
    return type_ is Exception or type_.__module__.partition(".")[0] in RUSTIC


def has_room(folder: Path | None) -> bool:
    """Whether a small file finds room in a folder, or in its nearest ancestor that is there; None: it is not asked."""
    while folder is not None and not folder.is_dir():
        folder = folder.parent if folder.parent != folder else None
    if folder is None:
        return True
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            os.posix_fallocate(probe.fileno(), 0, PROBE_BYTES)
    except OSError as error:
        return error.errno not in FULL
    return True


@contextlib.contextmanager
def needs_room(path: Path, kept: str | Callable[[], str] = KEPT) -> Iterator[None]:
    """Whatever the block raises because a disk is full becomes a NoRoomError that names ``path``, where it writes, and
    says what is ``kept``."""
    try:
        yield
    except Exception as error:
        if told := told_of(error, path, kept):
            raise told from error
        raise


def told_of(error: Exception, path: Path, kept: str | Callable[[], str] = KEPT) -> NoRoomError | None:
    """The NoRoomError that an error amounts to; None if it is another one, or has been told already."""
    cause = None if isinstance(error, NoRoomError) else cause_of(error, path)
    if cause is None:
        return None
    if isinstance(cause, NoRoomError):
        return cause
    if isinstance(error, InputError):  # it says where and what already
        return NoRoomError(f"{error}; {AGAIN}")
    safe = kept if isinstance(kept, str) else kept()
    where = full_place(cause, path)
    return NoRoomError(f"{where}: no room on this disk, or a quota is used up ({words_of(cause)}); {safe}; {AGAIN}")


def full_place(error: BaseException, path: Path) -> Path:
    """The path that is full: ``path``, unless the error names one elsewhere, such as a folder for temporary files."""
    said = path_of(error)
    return path if said is None or said.absolute().is_relative_to(path.absolute().parent) else said


def path_of(error: BaseException) -> Path | None:
    """The path that an error names; None if it names none, or a number of an open file."""
    name = getattr(error, "filename", None)
    return Path(os.fsdecode(name)) if name and isinstance(name, str | bytes) else None


def words_of(error: BaseException) -> str:
    """An error in a few words, without the temporary folder that it happened in."""
    named = path_of(error)
    if isinstance(error, OSError) and error.strerror and named is not None:
        return f"{named.name}: {error.strerror}"
    return str(error).splitlines()[0] if str(error) else type(error).__name__
