import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from distributed_support import run_workers
from tiny_step import SHAPE, VOCABULARY

from tracestill.trainer.metrics.hardware import EFFICIENCY, NODES, Link, launch_times
from tracestill.trainer.timing.step_time import PASSES, UPDATE_BYTES, Machine, Task, even, forecast, latency, volumes

SLOW = dict.fromkeys(PASSES, Link(1e-3, 1e8))
FREE = dict.fromkeys(PASSES, Link(0.0, 1e30))


def machine(**changes):
    given = {"rate": 1e9, "update": 1e9, "inside": SLOW, "between": SLOW, "devices": 8}
    return Machine(**{**given, **changes})


def task(loads, **changes):
    return Task(**{"parameters": 1_000_000, "loads": np.asarray(loads, float), "tokens": 1000.0, **changes})


@pytest.fixture(scope="module")
def counted(tmp_path_factory):
    """What two real ranks said to each other in one step of each case."""
    out = tmp_path_factory.mktemp("wires") / "found.json"
    run_workers(Path(__file__).with_name("step_time_worker.py"), out, ranks=2)
    return json.loads(out.read_text())


def test_deepspeed_sends_what_the_model_says(counted):
    """Within what padding, norms and flags add; gradients in fp32 always, parameters in the student's type."""
    names = {
        "all_reduce": ("all_reduce", "reduce"),
        "all_gather": ("all_gather_into_tensor",),
        "reduce_scatter": ("reduce_scatter_tensor",),
    }
    assert len(counted["cases"]) == 29
    for case in counted["cases"]:
        number = 4 if case["precision"] == "fp32" else 2
        wanted = volumes(
            Task(
                case["parameters"],
                even(1.0, case["steps"], 2),
                1.0,
                zero=case["zero"],
                parameter_bytes=number,
                tied=VOCABULARY * SHAPE["hidden_size"],
                frozen=case["frozen"],
                live=10**9 if case["live"] else 0,
                kept=case["parameters"] if case["kept"] else 0,
            )
        )
        about = {key: case[key] for key in ("precision", "zero", "steps", "live", "kept", "frozen")}
        owned = case["zero"] in (1, 2) and (case["zero"], case["precision"]) != (1, "bf16")  # that is another class
        assert (case["said"]["reduce"][1] > 3.9 * (case["parameters"] - case["frozen"])) == owned, about
        for operation, heard in names.items():
            said = sum(case["said"][name][1] for name in heard)
            size = sum(size for op, size, _ in wanted.values() if op == operation)
            # where parameters may stay gathered, a second micro-step gathers the tied ones again
            again = case["zero"] == 3 and case["live"] and operation == "all_gather"
            room = (case["steps"] - 1) * number * VOCABULARY * SHAPE["hidden_size"] if again else 0
            assert size * 0.99 - 64 <= said <= size * 1.01 + 2048 + room, (about, operation, said, size)


def test_a_recipes_own_buckets_are_sent_as_deepspeed_sends_them(counted):
    """At ZeRO 0, and at 1 in bf16, DeepSpeed does not heed them (``launch/bench/forecast_student.py``). A bucket holds
    whole tensors, so that there may be up to twice as many as their elements would fill."""
    assert len(counted["own"]) == 14
    for case in counted["own"]:
        heeds = case["zero"] > 1 or (case["zero"], case["precision"]) == (1, "fp32")
        keys = case["keys"] if heeds else {}
        to_owners = not keys.get("use_multi_rank_bucket_allreduce", not heeds)
        about = task(even(1.0, case["steps"], 2), parameters=case["parameters"], zero=case["zero"], to_owners=to_owners)
        about = replace(about, bucket=keys.get("reduce_bucket_size", 10**6))
        operation, size, calls = volumes(about, coalesced=False)["gradients"]
        of_owners = to_owners and case["zero"] in (1, 2)
        heard = "reduce" if of_owners else f"{operation}_tensor" if case["zero"] == 3 else operation
        said = case["said"][heard]
        flag = 1 if heard == "all_reduce" else 0  # of an infinite gradient, and norms
        assert calls <= said[0] - flag <= (2 if "reduce_bucket_size" in keys else 1) * calls, case
        assert size == pytest.approx((0.75 if of_owners else 1) * said[1], rel=0.01), case


