"""Forked workers are what new processes would be, and none of them outlives a test or the tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import distributed_support
import pytest
import torch
from distributed_support import environment, run_workers

TESTS = Path(__file__).parent
ABOUT = """
import json, os, random, sys
import numpy
sys.stdout.write(json.dumps({
    "pid": os.getpid(), "parent": os.getppid(), "session": os.getsid(0), "folder": os.getcwd(), "words": sys.argv[1:],
    "path": sys.path[:2], "environment": dict(os.environ), "drawn": [random.random(), numpy.random.rand()],
    "noted": getattr(json, "noted", None), "threads": len(os.listdir("/proc/self/task")),
}) + "\\n")  # in one call: another rank writes too
json.noted = os.environ["NOTED"] = "by another worker"
os.chdir("/")
"""
LEAVES_A_CHILD = "child = subprocess.Popen(['sleep', '300'])\nprint('pids', os.getpid(), child.pid, flush=True)\n"
HEAD = "import os, signal, subprocess, sys, time\nrank = int(os.environ.get('RANK', 0))\n"


@pytest.fixture
def forks() -> None:
    """Where a GPU's driver has threads of its own, workers are new processes, and this is not the place to test it."""
    if not distributed_support.server().forks and torch.cuda.is_available():
        pytest.skip("NOTHING CAN BE FORKED HERE: the server has more than one thread, and this machine has a GPU")


def script(folder: Path, text: str) -> Path:
    (folder / "worker.py").write_text(text)
    return folder / "worker.py"


def about(printed: str) -> list[dict]:
    return [json.loads(line) for line in printed.splitlines()]


def gone(pids: list[int], seconds: float = 30) -> bool:
    """Whether these processes end in time; what nobody has reaped is as good as gone."""
    deadline = time.monotonic() + seconds
    while left := [pid for pid in pids if running(pid)]:
        if time.monotonic() > deadline:
            return not left
        time.sleep(0.02)
    return True


