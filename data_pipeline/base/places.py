"""Directories of a run that a user has put elsewhere, such as on a scratch disk, with a link in their place.

The link stays: what is replaced or deleted is replaced or deleted where it leads. There may be other things too, which
are not ours to delete. So the place that a link leads to is empty when it is first used. Then ``OWNER`` in it names the
link, and below that, of a place that is replaced as a whole, all that we wrote there; nothing else is ever deleted.
"""

from __future__ import annotations

import glob
import os
import shutil
import uuid
from collections.abc import Collection, Iterable
from pathlib import Path

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.room import needs_room

OWNER = ".tracestill.txt"


def place_of(directory: Path) -> Path:
    """Where a directory lies: itself, or the end of the link in its place. Raises InputError if that leads nowhere."""
    if not directory.is_symlink():
        return directory
    if not directory.is_dir():
        raise InputError(
            f"{directory}: is a link to {os.readlink(directory)}, where no directory is; make one there, or delete the "
            "link"
        )
    return directory.resolve()


def claim(directory: Path, besides: Collection[str] = ()) -> Path:
    """``place_of`` a directory of which we shall delete what bears our names. Where it is a link, the place becomes its
    own. Raises InputError if that is another's, or if it is nobody's and holds more than files named in ``besides``."""
    place = place_of(directory)
    if place == directory:
        return place
    if not lines_of(place):
        if others := sorted(path.name for path in place.iterdir() if path.name not in (OWNER, *besides)):
            raise InputError(
                f"{elsewhere(directory, place)} holds other things than this run's ({others[0]}); let it lead to an "
                f"empty directory, or, if all that it holds is of this run, write {name_of(directory)} into "
                f"{place / OWNER}"
            )
        try:
            with needs_room(place):
                (place / OWNER).write_text(f"{name_of(directory)}\n", encoding="utf-8", errors="surrogateescape")
        except OSError as error:
            raise InputError(f"{elsewhere(directory, place)} cannot be written to ({error.strerror})") from error
    refuse_others(directory, place)
    return place


def replaceable(directory: Path, later: Collection[str] = ()) -> Path:
    """``place_of`` a directory that is going to be replaced as a whole.

    Raises InputError if it cannot be, and if a link leads to one that is neither empty nor marked as its own, or holds
    more than what was marked then, and files in it that are named in ``later``.
    """
    place = place_of(directory)
    if os.path.ismount(place):
        raise InputError(
            f"{elsewhere(directory, place)} is a mount point, which cannot be replaced as a whole; make {directory} a "
            "link to an empty directory below it"
        )
    if place == directory:
        return place
    if not os.access(place.parent, os.W_OK | os.X_OK):
        raise InputError(
            f"{elsewhere(directory, place)} is going to be replaced as a whole, but {place.parent} is not writable; "
            "let it lead to an empty directory in one of your own"
        )
    known = {OWNER, *later, *lines_of(place)[1:]}
    if others := [name for name in inside(place) if name not in known]:
        raise InputError(
            f"{elsewhere(directory, place)} holds other things than this run's ({min(others)}); let it lead to an "
            "empty directory"
        )
    if lines_of(place):
        refuse_others(directory, place)
    return place


def refuse_others(directory: Path, place: Path) -> None:
    """Raise InputError if a place is marked as another link's."""
    owner, own = lines_of(place)[0], name_of(directory)
    if owner != own and ("\0" in owner or name_of(Path(owner)) != own):  # it may go by another way to the same run
        raise InputError(
            f"{elsewhere(directory, place)} belongs to {owner}; let it lead to an empty directory, or, if that is this "
            f"run, which has been moved, make {own} the first line of {place / OWNER}"
        )


def mark(made: Path, directory: Path) -> None:
    """Write into ``made``, which is going to replace the place of a link, whose it is and all that it holds; nothing
    where ``directory`` is no link."""
    if directory.is_symlink():
        lines = [name_of(directory), *sorted(inside(made))]
        (made / OWNER).write_text("\n".join(lines) + "\n", encoding="utf-8", errors="surrogateescape")


def lines_of(place: Path) -> list[str]:
    """What OWNER says in a place: the link, and names; nothing if it is not there, or blank."""
    try:
        text = (place / OWNER).read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return []
    return text.removesuffix("\n").split("\n") if text.strip() else []


def name_of(directory: Path) -> str:
    """The one name of a link, whatever other links lead to it."""
    return str(directory.parent.resolve() / directory.name)


def inside(place: Path) -> Iterable[str]:
    """The names of all files and directories below a directory."""
    for folder, folders, files in os.walk(place):
        for name in [*folders, *files]:
            yield os.path.relpath(os.path.join(folder, name), place)


def elsewhere(directory: Path, place: Path) -> str:
    return f"{directory}:" if place == directory else f"{directory}: is a link to {place}, which"


def draft_of(directory: Path) -> Path:
    """A new name beside a directory, for what is going to replace it."""
    return directory.with_name(f".{directory.name}.{uuid.uuid4().hex[:8]}.partial")


def remove_drafts(directory: Path) -> None:
    """Delete what killed runs left under such names."""
    for left in directory.parent.glob(f".{glob.escape(directory.name)}.{'[0-9a-f]' * 8}.partial"):
        remove(left)


def remove(path: Path) -> None:
    """Delete a file, or a directory with all that is in it; of a link only the link."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
