"""What a head says of tokens, against log_softmax in fp64 over whole logits."""

from __future__ import annotations

import os

import pytest
import torch

from tracestill.kernels.loss import token_scores

BACKEND = os.environ.get("TEST_BACKEND", "auto")
CASES = {
    "plain": {},
    "chunks": {"chunk_rows": 5},
    "scaled": {"logit_scale": 0.25},
    "capped": {"softcap": 20.0, "logit_scale": 0.5},
    "biased": {"bias": True, "chunk_rows": 4},
}


def made(rows: int, vocabulary: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(rows * vocabulary)
    hidden = torch.randn(rows, 24, generator=generator, dtype=torch.float64)
    head = torch.randn(vocabulary, 24, generator=generator, dtype=torch.float64)
    targets = torch.randint(vocabulary, (rows,), generator=generator)
    bias = torch.randn(vocabulary, generator=generator, dtype=torch.float64)
    return hidden.to(dtype), head.to(dtype), targets, bias.to(dtype)


def expected(hidden, head, bias, logit_scale=1.0, softcap=None, chunk_rows=None):
    logits = (hidden.double() @ head.double().T + (0 if bias is None else bias.double())) * logit_scale
    logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    return logits, torch.log_softmax(logits, 1)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("rows", "vocabulary"), [(13, 31), (7, 300), (2, 17_000)])
def test_every_score_is_that_of_the_whole_distribution(name, rows, vocabulary):
    hidden, head, targets, bias = made(rows, vocabulary)
    options = dict(CASES[name])
    bias = bias if options.pop("bias", False) else None
    found = token_scores(hidden, head, targets, bias=bias, entropy=True, rank=True, k=5, backend=BACKEND, **options)
    logits, log_p = expected(hidden, head, bias, **options)
    at_target = logits.gather(1, targets[:, None])
    torch.testing.assert_close(found.nll.double(), -log_p.gather(1, targets[:, None])[:, 0], atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(found.top1.double(), log_p.amax(1), atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(found.entropy.double(), -(log_p.exp() * log_p).sum(1), atol=2e-5, rtol=1e-5)
    assert found.rank.tolist() == (logits > at_target).sum(1).tolist()
    best = log_p.topk(5, 1)
    assert found.ids.tolist() == best.indices.tolist()
    torch.testing.assert_close(found.log_probs.double(), best.values, atol=2e-5, rtol=1e-5)


def test_only_the_rows_that_are_asked_for_are_looked_at_and_only_what_is_asked_for_is_given():
    hidden, head, targets, _ = made(9, 40)
    active = torch.tensor([1, 4, 8])
    poisoned = hidden.clone()
    poisoned[[0, 2, 3, 5, 6, 7]] = torch.nan
    targets[0] = -100
    found = token_scores(poisoned, head, targets, active=active, backend=BACKEND)
    whole = token_scores(hidden, head, targets.clamp(min=0), backend=BACKEND)
    torch.testing.assert_close(found.nll, whole.nll[active])
    assert found.entropy is found.rank is found.ids is found.log_probs is None
    none = token_scores(hidden, head, targets, active=active[:0], k=3, rank=True, backend=BACKEND)
    assert none.ids.shape == (0, 3)
    assert none.nll.shape == (0,)


def test_fp64_is_computed_in_fp64_and_forbidden_tokens_count_nothing():
    hidden, head, targets, bias = made(6, 50, torch.float64)
    bias[7:20] = -torch.inf
    targets[:] = 3
    found = token_scores(hidden, head, targets, bias=bias, entropy=True, k=50, rank=True)
    _, log_p = expected(hidden, head, bias)
    entropy = -(log_p.exp() * log_p.clamp(min=-1e9)).sum(1)
    torch.testing.assert_close(found.entropy, entropy, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(found.nll, -log_p[:, 3], atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(found.log_probs.exp().sum(1), torch.ones(6, dtype=torch.float64))


def test_what_cannot_be_is_refused():
    hidden, head, targets, _ = made(4, 30)
    with pytest.raises(ValueError, match=r"k must lie in \[0, 30\], the size of the vocabulary, not 31"):
        token_scores(hidden, head, targets, k=31)
    with pytest.raises(ValueError, match="targets of weighted rows must lie in"):
        token_scores(hidden, head, targets + 30)
    with pytest.raises(ValueError, match="logit_scale must be > 0"):
        token_scores(hidden, head, targets, logit_scale=-1.0)
