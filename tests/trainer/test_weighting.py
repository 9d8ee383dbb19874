"""Weights by kind and group, and the sum that normalises them."""

import numpy as np
import pytest
from pydantic import ValidationError

from tracestill.data_pipeline.kinds import Kinds
from tracestill.trainer.weighting import SpanWeighting, WeightingConfig, weight_sum


def table(weights, kinds=None):
    kinds = kinds or Kinds()
    values = SpanWeighting(WeightingConfig(weights=weights), kinds).kinds(0)
    return dict(zip(kinds.names, values.tolist(), strict=True))


def test_a_kind_wins_over_its_group_in_any_order():
    expected = {"pad": 0, "prompt": 0, "plan": 2, "derive": 0.5, "check": 0.5, "prose": 0.5, "answer": 3, "control": 1}
    assert table({"plan": 2, "trace": 0.5, "prompt": 0, "answer": 3}) == expected
    assert table({"answer": 3, "prompt": 0, "trace": 0.5, "plan": 2}) == expected


def test_padding_never_weighs():
    assert table({"pad": 5.0})["pad"] == 0.0


def test_a_kind_of_the_users_joins_the_trace():
    kinds = Kinds.with_extra({"quote": "trace", "aside": None})
    found = table({"trace": 0.25}, kinds)
    assert (found["quote"], found["aside"]) == (0.25, 1.0)


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="unknown span kind or group 'derivee'; did you mean 'derive'"):
        table({"derivee": 1.0})


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_weights_are_finite_and_not_negative(value):
    with pytest.raises(ValidationError, match="expected a finite number >= 0"):
        WeightingConfig(weights={"trace": value})


def test_the_sum_of_weights_counts_every_target_once():
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 50, (7, 8)).astype(np.int32)
    records = rng.random(7).astype(np.float32)
    values = rng.random(8).astype(np.float32)
    by_hand = sum(
        float(values[k]) * float(records[d]) for d in range(7) for k in range(8) for _ in range(int(counts[d, k]))
    )
    assert weight_sum(counts, records, values) == pytest.approx(by_hand, rel=1e-12)
    assert weight_sum(counts[:0], records[:0], values) == 0.0
