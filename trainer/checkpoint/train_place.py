"""A train directory's own names, and whether what lies there is ours to delete. Imports no torch, so that the command
line can ask before ranks start."""

from __future__ import annotations

from pathlib import Path

from tracestill.data_pipeline.base.content import MEMORY
from tracestill.data_pipeline.base.places import claim, place_of, remove, replaceable
from tracestill.data_pipeline.base.stage import is_current, missing_files
from tracestill.trainer.checkpoint.files import CHECKPOINTS, remove_all
from tracestill.trainer.faults import stopping
from tracestill.trainer.recipe.run_directory import RunDirectory

EXPORT = "export"
REFRESHES = "refreshes"  # texts of a student that learns from its own
KEPT_FILES = ("console.log", stopping.REQUEST)  # the launcher's parent writes them while ranks start
WRITTEN = (  # what else than checkpoints and KEPT_FILES we write into a train directory
    *(EXPORT, REFRESHES, "failures", "asked", "tensorboard", "log.jsonl", "preview.json", "preview.html"),
    *("provenance.json", "launch.json", "progress.json", "refreshing.json", "manifest.json", "stopped.json"),
    *("failure.json", MEMORY),
)


def is_done(run: RunDirectory, arm: str) -> bool:
    """Whether the training of an arm has finished, and is current, by what this host sees. Asks no other rank."""
    directory = run.stage(arm, "train")
    return is_current(directory, "train", *run.train_stage(arm)) and not missing_files(directory)


def claim_train(directory: Path) -> None:
    """Make sure, before anything is written or deleted, that what links in a train directory, or in its place, lead to
    is its own. Raises InputError if one leads nowhere, or to what is not (``claim``, ``replaceable``)."""
    place = claim(directory, KEPT_FILES)
    if not place.is_dir():
        return
    for path in ours(directory):
        if path.is_symlink() and not path.exists():
            place_of(path)  # says so
    claim(directory / CHECKPOINTS)
    replaceable(directory / EXPORT)


def empty(directory: Path) -> None:
    """Empty a training directory, but keep what the launcher's parent writes. Where a link leads to it, only what we
    write goes; a link to a directory inside of it stays, and its checkpoints go. Raises as ``claim_train``."""
    claim_train(directory)
    place_of(directory).mkdir(parents=True, exist_ok=True)
    remove_all(directory / CHECKPOINTS)
    for path in ours(directory):
        elsewhere = path.is_symlink() and path.is_dir()
        if not elsewhere and path.name != CHECKPOINTS:
            remove(path)


def ours(directory: Path) -> list[Path]:
    """What goes when a training begins anew: all but KEPT_FILES; where a link leads to the directory, our own names."""
    names = (CHECKPOINTS, *WRITTEN)
    return [
        path
        for path in sorted(directory.iterdir())
        if path.name not in KEPT_FILES and (path.name in names or not directory.is_symlink())
    ]
