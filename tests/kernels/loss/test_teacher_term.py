"""The teacher's term: entries, weights and scales of its own, whole distributions, and models that are certain."""

import dataclasses
import math

import pytest
import torch
from doc_pages import python_of
from linear_cross_entropy_cases import DEVICE, EPSILON, KINDS, case, distance, jsd_of, naive, ours, teacher_of

from tracestill.kernels.loss import Statistic, TeacherTopK


def test_a_teacher_alone_reaches_rows_of_zero_weight():
    data = case(zero=0.0)
    data[4].zero_()
    hidden, head, bias, _, weights, kinds = data
    data = (hidden, head, bias, torch.full((23,), -100), weights, kinds)
    teacher = teacher_of(data)
    got = ours(data, teacher=teacher, active=None)
    assert got[0] > 0
    assert (got[1][:, :6] == 0).all()
    assert float(got[1][:, Statistic.WEIGHTED_DIVERGENCE].sum()) == pytest.approx(float(got[0]), rel=1e-6)
    assert float(got[1][:, Statistic.TEACHER_COUNT].sum()) == int((kinds != 1).sum())
    ones = naive((hidden, head, bias, torch.zeros(23, dtype=torch.long), weights + 1e-30, kinds), torch.float64,
                 teacher=teacher)  # fmt: skip
    assert distance(got[0], ones[0]) < 1e-6
    assert distance(got[2], ones[2]) < 2e-6
    assert (got[2][(kinds == 1).to(DEVICE)] == 0).all()  # weight 0 for kind 1


def test_a_teacher_that_agrees_teaches_nothing():
    data = case(zero=0.0)
    hidden, head, _, _, _, _ = data
    log_probs, ids = torch.log_softmax(hidden.double() @ head.double().t(), 1).topk(6)
    for divergence in ("forward", "reverse", "jsd"):
        teacher = TeacherTopK(ids, log_probs.float(), torch.ones(23), divergence=divergence)
        with_teacher, without = ours(data, teacher=teacher), ours(data)
        assert distance(with_teacher[0], without[0]) < 1e-6
        assert distance(with_teacher[2], without[2]) < 1e-5


@pytest.mark.parametrize("divergence", ["forward", "reverse", "jsd"])
def test_entries_as_channels_hold_them_and_none_where_there_are_none(divergence):
    """int32 ids of which -1 is none, NaN for its log-probability, 16 bits, rows without any entry."""
    data = case(zero=0.0)
    wide = teacher_of(data, divergence=divergence)
    log_probs = wide.log_probs.half()
    log_probs[3] = float("nan")
    none = ~torch.isfinite(log_probs)
    stored = dataclasses.replace(
        wide, ids=wide.ids.int().masked_fill(none, -1), log_probs=log_probs.masked_fill(none, float("nan"))
    )
    stored.log_probs[1::2][none[1::2]] = -1.0  # either says it
    weights = torch.where(torch.arange(23) == 3, 0.0, wide.weights)
    log_probs = log_probs.float().masked_fill(none, -math.inf)
    plain = dataclasses.replace(wide, weights=weights, log_probs=log_probs)
    for a, b in zip(ours(data, teacher=stored), ours(data, teacher=plain), strict=True):
        if a.shape == (KINDS, len(Statistic)):  # the row without entries is counted where it has weight
            a, b = a[:, : Statistic.TEACHER_WEIGHT], b[:, : Statistic.TEACHER_WEIGHT]
        assert torch.equal(a, b)
    alone = dataclasses.replace(stored, weights=torch.where(torch.arange(23) == 3, 5.0, 0.0))
    label_only = ours(data)
    for at in (0, 2, 3):
        assert distance(ours(data, teacher=alone)[at], label_only[at]) < 1e-6


@pytest.mark.parametrize("divergence", ["forward", "reverse", "jsd"])
def test_with_every_token_listed_the_divergence_is_that_of_whole_distributions(divergence):
    data = case(n=9, v=60, zero=0.0)
    hidden, head, *_ = data
    logits = hidden @ head.t() + torch.randn(9, 60, generator=torch.Generator().manual_seed(3))
    log_q, ids = torch.log_softmax(logits.double(), 1).sort(1, descending=True)
    teacher = TeacherTopK(ids.int(), log_q.float(), torch.full((9,), 0.5), divergence=divergence)
    only = (*data[:4], torch.zeros(9), data[5])
    got = ours(only, teacher=teacher, active=None)
    x, w = hidden.double().requires_grad_(), head.double().requires_grad_()
    p, q = torch.log_softmax(x @ w.t(), 1), torch.log_softmax(logits.double(), 1)
    m = ((p.exp() + q.exp()) / 2).log()
    kl = {"forward": q.exp() * (q - p), "reverse": p.exp() * (p - q)}
    kl["jsd"] = (q.exp() * (q - m) + p.exp() * (p - m)) / 2
    loss = 0.5 * kl[divergence].sum()
    loss.backward()
    assert distance(got[0], loss.detach()) < 1e-6
    assert distance(got[2], x.grad) < 5e-6  # both tails count with 1e-6 where there are none
    assert distance(got[3], w.grad) < 5e-6