def test_without_coalescing_each_tensor_is_gathered_by_itself(counted):
    cases = [c for c in counted["cases"] if c["zero"] == 3 and c["steps"] == 1 and c["live"] and c["kept"]]
    assert len(cases) == 2
    for case in cases:
        about = Task(case["parameters"], even(1.0, 1, 2), 1.0, zero=3, tensors=case["tensors"])
        _, _, calls = volumes(about, coalesced=False)["parameters"]
        assert case["said"]["all_gather_into_tensor"][0] == calls == case["tensors"]


def test_time_in_a_collective_is_the_time_that_a_rank_waits(counted):
    waits, late = counted["waited"]
    assert 0.4 < waits < 5
    assert late < waits - 0.3


def test_one_rank_says_nothing_and_computes_its_flops():
    times = forecast(task([[2e9], [3e9]], zero=2), machine(data=0.5, fixed=0.25))
    assert times.communication == 0
    assert times.compute == pytest.approx(5.0)
    assert times.data == pytest.approx(1.0)
    assert times.optimizer == pytest.approx(1e6 * UPDATE_BYTES / 1e9 + 0.25)
    assert times.tokens_per_second == pytest.approx(1000 / times.step)


def test_ranks_meet_once_a_step_or_in_every_micro_step():
    loads = [[4e9, 1e9], [1e9, 4e9]]
    found = {zero: forecast(task(loads, zero=zero), machine(inside=FREE)).compute for zero in (0, 1, 2, 3)}
    assert found == {0: pytest.approx(5), 1: pytest.approx(5), 2: pytest.approx(8), 3: pytest.approx(8)}


def test_a_collective_costs_latency_and_what_it_carries():
    # four ranks of one node: 6 hops of 1 ms; 3/4 of 4 MB passes twice at 100 MB/s
    assert forecast(task(even(1, 1, 4), zero=0), machine()).communication == pytest.approx(6e-3 + 2 * 0.75 * 4e6 / 1e8)
    # ZeRO 1 gathers half-precision parameters besides, in two calls of three hops
    more = 2 * 3e-3 + 0.75 * 2e6 / 1e8
    assert forecast(task(even(1, 1, 4), zero=1), machine()).communication == pytest.approx(0.066 + more)


def test_the_optimizer_is_shared_out_from_zero_1_on():
    whole = 1e6 * UPDATE_BYTES / 1e9
    found = {zero: forecast(task(even(1, 1, 4), zero=zero), machine(fixed=0.25)).optimizer for zero in (0, 1, 2, 3)}
    assert found == {zero: pytest.approx(0.25 + whole / (4 if zero else 1)) for zero in found}
    frozen = task(even(1, 1, 4), zero=1, frozen=800_000)
    assert forecast(frozen, machine()).optimizer == pytest.approx(whole / 5 / 4)


def test_the_slowest_link_decides():
    fast = dict.fromkeys(PASSES, Link(0, 1e10))
    slow = machine(inside=fast, between=dict.fromkeys(PASSES, Link(0, 1e8)), devices=2)
    assert forecast(task(even(1, 1, 2), zero=0), slow).communication == pytest.approx(4e6 / 1e10)
    assert forecast(task(even(1, 1, 4), zero=0), slow).communication == pytest.approx(1.5 * 4e6 / 1e8)
    apart = machine(inside=slow.between, between=fast, devices=1)
    assert forecast(task(even(1, 1, 4), zero=0), apart).communication == pytest.approx(1.5 * 4e6 / 1e10), "none inside"
    apart = machine(inside=slow.between, between=fast, devices=2)
    assert forecast(task(even(1, 1, 4), zero=0), apart).communication == pytest.approx(1.5 * 4e6 / 1e8)


