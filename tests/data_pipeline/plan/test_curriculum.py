"""Orders: the key rises with the steps, equal keys are shuffled, packs of equal cost stay together."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.plan.arrange import arrange
from tracestill.data_pipeline.plan.curriculum import rank_correlation, stages_of
from tracestill.data_pipeline.plan.order import order_packs
from tracestill.data_pipeline.plan.packing import expand
from tracestill.data_pipeline.plan.plan import Plan, PlanConfig, Planner


class OneColumn:
    """Columns of which only the numbers of one are there."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def is_text(self, name: str) -> bool:
        return name == "teacher"

    def numbers(self, name: str) -> np.ndarray:
        return self.values


def planned(lengths: np.ndarray, order: Any, keys: np.ndarray | None = None, **more: Any) -> tuple[Planner, Plan]:
    config = PlanConfig(**{"capacity": 512, "packs_per_step": 8, "order": order, **more})
    columns: Any = None if keys is None else OneColumn(keys)
    planner = Planner(lengths, config, seed=2, columns=columns)
    return planner, planner.plan(0)


@pytest.fixture(scope="module")
def lengths() -> np.ndarray:
    return np.random.default_rng(0).integers(8, 200, 4000).astype(np.int32)


@pytest.mark.parametrize("direction", ["ascending", "descending"])
@pytest.mark.parametrize("by", ["length", "difficulty"])
def test_an_epoch_follows_its_key_and_holds_every_document(lengths: np.ndarray, by: str, direction: str) -> None:
    """Spearman's, by scipy."""
    keys = np.random.default_rng(1).integers(0, 9, 4000) / 8
    planner, plan = planned(lengths, {"by": by, "direction": direction}, keys)
    assert sorted(plan.documents.tolist()) == list(range(4000))
    steps = np.concatenate([np.full(sum(map(len, plan.step(at))), at) for at in range(plan.n_steps)])
    order = np.concatenate([pack for at in range(plan.n_steps) for pack in plan.step(at)])
    values = (lengths if by == "length" else keys)[order]
    expected = spearmanr(values, steps).statistic
    assert (expected > 0.98) if direction == "ascending" else (expected < -0.98)
    found = planner.report(plan, (2, 8))
    assert found["order"]["correlation"] == pytest.approx(abs(expected), abs=1e-9)
    assert max(found["imbalance"].values()) < 1.05, "and ranks still do equal work"
    assert found["order"]["unordered"]["packs"] == planned(lengths, "random")[1].n_packs


def test_mixing_and_missing_keys_come_anywhere(lengths: np.ndarray) -> None:
    keys = np.arange(4000.0)
    keys[::2] = np.nan
    planner, plan = planned(lengths, {"by": "difficulty"}, keys)
    steps = np.empty(4000)
    steps[plan.documents] = plan.steps_of_documents()
    assert spearmanr(keys[1::2], steps[1::2]).statistic > 0.98
    assert abs(spearmanr(np.arange(2000), steps[::2]).statistic) < 0.1
    assert abs(steps[::2].mean() - plan.n_steps / 2) < 0.05 * plan.n_steps
    assert planner.report(plan)["order"]["without_key"] == 2000
    mixed = planned(lengths, {"by": "difficulty", "mixing": 0.5}, np.arange(4000.0))
    assert 0.4 < mixed[0].report(mixed[1])["order"]["correlation"] < 0.6
    alone = planned(lengths, {"by": "difficulty", "mixing": 1}, np.arange(4000.0))
    assert abs(alone[0].report(alone[1])["order"]["correlation"]) < 0.1


def test_equal_keys_are_shuffled_anew_in_each_epoch(lengths: np.ndarray) -> None:
    keys = np.repeat([1.0, 2.0], 2000)
    planner, first = planned(lengths, {"by": "difficulty"}, keys)
    steps = np.empty(4000)
    steps[first.documents] = first.steps_of_documents()
    assert abs(spearmanr(np.arange(2000), steps[:2000]).statistic) < 0.1
    assert steps[:2000].max() <= steps[2000:].min() + 1, "but for the step at the border"
    assert planner.plan(1).digest() != first.digest() == planned(lengths, {"by": "difficulty"}, keys)[1].digest()


def test_a_text_stands_for_the_key_and_random_is_the_plan_of_before(lengths: np.ndarray) -> None:
    assert PlanConfig(capacity=9, packs_per_step=1, order="length").order.by == "length"
    plain = PlanConfig(capacity=512, packs_per_step=8)
    assert plain.model_dump(exclude_defaults=True) == {"capacity": 512, "packs_per_step": 8, "group": 8}
    assert planned(lengths, "random")[1].digest() == Planner(lengths, plain, seed=2).plan(0).digest()


