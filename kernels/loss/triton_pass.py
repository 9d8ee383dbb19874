"""One chunk of logits in one Triton pass, in place: statistics of every row, and the gradient where the logits were.

One program takes one row. It reads the row once for the maximum, the sum of exponentials and the entropy, and a
second time, now from the cache, to write the gradient. Launched with so many warps that a multiprocessor holds one
program, the rows in flight on all of them stay in an H100's or H200's 50 MB of L2 up to V = 190,000 in bf16.

Exponentials are taken of z - max, never of z - lse: the latter loses two digits at logits of standard deviation 30,
and its entropy is NaN at a logit of -inf. Formulas: `tracestill.kernels.loss.fused`; what this pass
computes is `tracestill.kernels.loss.reference.chunk_pass`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tracestill.kernels.loss.options import (
    TAIL_FLOOR,
    Excess,
    Focal,
    Multiplier,
    PowerOfP,
    RowOptions,
    Rows,
    Seen,
    multiplier,
)

NONE, POWER, FOCAL = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)  # forms of `dynamic`
EXCESS, GIVEN = tl.constexpr(3), tl.constexpr(4)

BLOCK, SMALL_BLOCK = 16384, 8192
"""Elements of a row at a time; the small ones with a softcap or a teacher, so that no register spills (tests look)."""

LAUNCH_OPTIONS = {
    "num_warps": 16 if torch.version.hip else 32,  # 1,024 threads
    "num_stages": 1,
    "enable_fp_fusion": False,
}


@triton.jit
def tanh(u):
    """tanh in fp32, near 0 by its series: 1 - 2 / (exp(2u) + 1) has lost its digits there."""
    square = u * u
    series = u * (1.0 + square * (-1.0 / 3 + square * (2.0 / 15 - square * (17.0 / 315))))
    return tl.where(tl.abs(u) < 0.25, series, 1.0 - 2.0 / (tl.exp(2.0 * u) + 1.0))


@triton.jit
def final(z, bias, logit_scale, softcap, HAS_BIAS: tl.constexpr, HAS_SCALE: tl.constexpr, HAS_CAP: tl.constexpr):
    """A logit as the softmax sees it: bias added, scaled, capped."""
    if HAS_BIAS:
        z += bias
    if HAS_SCALE:
        z *= logit_scale
    if HAS_CAP:
        z = softcap * tanh(z / softcap)
    return z


# Arguments of which single values are read or written: their alignment changes with the number of rows, and must not
# make Triton compile again.
ROW_ARGUMENTS = [
    "targets",
    "weights",
    "reference_nll",
    "teacher_ids",
    "teacher_log_probs",
    "teacher_weights",
    "multiplied",
    "nll_out",
    "correct_out",
    "entropy_out",
    "extra_out",
    "factor_out",
    "divergence_out",
    "top_out",
]


@triton.jit(do_not_specialize_on_alignment=ROW_ARGUMENTS)
def chunk_kernel(
    logits,  # (C, V), rows `stride` elements apart; read and overwritten
    targets,  # (C,) int64
    weights,  # (C,) fp32
    bias,  # (V,); unread unless HAS_BIAS
    reference_nll,  # (C,); unread unless DYNAMIC is EXCESS
    teacher_ids,  # (C, K) int64; this and the next two unread unless K
    teacher_log_probs,  # (C, K)
    teacher_weights,  # (C,) fp32
    multiplied,  # (C,) uint8; unread unless BY_KIND
    nll_out,  # (C,) fp32, like the next five
    correct_out,
    entropy_out,
    extra_out,
    factor_out,  # read if DYNAMIC is GIVEN, else written
    divergence_out,
    top_out,  # (C,) int64; unwritten unless TOP
    stride,
    vocabulary,
    logit_scale,
    softcap,
    label_smoothing,
    z_loss,
    parameter,  # of the multiplier: exponent, gamma or threshold
    tail_floor,
    GRADIENT: tl.constexpr,
    DYNAMIC: tl.constexpr,
    BY_KIND: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_SCALE: tl.constexpr,
    HAS_CAP: tl.constexpr,
    HAS_SMOOTHING: tl.constexpr,
    HAS_Z_LOSS: tl.constexpr,
    K: tl.constexpr,  # entries of the teacher a row, 0: no teacher
    K_BLOCK: tl.constexpr,  # power of two >= K
    REVERSE: tl.constexpr,
    TOP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    start = logits + row * stride
    lane = tl.arange(0, BLOCK)

    # First read: maximum m, sum s of exp(z - m), sum t of exp(z - m) (z - m), all rescaled as m grows.
    m = float("-inf")
    s = 0.0
    t = 0.0
    total = 0.0
    top = 0
    for first in range(0, vocabulary, BLOCK):
        at = first + lane
        # Loads up to the stride, which 16 divides, keep their vector width where V is odd.
        z = tl.load(start + at, mask=at < stride, other=0.0).to(tl.float32)
        inside = at < vocabulary
        b = 0.0
        if HAS_BIAS:
            b = tl.load(bias + at, mask=inside, other=0.0).to(tl.float32)
        z = final(z, b, logit_scale, softcap, HAS_BIAS, HAS_SCALE, HAS_CAP)
        if HAS_SMOOTHING:
            total += tl.sum(tl.where(inside, z, 0.0))
        z = tl.where(inside, z, float("-inf"))
        block_max = tl.max(z)
        if TOP:
            highest = tl.min(tl.where(z == block_max, at, vocabulary))
            top = tl.where(block_max > m, highest, top)
        m_new = tl.maximum(m, block_max)
        shift = tl.where(m_new == float("-inf"), 0.0, m_new)
        e = tl.exp(z - shift)
        d = tl.where(e > 0.0, e * (z - shift), 0.0)
        fade = tl.exp(m - shift)
        t = fade * (t + tl.where(s > 0.0, s * (m - shift), 0.0)) + tl.sum(d)
        s = fade * s + tl.sum(e)
        m = m_new

    target = tl.load(targets + row)
    z_t = tl.load(start + target).to(tl.float32)
    b_t = 0.0
    if HAS_BIAS:
        b_t = tl.load(bias + target).to(tl.float32)
    z_t = final(z_t, b_t, logit_scale, softcap, HAS_BIAS, HAS_SCALE, HAS_CAP)
    log_s = tl.log(s)
    nll = (m - z_t) + log_s
    entropy = log_s - t / s
    lse = m + log_s
    tl.store(nll_out + row, nll)
    tl.store(correct_out + row, tl.where(z_t >= m, 1.0, 0.0))
    tl.store(entropy_out + row, entropy)
    if TOP:
        tl.store(top_out + row, top)
    extra = 0.0
    if HAS_SMOOTHING:
        extra += label_smoothing * (z_t - total / vocabulary)
    if HAS_Z_LOSS:
        extra += z_loss * lse * lse
    tl.store(extra_out + row, extra)

    e_t = tl.exp(z_t - m)
    p_t = e_t / s
    missed = (s - e_t) / s  # 1 - p_t to about 1e-7, without rounding p_t first
    factor = 1.0
    if DYNAMIC == POWER:
        factor = tl.exp(-parameter * nll)
    elif DYNAMIC == FOCAL:
        power = tl.exp(parameter * tl.log(missed))
        factor = tl.where(missed > 0.0, power, tl.where(parameter > 0.0, 0.0, 1.0))
    elif DYNAMIC == EXCESS:
        factor = tl.where(nll - tl.load(reference_nll + row).to(tl.float32) > parameter, 1.0, 0.0)
    if BY_KIND:
        factor = tl.where(tl.load(multiplied + row) != 0, factor, 1.0)
    if DYNAMIC == GIVEN:
        factor = tl.load(factor_out + row)
    else:
        tl.store(factor_out + row, factor)
    weight = tl.load(weights + row) * factor
    share = weight  # the gradient is share * p, but for the target and the teacher's tokens
    if HAS_Z_LOSS:
        share += weight * (2.0 * z_loss * lse)

    divergence = 0.0
    if K > 0:
        k = tl.arange(0, K_BLOCK)
        id_k = tl.load(teacher_ids + row * K + k, mask=k < K, other=0)
        log_q = tl.load(teacher_log_probs + row * K + k, mask=k < K, other=float("-inf")).to(tl.float32)
        listed = log_q > float("-inf")
        z_k = tl.load(start + id_k, mask=listed, other=0.0).to(tl.float32)
        b_k = 0.0
        if HAS_BIAS:
            b_k = tl.load(bias + id_k, mask=listed, other=0.0).to(tl.float32)
        z_k = final(z_k, b_k, logit_scale, softcap, HAS_BIAS, HAS_SCALE, HAS_CAP)
        p_k = tl.where(listed, tl.exp(z_k - m) / s, 0.0)
        q_k = tl.where(listed, tl.exp(log_q), 0.0)
        log_p = (z_k - m) - log_s
        tail_p = tl.maximum(1.0 - tl.sum(p_k), tail_floor)
        tail_q = tl.maximum(1.0 - tl.sum(q_k), tail_floor)
        tail_ratio = tl.log(tail_p / tail_q)
        v = tl.load(teacher_weights + row)
        if REVERSE:
            ratio = tl.where(listed & (p_k > 0.0), log_p - log_q, 0.0)
            divergence = tl.sum(p_k * ratio) + tail_p * tail_ratio
            share += v * (tail_ratio - divergence)
            sparse = v * (p_k * (ratio - tail_ratio))
        else:
            surprise = tl.where(listed & (q_k > 0.0), log_q - log_p, 0.0)
            divergence = tl.sum(q_k * surprise) - tail_q * tail_ratio
            share += v * (tl.sum(q_k) + tail_q - tail_q / tail_p)
            sparse = v * (p_k * (tail_q / tail_p) - q_k)
    tl.store(divergence_out + row, divergence)

    if GRADIENT:
        tl.debug_barrier()  # every thread has read the logits of the target and of the teacher's tokens
        share_s = share / s
        flat = weight * label_smoothing / vocabulary
        hit = (share - weight) * p_t - weight * missed
        if HAS_SMOOTHING:
            hit += weight * label_smoothing - flat
        for first in range(0, vocabulary, BLOCK):
            at = first + lane
            z = tl.load(start + at, mask=at < stride, other=0.0).to(tl.float32)
            inside = at < vocabulary
            b = 0.0
            if HAS_BIAS:
                b = tl.load(bias + at, mask=inside, other=0.0).to(tl.float32)
            z = final(z, b, logit_scale, softcap, HAS_BIAS, HAS_SCALE, HAS_CAP)
            g = share_s * tl.exp(z - m)
            if HAS_SMOOTHING:
                g -= flat
            g = tl.where(at == target, hit, g)
            if HAS_CAP:
                g *= 1.0 - (z / softcap) * (z / softcap)
            if HAS_SCALE:
                g *= logit_scale
            g = tl.where(inside, g, 0.0)
            tl.store(start + at, g.to(logits.dtype.element_ty), mask=at < stride)
        if K > 0:
            tl.debug_barrier()  # what follows overwrites what other threads of this program just wrote
            g_k = share * p_k
            if HAS_SMOOTHING:
                g_k -= flat
            g_k = tl.where(id_k == target, hit, g_k) + sparse
            if HAS_CAP:
                g_k *= 1.0 - (z_k / softcap) * (z_k / softcap)
            if HAS_SCALE:
                g_k *= logit_scale
            tl.store(start + id_k, g_k.to(logits.dtype.element_ty), mask=listed)


def runs_on(hidden: Tensor) -> bool:
    """Whether the pass can run on these hidden states: on a GPU, or anywhere under Triton's interpreter in fp32."""
    if triton.knobs.runtime.interpret:
        return hidden.dtype == torch.float32  # the interpreter mishandles bf16
    return hidden.is_cuda and hidden.dtype in (torch.bfloat16, torch.float16, torch.float32)


