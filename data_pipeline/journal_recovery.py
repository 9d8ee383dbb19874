"""A damaged journal becomes a new one that holds what can be read from it; the old one stays beside it."""

from __future__ import annotations

import itertools
from pathlib import Path

from tracestill.data_pipeline.errors import InputError
from tracestill.data_pipeline.journal import Journal, JournalDamaged, has_bytes, plainly, sides
from tracestill.data_pipeline.journal_pages import readable
from tracestill.data_pipeline.room import needs_room
from tracestill.data_pipeline.stage import sync


def recover(path: Path) -> tuple[int, Path | None]:
    """Make a new journal of what can be read from a damaged one, which stays beside it: how many samples it holds, and
    the name of the old one; None if that is whole, and stays as it is.

    Raises InputError if there is no journal, no sample can be read from it, or it cannot be used for another reason;
    NoRoomError if the disk is full.
    """
    if not any(map(has_bytes, (path, *sides(path)))):
        raise InputError(f"{path}: there is no journal to recover")
    try:
        with Journal(path) as book:
            return book.check(), None
    except JournalDamaged:
        return renewed(path)


def renewed(path: Path) -> tuple[int, Path]:
    """As ``recover``, of a journal that is known to be damaged."""
    draft = path.with_name(f".{path.name}.recovered")
    drafts = [draft, *sides(draft)]
    with needs_room(path, "it is as it was"), plainly(path):
        found = readable(path)
        if not found.count:
            raise InputError(f"{path}: no sample can be read from it; move it away to sample anew")
        try:
            for left in drafts:
                left.unlink(missing_ok=True)
            with Journal(draft) as fresh, fresh.told():
                fresh.put("samples", found.samples)
                fresh.put("rejected", found.rejected)
                fresh.database.executemany("INSERT OR IGNORE INTO inputs VALUES (?, ?)", found.inputs)
            sync(draft)
        except BaseException:
            for left in drafts:
                left.unlink(missing_ok=True)
            raise
        names = (path.with_name(f"{path.stem}.damaged-{n}{path.suffix}") for n in itertools.count(1))
        aside = next(name for name in names if not name.exists())
        for held, kept in zip((*sides(path), path), (*sides(aside), aside), strict=True):
            if held.exists():
                held.replace(kept)
        draft.replace(path)
        sync(path.parent)
    return found.count, aside
