"""Planning and reading stay small beside the data: measured in processes of their own by the benchmark's script."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "planner_memory.py"

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/status")


def run(*arguments: str) -> dict[str, Any]:
    done = subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_planning_takes_at_most_60_bytes_a_document() -> None:
    found = run("plan", "--documents", "1000000")
    assert 10 < found["bytes_per_document"] <= 60  # the plan itself is 7


def test_a_store_is_planned_and_read_without_copying_it_into_memory() -> None:
    found = run("store", "--documents", "100000", "--gigabytes", "0.5", "--steps", "10")
    assert found["file_bytes"] > 0.45e9
    assert found["tokens_read"] > 5_000_000
    assert found["rss_anon_max"] < 0.15e9


@pytest.mark.soak
def test_ten_million_documents_in_20_gb_stay_under_2_gib() -> None:
    found = run("store", "--documents", "10000000", "--gigabytes", "20", "--steps", "40")
    assert found["documents"] == 10_000_000
    assert found["file_bytes"] >= 20e9
    assert found["bytes_on_disk"] < 2e9, "the file is sparse"
    assert found["rss_anon_max"] < 2 * 2**30