def built_in(dynamic: Multiplier | None) -> tuple[int, float]:
    """Form and parameter by which the kernel knows a multiplier; GIVEN if it does not."""
    match dynamic:
        case None:
            return NONE.value, 0.0
        case PowerOfP(exponent):
            return POWER.value, exponent
        case Focal(gamma):
            return FOCAL.value, gamma
        case Excess(threshold):
            return EXCESS.value, threshold
    return GIVEN.value, 0.0


def chunk_pass(
    logits: Tensor,  # (C, V), rows a multiple of 16 elements apart; overwritten
    rows: Rows,
    options: RowOptions,
    seen: Seen,
    *,
    gradient: bool,
    short_cut: bool,
) -> bool:
    """Fill `seen` and put the weighted gradient in the place of the logits. `short_cut` is not needed here."""
    form, parameter = built_in(options.dynamic)
    if form != GIVEN.value:
        _launch(logits, rows, options, seen, gradient, form, parameter)
        return True
    assert options.dynamic is not None
    _launch(logits, rows, options, seen, False, NONE.value, parameter)
    seen.factor.copy_(multiplier(options.dynamic, seen, rows))
    if gradient:
        _launch(logits, rows, options, seen, True, form, parameter)
    return True


def _launch(
    logits: Tensor,
    rows: Rows,
    options: RowOptions,
    seen: Seen,
    gradient: bool,
    form: int,
    parameter: float,
) -> None:
    unread = logits  # any pointer, where an option is off
    k = 0 if rows.teacher_ids is None else rows.teacher_ids.shape[1]
    block = BLOCK if options.softcap is None and not k else SMALL_BLOCK
    if triton.knobs.runtime.interpret:  # which reads a whole block however few its elements inside
        block = min(block, triton.next_power_of_2(-(-logits.shape[1] // 3)))
    chunk_kernel[(logits.shape[0],)](
        logits,
        rows.targets,
        rows.weights,
        unread if options.bias is None else options.bias,
        unread if rows.reference_nll is None else rows.reference_nll,
        unread if rows.teacher_ids is None else rows.teacher_ids.contiguous(),
        unread if rows.teacher_log_probs is None else rows.teacher_log_probs.contiguous(),
        unread if rows.teacher_weights is None else rows.teacher_weights,
        unread if rows.multiplied is None else rows.multiplied.view(torch.uint8),
        *seen[:-1],
        unread if seen.top is None else seen.top,
        logits.stride(0),
        logits.shape[1],
        options.logit_scale,
        1.0 if options.softcap is None else options.softcap,
        options.label_smoothing,
        options.z_loss,
        parameter,
        TAIL_FLOOR,
        GRADIENT=gradient,
        DYNAMIC=form,
        BY_KIND=rows.multiplied is not None,
        HAS_BIAS=options.bias is not None,
        HAS_SCALE=options.logit_scale != 1.0,
        HAS_CAP=options.softcap is not None,
        HAS_SMOOTHING=options.label_smoothing > 0,
        HAS_Z_LOSS=options.z_loss > 0,
        K=k,
        K_BLOCK=triton.next_power_of_2(max(k, 1)),
        REVERSE=options.reverse,
        TOP=seen.top is not None,
        BLOCK=block,
        **LAUNCH_OPTIONS,
    )
