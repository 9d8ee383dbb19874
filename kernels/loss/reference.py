"""One chunk of logits in plain PyTorch: the CPU path, and what the Triton pass is compared with.

`chunk_pass` turns the logits of a chunk of rows, in place, into the gradient of the rows' losses with respect to
the logits as the matrix product left them, and writes down what it saw. The formulas stand in
`tracestill.kernels.loss.fused` and, for the teacher term, in `TeacherTopK`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tracestill.kernels.loss.options import TAIL_FLOOR, Divergence, RowOptions, Rows, Seen, multiplier

ENTROPY_BLOCK = 1 << 20
"""Elements of the scratch with which entropies are summed: 4 MiB in fp32, small beside any chunk."""

SHORT_CUT_LIMIT = 64.0
"""Largest |row maximum| at which entropy = nll - x.g is good to about 1e-5 nats in fp32."""


def chunk_pass(
    logits: Tensor,  # (C, V) fp32 or fp64, overwritten; holds the gradient afterwards if `gradient`
    rows: Rows,
    options: RowOptions,
    seen: Seen,
    *,
    gradient: bool,
    short_cut: bool,
) -> bool:
    """Fill `seen` and put the gradient in the place of the logits; True if it is already weighted.

    `short_cut` says that the caller will have x.g (a row's hidden state times its own unweighted gradient). From it
    entropy follows as nll - x.g, which saves a pass over V, and weights are cheaper applied to the rows of H
    elements: the pass then leaves entropy and factor open, does not weigh the gradient, and returns False. It
    declines where the short cut is wrong (bias, softcap, smoothing, z-loss, teacher) or inaccurate.
    """
    column = rows.targets.unsqueeze(1)
    slope = None
    if options.bias is not None:
        logits.add_(options.bias.to(logits.dtype))
    if options.logit_scale != 1.0:
        logits.mul_(options.logit_scale)
    if options.softcap is not None:
        logits.div_(options.softcap).tanh_()
        slope = 1 - logits.square() if gradient else None
        logits.mul_(options.softcap)

    target = logits.gather(1, column).squeeze(1)
    top = logits.amax(1)  # amax, not max(dim): finding the index costs more than the value
    torch.ge(target, top, out=seen.correct)
    if seen.top is not None:
        torch.argmax(logits, 1, out=seen.top)
    mean = logits.mean(1) if options.label_smoothing else None
    plain = options.bias is None and not (options.softcap or options.label_smoothing or options.z_loss)
    short_cut = short_cut and plain and rows.teacher_ids is None and bool(top.abs().amax() <= SHORT_CUT_LIMIT)
    listed = ids = at_teacher = None
    if rows.teacher_ids is not None:
        assert rows.teacher_log_probs is not None
        assert rows.teacher_weights is not None
        listed = torch.isfinite(rows.teacher_log_probs) & (rows.teacher_ids >= 0) & (rows.teacher_weights != 0)[:, None]
        ids = rows.teacher_ids.long().masked_fill_(~listed, 0)  # a copy of one chunk's
        at_teacher = logits.gather(1, ids)

    # The largest probability is 1 / sum exp(z - max) >= 1 / V: its logarithm is exact where that of the target's may
    # underflow. One softmax and one more maximum cost half of log_softmax and exp.
    p = torch.softmax(logits, 1, out=logits)
    log_sum = -p.amax(1).log()
    torch.add(top - target, log_sum, out=seen.nll)
    lse = top + log_sum
    seen.extra.zero_()
    if options.z_loss:
        seen.extra.addcmul_(lse, lse, value=options.z_loss)
    if mean is not None:
        seen.extra.add_(target - mean, alpha=options.label_smoothing)
    seen.divergence.zero_()
    if short_cut:
        p.scatter_(1, column, torch.expm1(-seen.nll).unsqueeze(1))  # exact where p is close to 1
        if options.logit_scale != 1.0:
            p.mul_(options.logit_scale)
        return False

    entropies(p, out=seen.entropy)
    if options.dynamic is None:
        seen.factor.fill_(1)
    else:
        seen.factor.copy_(multiplier(options.dynamic, seen, rows))
    weight = rows.weights * seen.factor
    share = weight * (1 + 2 * options.z_loss * lse) if options.z_loss else weight  # coefficient of p
    sparse = None
    if at_teacher is not None:
        assert listed is not None
        assert rows.teacher_log_probs is not None
        assert rows.teacher_weights is not None
        log_p, log_q = at_teacher - lse.unsqueeze(1), rows.teacher_log_probs.to(p.dtype)
        divergence, tail, sparse = teacher_term(log_p, log_q, listed, options.divergence, options.beta)
        seen.divergence.copy_(divergence)
        share = share + rows.teacher_weights * tail
        sparse = sparse * rows.teacher_weights.unsqueeze(1)
    if not gradient:
        return True
    if sparse is None and not options.label_smoothing and not options.z_loss:
        p.scatter_(1, column, torch.expm1(-seen.nll).unsqueeze(1)).mul_(share.unsqueeze(1))
    else:
        p.mul_(share.unsqueeze(1))
        if options.label_smoothing:
            p.sub_((weight * (options.label_smoothing / p.shape[1])).unsqueeze(1))
        p.scatter_add_(1, column, (weight * (options.label_smoothing - 1)).unsqueeze(1))
    if sparse is not None:
        assert ids is not None
        p.scatter_add_(1, ids, sparse)
    if slope is not None:
        p.mul_(slope)
    if options.logit_scale != 1.0:
        p.mul_(options.logit_scale)
    return True


def teacher_term(
    log_p: Tensor,  # (C, k) the student's
    log_q: Tensor,  # (C, k) the teacher's
    listed: Tensor,  # (C, k) bool: where there is an entry
    divergence: Divergence,
    beta: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Divergence D (C,), its gradient's coefficient of p (C,), and what the k logits' gradients have beyond it (C, k).

    With P, Q the sums of p, q over the k tokens and t = 1 - P, r = 1 - Q the tails, the gradient of a logit j is
        forward  (Q + r) p_j - q_j        for one of the k, and p_j (Q + r - r / t) in the tail
        reverse  p_j (log(p_j / q_j) - D) for one of the k, and p_j (log(t / r) - D) in the tail
        jsd      (1 - beta) p_j (log(p_j / m_j) - E), and (1 - beta) p_j (log(t / s) - E) in the tail, with
                 s = beta r + (1 - beta) t and E = KL(p || m).
    """
    q = torch.where(listed, log_q.exp(), 0.0)
    p = torch.where(listed, log_p.exp(), 0.0)
    t = (1 - p.sum(1)).clamp_(min=TAIL_FLOOR)
    r = (1 - q.sum(1)).clamp_(min=TAIL_FLOOR)
    ratio = torch.where(listed & (p > 0), log_p - log_q, 0.0)  # log(p / q)
    tail_ratio = (t / r).log()
    if divergence == "reverse":
        found = (p * ratio).sum(1) + t * tail_ratio
        return found, tail_ratio - found, p * (ratio - tail_ratio.unsqueeze(1))
    if divergence == "jsd":
        log_m = (beta * q + (1 - beta) * p).log()
        tail_m = (beta * r + (1 - beta) * t).log()
        ratio = torch.where(listed & (p > 0), log_p - log_m, 0.0)  # log(p / m)
        surprise = torch.where(listed & (q > 0), log_q - log_m, 0.0)
        tail_ratio = t.log() - tail_m
        of_p = (p * ratio).sum(1) + t * tail_ratio
        of_q = (q * surprise).sum(1) + r * (r.log() - tail_m)
        sparse = (1 - beta) * p * (ratio - tail_ratio.unsqueeze(1))
        return beta * of_q + (1 - beta) * of_p, (1 - beta) * (tail_ratio - of_p), sparse
    surprise = torch.where(listed & (q > 0), log_q - log_p, 0.0)
    found = (q * surprise).sum(1) - r * tail_ratio
    return found, q.sum(1) + r - r / t, p * (r / t).unsqueeze(1) - q


def entropies(p: Tensor, *, out: Tensor) -> None:
    """-sum p log p of each row, with 0 log 0 = 0.  (C, V) -> (C,), a block of rows at a time to save memory."""
    rows = max(1, ENTROPY_BLOCK // p.shape[1])
    for block, sums in zip(p.split(rows), out.split(rows), strict=True):
        torch.sum(torch.special.entr(block), 1, out=sums)
