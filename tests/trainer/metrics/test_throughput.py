"""Throughput, MFU, padding, balance, memory and waiting, against figures worked out by hand."""

import resource
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from normaliser_cases import KINDS, write_store

from tracestill.data_pipeline.plan.plan import PlanConfig, imbalance, make_plan, pack_costs
from tracestill.trainer.batches.batches import ROW_MULTIPLE, Batches
from tracestill.trainer.batches.work import Work, work_of
from tracestill.trainer.metrics import throughput as module
from tracestill.trainer.metrics.flops import DecoderCost
from tracestill.trainer.metrics.throughput import Throughput
from tracestill.trainer.weighting import SpanWeighting, WeightingConfig

CPU = torch.device("cpu")
COST = DecoderCost(linear=1000, attention=10, windows=(None, None), head=500)
WORK = Work(np.array([3, 5], np.int32), positions=20, balance=1.5)
FLOPS = 1000 * 8 + 2 * 10 * (6 + 15)  # of WORK, by hand


class Clock:
    """Stands for ``time`` in what is tested."""

    def __init__(self):
        self.now = 100.0

    def perf_counter(self):
        return self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(module, "time", made)
    return made


def read(throughput, weighted=6, waited=0.0):
    """Two seconds later."""
    module.time.now += 2.0
    return throughput.read(weighted, SimpleNamespace(waited=waited))


def test_rates_and_utilisation_follow_from_work_and_time():
    throughput = Throughput(CPU, devices=4, cost=COST, peak_tflops=1e-6)
    throughput.end_step(WORK)
    throughput.end_step(WORK)
    found = read(throughput)
    assert found["tokens"] == 16
    assert (found["tokens_per_second"], found["weighted_tokens_per_second"], found["seconds"]) == (8.0, 3.0, 2.0)
    assert found["tflops"] == pytest.approx((2 * FLOPS + 6 * 500) / 2 / 4 / 1e12)
    assert found["mfu"] == pytest.approx((2 * FLOPS + 6 * 500) / 2 / 4 / 1e12 / 1e-6)
    assert found["padding"] == pytest.approx(0.6)
    assert found["balance"] == 1.5
    again = read(throughput)
    assert (again["tokens"], again["padding"], again["balance"]) == (0, 0.0, 1.0), "a new interval begins"
    assert again["tflops"] == pytest.approx(6 * 500 / 2 / 4 / 1e12)
    assert again["seconds"] == 2.0


def test_without_a_peak_there_is_no_utilisation_and_without_a_cost_no_flops():
    throughput = Throughput(CPU, cost=COST)
    throughput.end_step(WORK)
    found = read(throughput)
    assert found["mfu"] is None
    assert found["tflops"] == pytest.approx((FLOPS + 6 * 500) / 2 / 1e12)
    found = read(Throughput(CPU, peak_tflops=1.0))
    assert found["mfu"] is found["tflops"] is None


def test_a_faulty_step_is_no_throughput():
    throughput = Throughput(CPU, cost=COST)
    throughput.end_step(WORK, faulty=True)
    assert (read(throughput, weighted=0)["tokens"], read(throughput, weighted=0)["tflops"]) == (0, 0.0)


def test_a_pause_does_not_count(clock):
    throughput = Throughput(CPU)
    clock.now += 1.0
    for _ in range(2):
        with throughput.paused():
            clock.now += 5.0
    assert read(throughput)["seconds"] == 3.0
    assert read(throughput)["seconds"] == 2.0, "nor is it taken off the next interval"


def test_waiting_is_that_of_the_interval():
    throughput = Throughput(CPU)
    assert read(throughput, waited=0.25)["data_wait"] == 0.25
    assert read(throughput, waited=0.75)["data_wait"] == 0.5


@pytest.mark.parametrize(("memory", "wait"), [(3.0, 0.75), (1.0, 0.75), (3.0, 0.25), (1.0, 0.25)])
def test_memory_and_waiting_are_those_of_the_worst_rank(monkeypatch, memory, wait):
    """This rank holds 2 GiB and waited 0.5 s; another one as given."""
    other = torch.tensor([memory * 2**30, wait], dtype=torch.float64)
    join = {"MAX": torch.maximum, "MIN": torch.minimum, "SUM": torch.add, "AVG": lambda a, b: (a + b) / 2}

    def all_reduce(tensor, op):
        tensor.copy_(join[str(op).rpartition(".")[2]](tensor, other))

    monkeypatch.setattr("tracestill.trainer.metrics.throughput.peak_memory", lambda device: 2 << 30)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    found = read(Throughput(CPU), waited=0.5)
    assert (found["memory_gib"], found["data_wait"]) == (max(2.0, memory), max(0.5, wait))


def test_memory_is_what_this_process_held_at_most():
    held = np.ones(50_000_000 // 8)
    found = read(Throughput(CPU))["memory_gib"]
    assert found == pytest.approx(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, abs=1e-3)
    assert found > held.nbytes / 2**30


def test_work_counts_padding_and_the_busiest_rank():
    row = lambda tokens: max(8, -(-tokens // 8) * 8)  # noqa: E731
    counts = np.array([[2, 1], [1, 0], [0, 0]])  # documents of each micro-step and rank
    work = work_of(np.array([3, 6, 9, 4]), counts, row)
    assert work.tokens == 22
    assert work.positions == 16 + 16 + 8 + 8 + 8 + 8
    cost = [[3 * (3 + 24576) + 6 * (6 + 24576), 9 * (9 + 24576)]]
    assert work.balance == pytest.approx((max(cost[0]) / np.mean(cost[0]) + 2) / 2), "an idle rank counts as 0"


@pytest.mark.parametrize("ranks", [1, 3])
def test_the_balance_of_an_epoch_is_what_the_plan_promised(tmp_path, ranks):
    store = write_store(tmp_path / "tokens.arrow")
    plan = make_plan(store.lengths, PlanConfig(capacity=96, packs_per_step=3, group=1), seed=0, epoch=0)
    weighting = SpanWeighting(WeightingConfig(), KINDS)
    of = [Batches(store, lambda _: plan, weighting, rank=r, ranks=ranks, pad_id=0, device=CPU) for r in range(ranks)]
    steps = [[each.step(step) for each in of] for step in range(plan.n_steps)]
    found = np.mean([step[0].work.balance for step in steps])
    assert found == pytest.approx(imbalance(plan, pack_costs(plan, store.lengths), ranks))
    for step in steps:
        assert {one.work.positions for one in step} == {
            sum(micro.packed.input_ids.shape[1] for one in step for micro in one.micro)
        }
        assert all(micro.packed.input_ids.shape[1] % ROW_MULTIPLE == 0 for one in step for micro in one.micro)
