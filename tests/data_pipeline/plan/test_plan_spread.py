"""Mixed packs: worst fit and best fit on the histogram against the rules applied item by item, and what steps hold."""

from __future__ import annotations

import bisect
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.plan.curriculum import OrderConfig
from tracestill.data_pipeline.plan.packing import Packing, best_fit_decreasing, expand
from tracestill.data_pipeline.plan.plan import PlanConfig, make_plan, sameness
from tracestill.data_pipeline.plan.plan_stage import planner_of
from tracestill.data_pipeline.plan.spread import deal, spread
from tracestill.data_pipeline.tokens.store import TokenStoreWriter

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=150)


def counts_of(lengths: list[int], capacity: int) -> np.ndarray:
    return np.bincount(lengths, minlength=capacity + 1)


def rooms_of(packing: Packing, capacity: int) -> list[int]:
    return sorted(np.repeat(capacity - packing.runs[:, 3], packing.runs[:, 1]).tolist())


def item_by_item(lengths: list[int], capacity: int, longest: int, bins: int) -> list[int] | None:
    """Rooms left: documents longer than ``longest`` open ``bins`` bins, then go where most room is, the others where
    least is. None if a longer one does not fit."""
    rooms: list[int] = []
    for length in sorted(lengths, reverse=True):
        if length > longest and len(rooms) < bins:
            room = capacity
        elif length > longest:
            room = rooms.pop()
            if room < length:
                return None
        else:
            at = bisect.bisect_left(rooms, length)
            room = rooms.pop(at) if at < len(rooms) else capacity
        bisect.insort(rooms, room - length)
    return rooms


@settings(max_examples=150, deadline=None)
@given(LENGTHS, st.integers(40, 120), st.integers(0, 40), st.integers(0, 3))
def test_the_same_as_item_by_item(lengths: list[int], capacity: int, longest: int, more: int) -> None:
    counts = counts_of(lengths, capacity)
    bins = best_fit_decreasing(counts, capacity).bins + more
    begun = deal(counts, capacity, longest, bins, None)
    expected = item_by_item(lengths, capacity, longest, bins)
    assert (begun is None) == (expected is None)
    if begun is not None and expected is not None:
        rest = np.where(np.arange(capacity + 1) > longest, 0, counts)
        assert rooms_of(best_fit_decreasing(rest, capacity, None, begun), capacity) == expected


@settings(max_examples=100, deadline=None)
@given(LENGTHS, st.integers(40, 200))
def test_bins_hold_what_their_runs_say_and_every_document(lengths: list[int], capacity: int) -> None:
    sizes = np.array(lengths)
    packing = spread(counts_of(lengths, capacity), capacity)
    first, width, documents, tokens, squares = packing.runs.T
    assert first.tolist() == [0, *np.cumsum(width)[:-1].tolist()]
    assert packing.bins == width.sum() <= best_fit_decreasing(counts_of(lengths, capacity), capacity).bins
    offsets = np.concatenate([[0], np.cumsum(np.repeat(documents, width))])
    packed = expand(packing, np.argsort(-sizes, kind="stable"), offsets[:-1])
    assert sorted(packed.tolist()) == list(range(len(lengths)))
    said = zip(np.repeat(tokens, width).tolist(), np.repeat(squares, width).tolist(), strict=True)
    for (total, square), begin, end in zip(said, offsets[:-1], offsets[1:], strict=True):
        content = sizes[packed[begin:end]]
        assert content.sum() == total <= capacity
        assert (content**2).sum() == square
        assert (np.diff(content) <= 0).all(), "the longest document comes first"


def drawn(median: float, capacity: int, sigma: float = 0.8) -> np.ndarray:
    lengths = np.random.default_rng(0).lognormal(np.log(median), sigma, 20_000)
    return lengths.clip(16, capacity).astype(np.int32)


@pytest.mark.parametrize(("median", "capacity", "alike"), [(200, 2048, 1.3), (900, 16_384, 1.0), (3500, 16_384, 2.0)])
def test_packs_are_mixed_and_hardly_more(median: float, capacity: int, alike: float) -> None:
    lengths = drawn(median, capacity)
    counts = np.bincount(lengths, minlength=capacity + 1)
    tight = best_fit_decreasing(counts, capacity)
    assert spread(counts, capacity).bins <= 1.005 * tight.bins
    plan = make_plan(lengths, PlanConfig(capacity=capacity, packs_per_step=1), seed=0, epoch=0)
    mean = np.array([lengths[plan.pack(pack)].mean() for pack in range(plan.n_packs)])
    count = np.array([len(plan.pack(pack)) for pack in range(plan.n_packs)])
    found = (count * (mean - lengths.mean()) ** 2).sum() / ((plan.n_packs - 1) * lengths.var())
    assert found == pytest.approx(sameness(plan, lengths))
    assert found < alike, "best fit alone: 9, 12 and 2.7"


@pytest.mark.parametrize("reads", [False, True])
def test_documents_of_encoder_decoders_share_a_pack_with_those_of_their_length(tmp_path: Path, reads: bool) -> None:
    lengths = drawn(100, 500)[:300]
    with TokenStoreWriter(tmp_path / "tokens.arrow", Kinds()) as writer:
        for index, length in enumerate(lengths.tolist()):
            kinds = np.full(length + 1, 2)
            kinds[0] = 0 if reads else 1  # `pad` is what an encoder reads
            writer.add(f"r{index}", "q", np.arange(length + 1), kinds, np.zeros(length + 1))
    config = PlanConfig(capacity=800, packs_per_step=1, order=OrderConfig(by="length", mixing=1.0))
    plans = [planner_of(tmp_path, each, 0).plan(0) for each in (config, PlanConfig(capacity=800, packs_per_step=1))]
    assert [sameness(plan, lengths) > 2 for plan in plans] == [reads, reads]


def test_a_step_of_several_groups_takes_cheap_and_dear_ones() -> None:
    lengths = drawn(3500, 16_384)
    plan = make_plan(lengths, PlanConfig(capacity=16_384, packs_per_step=32, group=4), seed=0, epoch=0)
    begins = plan.pack_offsets[:-1]
    squares = np.add.reduceat(lengths[plan.documents].astype(np.int64) ** 2, begins)
    full = plan.steps[(plan.steps >= 0).all(axis=1)]
    groups = squares[full].reshape(len(full), 8, 4).mean(axis=2)
    assert groups.mean(axis=1).std() < 0.25 * groups.std() / 8**0.5, "than of groups drawn at random"
    assert len({tuple(np.argsort(row)) for row in np.diff(groups[:, :2], axis=0)}) > 1


def test_sameness_by_hand() -> None:
    lengths = np.array([10, 10, 2, 2, 6, 6], np.int32)
    plan = make_plan(lengths, PlanConfig(capacity=12, packs_per_step=1), seed=0, epoch=0)
    steps = [sorted(lengths[np.concatenate(plan.step(step))].tolist()) for step in range(plan.n_steps)]
    assert sorted(steps) == [[2, 10], [2, 10], [6, 6]]
    assert sameness(plan, lengths) == 0
    alone = make_plan(lengths, PlanConfig(capacity=10, packs_per_step=1), seed=0, epoch=0)
    found = [lengths[np.concatenate(alone.step(step))] for step in range(alone.n_steps)]
    apart = sum(len(step) * (step.mean() - 6) ** 2 for step in found)
    assert sameness(alone, lengths) == pytest.approx(apart / ((len(found) - 1) * 64 / 6))
    assert (
        sameness(make_plan(lengths[:2], PlanConfig(capacity=10, packs_per_step=1), seed=0, epoch=0), lengths[:2]) == 1
    )