def test_a_group_at_the_border_of_two_stages_has_packs_of_similar_cost() -> None:
    """Six documents a stage, each alone in its pack; groups of four."""
    lengths = np.array([11, 12, 13, 14, 15, 16, 11, 12, 13, 14, 15, 16], np.int32)
    bits = np.random.Philox(key=np.array([0, 0], dtype=np.uint64))
    stage_of = np.repeat([0, 1], 6).astype(np.int8)
    packing, documents, packs = arrange(lengths, np.ones(12, np.int32), stage_of, 2, 1, 20, bits)
    assert packs == [6, 6]
    rank_of_bin, ranks = order_packs(packing, np.array([12]), 4, True, bits, packs)
    held = expand(packing, documents, np.arange(12))
    by_rank = lengths[held[np.argsort(rank_of_bin)]].tolist()
    assert by_rank == [11, 12, 13, 14, 15, 16, 16, 15, 14, 13, 12, 11]
    groups = [sorted(group) for group in ranks.reshape(3, 4).tolist()]
    assert groups[2] == [8, 9, 10, 11], "the last group is of the second stage alone"
    assert sorted(groups[:2]) == [[0, 1, 2, 3], [4, 5, 6, 7]], "the group that has packs of both is of the first"


def test_a_short_epoch_is_ordered_too() -> None:
    lengths = np.arange(8, 72, dtype=np.int32)
    _, plan = planned(lengths, "length", packs_per_step=1)
    assert plan.n_packs >= 4
    assert spearmanr(lengths[plan.documents], plan.steps_of_documents()).statistic > 0.85


def test_an_order_by_texts_is_refused(lengths: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"plan\.order\.by: 'teacher' holds texts"):
        planned(lengths, "teacher", np.zeros(4000))


def test_balance_off_orders_packs_one_by_one(lengths: np.ndarray) -> None:
    planner, plan = planned(lengths, "length", balance="off")
    assert sorted(plan.documents.tolist()) == list(range(4000))
    assert planner.report(plan)["order"]["correlation"] > 0.98


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(0, 6)), min_size=1, max_size=60),
    st.integers(1, 4),
    st.integers(1, 6),
)
def test_copies_are_all_placed_and_two_in_one_pack_only_if_there_are_more_than_packs(
    documents: list[tuple[int, int]], stages: int, grid: int
) -> None:
    """On any grid: packs hold no more than the capacity, and are those of their stage."""
    lengths, copies = (np.array(each, np.int32) for each in zip(*documents, strict=True))
    if not copies.sum():
        return
    bits = np.random.Philox(key=np.array([1, len(documents)], dtype=np.uint64))
    stage_of = np.random.default_rng(len(documents)).integers(0, stages, copies.sum()).astype(np.int8)
    packing, ordered, packs = arrange(lengths, copies, stage_of, stages, grid, 40, bits)
    held = np.repeat(packing.runs[:, 2], packing.runs[:, 1])
    offsets = np.concatenate([[0], np.cumsum(held)])
    found = expand(packing, ordered, offsets[:-1])
    assert np.bincount(found, minlength=len(lengths)).tolist() == copies.tolist()
    bins = [found[a:b].tolist() for a, b in itertools.pairwise(offsets)]
    assert all(lengths[each].sum() <= 40 for each in bins)
    ids = np.repeat(np.arange(len(lengths)), copies)
    ends = np.cumsum(packs)
    for stage, (begin, end) in enumerate(zip(ends - packs, ends, strict=True)):
        expected = sorted(ids[stage_of == stage].tolist())
        assert sorted(document for each in bins[begin:end] for document in each) == expected
        sizes = np.minimum(-(-lengths // grid), 40 // grid)
        least = -(-int(sizes[expected].sum()) // (40 // grid))
        for each in bins[begin:end]:
            assert all(each.count(d) == 1 or each.count(d) <= -(-int(copies.max()) // least) for d in set(each))


def test_a_document_that_comes_more_often_than_there_are_packs_makes_no_more_of_them() -> None:
    lengths, copies = np.array([2, 20], np.int32), np.array([400, 40], np.int32)
    bits = np.random.Philox(key=np.array([1, 1], dtype=np.uint64))
    packing, _, _ = arrange(lengths, copies, np.zeros(440, np.int8), 1, 1, 40, bits)
    assert packing.bins == 40, "and one that comes as often as there are is in each once"


def test_rank_correlation_is_scipys() -> None:
    rng = np.random.default_rng(5)
    for _ in range(20):
        a, b = rng.integers(0, 6, 50), rng.normal(size=50) + rng.integers(0, 2)
        assert rank_correlation(a, b) == pytest.approx(spearmanr(a, b).statistic, abs=1e-12)
    assert rank_correlation(np.ones(4), np.arange(4)) == 0.0


def test_stages_are_equal_parts_of_the_sorted_keys() -> None:
    keys = np.random.default_rng(0).normal(size=1000) * 1e6
    bits = np.random.Philox(key=np.array([0, 0], dtype=np.uint64))
    found = stages_of(keys, 7, 0.0, bits)
    assert np.ptp(np.bincount(found)) <= 1
    assert (np.diff(found[np.argsort(keys)]) >= 0).all()
