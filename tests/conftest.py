"""Which tests are slow, which run one after the other, and a report of the faults that they make.

    FAULTS_JSON=fault_suite.json python -m pytest -m "soak or not soak"

Only tests that count their cases run then. They do so once all has been checked, so no case in it cost anything.
"""

from __future__ import annotations

import gc
import json
import os
import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

# With `-n` these run one after the other on one worker: they watch clocks, and hosts share names and ports.
APART = ("tests/cluster/", "tests/faults/test_kills.py", "tests/faults/test_watchdog.py")
SUPPORT = {path.stem for path in (Path(__file__).parent / "support").glob("*.py")}
STARTING = {  # modules that start processes
    *("subprocess", "distributed_support", "command_line", "forked_command", "browser"),
    *("tracestill.launch.start.dry_run", "tracestill.launch.start.rehearse"),
}
ENDS: dict[str, list[str]] = {"failed": [], "skipped": []}  # names of tests
CASES: list[Any] = []
FAULT = "fault"
gc.disable()  # takes a third of the time in which all tests are imported
ABOUT = "Faults that the tests made, and what came of them. A case counts when all of its checks have passed."


@pytest.fixture(autouse=True)
def _path_as_before() -> Iterator[None]:
    """The command line, called in this process, sets this for all that it starts."""
    before = os.environ.pop("PYTHONSAFEPATH", None)
    yield
    os.environ.pop("PYTHONSAFEPATH", None)
    if before is not None:
        os.environ["PYTHONSAFEPATH"] = before


@pytest.fixture
def counted(request: pytest.FixtureRequest) -> Callable[[str, int, str], None]:
    """Call it with a kind of fault, the number of cases, and what came of each."""
    begun = time.monotonic()

    def count(fault: str, cases: int, outcome: str) -> None:
        seconds = round(time.monotonic() - begun, 1)
        about = {"fault": fault, "cases": cases, "outcome": outcome, "seconds": seconds, "test": request.node.nodeid}
        request.node.user_properties.append((FAULT, about))  # reaches the process that writes the report

    return count


def starts_processes(used: Any, seen: dict[Any, bool]) -> bool:
    """Whether it, or a function or class of its file or of tests/support that it uses, calls what starts one."""
    if isinstance(used, type):
        return any(starts_processes(method, seen) for method in vars(used).values())
    if not isinstance(used, FunctionType) or used in seen:
        return isinstance(used, FunctionType) and seen[used]
    seen[used] = False
    named = [used.__globals__.get(name) for name in used.__code__.co_names]
    modules = [getattr(one, "__module__", None) or getattr(one, "__name__", None) for one in named]
    own = [one for one, module in zip(named, modules, strict=True) if module in {used.__module__, *SUPPORT}]
    seen[used] = not STARTING.isdisjoint(modules) or any(starts_processes(one, seen) for one in own)
    return seen[used]


@pytest.hookimpl(tryfirst=True)  # before `-m` looks at the marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    seen: dict[Any, bool] = {}
    long: set[Path] = set()  # files
    for item in items:
        if isinstance(item, pytest.Function):
            fixtures = [
                of.func for name in item.fixturenames for of in item._fixtureinfo.name2fixturedefs.get(name, ())
            ]
            found = any(starts_processes(function, seen) for function in (item.function, *fixtures))
            if found or item.nodeid.startswith(APART):
                item.add_marker("slow")
                long.add(item.path)
    # What takes longest begins first; short files at the end leave no worker idle for long.
    items.sort(key=lambda item: (not item.nodeid.startswith(APART), item.path not in long))
    if "FAULTS_JSON" in os.environ:
        others = [item for item in items if "counted" not in getattr(item, "fixturenames", ())]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item not in others]


def pytest_collection_finish(session: pytest.Session) -> None:
    """What has been imported stays: from now on the garbage collector, which is on again, passes it over."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Tests of a file stay together, for what they share; and those of APART, which begin at once."""
    from xdist.scheduler import LoadScopeScheduling

    class Files(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "apart" if nodeid.startswith(APART) else nodeid.partition("::")[0]

        def schedule(self) -> None:
            config.option.loadscopereorder = False
            super().schedule()

    return Files(config, log)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call":
        CASES.extend(about for name, about in report.user_properties if name == FAULT)
    if report.outcome in ENDS:
        ENDS[report.outcome].append(report.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if not (where := os.environ.get("FAULTS_JSON")) or hasattr(session.config, "workerinput"):
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
