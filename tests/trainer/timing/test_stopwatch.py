import math
import random
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tracestill.trainer.ranks.collective_stats import CollectiveStats, Handle, blocked, size_of
from tracestill.trainer.timing import stopwatch as module
from tracestill.trainer.timing.stopwatch import Stopwatch, apart, exposed, union


def test_intervals_become_one_where_they_touch():
    assert union([(5, 6), (1, 3), (2, 4), (4, 4.5)]) == [(1, 4.5), (5, 6)]
    assert union([]) == []


def test_exposed_is_the_time_that_only_communication_covers():
    assert exposed([(0, 10)], []) == 10
    assert exposed([(0, 10)], [(2, 4), (3, 5), (9, 20)]) == 6
    assert exposed([(0, 4), (2, 6)], [(6, 9)]) == 6


def test_exposed_agrees_with_counting_instants():
    draw = random.Random(0)
    for _ in range(50):
        talk, work = ([(a := draw.randrange(90), a + draw.randrange(1, 10)) for _ in range(6)] for _ in range(2))
        covered = [{t for begin, end in spans for t in range(begin, end)} for spans in (talk, work)]
        assert exposed(talk, work) == len(covered[0] - covered[1])


@pytest.fixture
def stopwatch(monkeypatch):
    """Makes one that went through phases: name, step, time, seconds of communication so far."""

    def make(phases, first, steps):
        stats, now = CollectiveStats(), -9.0
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: now, process_time=lambda: 0.0))
        watch = Stopwatch(stats, torch.device("cpu"), first=first, steps=steps)
        for name, step, at, said in phases:
            stats.seconds, now = said, at
            watch.phase(name, step)
        return watch

    return make


def test_a_step_is_split_into_its_phases_and_what_ranks_wait_for(stopwatch):
    step = [("data", 0.0, 0.0), ("forward", 1.0, 0.0), ("backward", 3.0, 0.5), ("communication", 8.0, 2.0)]
    marks = [("load", 0, -7.0, 0.0)]
    marks += [(name, s, 10.0 * s + at, 3.0 * s + said) for s in range(3) for name, at, said in step]
    marks.append(("save", 3, 30.0, 9.0))
    for first, steps in ((0, 3), (1, 2), (2, 1)):
        found = stopwatch(marks, first, steps).split()
        # of 10 s: 1 data, 2 forward with 0.5 of waiting, 5 backward with 1.5, 2 for the optimizer with 1
        wanted = {"data": 1, "forward": 1.5, "backward": 3.5, "optimizer": 1, "communication": 3}
        assert found == pytest.approx(wanted)


def test_what_is_said_is_that_of_a_mean_counted_step():
    stats = CollectiveStats()
    watch = Stopwatch(stats, torch.device("cpu"), first=1, steps=2)
    for step in range(4):
        watch.phase("data", step)
        for name, calls, size in (("all_reduce", 2, 100), ("reduce", step % 2, 10)):
            stats.calls[name] += calls
            stats.bytes[name] += 1000 * step + size
    assert watch.collectives() == {"all_reduce": [2, 1600], "reduce": [0.5, 1510]}


def kernel(name, start, end, device="CUDA"):
    span = SimpleNamespace(start=start, end=end)
    return SimpleNamespace(name=name, device_type=SimpleNamespace(name=device), time_range=span)


def test_communication_on_a_gpu_is_what_its_profile_shows_a_step(stopwatch):
    """Two profiled steps, and the mark of the save that ends the training."""
    events = [
        kernel("ncclDevKernel_AllReduce_Sum_f32", 0, 3e6),
        kernel("sm90_gemm", 1e6, 2e6),
        kernel("cudaLaunchKernel", 0, 9e6, device="CPU"),
    ]
    closed = []
    watch = stopwatch([("data", s, 0.0, 0.0) for s in range(6)] + [("save", 6, 0.0, 0.0)], 2, 2)
    watch.profiler = SimpleNamespace(events=lambda: events, __exit__=lambda *_: closed.append(1))
    assert watch.profiled() == pytest.approx(2.0 / 2)
    assert closed


def test_communication_is_taken_out_of_the_phases_that_hold_it():
    split = {"data": 1.0, "forward": 2.0, "backward": 4.0, "optimizer": 2.0, "communication": 0.0}
    found = apart(split, 2.0)
    assert found == pytest.approx({"data": 1, "forward": 1.5, "backward": 3, "optimizer": 1.5, "communication": 2})
    assert min(apart(split, 99.0).values()) == 0


def test_time_inside_of_a_counted_call_counts_once(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr("tracestill.trainer.ranks.collective_stats.time.perf_counter", lambda: next(clock))
    stats = CollectiveStats()
    blocked(stats, lambda: blocked(stats, lambda: None))
    assert stats.seconds == 2  # three looks at the clock, the outer ones two apart
    handle = Handle(stats, SimpleNamespace(wait=lambda: "done", is_completed=lambda: True))
    assert handle.wait() == "done"
    assert stats.seconds == 3
    assert handle.is_completed()


def test_bytes_of_tensors_and_of_lists():
    assert size_of(torch.zeros(3, 5)) == 60
    assert size_of([torch.zeros(2), torch.zeros(4, dtype=torch.bfloat16)]) == 16


def test_other_work_is_what_the_cores_did_beside_the_ranks():
    """Two hosts of four cores over ten seconds: 12 CPU seconds on the first, of which its two ranks had 8."""
    hosts = [(0, 1), (2, 3)]
    loads = [[10.0, 5.0, 12.0, 4.0], [10.0, 3.0, 12.0, 4.0], [10.0, 9.0, 20.0, 4.0], [10.0, 9.0, 20.0, 4.0]]
    assert module.others(loads, hosts) == pytest.approx(4 / 40)
    loads[3][1] = 1.0
    assert module.others(loads, hosts) == pytest.approx(10 / 40), "of the busiest host"
    untold = [[10.0, 1.0, math.nan, 4.0]]
    assert module.others(untold, [(0,)]) is None
    assert module.others([*loads[:2], *untold], [(0, 1), (2,)]) == pytest.approx(4 / 40)


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="nothing tells what other processes do")
def test_another_process_counts_as_other_work_and_the_own_one_does_not():
    """By the kernel's own counters: a busy child's CPU seconds are among everybody's, not among this process's."""
    before = module.clocks()
    code = "import time\nwhile time.process_time() < 0.5: pass"
    subprocess.run([sys.executable, "-c", code], check=True)
    _, own, everybody = (later - earlier for later, earlier in zip(module.clocks(), before, strict=True))
    assert everybody - own > 0.4
    assert own < 0.4


def test_clocks_say_nothing_where_the_kernel_does_not(monkeypatch):
    def absent(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr("builtins.open", absent)
    assert math.isnan(module.clocks()[2])