def test_hops_of_a_ring_and_of_a_tree():
    inside, between = Link(1e-6, 1), Link(1e-3, 1)
    assert latency("all_gather", 16, 2, inside, between) == pytest.approx(14e-6 + 1e-3)
    assert latency("reduce_scatter", 8, 1, inside, between) == pytest.approx(7e-6)
    assert latency("all_reduce", 8, 1, inside, between) == pytest.approx(14e-6)
    assert latency("all_reduce", 8 * 1024, 1024, inside, between) == pytest.approx(2 * (10e-3 + 7e-6)), "a tree"


def test_ranks_beyond_the_cores_share_them():
    alone = forecast(task([[1e9, 1e9]], zero=0), machine(inside=FREE, cores=2))
    shared = forecast(task([[1e9] * 4], zero=0), machine(inside=FREE, cores=2))
    assert alone.compute == pytest.approx(1)
    assert shared.compute == pytest.approx(2)
    assert shared.optimizer == pytest.approx(2 * alone.optimizer)


def test_a_rank_that_is_done_leaves_its_core_to_the_others():
    """Three ranks on two cores; two of them have one second of work, the third has two."""
    crowded = machine(inside=FREE, cores=2)
    assert forecast(task([[1e9, 1e9, 2e9]], zero=0), crowded).compute == pytest.approx(1.5 + 1)
    assert forecast(task([[1e9, 1e9, 1e9], [0, 0, 1e9]], zero=2), crowded).compute == pytest.approx(1.5 + 1)
    more = machine(inside=FREE, cores=2, crowding=1.2)
    assert forecast(task([[1e9, 1e9, 2e9]], zero=0), more).compute == pytest.approx(1.2 * 1.5 + 1)
    apart = machine(inside=FREE, between=FREE, cores=2, devices=2)
    assert forecast(task([[1e9, 1e9, 2e9]], zero=0), apart).compute == pytest.approx(2), "two nodes have four cores"


def test_ranks_that_share_cores_wait_longer_for_each_other():
    """Between what one rank a core and what two a core were seen to take; without that, as many times longer."""
    wide = {"inside": dict.fromkeys(PASSES, Link(1e-3, 1e30)), "cores": 2}
    measured = {**wide, "crowded": (2.0, dict.fromkeys(PASSES, Link(9e-3, 1e30)))}

    def spoken(ranks, machine_):
        return forecast(task(even(1, 1, ranks), zero=0), machine_).communication

    assert spoken(4, machine(**wide)) == pytest.approx(2 * 6e-3)
    assert spoken(2, machine(**measured)) == pytest.approx(2e-3)
    assert spoken(4, machine(**measured)) == pytest.approx(54e-3)
    assert spoken(3, machine(**measured)) == pytest.approx((4e-3 + 36e-3) / 2)
    noise = {**wide, "crowded": (2.0, dict.fromkeys(PASSES, Link(0.5e-3, 1e30)))}
    assert spoken(3, machine(**noise)) == pytest.approx(4e-3), "nobody waits less in a crowd"


def test_a_cpu_hides_nothing():
    assert forecast(task(even(4e9, 1, 4), zero=3), machine(cores=4)).hidden == 0
    assert forecast(task(even(4e9, 1, 4), zero=3), machine()).hidden > 0


def test_computation_hides_communication_where_deepspeed_overlaps_them():
    work = even(4e9, 1, 4)  # a second each
    bare = {zero: forecast(task(work, zero=zero), machine()) for zero in (0, 1, 2, 3)}
    assert all(bare[zero].hidden == 0 for zero in (0, 1, 2))
    assert bare[3].hidden > 0
    assert forecast(task(work, zero=3, overlap=False), machine()).hidden == 0
    for zero in (1, 2, 3):
        times = forecast(task(work, zero=zero, overlap=True, bucket=250_000), machine())
        whole = forecast(task(work, zero=zero, overlap=False, bucket=250_000), machine()).communication
        assert times.hidden + times.communication == pytest.approx(whole)
        assert 0 < times.hidden <= times.compute
    starved = forecast(task(even(4.0, 1, 4), zero=2, overlap=True), machine())
    assert starved.hidden <= starved.compute


