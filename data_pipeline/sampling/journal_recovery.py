"""A damaged journal becomes a new one that holds what can be read from it; the old one stays beside it.

The new one is made beside the old one, read again, and then named as ``ready`` says: from there on no command opens the
journal until the new one is in its place. A recovery that is cut off before leaves all as it was; one that is cut off
after is finished by the next.
"""

from __future__ import annotations

import itertools
from pathlib import Path

from tracestill.data_pipeline.base.errors import InputError, NoRoomError
from tracestill.data_pipeline.base.room import AGAIN, needs_room
from tracestill.data_pipeline.base.stage import sync
from tracestill.data_pipeline.sampling.journal import LOST, Journal, JournalDamaged, plainly
from tracestill.data_pipeline.sampling.journal_files import damaged, has_bytes, ready, refuse_half_recovered, sides
from tracestill.data_pipeline.sampling.journal_pages import readable


def recover(path: Path) -> tuple[int, Path | None]:
    """Make a new journal of what can be read from a damaged one, which stays beside it: how many samples it holds, and
    the name of the old one; None if that is whole, and stays as it is. A link stays, and both lie where it leads.

    Raises InputError if there is no journal, no sample can be read from it, or it cannot be used for another reason;
    NoRoomError if the disk is full.
    """
    if ready(path).exists():
        with needs_room(path, "nothing of it is lost"), plainly(path):
            aside = take_its_place(path)
        with Journal(path) as book:
            return book.count(), aside
    if not any(map(has_bytes, (path, *sides(path)))):
        refuse_half_recovered(path)
        raise InputError(f"{path}: there is no journal to recover")
    try:
        with Journal(path) as book:
            return book.check(), None
    except JournalDamaged:
        return renewed(path)


def renewed(path: Path) -> tuple[int, Path]:
    """As ``recover``, of a journal that is known to be damaged."""
    with needs_room(path, "nothing of it is lost"), plainly(path):
        try:
            count = make_ready(path)
        except NoRoomError as error:
            said = "no room on this disk, or a quota is used up, for a new journal beside it"
            raise NoRoomError(f"{path}: {said}; it is as it was; {AGAIN}") from error
        return count, take_its_place(path)


def make_ready(path: Path) -> int:
    """Write a new journal beside a damaged one, and read it again; how many samples it holds."""
    whole = path.resolve()
    draft = whole.with_name(f".{whole.name}.recovered")
    drafts = [draft, *sides(draft), draft.with_name(f"{draft.name}-journal")]
    found = readable(path)
    if not found.count:
        raise InputError(f"{path}: no sample can be read from it; move it away to sample anew")
    try:
        for left in drafts:
            left.unlink(missing_ok=True)
        with Journal(draft, log=False) as fresh, fresh.told():  # what fails in a log, SQLite tells nobody
            for table in ("samples", "rejected", "inputs"):
                fresh.put(table, found.rows(table))
            fresh.put("inputs", [(LOST, "{}")])  # nobody knows whether others are missing
            fresh.notes()
            for note in found.rows("notes"):  # else money would be spent, and batches be asked for, a second time
                fresh.note(*note)
        sync(draft)
        with Journal(draft, log=False) as fresh, fresh.told():
            if fresh.check() != found.count or any(left.exists() for left in drafts[1:]):
                raise InputError(f"{path}: a new journal beside it cannot be read again; look after the disk")
        draft.replace(ready(path))
        sync(whole.parent)
    except BaseException:
        for left in drafts:
            left.unlink(missing_ok=True)
        raise
    return found.count


def take_its_place(path: Path) -> Path:
    """Move the damaged journal aside and the one that is ready to its place; the name of the damaged one.

    The journal itself goes last: until then its name is free, and whoever goes on after a crash finds the same one.
    """
    whole = path.resolve()
    taken = next(n for n in itertools.count() if not damaged(path, n + 1).exists())
    aside = damaged(path, max(taken, 1))
    if whole.exists() or any(side.exists() for side in sides(path)):
        whole.touch()  # its log may have been all there was
        aside = damaged(path, taken + 1)
        for held, kept in zip((*sides(path), whole), (*sides(aside), aside), strict=True):
            if held.exists():
                held.replace(kept)
    ready(path).replace(whole)
    sync(whole.parent)
    return aside
