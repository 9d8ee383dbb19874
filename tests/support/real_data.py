"""Real traces that lie in ``shared/data`` beside the repository, where somebody has put them, and a real student; never
copied into it."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
DATA = next((place for up in ROOT.parents if (place := up / "shared" / "data").is_dir()), None)
STUDENT = Path(os.environ.get("TRACESTILL_SMOLLM2", ROOT / "models" / "smollm2-135m"))
needs_data = pytest.mark.skipif(DATA is None, reason="shared/data is not there: nothing real was read")
needs_student = pytest.mark.skipif(
    not (STUDENT / "config.json").is_file(),
    reason="SmolLM2-135M is not there (`tracestill fetch-student smollm2-135m models/smollm2-135m`, or its directory "
    "in TRACESTILL_SMOLLM2): no real model was asked",
)


@contextmanager
def benchmark(name: str) -> Iterator[ModuleType]:
    """A script of ``benchmarks``, imported with its folder on Python's path."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        yield importlib.import_module(name)
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
