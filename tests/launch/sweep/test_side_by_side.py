"""Processes beside each other: no more than there are places, and how they are stopped."""

import os
import signal

import pytest

from tracestill.data_pipeline.base.errors import InputError
from tracestill.launch.sweep import machine, side_by_side
from tracestill.launch.sweep.machine import Place, on_cores, on_gpus
from tracestill.launch.sweep.side_by_side import run_all


class Fake:
    """A process that ends after some looks, or when a signal comes."""

    def __init__(self, looks=1, code=0, on_signal=None):
        self.looks, self.code, self.on_signal, self.signals = looks, code, on_signal, []

    def poll(self):
        self.looks -= 1
        return self.code if self.looks < 0 else None

    def send_signal(self, number):
        self.signals.append(number)
        if self.on_signal is not None:
            self.looks, self.code = 0, self.on_signal


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    monkeypatch.setattr(side_by_side, "POLL_SECONDS", 0)


def test_no_more_at_a_time_than_places():
    running, most, begun = [], 0, []

    def start(name, place):
        nonlocal most
        running.append(name)
        begun.append((name, place))
        most = max(most, len(running))
        assert [p for n, p in begun if n in running].count(place) == 1, "a place holds one"
        return Fake(looks=ord(name) % 3)

    codes, stops = run_all("abcdefg", ["left", "right"], start, ended=lambda name, code: running.remove(name))
    assert (codes, stops) == (dict.fromkeys("abcdefg", 0), 0)
    assert most == 2
    assert [name for name, _ in begun] == list("abcdefg")


def test_a_failure_leaves_the_others_alone():
    codes, _ = run_all("abc", [0], lambda name, place: Fake(code=4 if name == "a" else 0))
    assert codes == {"a": 4, "b": 0, "c": 0}


@pytest.mark.parametrize(("code", "fail_fast"), [(4, True), (5, False)])
def test_the_first_failure_may_stop_all_and_a_full_disk_does(code, fail_fast):
    made = {"a": Fake(code=code), "b": Fake(looks=99, on_signal=3)}
    codes, stops = run_all("abc", [0, 1], lambda name, place: made[name], fail_fast=fail_fast)
    assert (codes, stops) == ({"a": code, "b": 3}, 0)
    assert made["b"].signals == [signal.SIGTERM]


def test_who_is_to_stop_is_asked_once_however_many_fail_and_by_the_first_ctrl_c_not_again():
    slow = Fake(looks=12, code=3)
    made, looks = {"a": Fake(code=4), "b": Fake(looks=3, code=4), "c": slow}, []

    def look(running):
        looks.append(running)
        if len(looks) in (6, 9):
            os.kill(os.getpid(), signal.SIGINT)

    codes, stops = run_all("abcd", [0, 1, 2], lambda name, place: made[name], fail_fast=True, on_poll=look)
    assert (codes, stops) == ({"a": 4, "b": 4, "c": 3}, 2)
    assert slow.signals == [signal.SIGTERM, signal.SIGINT], "it saves after the first, and ends at once at a second"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_passed_on_and_no_further_one_starts(number):
    made, told = {name: Fake(looks=99, on_signal=3) for name in "abc"}, []
    before = signal.getsignal(number)

    def look(running):
        if not told:
            os.kill(os.getpid(), number)

    codes, stops = run_all("abc", [0, 1], lambda name, place: made[name], asked=told.append, on_poll=look)
    assert (codes, stops, told) == ({"a": 3, "b": 3}, 1, [number])
    assert [made[name].signals for name in "abc"] == [[number], [number], []]
    assert signal.getsignal(number) is before


def test_a_second_signal_is_passed_on_too():
    made, looks = Fake(looks=9), []

    def look(running):
        looks.append(1)
        if len(looks) in (2, 4):
            os.kill(os.getpid(), signal.SIGINT)

    _, stops = run_all(["a"], [0], lambda name, place: made, on_poll=look)
    assert (stops, made.signals) == (2, [signal.SIGINT] * 2)


def test_nothing_outlives_an_error():
    made = Fake(looks=99, on_signal=143)

    def look(running):
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        run_all(["a"], [0], lambda name, place: made, on_poll=look)
    assert made.signals == [signal.SIGTERM]
    assert made.poll() == 143


def test_cores_and_gpus_are_dealt_out(monkeypatch):
    monkeypatch.setattr(machine, "usable_cores", lambda: 8)
    assert on_cores([2, 3, 4, 5, 6, 7, 8, 9], 4) == [Place((2, 3)), Place((4, 5)), Place((6, 7)), Place((8, 9))]
    assert on_cores([0, 1, 2], 2) == [Place((0,)), Place((1,))]
    assert on_cores([0, 1], 3) == [Place((0,)), Place((1,)), Place((0,))]
    assert on_cores([0, 1], 1) == [Place()] == on_cores([], 1)
    assert on_gpus(["4", "5", "6", "7", "8"], 2) == [Place(gpus="4,5"), Place(gpus="6,7")]
    with pytest.raises(InputError, match=r"--at-once 3: this host offers 2 GPU\(s\), .* takes 1 .*; 2 at a time fit"):
        on_gpus(["0", "1"], 3)


def test_as_many_arms_as_have_room(monkeypatch):
    from fake_run import mini_recipe

    recipe = mini_recipe(train={"steps": 4, "ranks": 2})
    monkeypatch.setattr(machine, "count_gpus", lambda: 0)
    monkeypatch.setattr(machine, "usable_cores", lambda: 8)
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setattr(machine, "bytes_of_rank", lambda recipe, ranks: 2**30)
    monkeypatch.setattr(machine, "usable_memory", lambda: 2**40)
    assert len(machine.places([recipe] * 9, None)) == 4
    assert len(machine.places([recipe] * 3, None)) == 3, "no more than there are arms"
    assert len(machine.places([recipe] * 9, 2)) == 2
    monkeypatch.setattr(machine, "usable_memory", lambda: 5 * 2**30)
    assert len(machine.places([recipe] * 9, None)) == int(machine.ROOM * 5 / 2), "memory for so many"
    judged = recipe.model_copy(update={"verify": recipe.verify.model_copy(update={"judge": "solver"})})
    assert machine.places([judged] * 9, None) == [Place()]
    with pytest.raises(InputError, match=r"--at-once 2: verify\.judge keeps one file"):
        machine.places([judged] * 9, 2)
    monkeypatch.setattr(machine, "count_gpus", lambda: 8)
    monkeypatch.setattr(machine, "ranks_here", lambda recipe: machine_ranks(2))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert [place.gpus for place in machine.places([recipe] * 9, None)] == ["0,1", "2,3", "4,5", "6,7"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,4,6,7,8,9,10,11")
    assert machine.places([recipe] * 9, 4)[2] == Place(gpus="8,9")
    with pytest.raises(InputError, match=r"--at-once 8: this host offers 8 GPU.* takes 2 at least; 4 at a time fit"):
        machine.places([recipe] * 9, 8)
    assert machine.places([mini_recipe(train={"steps": 4, "ranks": "auto"})] * 9, 8)[2] == Place(gpus="6")


def machine_ranks(count):
    from tracestill.launch.start.deepspeed_command import Ranks

    return Ranks(count)
