"""The plan: what it holds, what decides it, how it is balanced, and how it is read back."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.base.stage import Stage, read_manifest, write_manifest
from tracestill.data_pipeline.plan import plan_stage
from tracestill.data_pipeline.plan.order import LINEAR_COST, shuffled, step_sizes
from tracestill.data_pipeline.plan.plan import (
    Plan,
    PlanConfig,
    imbalance,
    load_plan,
    make_plan,
    pack_costs,
    save_plan,
    schedule,
    slot,
)
from tracestill.data_pipeline.tokens.store import TokenStoreWriter


def traces(n: int, capacity: int = 16_384, seed: int = 0) -> np.ndarray:
    lengths = np.random.default_rng(seed).lognormal(np.log(3500 * capacity / 16_384), 0.8, n)
    return lengths.clip(16, capacity).astype(np.int32)


def plan_of(lengths: np.ndarray, seed: int = 1, epoch: int = 0, **config: object) -> Plan:
    return make_plan(
        lengths, PlanConfig(**{"capacity": 16_384, "packs_per_step": 16, **config}), seed=seed, epoch=epoch
    )


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=150),
    st.sampled_from([(1, 1), (4, 2), (6, 6), (8, 4), (12, 3), (7, 1)]),
    st.sampled_from(["cost", "off"]),
)
def test_every_document_is_in_one_pack_and_every_pack_in_one_step(
    lengths: list[int], steps: tuple[int, int], balance: str
) -> None:
    per_step, group = steps
    plan = plan_of(np.array(lengths, np.int32), capacity=40, packs_per_step=per_step, group=group, balance=balance)
    assert sorted(plan.documents.tolist()) == list(range(len(lengths)))
    assert plan.steps.shape == (-(-plan.n_packs // per_step), per_step)
    assert [p for p in plan.steps.ravel().tolist() if p >= 0] == list(range(plan.n_packs)), "packs in reading order"
    real = plan.steps >= 0
    assert (np.diff(real.astype(int), axis=1) <= 0).all(), "empty packs come last in a step"
    assert np.ptp(real.sum(axis=1)) <= 1, "steps differ by at most one pack"
    for index in range(plan.n_steps):
        for documents in plan.step(index):
            assert len(documents)
            assert sum(lengths[d] for d in documents) <= 40
    assert plan.pack(-1).size == 0


def test_a_step_takes_whole_groups_of_neighbours_in_cost() -> None:
    lengths = traces(6000)
    plan = plan_of(lengths, packs_per_step=12, group=4)
    costs = [sum(LINEAR_COST * int(n) + int(n) ** 2 for n in lengths[plan.pack(p)]) for p in range(plan.n_packs)]
    assert pack_costs(plan, lengths).tolist() == costs
    groups = [[costs[p] for p in row if p >= 0] for row in plan.steps.reshape(-1, 4).tolist()]
    groups = [group for group in groups if group]
    assert sum(len(group) for group in groups) == plan.n_packs
    order = sorted(range(len(groups)), key=lambda g: (groups[g][0], groups[g][-1]))
    assert [cost for g in order for cost in groups[g]] == sorted(costs), "groups are cut from the packs sorted by cost"
    assert order != list(range(len(groups)))


def test_same_seed_same_plan_and_other_epochs_and_seeds_differ() -> None:
    lengths = np.random.default_rng(0).integers(1, 60, 3000)  # each length many times: places to exchange
    first, again = (plan_of(lengths, capacity=512) for _ in range(2))
    assert first.digest() == again.digest()
    for other in (plan_of(lengths, capacity=512, epoch=1), plan_of(lengths, capacity=512, seed=2)):
        assert other.digest() != first.digest()
        assert other.n_packs == first.n_packs
        packs, others = ({tuple(plan.pack(p)) for p in range(plan.n_packs)} for plan in (first, other))
        assert len(packs & others) < 0.1 * len(packs), "packs hold other documents"
        sums = [[int(lengths[d].sum()) for d in map(plan.pack, range(100))] for plan in (first, other)]
        assert sums[0] != sums[1], "the order of packs differs"


def test_seed_and_epoch_do_not_mix() -> None:
    lengths = traces(200, capacity=64)
    digests = {
        plan_of(lengths, seed=s, epoch=e, capacity=64).digest() for s, e in itertools.product(range(4), range(4))
    }
    assert len(digests) == 16


def test_shuffle_is_a_sort_of_python_integers() -> None:
    """An independent reading of the generator's raw output: no NumPy version may change the order."""
    lengths = traces(5000, capacity=300)
    raw = np.random.Philox(key=np.array([3, 7], dtype=np.uint64)).random_raw(5000).tolist()
    kept = 64 - (5000 - 1).bit_length() - (300).bit_length()  # random bits that fit beside length and id
    expected = sorted(range(5000), key=lambda i: (-int(lengths[i]), raw[i] >> (64 - kept), i))
    bits = np.random.Philox(key=np.array([3, 7], dtype=np.uint64))
    assert shuffled(bits, 5000, 300, lengths).tolist() == expected


