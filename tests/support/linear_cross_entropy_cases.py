"""Inputs for tests of linear_cross_entropy, the plain float64 computation, and the comparison of the two.

TEST_BACKEND and TEST_DEVICE choose what is compared: the reference path on the CPU, or the Triton pass.
"""

import dataclasses
import math
import os

import torch
import torch.nn.functional as F

from tracestill.kernels.loss import (
    Statistic,
    TeacherTopK,
    linear_cross_entropy,
)

BACKEND = os.environ.get("TEST_BACKEND", "reference")
DEVICE = os.environ.get("TEST_DEVICE", "cpu")
KINDS = 5
EPSILON = 5e-7
"""In fp32: error (relative, by norm) allowed beyond that of the plain fp32 computation."""


def case(n=23, h=37, v=401, *, seed=0, spread=1.0, zero=0.4):
    """Hidden states, head, bias, targets, weights, kinds. Rows of zero weight hold NaN and a target of -100."""
    g = torch.Generator().manual_seed(seed)
    hidden = torch.randn(n, h, generator=g) * spread
    head = torch.randn(v, h, generator=g) / h**0.5 * 3
    bias = torch.randn(v, generator=g)
    targets = torch.randint(0, v, (n,), generator=g)
    targets[::2] = (hidden @ head.t()).argmax(1)[::2]  # some are right
    weights = torch.rand(n, generator=g) * 2 + 0.01
    masked = torch.rand(n, generator=g) < zero
    weights[masked], targets[masked], hidden[masked] = 0, -100, float("nan")
    kinds = torch.randint(0, KINDS, (n,), generator=g, dtype=torch.uint8)
    return hidden, head, bias, targets, weights, kinds


BY_KIND = torch.tensor([0.5, 0.0, 2.0, 1.0, 0.1])
"""The teacher's weights: kind 1 has none."""


