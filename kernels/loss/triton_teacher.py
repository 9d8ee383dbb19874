"""The teacher's term of a row in the Triton pass: what `tracestill.kernels.loss.reference.teacher_term` computes."""

from __future__ import annotations

import triton
import triton.language as tl

from tracestill.kernels.loss.options import TAIL_FLOOR

REVERSE, JSD = tl.constexpr(1), tl.constexpr(2)  # 0: forward
FORMS = {"forward": 0, "reverse": REVERSE.value, "jsd": JSD.value}
FLOOR = tl.constexpr(TAIL_FLOOR)


@triton.jit
def teacher_term(
    p_k,  # (K_BLOCK,) the student's probabilities, 0 where there is no entry
    log_p,
    q_k,  # the teacher's, alike
    log_q,
    DIVERGENCE: tl.constexpr,
    BETA: tl.constexpr,
):
    """Divergence, its gradient's coefficient of p, and what the k logits' gradients have beyond that (K_BLOCK,)."""
    tail_p = tl.maximum(1.0 - tl.sum(p_k), FLOOR)
    tail_q = tl.maximum(1.0 - tl.sum(q_k), FLOOR)
    tail_ratio = tl.log(tail_p / tail_q)
    if DIVERGENCE == REVERSE:
        ratio = tl.where(p_k > 0.0, log_p - log_q, 0.0)
        divergence = tl.sum(p_k * ratio) + tail_p * tail_ratio
        tail = tail_ratio - divergence
        sparse = p_k * (ratio - tail_ratio)
    elif DIVERGENCE == JSD:
        log_m = tl.log(BETA * q_k + (1.0 - BETA) * p_k)
        tail_m = tl.log(BETA * tail_q + (1.0 - BETA) * tail_p)
        ratio = tl.where(p_k > 0.0, log_p - log_m, 0.0)
        surprise = tl.where(q_k > 0.0, log_q - log_m, 0.0)
        tail_ratio = tl.log(tail_p) - tail_m
        of_p = tl.sum(p_k * ratio) + tail_p * tail_ratio
        of_q = tl.sum(q_k * surprise) + tail_q * (tl.log(tail_q) - tail_m)
        divergence = BETA * of_q + (1.0 - BETA) * of_p
        tail = (1.0 - BETA) * (tail_ratio - of_p)
        sparse = (1.0 - BETA) * (p_k * (ratio - tail_ratio))
    else:
        surprise = tl.where(q_k > 0.0, log_q - log_p, 0.0)
        divergence = tl.sum(q_k * surprise) - tail_q * tail_ratio
        tail = tl.sum(q_k) + tail_q - tail_q / tail_p
        sparse = p_k * (tail_q / tail_p) - q_k
    return divergence, tail, sparse
