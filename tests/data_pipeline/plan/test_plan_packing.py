"""Best-fit-decreasing on the histogram against the rule applied item by item."""

from __future__ import annotations

import bisect

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tracestill.data_pipeline.plan.packing import best_fit_decreasing, expand


def residuals_item_by_item(lengths: list[int], capacity: int) -> list[int]:
    """The room left in each bin, sorted: every item goes to the bin with the least room that holds it."""
    rooms: list[int] = []
    for length in sorted(lengths, reverse=True):
        at = bisect.bisect_left(rooms, length)
        room = rooms.pop(at) if at < len(rooms) else capacity
        bisect.insort(rooms, room - length)
    return rooms


def check(lengths: list[int], capacity: int) -> None:
    sizes = np.array(lengths)
    packing = best_fit_decreasing(np.bincount(sizes, minlength=capacity + 1), capacity)
    first, width, documents, tokens, squares = packing.runs.T
    assert sorted(np.repeat(capacity - tokens, width).tolist()) == residuals_item_by_item(lengths, capacity)
    assert first.tolist() == [0, *np.cumsum(width)[:-1].tolist()], "runs of bins leave gaps or overlap"
    assert packing.bins == width.sum()

    # Expand, and find in every bin what its run announces.
    in_bin = np.repeat(documents, width)
    offsets = np.concatenate([[0], np.cumsum(in_bin)])
    packed = expand(packing, np.argsort(-sizes, kind="stable"), offsets[:-1])
    assert sorted(packed.tolist()) == list(range(len(lengths)))
    for bin_, (count, total, square) in enumerate(
        zip(in_bin, np.repeat(tokens, width), np.repeat(squares, width), strict=True)
    ):
        content = sizes[packed[offsets[bin_] : offsets[bin_ + 1]]]
        assert len(content) == count
        assert content.sum() == total <= capacity
        assert (content**2).sum() == square
        assert (np.diff(content) <= 0).all(), "the longest document comes first"


def residuals_with_a_limit(lengths: list[int], capacity: int, at_most: dict[int, int]) -> list[int]:
    """The same where a bin takes no more than so many items of a length."""
    bins: list[tuple[int, dict[int, int]]] = []
    for length in sorted(lengths, reverse=True):
        fits = [at for at, (room, held) in enumerate(bins) if room >= length and held.get(length, 0) < at_most[length]]
        if not fits:
            bins.append((capacity, {}))
            fits = [len(bins) - 1]
        # of equal rooms the bin that is being filled with this length goes first
        best = min(fits, key=lambda at: (bins[at][0], -bins[at][1].get(length, 0)))
        room, held = bins[best]
        bins[best] = room - length, {**held, length: held.get(length, 0) + 1}
    return sorted(room for room, _ in bins)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=60), st.integers(20, 50), st.integers(1, 4))
def test_a_bin_takes_no_more_of_a_length_than_it_may(lengths: list[int], capacity: int, limit: int) -> None:
    counts = np.bincount(lengths, minlength=capacity + 1)
    at_most = {length: 1 + (length * 7 + limit) % 4 for length in set(lengths)}
    limits = np.full(capacity + 1, 99)
    limits[list(at_most)] = list(at_most.values())
    packing = best_fit_decreasing(counts, capacity, limits)
    assert all(take <= at_most[size] for _, _, take, _, size in packing.placements.tolist())
    placed = [
        (bin_, size) for first, width, _, _, size in packing.placements.tolist() for bin_ in range(first, first + width)
    ]
    assert len(set(placed)) == len(placed), "in one placement"
    rooms = sorted(np.repeat(capacity - packing.runs[:, 3], packing.runs[:, 1]).tolist())
    assert rooms == residuals_with_a_limit(lengths, capacity, at_most)


@st.composite
def bins_and_items(draw: st.DrawFn) -> tuple[int, list[int]]:
    """Small capacities, where ties are dense, and capacities around the words of the bitmap."""
    capacity = draw(st.integers(1, 60) | st.sampled_from([511, 512, 513, 1023, 1024, 1025, 2049]))
    largest = draw(st.integers(1, capacity))
    few = draw(st.lists(st.integers(1, largest), min_size=1, max_size=8))
    item = st.integers(1, largest) | st.sampled_from(few) | st.sampled_from([capacity, capacity // 2 + 1, 1])
    return capacity, draw(st.lists(item, min_size=1, max_size=120))


@settings(max_examples=400, deadline=None)
@given(bins_and_items())
@example((30, [26, 26, 24, 20, 18, 15, 14, 12, 11, 10, 9, 7, 5, 4, 3, 2, 2]))
@example((1, [1, 1, 1]))
@example((7, [1]))
def test_same_bins_as_item_by_item(case: tuple[int, list[int]]) -> None:
    check(case[1], case[0])


def test_known_example_needs_seven_bins() -> None:
    lengths = [26, 26, 24, 20, 18, 15, 14, 12, 11, 10, 9, 7, 5, 4, 3, 2, 2]
    assert best_fit_decreasing(np.bincount(lengths, minlength=31), 30).bins == 7


@pytest.mark.parametrize("power", [4, 9, 10, 14])
@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_capacity_around_a_power_of_two(power: int, extra: int) -> None:
    capacity = 2**power + extra
    lengths = np.random.default_rng(power).integers(1, capacity + 1, 600)
    check([*lengths.tolist(), capacity, 1], capacity)


@pytest.mark.parametrize("length", [1, 3, 50, 51, 99, 100])
def test_all_lengths_equal(length: int) -> None:
    check([length] * 257, 100)
    packing = best_fit_decreasing(np.bincount([length] * 257, minlength=101), 100)
    assert packing.bins == -(-257 // (100 // length))


def test_trace_like_lengths() -> None:
    lengths = np.random.default_rng(1).lognormal(np.log(3500), 0.8, 20_000).clip(16, 16_384).astype(int)
    check(lengths.tolist(), 16_384)
    packing = best_fit_decreasing(np.bincount(lengths, minlength=16_385), 16_384)
    assert packing.bins <= 1.001 * -(-lengths.sum() // 16_384)


@pytest.mark.parametrize("counts", [np.array([1, 2]), np.array([0, 2, 3])])
def test_refuses_empty_documents_and_wrong_shapes(counts: np.ndarray) -> None:
    with pytest.raises(ValueError, match="must have shape"):
        best_fit_decreasing(counts, 1)
