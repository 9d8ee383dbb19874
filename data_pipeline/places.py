"""Directories of a run that a user has put elsewhere, such as on a scratch disk, with a link in their place.

The link stays: what is replaced or deleted is replaced or deleted where it leads. There may be other things too, which
are not ours to delete.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from tracestill.data_pipeline.errors import InputError


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


def replaceable(directory: Path, ours: Callable[[Path], bool]) -> Path:
    """``place_of`` a directory that is going to be replaced. Raises InputError if a link leads to something else than
    an empty directory or one that is ``ours``."""
    place = place_of(directory)
    if place != directory and any(place.iterdir()) and not ours(place):
        raise InputError(
            f"{directory}: is a link to {place}, which holds other things than this run's; let it lead to a directory "
            "of its own, which is empty"
        )
    return place


def remove(path: Path) -> None:
    """Delete a file, or a directory with all that is in it; of a link only the link."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