def teacher_of(data, *, k=6, divergence="forward", **more):
    hidden, head, *_ = data
    g = torch.Generator().manual_seed(1)
    logits = hidden.nan_to_num() @ head.t() + torch.randn(len(hidden), len(head), generator=g)
    log_probs, ids = torch.log_softmax(logits, 1).topk(k)
    log_probs[1::4, k // 2 :] = float("-inf")  # rows with fewer entries
    ids[1::4, k // 2 :] = ids[1::4, :1]  # and with ids that name a listed token again
    return TeacherTopK(ids, log_probs, BY_KIND[data[5].long()], divergence=divergence, **more)


def naive(data, dtype, *, upstream=1.0, scale=1.0, use_bias=False, products=None, device="cpu", **options):
    """Loss, statistics and gradients by autograd over all logits at once."""
    hidden, head, bias, targets, weights, kinds = (t.to(device) for t in data)
    rows = (weights != 0).nonzero().squeeze(1)
    leaves = [t.detach().clone().to(dtype).requires_grad_() for t in (hidden, head, bias)]
    leaves[0] = hidden.nan_to_num().to(dtype).requires_grad_()
    z = (F.linear(leaves[0][rows], leaves[1], leaves[2] if use_bias else None)).to(products or dtype)
    z = z * options.get("logit_scale", 1.0)
    if options.get("softcap"):
        z = options["softcap"] * torch.tanh(z / options["softcap"])
    log_p = torch.log_softmax(z, 1)
    t, w, k = targets[rows], weights[rows].to(z.dtype), kinds[rows].long()
    nll = F.nll_loss(log_p, t, reduction="none")
    smoothing = options.get("label_smoothing", 0.0)
    loss = (1 - smoothing) * nll - smoothing * log_p.mean(1) if smoothing else nll
    if options.get("z_loss"):
        loss = loss + options["z_loss"] * torch.logsumexp(z, 1) ** 2
    entropy = torch.special.entr(log_p.exp()).sum(1)
    factor = torch.ones_like(nll)
    if options.get("dynamic") is not None:
        reference = options.get("reference_nll")
        more = () if reference is None else (reference.to(device)[rows].to(z.dtype),)
        factor = options["dynamic"](nll.detach(), torch.exp(-nll.detach()), entropy.detach(), *more)
        if options.get("dynamic_kinds") is not None:
            factor = torch.where(options["dynamic_kinds"].to(device)[k], factor, 1.0)
    c = scale[k].to(z.dtype) if isinstance(scale, torch.Tensor) and scale.dim() else scale
    total = (w * c * factor * loss).sum()
    of_teacher = torch.zeros(4, len(w), dtype=z.dtype, device=device)
    if (teacher := options.get("teacher")) is not None:
        d = teacher.scale.to(device)[k].to(z.dtype) if isinstance(teacher.scale, torch.Tensor) else teacher.scale
        v = teacher.weights.to(device)[rows].to(z.dtype)
        v = d * v
        each = torch.where(v != 0, divergences(log_p, teacher, rows), 0)
        total = total + (v * each).sum()
        of_teacher = torch.stack([v, v * each, (v != 0).to(z.dtype), each])
    (total * upstream).backward()
    correct = (z.gather(1, t[:, None])[:, 0] >= z.amax(1)).to(z.dtype)
    columns = torch.stack([w * c, w * c * factor * nll, torch.ones_like(w), nll, correct, entropy, *of_teacher], 1)
    statistics = torch.zeros(KINDS, len(Statistic), dtype=z.dtype, device=device).index_add_(0, k, columns.detach())
    grads = [leaf.grad for leaf in leaves[: 2 + use_bias]]
    return [total.detach(), statistics, *grads]


def divergences(log_p, teacher, rows):
    """The teacher term by definition: a divergence of two distributions over the k tokens and the rest."""
    result = []
    for i, row in enumerate(rows.tolist()):
        log_q = teacher.log_probs[row].to(log_p)
        ids = teacher.ids[row].to(log_p.device).long()[torch.isfinite(log_q)]
        log_q = log_q[torch.isfinite(log_q)]
        rest = torch.ones(log_p.shape[1], dtype=torch.bool, device=log_p.device).index_fill_(0, ids, False)
        p = torch.cat([log_p[i, ids], torch.logsumexp(log_p[i, rest], 0, keepdim=True)])
        q = torch.cat([log_q, torch.log1p(-log_q.exp().sum()).unsqueeze(0)])
        kl = {"reverse": lambda p=p, q=q: kl_of(p, q), "forward": lambda p=p, q=q: kl_of(q, p)}
        kl["jsd"] = lambda p=p, q=q: jsd_of(q, p, teacher.beta)
        result.append(kl[teacher.divergence]())
    return torch.stack(result)


def kl_of(a, b):
    """KL(a || b) of logarithms."""
    return F.kl_div(b, a, log_target=True, reduction="sum")


def jsd_of(q, p, beta):
    m = torch.logaddexp(q + math.log(beta), p + math.log(1 - beta))
    return beta * kl_of(q, m) + (1 - beta) * kl_of(p, m)


def ours(data, *, dtype=torch.float32, upstream=1.0, use_bias=False, chunk_rows=7, backend=BACKEND, **options):
    hidden, head, bias, targets, weights, kinds = (t.to(DEVICE) for t in data)
    if (teacher := options.get("teacher")) is not None:
        moved = {name: getattr(teacher, name).to(DEVICE) for name in ("ids", "log_probs", "weights")}
        options["teacher"] = dataclasses.replace(teacher, **moved)
    for name in ("reference_nll", "dynamic_kinds", "scale"):
        if isinstance(options.get(name), torch.Tensor):
            options[name] = options[name].to(DEVICE)
    if (teacher is not None or BACKEND == "triton") and "active" not in options:
        options["active"] = (weights != 0).nonzero().squeeze(1)
    leaves = [t.detach().clone().to(dtype).requires_grad_() for t in (hidden, head, bias)]
    loss, statistics = linear_cross_entropy(
        leaves[0],
        leaves[1],
        targets,
        weights,
        kinds,
        num_kinds=KINDS,
        bias=leaves[2] if use_bias else None,
        chunk_rows=chunk_rows,
        backend=backend,
        **options,
    )
    (loss * upstream).backward()
    assert not statistics.requires_grad
    assert statistics.dtype == torch.float32
    return [loss.detach(), statistics, *(leaf.grad for leaf in leaves[: 2 + use_bias])]


def distance(a, b):
    """||a - b|| / ||b||, or the absolute distance from zero."""
    a, b = a.double().cpu(), b.double().cpu()
    return float((a - b).norm() / b.norm()) if b.norm() > 0 else float(a.norm())


def compare(data, epsilon=EPSILON, dtype=torch.float32, **options):
    """Each of loss, statistics and gradients: error against fp64 at most the naive computation's plus epsilon."""
    got = ours(data, dtype=dtype, **options)
    exact = naive(data, torch.float64, **options)
    plain = naive(data, dtype, products=torch.float32, device=DEVICE, **options)
    names = ("loss", "statistics", "d_hidden", "d_weight", "d_bias")
    for name, ours_, exact_, plain_ in zip(names, got, exact, plain, strict=False):
        assert ours_.shape == exact_.shape, name
        assert distance(ours_, exact_) <= distance(plain_, exact_) + epsilon, name
    # Statistics column by column, a small one must not hide behind a large one; nll ends at fp32's 1e-7 nats a row,
    # and the entropy that the CPU's short cut finds at 1e-5.
    count = exact[1][:, 2].cpu()
    for column in Statistic:
        error = (got[1][:, column].cpu() - exact[1][:, column].cpu()).abs()
        nats = {Statistic.ENTROPY: 1e-5, Statistic.NLL: 2e-7, Statistic.WEIGHTED_NLL: 4e-7}
        nats |= {Statistic.DIVERGENCE: 2e-7, Statistic.WEIGHTED_DIVERGENCE: 4e-7}
        nats = nats.get(column, 0.0)
        assert (error <= 4 * epsilon * exact[1][:, column].norm().cpu() + nats * count).all(), column.name
    return got
