"""Files that somebody has left in a shared folder, named like modules that a program imports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

OF_OTHERS = (
    "deepspeed",
    "hjson",
    "numpy",
    "psutil",
    "rich",
    "torch",
    "tqdm",
    "transformers",
    "triton",
    "typer",
    "yaml",
)
OF_PYTHON = ("argparse", "json", "random", "resource", "signal", "socket", "subprocess", "threading", "typing", "uuid")
PLANT = """\
import os
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "sprung"), "a") as handle:
    handle.write(__name__ + "\\n")
raise ImportError("planted")
"""


BY_HAND = (*OF_OTHERS, "argparse", "json", "socket", "subprocess", "uuid")  # `python -m` itself imports none of them


def plant(folder: Path, names: Sequence[str] = ("tracestill", "sitecustomize", *OF_OTHERS, *OF_PYTHON)) -> None:
    for name in names:
        (folder / f"{name}.py").write_text(PLANT)


def unplant(folder: Path) -> None:
    for path in folder.glob("*.py"):
        if path.read_text() == PLANT:
            path.unlink()


def sprung(folder: Path) -> list[str]:
    """Names of the planted modules that were imported."""
    try:
        return (folder / "sprung").read_text().split()
    except FileNotFoundError:
        return []
