"""One chunk of logits in one Triton pass, in place: statistics of every row, and the gradient where the logits were.

One program takes one row. It reads the row once for the maximum, the sum of exponentials and the entropy, and a
second time, now from the cache, to write the gradient. Launched with so many warps that a multiprocessor holds one
program, the rows in flight on all of them stay in an H100's or H200's 50 MB of L2 up to V = 190,000 in bf16.

Memory should be what the pass waits for, so that it has to spend few instructions: every lane of a block (`LANES` rows
of `VEC` neighbours, 16 bytes of bf16) keeps an online softmax of its own, in powers of two, and lanes meet once, after
the loop. No barrier stands in a loop, and the next block is under way while one is worked on. The target and the
teacher's tokens are written over at the end.

Exponentials are taken of z - max, never of z - lse: the latter loses two digits at logits of standard deviation 30,
and its entropy is NaN at a logit of -inf. A lane's maximum times log2(e) is rounded, but alike wherever it is taken
off, so that it cancels. Formulas: `tracestill.kernels.loss.fused`; what this pass computes is
`tracestill.kernels.loss.reference.chunk_pass`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tracestill.kernels.loss.options import (
    Excess,
    Focal,
    Multiplier,
    PowerOfP,
    RowOptions,
    Rows,
    Seen,
    multiplier,
)
from tracestill.kernels.loss.triton_teacher import FORMS, teacher_term

NONE, POWER, FOCAL = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)  # forms of `dynamic`
EXCESS, GIVEN = tl.constexpr(3), tl.constexpr(4)

LANES, VEC = 2048, 8
"""A block of a row: lanes of neighbours that are read at once, two lanes a thread, so that a thread takes more than 32
registers, and a multiprocessor holds one program."""

LOG2E, LN2 = tl.constexpr(1.4426950408889634), tl.constexpr(0.6931471805599453)
LOWEST = tl.constexpr(-2e38)  # stands for a maximum of -inf: times log2(e) it is still finite
FAR = tl.constexpr(-200.0)  # a power of two that is 0 in fp32

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


@triton.jit
def sloped(g, z, logit_scale, softcap, HAS_SCALE: tl.constexpr, HAS_CAP: tl.constexpr):
    """The gradient of a logit as the product left it, from that of `final`'s z."""
    if HAS_CAP:
        g *= 1.0 - (z / softcap) * (z / softcap)
    if HAS_SCALE:
        g *= logit_scale
    return g


@triton.jit
def distance(z, base):
    """(LANES, VEC) powers of two: z log2(e) - base, rounded once."""
    return tl.fma(z, tl.full(z.shape, LOG2E, tl.float32), tl.zeros(z.shape, tl.float32) - base)


# Arguments of which single values are read or written: their alignment changes with the number of rows, and must not
# make Triton compile again.
ROW_ARGUMENTS = [
    "targets", "weights", "reference_nll", "teacher_ids", "teacher_log_probs", "teacher_weights", "multiplied",
    "nll_out", "correct_out", "entropy_out", "extra_out", "factor_out", "divergence_out", "top_out",
]  # fmt: skip


