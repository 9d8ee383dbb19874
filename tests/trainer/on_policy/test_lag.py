"""Texts that are young enough count as they are: nothing is computed for them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from tracestill.data_pipeline.rounds.on_policy import OnPolicyConfig
from tracestill.trainer.on_policy import on_policy
from tracestill.trainer.on_policy.on_policy import OnPolicy


@pytest.mark.parametrize(("step", "corrects"), [(8, False), (9, False), (10, True)])
def test_correction_begins_beyond_max_lag(monkeypatch, step, corrects):
    asked = []
    of = object.__new__(OnPolicy)
    of.own = OnPolicyConfig(teacher="none", refresh=4, max_lag=1)
    of.job = SimpleNamespace(progress=SimpleNamespace(step=step), engine=None)
    of.samples = SimpleNamespace(first=8, ratio=lambda micro, now: torch.ones(3))
    of.ratios = torch.zeros(3, dtype=torch.float64)
    monkeypatch.setattr(on_policy, "token_nll", lambda engine, micro: asked.append(micro))
    monkeypatch.setattr(on_policy, "corrected", lambda micro, ratio: ("corrected", micro))
    micro = [SimpleNamespace(packed=SimpleNamespace(active=torch.arange(2)))]
    found = of.corrected(micro)
    assert len(asked) == corrects
    assert found == ([("corrected", micro[0])] if corrects else micro)
    assert of.ratios.tolist() == ([2.0, 0.0, 2.0] if corrects else [0.0] * 3)
