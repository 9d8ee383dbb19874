"""Losses of single rows against plain PyTorch in float64; run for both backends as test_linear_cross_entropy.py is."""

import pytest
import torch
import torch.nn.functional as F
from linear_cross_entropy_cases import BACKEND, DEVICE, EPSILON, KINDS, case, distance

from tracestill.kernels.loss import linear_cross_entropy, linear_cross_entropy_rows

OPTIONS = {
    "plain": {},
    "bias": {"use_bias": True},
    "scaled and capped": {"use_bias": True, "logit_scale": 0.7, "softcap": 8.0},
}


@pytest.fixture(autouse=True)
def _poisoned():
    """torch.empty holds NaN, so that an output that is not written shows."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)


def rows_of(data, *, active=None, use_bias=False, chunk_rows=7, dtype=torch.float32, **options):
    hidden, head, bias, targets, *_ = (t.to(DEVICE) for t in data)
    return linear_cross_entropy_rows(
        hidden.to(dtype),
        head.to(dtype),
        targets,
        bias=bias.to(dtype) if use_bias else None,
        active=active,
        chunk_rows=chunk_rows,
        backend=BACKEND,
        **options,
    )


def plain(data, dtype, rows, *, use_bias=False, logit_scale=1.0, softcap=None):
    """nll, entropy, correct and most likely token, from logits of all rows at once."""
    hidden, head, bias, targets, *_ = data
    z = F.linear(hidden[rows].to(dtype), head.to(dtype), bias.to(dtype) if use_bias else None) * logit_scale
    z = softcap * torch.tanh(z / softcap) if softcap else z
    log_p = torch.log_softmax(z, 1)
    nll = F.cross_entropy(z, targets[rows], reduction="none")
    return nll, -(log_p.exp() * log_p).sum(1), z.argmax(1) == targets[rows], z.argmax(1)


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize(("n", "h", "v"), [(23, 37, 401), (41, 16, 1271), (1, 1, 2)])
def test_rows_are_as_exact_as_plain_pytorch(name, n, h, v):
    data = case(n, h, v, seed=n, zero=0.0)
    options, everywhere = OPTIONS[name], torch.arange(n)
    got = rows_of(data, **options)
    exact, rough = (plain(data, dtype, everywhere, **options) for dtype in (torch.float64, torch.float32))
    for ours, true, naive in zip(got[:2], exact[:2], rough[:2], strict=True):
        assert ours.shape == (n,)
        assert distance(ours, true) <= distance(naive, true) + EPSILON
    assert got.correct.tolist() == exact[2].tolist()
    assert got.top.tolist() == exact[3].tolist()
    assert n == 1 or 0 < got.correct.sum() < n


def test_rows_that_nobody_asks_for_are_zero_and_never_read():
    data = case()  # rows of zero weight hold NaN, and targets out of range
    rows = data[4].nonzero().squeeze(1)
    got = rows_of(data, active=rows.to(DEVICE))
    assert len(rows) < len(data[4])
    exact = plain(data, torch.float64, rows)
    for ours, true in zip(got, exact, strict=True):
        assert distance(ours[rows.to(DEVICE)], true) < 1e-6
        ours[rows.to(DEVICE)] = 0
        assert not ours.any()


def test_rows_add_up_to_the_statistics_of_the_weighted_loss():
    data = case()
    hidden, head, _, targets, weights, kinds = (t.to(DEVICE) for t in data)
    rows = (weights != 0).nonzero().squeeze(1)
    _, statistics = linear_cross_entropy(
        hidden, head, targets, weights, kinds, num_kinds=KINDS, active=rows, backend=BACKEND
    )
    got = rows_of(data, active=rows)
    for column, of in ((3, got.nll), (4, got.correct.float()), (5, got.entropy)):
        by_kind = torch.zeros(KINDS).index_add_(0, kinds.cpu().long(), of.cpu().float())
        assert distance(statistics[:, column], by_kind) < 1e-6


def test_of_equal_logits_the_first_token_is_on_top():
    data = list(case(n=9, zero=0.0))
    logits = data[0] @ data[1].t()
    data[1] = torch.cat([data[1], data[1].flip(0)])  # every token has a twin of equal logit
    assert rows_of(data).top.tolist() == logits.argmax(1).tolist()
    data[2][:] = float("-inf")
    data[2] = torch.cat([data[2], data[2]])
    data[2][400] = data[2][577] = 1.0
    data[3][:] = 400
    data[1][577] = data[1][400]
    found = rows_of(data, use_bias=True)
    assert found.top.tolist() == [400] * 9
    assert found.correct.all()


def test_no_gradient_comes_from_it_and_no_row_at_all_is_fine():
    data = case(zero=0.0)
    data[0].requires_grad_()
    assert not any(of.requires_grad for of in rows_of(data))
    assert [tuple(of.shape) for of in rows_of(case(n=0))] == [(0,)] * 4
    assert not rows_of(case(), active=torch.zeros(0, dtype=torch.int64, device=DEVICE)).nll.any()


def test_types_follow_the_inputs():
    found = rows_of(case(zero=0.0)) if BACKEND == "triton" else rows_of(case(zero=0.0), dtype=torch.float64)
    exact = torch.float32 if BACKEND == "triton" else torch.float64
    assert [of.dtype for of in found] == [exact, exact, torch.bool, torch.int64]


@pytest.mark.skipif(DEVICE != "cpu", reason="values are not checked on a GPU")
def test_bad_calls_are_refused():
    data = case(zero=0.0)
    with pytest.raises(ValueError, match=r"targets of weighted rows must lie in \[0, 401\), not -100"):
        rows_of((*data[:3], data[3].fill_(-100)))
    with pytest.raises(ValueError, match="chunk_rows must be at least 1"):
        rows_of(case(zero=0.0), chunk_rows=0)
    with pytest.raises(ValueError, match=r"do not fit"):
        rows_of((data[0][:, :5], *data[1:]))