@triton.jit(do_not_specialize_on_alignment=ROW_ARGUMENTS)
def chunk_kernel(
    logits,  # (C, V), rows `stride` elements apart; read and overwritten
    targets,  # (C,) int64
    weights,  # (C,) fp32
    bias,  # (V,); unread unless HAS_BIAS
    reference_nll,  # (C,); unread unless DYNAMIC is EXCESS
    teacher_ids,  # (C, K) int32 or int64; this and the next two unread unless K
    teacher_log_probs,  # (C, K) of any floating type
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
    DIVERGENCE: tl.constexpr,  # unread unless K, like the next
    BETA: tl.constexpr,  # a constant, since registers are scarce
    TOP: tl.constexpr,
    TAIL: tl.constexpr,  # whether rows are longer than V
    LANES: tl.constexpr,
    VEC: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    start = logits + row * stride
    BLOCK: tl.constexpr = LANES * VEC
    lane = tl.arange(0, LANES)[:, None] * VEC + tl.arange(0, VEC)[None, :]

    # First read, by lane: maximum m, sum s of 2^d and sum t of 2^d d, where d = (z - m) log2(e), as m grows.
    m = tl.full([LANES], float("-inf"), tl.float32)
    s_lane = tl.zeros([LANES], tl.float32)
    t_lane = tl.zeros([LANES], tl.float32)
    total = tl.zeros([LANES], tl.float32)
    first_top = tl.zeros([LANES], tl.int32)
    # Loads up to the stride, which 16 divides, keep their vector width where V is odd.
    ahead = tl.load(start + lane, mask=lane < stride, other=float("-inf"))
    for first in range(0, vocabulary, BLOCK):
        at = first + lane
        z = ahead.to(tl.float32)
        ahead = tl.load(start + at + BLOCK, mask=at < stride - BLOCK, other=float("-inf"))
        b = 0.0
        if HAS_BIAS:
            b = tl.load(bias + at, mask=at < vocabulary, other=0.0).to(tl.float32)
        z = final(z, b, logit_scale, softcap, HAS_BIAS, HAS_SCALE, HAS_CAP)
        if HAS_SMOOTHING:
            total += tl.sum(tl.where(at < vocabulary, z, 0.0), 1)
        if TAIL or HAS_SCALE or HAS_CAP:
            z = tl.where(at < vocabulary, z, float("-inf"))
        block_max = tl.max(z, 1)
        if TOP:
            highest = tl.min(tl.where(z == block_max[:, None], at, vocabulary), 1)
            first_top = tl.where(block_max > m, highest, first_top)
        m_new = tl.maximum(m, block_max)
        new = tl.maximum(m_new, LOWEST) * LOG2E
        d = distance(z, new[:, None])
        e = tl.exp2(d)
        shift = tl.maximum(tl.maximum(m, LOWEST) * LOG2E - new, FAR)
        fade = tl.exp2(shift)
        t_lane = fade * (t_lane + s_lane * shift) + tl.sum(e * tl.maximum(d, FAR), 1)
        s_lane = fade * s_lane + tl.sum(e, 1)
        m = m_new

    highest_logit = tl.max(m)
    base = tl.maximum(highest_logit, LOWEST) * LOG2E
    shift = tl.maximum(tl.maximum(m, LOWEST) * LOG2E - base, FAR)
    fade = tl.exp2(shift)
    t = tl.sum(fade * (t_lane + s_lane * shift))
    s = tl.sum(fade * s_lane)

    target = tl.load(targets + row)
    known = (target >= 0) & (target < vocabulary)  # else the loss is NaN
    z_t = tl.load(start + target, mask=known, other=float("nan")).to(tl.float32)
    b_t = 0.0
    if HAS_BIAS:
        b_t = tl.load(bias + target, mask=known, other=0.0).to(tl.float32)
    z_t = final(z_t, b_t, logit_scale, softcap, HAS_BIAS, HAS_SCALE, HAS_CAP)
    d_t = tl.fma(z_t, 1.4426950408889634, -base)  # as in the sums
    log_s = tl.log2(s)
    nll = (log_s - d_t) * LN2
    entropy = (log_s - t / s) * LN2
    lse = (base + log_s) * LN2
    tl.store(nll_out + row, nll)
    tl.store(correct_out + row, tl.where(z_t >= highest_logit, 1.0, 0.0))
    tl.store(entropy_out + row, entropy)
    if TOP:
        tl.store(top_out + row, tl.min(tl.where(m == highest_logit, first_top, vocabulary)))
    extra = 0.0
    if HAS_SMOOTHING:
        extra += label_smoothing * (z_t - tl.sum(total) / vocabulary)
    if HAS_Z_LOSS:
        extra += z_loss * lse * lse
    tl.store(extra_out + row, extra)

    e_t = tl.exp2(d_t)
    p_t = e_t / s
    missed = tl.maximum(s - e_t, 0.0) / s  # 1 - p_t to about 1e-7, without rounding p_t first
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
        v = tl.load(teacher_weights + row)
        id_k = tl.load(teacher_ids + row * K + k, mask=k < K, other=-1).to(tl.int64)
        log_q = tl.load(teacher_log_probs + row * K + k, mask=k < K, other=float("-inf")).to(tl.float32)
        log_q = tl.where(v != 0.0, log_q, float("-inf"))
        listed = (log_q > float("-inf")) & (id_k >= 0)
        known_k = id_k < vocabulary
        z_k = tl.load(start + id_k, mask=listed & known_k, other=float("nan")).to(tl.float32)
        b_k = 0.0
        if HAS_BIAS:
            b_k = tl.load(bias + id_k, mask=listed & known_k, other=0.0).to(tl.float32)
        z_k = final(z_k, b_k, logit_scale, softcap, HAS_BIAS, HAS_SCALE, HAS_CAP)
        d_k = tl.fma(z_k, tl.full([K_BLOCK], LOG2E, tl.float32), tl.zeros([K_BLOCK], tl.float32) - base)
        p_k = tl.where(listed, tl.exp2(d_k) / s, 0.0)
        q_k = tl.where(listed, tl.exp(log_q), 0.0)
        log_p = (d_k - log_s) * LN2
        divergence, tail, sparse = teacher_term(p_k, log_p, q_k, log_q, DIVERGENCE, BETA)
        share += v * tail
        sparse = v * sparse
    tl.store(divergence_out + row, divergence)

    if GRADIENT:
        tl.debug_barrier()  # every thread has read the logits of the target and of the teacher's tokens
        share_s = share / s
        flat = weight * label_smoothing / vocabulary
        hit = (share - weight) * p_t - weight * missed
        if HAS_SMOOTHING:
            hit += weight * label_smoothing - flat
        ahead = tl.load(start + lane, mask=lane < stride, other=float("-inf"))
        for first in range(0, vocabulary, BLOCK):
            at = first + lane
            z = ahead.to(tl.float32)
            ahead = tl.load(start + at + BLOCK, mask=at < stride - BLOCK, other=float("-inf"))
            b = 0.0
            if HAS_BIAS:
                b = tl.load(bias + at, mask=at < vocabulary, other=0.0).to(tl.float32)
            z = final(z, b, logit_scale, softcap, HAS_BIAS, HAS_SCALE, HAS_CAP)
            g = share_s * tl.exp2(distance(z, base))
            if HAS_SMOOTHING:
                g -= flat
            g = sloped(g, z, logit_scale, softcap, HAS_SCALE, HAS_CAP)
            if TAIL:
                g = tl.where(at < vocabulary, g, 0.0)
            tl.store(start + at, g.to(logits.dtype.element_ty), mask=at < stride)
        tl.debug_barrier()  # what follows overwrites what other threads of this program just wrote
        g_t = sloped(hit, z_t, logit_scale, softcap, HAS_SCALE, HAS_CAP)
        tl.store(start + target, g_t.to(logits.dtype.element_ty), mask=known)
        if K > 0:
            tl.debug_barrier()
            g_k = share * p_k
            if HAS_SMOOTHING:
                g_k -= flat
            g_k = tl.where(id_k == target, hit, g_k) + sparse
            g_k = sloped(g_k, z_k, logit_scale, softcap, HAS_SCALE, HAS_CAP)
            tl.store(start + id_k, g_k.to(logits.dtype.element_ty), mask=listed & known_k)


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
    vocabulary, lanes = logits.shape[1], LANES
    if triton.knobs.runtime.interpret:  # which reads a whole block however few its elements inside
        lanes = min(lanes, triton.next_power_of_2(-(-vocabulary // (3 * VEC))))
    chunk_kernel[(logits.shape[0],)](
        logits,
        rows.targets,
        rows.weights,
        unread if options.bias is None else options.bias,
        unread if rows.reference_nll is None else rows.reference_nll.contiguous(),
        unread if rows.teacher_ids is None else rows.teacher_ids.contiguous(),
        unread if rows.teacher_log_probs is None else rows.teacher_log_probs.contiguous(),
        unread if rows.teacher_weights is None else rows.teacher_weights,
        unread if rows.multiplied is None else rows.multiplied.view(torch.uint8),
        *seen[:-1],
        unread if seen.top is None else seen.top,
        logits.stride(0),
        vocabulary,
        options.logit_scale,
        1.0 if options.softcap is None else options.softcap,
        options.label_smoothing,
        options.z_loss,
        parameter,
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
        DIVERGENCE=FORMS[options.divergence],
        BETA=options.beta,
        TOP=seen.top is not None,
        TAIL=vocabulary != logits.stride(0),
        LANES=lanes,
        VEC=VEC,
        **LAUNCH_OPTIONS,
    )