def test_golden_digest() -> None:
    """Guards what users rely on: a plan made elsewhere, or with another NumPy, is this one."""
    plan = plan_of(np.arange(1, 2001, dtype=np.int32) % 97 + 1, seed=5, epoch=2, capacity=100, packs_per_step=8)
    assert plan.digest() == "ca018c9decefa9b23e0285a9190bbc0f4270bc64c788196f016addc8065aec0e"


def test_shuffle_draws_every_order_equally_often() -> None:
    seen: dict[tuple[int, ...], int] = {}
    for seed in range(4800):
        order = tuple(shuffled(np.random.Philox(key=np.array([seed, 0], np.uint64)), 4).tolist())
        seen[order] = seen.get(order, 0) + 1
    assert len(seen) == 24
    assert sum((count - 200) ** 2 / 200 for count in seen.values()) < 49.7  # chi-square, 23 degrees, p = 0.001


@pytest.mark.parametrize(
    ("packs", "per_step", "expected"), [(1, 4, [1]), (8, 4, [4, 4]), (9, 4, [3, 3, 3]), (5, 1, [1] * 5)]
)
def test_step_sizes(packs: int, per_step: int, expected: list[int]) -> None:
    assert step_sizes(packs, per_step).tolist() == expected


@pytest.mark.parametrize("ranks", [1, 2, 3, 5, 8, 12, 16, 40])
def test_schedule_gives_every_pack_to_one_rank(ranks: int) -> None:
    plan = plan_of(traces(400), packs_per_step=12)
    for step in range(plan.n_steps):
        table = schedule(plan, step, ranks)
        assert table.shape == (-(-12 // ranks), ranks)
        assert sorted(p for p in table.ravel().tolist() if p >= 0) == [p for p in plan.steps[step].tolist() if p >= 0]
        for micro_step, rank in np.ndindex(*table.shape):
            place = slot(micro_step, rank, ranks)
            assert table[micro_step, rank] == (plan.steps[step, place] if place < 12 else -1)


@pytest.mark.parametrize("capacity", [16_384, 32_768])
@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize("ranks", [8, 64])
def test_work_is_balanced_and_order_stays_shuffled(capacity: int, accumulation: int, ranks: int) -> None:
    lengths = traces(200_000, capacity)
    plan = plan_of(lengths, capacity=capacity, packs_per_step=ranks * accumulation)
    costs = pack_costs(plan, lengths)
    # Brute force over the schedule: what each rank does in each micro-step
    worst = []
    for step in range(plan.n_steps):
        for row in schedule(plan, step, ranks):
            work = [float(costs[p]) if p >= 0 else 0.0 for p in row.tolist()]
            worst += [max(work) * ranks / sum(work)] if any(work) else []
    assert np.mean(worst) <= 1.01
    assert imbalance(plan, costs, ranks) == pytest.approx(np.mean(worst), rel=1e-9)
    mean_length = [lengths[np.concatenate(plan.step(s))].mean() for s in range(plan.n_steps)]
    assert abs(np.corrcoef(np.arange(plan.n_steps), mean_length)[0, 1]) <= 3 / np.sqrt(plan.n_steps)


def test_balance_off_spreads_costs_over_steps() -> None:
    lengths = traces(20_000)
    off = plan_of(lengths, balance="off", packs_per_step=64)
    on = plan_of(lengths, packs_per_step=64)
    assert imbalance(off, pack_costs(off, lengths), 8) > 1.1
    spread = [np.std([lengths[np.concatenate(p.step(s))].mean() for s in range(p.n_steps)]) for p in (off, on)]
    assert spread[0] < spread[1] / 3


def test_statistics() -> None:
    lengths = np.array([10, 6, 4, 9, 9, 3], np.int32)
    found = plan_of(lengths, capacity=10, packs_per_step=3).statistics(lengths, ranks=(1, 2))
    imbalances = found.pop("imbalance")
    assert found.pop("sameness") > 0
    assert found == {
        "documents": 6,
        "tokens": 41,
        "packs": 5,
        "packs_lower_bound": 5,
        "packs_over_lower_bound": 0.0,
        "fill": 0.82,
        "wasted_tokens": 9,
        "longest_pack": 10,
        "steps": 2,
        "empty_packs": 1,
    }
    assert imbalances[1] == 1
    assert imbalances[2] > 1


@pytest.mark.parametrize(
    ("per_step", "group"), [(1, 1), (5, 5), (64, 64), (96, 96), (127, 127), (128, 64), (256, 64), (192, 64), (200, 100)]
)
def test_default_group(per_step: int, group: int) -> None:
    assert PlanConfig(capacity=8, packs_per_step=per_step).group == group


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"group": 3}, "group 3 does not divide packs_per_step 8"),
        ({"capacity": 0}, "greater than 0"),
        ({"balance": "on"}, "'cost' or 'off'"),
        ({"overlong": "truncate"}, "'trim_trace'"),
        ({"capcity": 9}, "Extra inputs"),
    ],
)
def test_config_refuses(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PlanConfig(**{"capacity": 8, "packs_per_step": 8, **fields})


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        (np.array([4, 9, 12, 3], np.int32), "document 2: 12 tokens exceed the capacity of 8"),
        (np.array([4, 0], np.int32), "document 1: has no token"),
        (np.array([], np.int32), "no document to plan"),
        (np.array([1.0, 2.0]), "expected a flat array of integers"),
        (np.array([[1, 2]]), "expected a flat array of integers"),
    ],
)
def test_make_plan_refuses(lengths: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan_of(lengths, capacity=8)


def test_negative_seed_is_refused() -> None:
    with pytest.raises(InputError, match="seed -1 and epoch 0"):
        plan_of(np.array([1], np.int32), seed=-1)


def test_a_saved_plan_is_read_back_memory_mapped(tmp_path: Path) -> None:
    plan = plan_of(traces(500))
    save_plan(plan, tmp_path / "epoch")
    read = load_plan(tmp_path / "epoch")
    assert isinstance(read.documents, np.memmap)
    assert read.digest() == plan.digest()
    assert (read.capacity, read.packs_per_step) == (plan.capacity, plan.packs_per_step)
    for name in ("documents", "pack_offsets", "steps"):
        np.testing.assert_array_equal(getattr(read, name), getattr(plan, name))


@pytest.mark.parametrize("name", ["documents.npy", "pack_offsets.npy", "steps.npy", "plan.json"])
@pytest.mark.parametrize("damage", ["missing", "short", "changed"])
def test_a_damaged_plan_is_refused(tmp_path: Path, name: str, damage: str) -> None:
    save_plan(plan_of(traces(500)), tmp_path)
    file = tmp_path / name
    if damage == "missing":
        file.unlink()
    elif damage == "short":
        file.write_bytes(file.read_bytes()[:-9])
    elif name == "plan.json":
        file.write_text(json.dumps({**json.loads(file.read_text()), "capacity": 9}))
    else:
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    with pytest.raises(InputError, match="plan again"):
        load_plan(tmp_path)


def test_pickled_arrays_and_other_formats_are_refused(tmp_path: Path) -> None:
    save_plan(plan_of(traces(50)), tmp_path)
    np.save(tmp_path / "steps.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="not a readable plan"):
        load_plan(tmp_path)
    (tmp_path / "plan.json").write_text('{"format": 99}')
    with pytest.raises(InputError, match="format 99, expected 1"):
        load_plan(tmp_path)


@pytest.mark.parametrize(("steps", "epochs", "plans"), [(None, 3, 3), (25, None, 3), (20, None, 2), (1, None, 1)])
def test_the_stage_writes_a_plan_of_its_own_for_every_epoch(
    tmp_path: Path, steps: int | None, epochs: int | None, plans: int
) -> None:
    """20 documents of 9 tokens, of which an encoder reads 6; two fit into 16 tokens of either side: 10 steps."""
    encode, out = tmp_path / "encode", tmp_path / "plan"
    encode.mkdir()
    with TokenStoreWriter(encode / "tokens.arrow", Kinds()) as writer:
        for index in range(20):
            writer.add(f"r{index}", "q", np.arange(9), np.repeat([0, 2], [6, 3]), np.zeros(9))
    write_manifest(encode, {}, Stage(encode), 0.0)
    told: list[tuple[int, int]] = []
    config = PlanConfig(capacity=16, packs_per_step=1)
    plan_stage.run(out, encode, config, seed=4, steps=steps, epochs=epochs, progress=lambda *at: told.append(at))
    found = [load_plan(path) for path in sorted(out.glob("epoch-*"))]
    widest = np.full(20, 6, np.int32)
    wanted = [make_plan(widest, config, seed=4, epoch=epoch).digest() for epoch in range(plans)]
    assert len(set(wanted)) == plans, "they differ"
    assert [plan.digest() for plan in found] == wanted
    assert [path.name for path in sorted(out.glob("epoch-*"))] == [f"epoch-{epoch:03d}" for epoch in range(plans)]
    assert {plan.n_steps for plan in found} == {10}
    manifest = read_manifest(out)
    assert manifest is not None
    assert (manifest["epochs"], manifest["steps_per_epoch"], manifest["digests"]) == (plans, 10, wanted)
    assert manifest["statistics"] == json.loads(json.dumps(found[0].statistics(widest, (2,))))
    assert manifest["counts"] == {"in": 20, "out": 20}
    assert told == [(done, plans) for done in range(1, plans + 1)]