def test_gradients_of_one_bucket_are_sent_when_all_is_computed():
    """A bucket is sent when it is full: one that holds all gradients at the end, behind nothing; of four, three are
    sent while the backward pass goes on, in its last three quarters."""
    dear = {**FREE, "reduce_scatter": Link(0.0, 1e5)}
    alone = forecast(task(even(4e9, 1, 4), zero=3), machine(inside=dear))
    assert alone.hidden == pytest.approx(0, abs=1e-12)
    assert alone.communication == pytest.approx(0.75 * 4e6 / 1e5)
    four = forecast(task(even(4e9, 1, 4), zero=3, bucket=250_000), machine(inside=dear))
    assert four.hidden == pytest.approx(2 / 3 * 3 / 4)
    cheap = {**FREE, "reduce_scatter": Link(0.0, 1e8)}
    four = forecast(task(even(4e9, 1, 4), zero=3, bucket=250_000), machine(inside=cheap))
    assert four.hidden == pytest.approx(3 / 4 * 0.75 * 4e6 / 1e8)


def test_no_layer_is_computed_faster_than_it_is_launched():
    slow = machine(inside=FREE, launch={2: 0.01, 3: 0.02})
    assert forecast(task([[1e9], [1e6]], layers=10), slow).compute == pytest.approx(1 + 0.1)
    assert forecast(task([[1e6], [1e6]], layers=10, zero=3), slow).compute == pytest.approx(0.4)
    assert forecast(task([[1e6], [1e6]], layers=10, zero=1), slow).compute == pytest.approx(0.002), "not known there"


def test_a_small_student_gains_nothing_by_zero_3_on_one_node():
    """134.5M parameters, 2,048 tokens a micro-step, eight H100: from first principles. Its FLOPs are 3.7 ms at 45 % of
    the peak, but 30 layers of 2.1 ms take the host 17 times as long to launch. On the wires ZeRO 2 says 2 x 7/8 x
    538 MB and 7/8 x 269 MB at 360 GB/s, ZeRO 3 only 7/8 x 538 MB, and the gather that it hides: 2 ms less."""
    node = NODES["h100"]
    links = dict.fromkeys(PASSES, node.inside)
    h100 = Machine(
        node.peak * EFFICIENCY["h100"], node.bandwidth, links, links, 8, launch=launch_times(recompute=False)
    )
    small = {"parameters": 134_515_008, "layers": 30, "tokens": 2048.0 * 8}
    found = {
        zero: forecast(Task(loads=even(8 * 1.65e12, 1, 8), zero=zero, **small), h100)  # type: ignore[arg-type]
        for zero in (2, 3)
    }
    pass_of = 7 / 8 * 4 * 134_515_008 / 360e9
    assert found[2].compute == pytest.approx(30 * 2.1e-3)
    assert found[2].compute > 5 * 1.65e12 / (989e12 * 0.45)
    assert found[2].communication == pytest.approx(2.5 * pass_of, rel=0.05)
    assert found[3].communication == pytest.approx(pass_of, rel=0.1)
    assert found[2].communication - found[3].communication < 2.1e-3
    assert found[3].tokens_per_second < found[2].tokens_per_second, "its hooks cost the host more than the wires do"


def test_on_a_cpu_gradients_go_to_their_owners_in_small_buckets():
    gloo = {"coalesced": False}
    one = task(even(1, 3, 4), parameters=5_000_000, zero=1)
    assert volumes(one, **gloo)["gradients"] == ("all_reduce", 0.625 * 20_000_000, 3 + 3)
    two = task(even(1, 3, 2), parameters=5_000_000, zero=2, bucket=10**6)
    assert volumes(two, **gloo)["gradients"] == ("all_reduce", 3 * 0.75 * 20_000_000, 3 * (5 + 1))
    assert volumes(two)["gradients"][1] == 3 * 20_000_000
    none = task(even(1, 3, 4), parameters=5_000_000, zero=0)
    assert volumes(none, **gloo)["gradients"] == ("all_reduce", 20_000_000, 1)
    large = replace(two, bucket=4 * 10**6)
    assert volumes(large, **gloo)["gradients"] == ("all_reduce", 3 * 0.75 * 20_000_000, 3 * (2 + 1))
    to_all = replace(large, to_owners=False)
    assert volumes(to_all, **gloo)["gradients"] == ("all_reduce", 3 * 20_000_000, 3 * 2)
    assert volumes(replace(to_all, bucket=None), **gloo)["gradients"][2] == 3 * 5, "small ones, as before"
    assert volumes(replace(large, to_owners=True))["gradients"] == volumes(large, **gloo)["gradients"], "on GPUs"


