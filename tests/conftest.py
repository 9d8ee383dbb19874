"""A report of the faults that the tests make:  FAULTS_JSON=fault_suite.json python -m pytest -m "soak or not soak"

Only tests that count their cases run then. They do so once all has been checked, so no case in it cost anything.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

ENDS: dict[str, list[str]] = {"failed": [], "skipped": []}  # names of tests
CASES: list[dict[str, object]] = []
ABOUT = "Faults that the tests made, and what came of them. A case counts when all of its checks have passed."


@pytest.fixture
def counted(request: pytest.FixtureRequest) -> Callable[[str, int, str], None]:
    """Call it with a kind of fault, the number of cases, and what came of each."""
    begun = time.monotonic()

    def count(fault: str, cases: int, outcome: str) -> None:
        seconds = round(time.monotonic() - begun, 1)
        about = {"fault": fault, "cases": cases, "outcome": outcome, "seconds": seconds, "test": request.node.nodeid}
        CASES.append(about)

    return count


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "FAULTS_JSON" in os.environ:
        others = [item for item in items if "counted" not in getattr(item, "fixturenames", ())]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item not in others]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.outcome in ENDS:
        ENDS[report.outcome].append(report.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if not (where := os.environ.get("FAULTS_JSON")):
        return
    sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
    from machine import describe

    sums: Counter[str] = Counter()
    for case in CASES:
        sums[str(case["fault"])] += int(str(case["cases"]))
    report = {
        "what": ABOUT,
        "command": shlex.join(["python", "-m", "pytest", *session.config.invocation_params.args]),
        "cases by kind": dict(sums),
        "cases": sum(sums.values()),
        "tests that failed": ENDS["failed"],
        "tests that were skipped": ENDS["skipped"],
        "details": CASES,
        "machine": describe(),
    }
    Path(where).write_text(json.dumps(report, indent=2) + "\n")
