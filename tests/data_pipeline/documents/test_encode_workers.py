"""Encoding by several processes: the same result for any number, and a clean end whatever happens to one of them."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from encode_cases import KINDS, PLAN, conserved, prepare, record

from tracestill.data_pipeline.base import own_modules
from tracestill.data_pipeline.base.errors import InputError, NoRoomError
from tracestill.data_pipeline.base.stage import read_manifest
from tracestill.data_pipeline.base.workers import PARALLEL, WorkerDied, hired, in_order, using
from tracestill.data_pipeline.documents import encode
from tracestill.data_pipeline.documents.encode import EncodeConfig, run, workers_for
from tracestill.data_pipeline.segmentation import SegmentConfig

CUT = """
import os, signal, sys
from tracestill.data_pipeline.base.schema import Span

def whole(question, trace):
    return [Span(0, len(trace), "prose")]

def raises(question, trace):
    return whole(question, trace) if question != "What is 35 + 4?" else 1 // 0

def dies(question, trace):
    if question == "What is 35 + 4?":
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(question, trace)

def dies_once(question, trace):
    marks = os.environ["TRACESTILL_TEST_MARKS"]
    if question == "What is 35 + 4?" and not os.path.exists(marks):
        open(marks, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(question, trace)

def full(question, trace):
    if question == "What is 35 + 4?":
        raise OSError(28, "No space left on device")
    return whole(question, trace)

def tells(question, trace):
    names = ("torch", "transformers", "tracestill.launch.cli", "pytest")
    found = [name for name in names if name in sys.modules]
    blocked = signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with open(os.environ["TRACESTILL_TEST_MARKS"], "a") as file:
        print(os.getpid(), os.environ["TOKENIZERS_PARALLELISM"], found, blocked, file=file)
    return whole(question, trace)
"""
BAD = record("What is 35 + 4?", index=2).record_id


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Finished stages: 40 records to train on, some of them odd, and some held out."""
    train = [record(f"What is {i} + 4?", spans=(), index=i % 3) for i in range(36)]
    train += [record("", index=1), record("Größe 漢\n😀 ▁?"), record(answer=" "), record("long", "1 " * 400)]
    return prepare(tmp_path_factory.mktemp("stages"), train, [record("held out")], [record("held", index=2)])


@pytest.fixture
def small(monkeypatch):
    """Batches of a few records, so that several are on their way."""
    monkeypatch.setattr(encode, "BATCH", 3)


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_cut.py").write_text(CUT)
    monkeypatch.setenv("TRACESTILL_TEST_MARKS", str(tmp_path / "marks"))
    own_modules.search(tmp_path)
    yield lambda name: SegmentConfig(by=f"own_cut:{name}")
    own_modules.search(None)
    own_modules.leave_others()


def encoded(inputs, directory, workers=None, **more):
    plan = PLAN.model_copy(update={"overlong": "drop"})
    run(EncodeConfig(workers=workers, max_lossy=0.1), KINDS, plan, directory, **inputs, **more)
    manifest = read_manifest(directory)
    conserved(manifest)
    del manifest["seconds"]
    return manifest


def test_the_number_of_workers_changes_nothing(inputs, tmp_path, small):
    told = []
    one = encoded(inputs, tmp_path / "one", 1, progress=lambda *at: told.append(at))
    assert one["counts"]["in"] == 42
    assert one["counts"]["rejected"] == {"empty_answer": 1, "empty_question": 1, "overlong": 1}
    assert one["lost_text"]
    assert set(one["counts"]["splits"]) == {"train", "test", "validation"}
    assert [done for done, _ in told] == list(range(3, 43, 3))
    assert encoded(inputs, tmp_path / "two", 2) == one
    with ThreadPoolExecutor(1) as pool, using(pool, 3):  # any Executor; the layout is made for one thread
        assert encoded(inputs, tmp_path / "given", 2) == one


def test_workers_are_no_part_of_the_identity_of_a_stage(inputs, tmp_path):
    settings = [encode.stage_config(EncodeConfig(workers=n), KINDS, PLAN) for n in (None, 1, 7)]
    assert settings[0] == settings[1] == settings[2]
    assert workers_for(100) == 1
    assert workers_for(10**9) == len(os.sched_getaffinity(0))


def test_workers_import_little_and_leave_ctrl_c_to_their_parent(inputs, tmp_path, small, own, monkeypatch):
    monkeypatch.delenv(PARALLEL, raising=False)
    encoded(inputs, tmp_path / "out", 2, segment=own("tells"))
    told = {tuple(line.split(" ", 1)) for line in (tmp_path / "marks").read_text().splitlines()}
    assert {rest for _, rest in told} == {"false [] True"}
    assert str(os.getpid()) not in {pid for pid, _ in told}
    assert PARALLEL not in os.environ
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


@pytest.mark.parametrize("workers", [1, 2])
def test_code_that_raises_names_the_record(inputs, tmp_path, small, own, workers):
    says = rf"record {BAD} \(question \w+\): .*own_cut.py:9: ZeroDivisionError: integer division or modulo by zero"
    with pytest.raises(InputError, match=says):
        encoded(inputs, tmp_path / "out", workers, segment=own("raises"))
    assert not list(tmp_path.glob("*out*"))


def test_a_record_that_ends_its_worker_is_named(inputs, tmp_path, small, own):
    with pytest.raises(WorkerDied, match=rf"record {BAD} \(question \w+\): the process that encodes it ends"):
        encoded(inputs, tmp_path / "out", 2, segment=own("dies"))
    assert not list(tmp_path.glob("*out*"))


def test_a_worker_that_was_killed_ends_the_stage(inputs, tmp_path, small, own):
    with pytest.raises(WorkerDied, match=r"records \w+ to \w+: a process .* was killed, and none .* again") as found:
        encoded(inputs, tmp_path / "out", 2, segment=own("dies_once"))
    assert found.value.exit_code == 4
    assert not list(tmp_path.glob("*out*"))
    assert encoded(inputs, tmp_path / "out", 2, segment=own("dies_once"))["counts"]["in"] == 42


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_inside_a_worker_is_one(inputs, tmp_path, small, own, workers):
    before = encoded(inputs, tmp_path / "out", 1)
    with pytest.raises(NoRoomError, match=r"out: no room on this disk.*finished stages are kept; make room"):
        encoded(inputs, tmp_path / "out", workers, segment=own("full"))
    held = read_manifest(tmp_path / "out")
    assert held["files"] == before["files"]  # the earlier result is whole
    assert [path.name for path in tmp_path.glob("*out*")] == ["out"]


PARENT = """
import os, sys, time
from tracestill.data_pipeline.base.workers import Workers, hired, in_order

def main():
    with hired(2) as workers:
        pids = in_order(workers, os.popen, ["true"] * 0)
        found = {workers.pool.submit(os.getpid).result() for _ in range(40)}
        work = [workers.pool.submit(time.sleep, 300) for _ in range(2)]
        time.sleep(1)
        print(*found, flush=True)
        work[0].result()

main()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_parent(tmp_path, number):
    """A script without a guard, whose workers are busy for long, is killed or interrupted."""
    (tmp_path / "parent.py").write_text(PARENT)
    process = subprocess.Popen([sys.executable, tmp_path / "parent.py"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    pids = process.stdout.readline().split()
    assert pids
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
    assert process.returncode == (-9 if number == signal.SIGKILL else 1) or process.returncode == -signal.SIGINT
    assert err.count(b"Traceback") == (number == signal.SIGINT)
    deadline = time.monotonic() + 10
    while left := [pid for pid in pids if Path(f"/proc/{int(pid)}").exists()]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def test_only_some_tasks_are_on_their_way():
    given = []

    def tasks():
        for at in range(50):
            given.append(at)
            yield at

    with ThreadPoolExecutor(2) as pool, using(pool, 2), hired(1) as workers:
        for at, result in enumerate(in_order(workers, str, tasks())):
            assert result == str(at)
            assert len(given) <= at + 9