def test_what_is_frozen_is_gathered_but_has_no_gradient():
    part = task(even(1, 2, 8), parameters=1000, frozen=900, zero=0)
    assert volumes(part) == {"gradients": ("all_reduce", 400, 1)}
    two = volumes(task(even(1, 2, 8), parameters=1000, frozen=900, zero=2))
    assert two == {"gradients": ("all_reduce", 800, 2), "parameters": ("all_gather", 200, 2)}
    three = volumes(task(even(1, 2, 8), parameters=1000, frozen=900, zero=3))
    assert (three["gradients"][1], three["parameters"][1]) == (800, 4000)
    kept = volumes(task(even(1, 2, 8), parameters=1000, frozen=900, zero=3, kept=1000))
    assert (kept["gradients"][1], kept["parameters"][1]) == (800, 2000)
    times = forecast(task([[1.0]], frozen=900_000, zero=0), machine())
    assert times.optimizer == pytest.approx(1e5 * UPDATE_BYTES / 1e9)


def test_parameters_that_stay_gathered_hide_behind_forward_passes_only():
    slow = {**FREE, "all_gather": Link(0.0, 1e5)}  # a gather takes 15 s, a micro-step one
    found = forecast(task(even(16e9, 4, 4), zero=3), machine(inside=slow))
    assert found.compute == pytest.approx(4)
    assert found.hidden == pytest.approx(4 / 3)
    again = forecast(task(even(16e9, 4, 4), zero=3, live=0), machine(inside=slow))
    assert again.hidden == pytest.approx(4), "gathered anew in each pass, it hides behind all of them"


def test_a_large_student_is_gathered_in_both_passes_of_each_micro_step_a_small_one_in_one():
    large = task(even(1, 3, 8), parameters=2_000_000_000, zero=3, tied=100)
    assert volumes(large)["parameters"][1] == 2 * 3 * 2 * (2_000_000_000 + 100)
    small = task(even(1, 3, 8), parameters=900_000_000, zero=3)
    assert volumes(small)["parameters"][1] == 3 * 2 * 900_000_000
    # 50M elements at a time, but no more than a layer; and for each tensor where calls are not put together
    assert [volumes(one)["parameters"][2] for one in (small, large)] == [3 * 18, 2 * 3 * 40]
    assert volumes(task(even(1, 3, 8), parameters=100_000_000, layers=30, zero=3))["parameters"][2] == 3 * 32
    norms = task(even(1, 3, 8), parameters=1000, tensors=10, kept=100, kept_tensors=4, zero=3)
    assert volumes(norms)["parameters"] == ("all_gather", 2 * (100 + 3 * 900), 1 + 3 * 3)
    assert volumes(norms, coalesced=False)["parameters"][2] == 4 + 3 * 6


def test_the_time_of_stages_that_are_slower_is_scaled():
    plain = forecast(task([[1e9]], zero=3), machine())
    slower = forecast(task([[1e9]], zero=3), machine(slower={3: 1.5}))
    assert slower.compute == pytest.approx(1.5 * plain.compute)


def test_more_nodes_never_make_a_step_that_all_share_slower_to_compute():
    times = [forecast(task(even(8e9, max(1, 8 // n), n), zero=1), machine()) for n in (1, 2, 4, 8)]
    assert all(math.isclose(a.compute, 2 * b.compute) for a, b in itertools.pairwise(times))
