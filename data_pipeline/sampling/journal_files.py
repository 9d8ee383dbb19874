"""The files beside a journal, by name. If it is a link, they lie where that leads, as SQLite's do."""

from __future__ import annotations

from pathlib import Path

from tracestill.data_pipeline.base.errors import InputError

BESIDE = ("-wal", "-shm")  # SQLite's files beside a database


def has_bytes(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def sides(path: Path) -> list[Path]:
    """SQLite's files beside a database: its log, and what processes share."""
    whole = path.resolve()
    return [whole.with_name(whole.name + end) for end in BESIDE]


def ready(path: Path) -> Path:
    """Where a new journal lies, whole, until it has taken the place of a damaged one."""
    whole = path.resolve()
    return whole.with_name(f".{whole.name}.ready")


def damaged(path: Path, number: int) -> Path:
    """The name of a journal that was damaged, the first of them 1."""
    whole = path.resolve()
    return whole.with_name(f"{whole.stem}.damaged-{number}{whole.suffix}")


def refuse_half_recovered(path: Path) -> None:
    """Raise InputError where a recovery was cut off: an empty journal must not be begun in its place."""
    again = f"`tracestill sample {path.parent} --recover`"
    if ready(path).exists():
        raise InputError(f"{path}: its recovery was cut off; {again} finishes it")
    if has_bytes(path) or has_bytes(sides(path)[0]):
        return
    if (aside := damaged(path, 1)).exists():
        raise InputError(
            f"{path}: it is missing or empty, and {aside} is there; rename that to {path.resolve().name}, and its -wal "
            f"alike, for {again}, or move it away to sample anew"
        )