def running(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def pids_of(printed: str) -> list[int]:
    return [int(word) for line in printed.splitlines() if line.startswith("pids ") for word in line.split()[1:]]


def test_ranks_are_forked_and_have_what_is_their_own(forks, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    worker = script(tmp_path, ABOUT)
    found = about(run_workers(worker, "a b", 7, ranks=2))
    assert {one["parent"] for one in found} == {distributed_support.server().process.pid}
    assert [one["session"] for one in found] == [one["pid"] for one in found]
    assert {one["folder"] for one in found} == {str(tmp_path)}
    assert {tuple(one["path"]) for one in found} == {(str(tmp_path), str(TESTS))}
    assert sorted(one["words"] for one in found) == [[f"--local_rank={rank}", "a b", "7"] for rank in (0, 1)]
    assert {one["threads"] for one in found} == {1}
    first, second = found
    assert not set(first["drawn"]) & set(second["drawn"])
    of_ranks = [one["environment"] for one in sorted(found, key=lambda one: one["words"])]
    for rank, own in enumerate(of_ranks):
        assert (own["RANK"], own["LOCAL_RANK"], own["WORLD_SIZE"], own["LOCAL_SIZE"]) == (
            str(rank),
            str(rank),
            "2",
            "2",
        )
    assert of_ranks[0]["MASTER_PORT"] == of_ranks[1]["MASTER_PORT"]
    (alone,) = about(run_workers(worker))
    assert environment().items() <= alone["environment"].items()
    left = alone["environment"].keys() - environment().keys()
    assert not left & {"RANK", "MASTER_PORT", "NOTED"}, "no launcher's, and nothing of the call before"
    assert alone["words"] == []
    assert [one["noted"] for one in (first, second, alone)] == [None] * 3


def test_they_have_what_the_launcher_gives(tmp_path):
    """The same variables, but for the port; and arguments."""
    worker = script(tmp_path, ABOUT)
    launched = run_workers(worker, "word", ranks=2, launcher=True)
    launched = about("\n".join(line for line in launched.splitlines() if line.startswith("{")))
    forked = about(run_workers(worker, "word", ranks=2))

    def by_rank(found: list[dict], key: str) -> list:
        return [one[key] for one in sorted(found, key=lambda one: one["environment"]["RANK"])]

    assert by_rank(forked, "words") == by_rank(launched, "words")
    assert by_rank(forked, "path") == by_rank(launched, "path")
    for mine, theirs in zip(by_rank(forked, "environment"), by_rank(launched, "environment"), strict=True):
        assert {k: v for k, v in theirs.items() if k != "MASTER_PORT"}.items() <= mine.items()
        assert mine.keys() - theirs.keys() <= {"TORCHINDUCTOR_CACHE_DIR"}, "which torch sets where it is imported"


def test_a_changed_environment_means_a_new_process(forks, tmp_path, monkeypatch):
    """A module may have read the variable when the server imported it, as triton does TRITON_INTERPRET."""
    worker = script(tmp_path, ABOUT)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    (new,) = about(run_workers(worker))
    assert new["parent"] == os.getpid()
    assert new["environment"]["TRITON_INTERPRET"] == "1"
    monkeypatch.undo()
    (forked,) = about(run_workers(worker))
    assert forked["parent"] == distributed_support.server().process.pid
    assert "TRITON_INTERPRET" not in forked["environment"]


@pytest.mark.parametrize(
    ("end", "code", "said"),
    [
        ("sys.exit(5)", 5, ""),
        ("os._exit(6)", 6, ""),
        ("os.kill(os.getpid(), signal.SIGKILL)", -9, ""),
        ("1 / 0", 1, "ZeroDivisionError"),
        ("sys.exit('in words')", 1, "in words"),
    ],
)
def test_a_rank_that_dies_takes_the_others_along(tmp_path, end, code, said):
    worker = script(tmp_path, f"{HEAD}{LEAVES_A_CHILD}if rank == 1:\n    {end}\ntime.sleep(300)\n")
    with pytest.raises(AssertionError, match=rf"worker.py exited with {code}:\npids") as failure:
        run_workers(worker, ranks=2)
    printed = str(failure.value)
    assert said in printed
    assert len(pids_of(printed)) == 4
    assert gone(pids_of(printed))


def test_an_exit_code_may_be_expected(tmp_path):
    worker = script(tmp_path, "import sys\nsys.exit(5)\n")
    run_workers(worker, code=5)
    run_workers(worker, fails=True)
    with pytest.raises(AssertionError, match=r"worker.py exited with 5:"):
        run_workers(worker, code=6)


def test_one_that_hangs_is_ended_and_what_it_printed_is_shown(tmp_path):
    deaf = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    worker = script(tmp_path, f"{HEAD}{deaf}{LEAVES_A_CHILD}sys.stderr.write('stuck here')\ntime.sleep(300)\n")
    with pytest.raises(AssertionError, match=r"worker.py on 2 ranks took over 1 s") as failure:
        run_workers(worker, ranks=2, timeout=1)
    assert str(failure.value).count("stuck here") == 2
    assert gone(pids_of(str(failure.value)))
    server = distributed_support.server().process.pid
    assert Path(f"/proc/{server}/task/{server}/children").read_text() == "", "no zombie either"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["interrupt", "kill"])
def test_nothing_outlives_the_tests(tmp_path, number):
    """However they end, and while ranks run."""
    worker = script(tmp_path, f"{HEAD}{LEAVES_A_CHILD}print('pids', os.getppid(), flush=True)\ntime.sleep(300)\n")
    code = "import distributed_support as d, tempfile, sys; from pathlib import Path; d.MODULES = []; "
    code += f"tempfile.tempdir = {str(tmp_path)!r}; d.run_workers(Path({str(worker)!r}), ranks=2)"
    with (tmp_path / "said").open("w") as said:
        tests = subprocess.Popen([sys.executable, "-c", code], env=environment(), stderr=said)
        deadline = time.monotonic() + 60
        while len(pids := [pid for path in tmp_path.glob("workers-*") for pid in pids_of(path.read_text())]) < 6:
            assert tests.poll() is None, (tmp_path / "said").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        tests.send_signal(number)
        assert tests.wait(30) == -number
    assert gone(pids)


def test_tests_that_start_processes_are_found(request):
    """So that `make quick` leaves them out, and those that run apart are there under the names that say so."""
    (conftest,) = (one for one in request.config.pluginmanager.get_plugins() if hasattr(one, "starts_processes"))
    assert all((TESTS.parents[1] / path).exists() for path in conftest.APART)
    assert conftest.starts_processes(test_nothing_outlives_the_tests, {})
    assert conftest.starts_processes(lambda: indirectly(), {})
    assert not conftest.starts_processes(gone, {})


def indirectly() -> str:
    return run_workers(TESTS / "none.py")