def test_a_row_of_no_teacher_weight_is_not_read():
    """Whatever stands in its entries; and one of neither weight gets no gradient, whatever its hidden state."""
    data = case()
    teacher = teacher_of(data)
    free = teacher.weights == 0
    odd = dataclasses.replace(teacher, log_probs=torch.where(free[:, None], 1e4, teacher.log_probs))  # exp: inf
    assert bool(free.any())
    for a, b in zip(ours(data, teacher=odd), ours(data, teacher=teacher), strict=True):
        assert torch.equal(a, b)
    weights = torch.where(torch.arange(23) % 2 == 0, 0.0, data[4])
    data = (data[0].nan_to_num(), *data[1:3], data[3].clamp(min=0), weights, data[5])
    either = (weights != 0) | (teacher.weights != 0)
    data[0][~either] = float("nan")
    assert bool((~either).any())
    got = ours(data, teacher=teacher, active=None)
    assert bool(torch.isfinite(got[0]))
    assert bool((got[2][~either.to(DEVICE)] == 0).all())


def test_a_function_does_not_see_rows_that_only_the_teacher_weighs():
    data, seen = case(), []
    data = (data[0].nan_to_num(), *data[1:])
    teacher = dataclasses.replace(teacher_of(data), weights=torch.ones(23))

    def doubled(nll, p, entropy):
        seen.append(nll)
        return torch.full_like(nll, 2.0)

    got = ours(data, teacher=teacher, dynamic=doubled, active=None)
    assert int(torch.cat(seen).isfinite().sum()) == int((data[4] != 0).sum()) < 23
    twice = ours((*data[:4], data[4] * 2, data[5]), teacher=teacher, active=None)
    for at in (0, 2, 3):
        assert distance(got[at], twice[at]) < EPSILON


def test_what_is_no_divergence_is_refused():
    more = torch.zeros(1, 1, dtype=torch.int32), torch.zeros(1, 1), torch.zeros(1)
    with pytest.raises(ValueError, match="divergence must be one of"):
        TeacherTopK(*more, divergence="backward")
    with pytest.raises(ValueError, match=r"beta must lie in \(0, 1\), not 1"):
        TeacherTopK(*more, divergence="jsd", beta=1.0)


@pytest.mark.parametrize("divergence", ["forward", "reverse", "jsd"])
@pytest.mark.parametrize("mass", [[1.0], [0.5 + 1e-7, 0.5 + 1e-7], [1.0, 0.0]])  # of its tokens; more than 1: rounded
def test_a_sure_teachers_tail_counts_with_the_least_probability(mass, divergence):
    data = case(n=3, v=50, zero=0.0, seed=2)
    hidden, head, *_ = data
    q = torch.tensor(mass, dtype=torch.float64).float()
    ids = torch.tensor([[7, 11][: len(mass)]] * 3)
    teacher = TeacherTopK(ids, q.log().expand(3, -1), torch.ones(3), divergence=divergence)
    got = ours(data, teacher=teacher)
    # by definition, with a tail of 1e-6, in fp64; the gradient of its divergence by autograd
    x = hidden.double().requires_grad_()
    log_p = torch.log_softmax(x @ head.double().t(), 1)
    at, q = log_p.gather(1, ids)[:, q > 0], q[q > 0].double()
    tail, floor = torch.log1p(-at.exp().sum(1)), torch.tensor(1e-6, dtype=torch.float64)
    if divergence == "jsd":
        listed = torch.cat([at, tail[:, None]], 1)
        term = torch.stack([jsd_of(torch.cat([q.log(), floor.log()[None]]), row, 0.5) for row in listed]).sum()
    elif divergence == "reverse":
        term = (at.exp() * (at - q.log())).sum() + (tail.exp() * (tail - floor.log())).sum()
    else:
        term = (q * (q.log() - at)).sum() + (floor * (floor.log() - tail)).sum()
    (term + (data[4].double() * -log_p.gather(1, data[3][:, None])[:, 0]).sum()).backward()
    wanted = naive(data, torch.float64)[0] + term.detach()
    assert distance(got[0], wanted) < 1e-5
    assert distance(got[2], x.grad) < 1e-4


@pytest.mark.parametrize("divergence", ["forward", "reverse", "jsd"])
def test_a_sure_student_of_a_sure_teacher_learns_no_nan(divergence):
    """Both are certain of the same token: nothing is left but 1e-6, which the tail adds to the teacher's mass."""
    data = case(n=2, v=9, zero=0.0)
    hidden, head = torch.eye(37)[:2] * 100, torch.zeros(9, 37)
    head[4, :2] = 10.0  # a logit of 1,000
    data = (hidden, head, data[2], torch.tensor([4, 4]), *data[4:])
    log_probs = torch.tensor([[0.0, float("-inf")]] * 2)
    got = ours(data, teacher=TeacherTopK(torch.tensor([[4, 0]] * 2), log_probs, torch.ones(2), divergence=divergence))
    assert float(got[0]) == 0.0
    assert float(got[2].abs().max()) < 1.1e-6 * 10
    assert float(got[3].abs().max()) < 1.1e-6 * 100


def test_the_call_that_the_docs_show():
    """docs/distillation.md, as it stands there."""
    data = case(zero=0.0)
    known = teacher_of(data, divergence="jsd")
    names = dict(zip(("hidden", "head", "", "targets", "w", "kinds"), data, strict=True))
    names |= {"ids": known.ids, "log_probs": known.log_probs, "weights": known.weights}
    exec(python_of("distillation.md", "TeacherTopK("), names)  # noqa: S102
    assert distance(names["loss"], naive(data, torch.float64, teacher=known)[0]) < 1e-6
    assert names["statistics"].shape == (8, len(Statistic))
