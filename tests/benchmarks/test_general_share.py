"""What stands for general text where a share of it is measured: none of it is trained on and measured, too."""

from __future__ import annotations

import numpy as np
import pytest
from real_data import benchmark


def test_no_text_is_trained_on_and_measured() -> None:
    with benchmark("general_share") as script:
        texts = script.general_texts(60, 16)
        assert {name: len(of) for name, of in texts.items()} == {"train": 60, "docstrings": 16, "reference": 16}
        assert all(script.SHORTEST <= len(text) <= script.LONGEST for of in texts.values() for text in of)
        assert not set(texts["train"]) & {*texts["docstrings"], *texts["reference"]}
        assert script.general_texts(60, 16) == texts, "equal each time"


def test_what_a_share_buys_back_is_paired_by_document() -> None:
    rng = np.random.default_rng(0)
    count = np.full(9, 10.0)
    before = rng.normal(20, 8, 9)  # documents differ more than arms do

    def sums(more: float) -> list[np.ndarray]:
        return [np.stack([before + more * count, np.zeros(9), count], axis=1)]

    with benchmark("general_share") as script:
        of = {"before": sums(0.0), "none": sums(0.5), "a quarter": sums(0.2)}
        found = script.summary({"docstrings": of})["docstrings"]
    assert found["change"]["none"]["mean"] == pytest.approx(0.5)
    assert found["bought_back"]["mean"] == pytest.approx(-0.3)
    assert found["bought_back"]["interval_95"] == pytest.approx([-0.3, -0.3])
    assert found["tokens"] == 90
