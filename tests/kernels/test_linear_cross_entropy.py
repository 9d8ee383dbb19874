"""linear_cross_entropy against plain PyTorch in float64, option by option.

These tests run the reference path, and, started by test_linear_cross_entropy_triton.py with TEST_BACKEND=triton,
the Triton pass: under the interpreter, or with TEST_DEVICE=cuda on a GPU.
"""

import dataclasses
import os

import pytest
import torch
import torch.nn.functional as F

from tracestill.kernels.linear_cross_entropy import STATISTICS, linear_cross_entropy
from tracestill.kernels.linear_cross_entropy_options import (
    Excess,
    Focal,
    PowerOfP,
    TeacherTopK,
    Within,
    check_weights,
)

BACKEND = os.environ.get("TEST_BACKEND", "reference")
DEVICE = os.environ.get("TEST_DEVICE", "cpu")
KINDS = 5
EPSILON = 5e-7
"""In fp32: error (relative, by norm) allowed beyond that of the plain fp32 computation."""


@pytest.fixture(autouse=True)
def _poisoned():
    """torch.empty holds NaN, so that an output that is not written shows."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(before)


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


def teacher_of(data, *, k=6, reverse=False):
    hidden, head, *_ = data
    g = torch.Generator().manual_seed(1)
    logits = hidden.nan_to_num() @ head.t() + torch.randn(len(hidden), len(head), generator=g)
    log_probs, ids = torch.log_softmax(logits, 1).topk(k)
    log_probs[1::4, k // 2 :] = float("-inf")  # rows with fewer entries
    ids[1::4, k // 2 :] = ids[1::4, :1]  # and with ids that name a listed token again
    return TeacherTopK(ids, log_probs, torch.tensor([0.5, 0.0, 2.0, 1.0, 0.1]), reverse)


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
    total = (w * factor * loss).sum()
    if options.get("teacher") is not None:
        total = total + divergences(log_p, options["teacher"], rows, k, w).sum()
    total = total * scale
    (total * upstream).backward()
    correct = (z.gather(1, t[:, None])[:, 0] >= z.amax(1)).to(z.dtype)
    columns = torch.stack([w, w * factor * nll, torch.ones_like(w), nll, correct, entropy], 1).detach()
    statistics = torch.zeros(KINDS, 6, dtype=z.dtype, device=device).index_add_(0, k, columns)
    grads = [leaf.grad for leaf in leaves[: 2 + use_bias]]
    return [total.detach(), statistics, *grads]


def divergences(log_p, teacher, rows, kinds, w):
    """The teacher term by definition: a KL divergence of two distributions over the k tokens and the rest."""
    result = []
    for i, row in enumerate(rows.tolist()):
        log_q = teacher.log_probs[row].to(log_p)
        ids = teacher.ids[row].to(log_p.device)[torch.isfinite(log_q)]
        log_q = log_q[torch.isfinite(log_q)]
        rest = torch.ones(log_p.shape[1], dtype=torch.bool, device=log_p.device).index_fill_(0, ids, False)
        p = torch.cat([log_p[i, ids], torch.logsumexp(log_p[i, rest], 0, keepdim=True)])
        q = torch.cat([log_q, torch.log1p(-log_q.exp().sum()).unsqueeze(0)])
        kl = F.kl_div(q, p, log_target=True, reduction="sum") if teacher.reverse else None
        if kl is None:
            kl = F.kl_div(p, q, log_target=True, reduction="sum")
        result.append(teacher.weights[int(kinds[i])].to(log_p) * kl)
    return torch.stack(result)


def ours(data, *, dtype=torch.float32, upstream=1.0, use_bias=False, chunk_rows=7, backend=BACKEND, **options):
    hidden, head, bias, targets, weights, kinds = (t.to(DEVICE) for t in data)
    if (teacher := options.get("teacher")) is not None:
        moved = {name: getattr(teacher, name).to(DEVICE) for name in ("ids", "log_probs", "weights")}
        options["teacher"] = dataclasses.replace(teacher, **moved)
    if options.get("reference_nll") is not None:
        options["reference_nll"] = options["reference_nll"].to(DEVICE)
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
    for column, name in enumerate(STATISTICS):
        error = (got[1][:, column].cpu() - exact[1][:, column].cpu()).abs()
        nats = {"entropy": 1e-5, "nll": 2e-7, "weighted_nll": 4e-7}.get(name, 0.0)
        assert (error <= 4 * epsilon * exact[1][:, column].norm().cpu() + nats * count).all(), name
    return got


OPTIONS = {
    "plain": {},
    "bias": {"use_bias": True},
    "logit_scale": {"logit_scale": 0.3},
    "softcap": {"softcap": 5.0},
    "label_smoothing": {"label_smoothing": 0.1},
    "z_loss": {"z_loss": 0.01},
    "dft": {"dynamic": PowerOfP(1.0)},
    "half_power": {"dynamic": PowerOfP(0.5)},
    "focal": {"dynamic": Focal(2.0)},
    "within": {"dynamic": Within(nll_max=6.0, entropy_min=1.0)},
    "excess": {"dynamic": Excess(0.25), "reference_nll": torch.linspace(0, 12, 23)},
    "function": {"dynamic": lambda nll, p, entropy: nll * p + 0.1 * entropy},
    "teacher_forward": {"teacher": False},
    "teacher_reverse": {"teacher": True},
    "everything": {
        "use_bias": True,
        "logit_scale": 0.7,
        "softcap": 8.0,
        "label_smoothing": 0.05,
        "z_loss": 0.003,
        "dynamic": Focal(1.5),
        "teacher": True,
    },
}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_is_as_exact_as_plain_pytorch(name):
    data, options = case(), dict(OPTIONS[name])
    if "teacher" in options:
        options["teacher"] = teacher_of(data, reverse=options["teacher"])
    got = compare(data, upstream=-1.7, scale=0.31, **options)
    masked = data[4] == 0
    assert masked.any()
    assert (got[2][masked.to(DEVICE)] == 0).all()


def test_multipliers_by_their_formulas():
    """Written out, since the comparison above calls the very same objects."""
    data = case()
    nll, p, entropy, reference = torch.tensor([[0.5, 2.0], [0.6, 0.14], [1.0, 3.0], [0.1, 1.9]])
    assert torch.allclose(PowerOfP(1.0)(nll, p, entropy), torch.exp(-nll))
    assert torch.allclose(PowerOfP(0.5)(nll, p, entropy), torch.exp(-nll).sqrt())
    assert torch.allclose(Focal(2.0)(nll, p, entropy), torch.tensor([0.16, 0.7396]))
    assert Within(nll_min=1.0)(nll, p, entropy).tolist() == [0, 1]
    assert Within(nll_max=1.0)(nll, p, entropy).tolist() == [1, 0]
    assert Within(entropy_min=1.0, entropy_max=2.9)(nll, p, entropy).tolist() == [1, 0]
    assert Excess(0.2)(nll, p, entropy, reference).tolist() == [1, 0]
    # And through the operation: what is multiplied by the probability is the weight of loss and gradient alike.
    plain, dft = ours(data), ours(data, dynamic=PowerOfP(1.0))
    by_function = ours(data, dynamic=lambda nll, p, entropy: p)
    for a, b in zip(dft, by_function, strict=True):
        assert distance(a, b) < 1e-6
    assert dft[0] < plain[0]
    assert torch.equal(dft[1][:, [0, 2, 3]], plain[1][:, [0, 2, 3]])  # c never sees the multiplier


@pytest.mark.parametrize(("n", "h", "v"), [(41, 401, 1271), (1, 1, 2), (17, 5, 1), (8, 16, 48), (3, 33, 1009)])
def test_odd_shapes(n, h, v):
    compare(case(n, h, v, seed=n, zero=0.0), upstream=0.5, scale=torch.tensor(3.0, device=DEVICE))


@pytest.mark.parametrize("chunk_rows", [1, 2, 5, 14, 4096])
def test_chunks_change_nothing_but_rounding(chunk_rows):
    compare(case(), chunk_rows=chunk_rows, logit_scale=0.5)


def test_one_weighted_row():
    data = case(zero=0.0)
    data[4][torch.arange(23) != 11] = 0
    got = compare(data)
    assert got[1][:, 2].sum() == 1
    assert got[2].abs().sum(1).nonzero().tolist() == [[11]]


@pytest.mark.parametrize("rows", [0, 9])
def test_no_weight_at_all_gives_attached_zeros(rows):
    hidden, head, bias, targets, weights, kinds = case(n=rows, zero=1.1)
    assert len(weights) == rows
    got = ours((hidden, head, bias, targets, weights, kinds), use_bias=True)
    for value in got:
        assert (value == 0).all()
    assert [tuple(g.shape) for g in got[2:]] == [(rows, 37), (401, 37), (401,)]


def test_frozen_parts_get_no_gradient():
    data = case()
    full = ours(data)
    hidden, head, _, targets, weights, kinds = (t.to(DEVICE) for t in data)
    for wanted in ((True, False), (False, True), (False, False)):
        x, w = hidden.clone().requires_grad_(wanted[0]), head.clone().requires_grad_(wanted[1])
        loss, statistics = linear_cross_entropy(
            x, w, targets, weights, kinds, num_kinds=KINDS, chunk_rows=7, backend=BACKEND
        )
        assert loss.requires_grad == any(wanted)
        if any(wanted):
            loss.backward()
        assert distance(loss.detach(), full[0]) < 1e-6
        assert distance(statistics, full[1]) < 1e-6
        for leaf, want, grad in zip((x, w), wanted, full[2:], strict=True):
            assert (leaf.grad is not None) == want
            if want:
                assert distance(leaf.grad, grad) < 1e-6
    with torch.no_grad():
        loss, statistics = linear_cross_entropy(
            hidden.requires_grad_(), head, targets, weights, kinds, num_kinds=KINDS, backend=BACKEND
        )
    assert not loss.requires_grad
    assert distance(loss, full[0]) < 1e-6
    assert distance(statistics, full[1]) < 1e-6


def test_minus_infinity_among_the_logits():
    data = case()
    used = set(data[3].tolist())
    closed = [v for v in range(401) if v not in used][:150]
    data[2][closed] = float("-inf")
    got = compare(data, use_bias=True)
    assert all(torch.isfinite(value).all() for value in got)
    assert (got[4][closed] == 0).all()


def test_a_target_at_minus_infinity_stays_with_its_kind():
    data = case()
    row = int((data[4] != 0).nonzero()[0])
    data[2][data[3][row]] = float("-inf")
    loss, statistics, *grads = ours(data, use_bias=True)
    assert torch.isinf(loss)
    broken = torch.isinf(statistics[:, 3]).cpu()
    assert broken[data[5][row].long()]
    assert torch.isfinite(statistics[~broken.to(DEVICE)]).all()
    assert all(torch.isfinite(grad).all() for grad in grads)


def test_logits_near_the_largest_number():
    hidden, head, bias, targets, weights, kinds = case(n=6, h=4, v=99, zero=0.0)
    data = (hidden * 2e18, head * 2e18, bias, targets, weights * 1e-30, kinds)
    got = compare(data)
    assert (hidden * 2e18 @ (head * 2e18).t()).abs().max() > 1e37
    assert all(torch.isfinite(value).all() for value in got)


def test_spread_logits_keep_their_digits():
    """At a standard deviation of 30, exp(z - lse) in fp32 would lose two digits."""
    compare(case(spread=10.0))


@pytest.mark.parametrize("exponent", [-90, -30, 90])
def test_weights_of_any_magnitude_give_the_same_bits(exponent):
    data = case()
    first = ours(data, scale=0.25)
    scaled = (*data[:4], data[4] * 2.0**exponent, data[5])
    second = ours(scaled, scale=0.25 * 2.0**-exponent)
    for index in (0, 2, 3):
        assert torch.equal(first[index], second[index])


def test_equal_inputs_give_equal_bits():
    data = case(n=61, h=64, v=1003)
    options = {"teacher": teacher_of(data), "use_bias": True, "dynamic": PowerOfP(1.0)}
    for a, b in zip(ours(data, **options), ours(data, **options), strict=True):
        assert torch.equal(a, b)


def test_two_backward_passes_through_a_kept_graph():
    hidden, head, _, targets, weights, kinds = (t.to(DEVICE) for t in case())
    x, w = hidden.requires_grad_(), head.requires_grad_()
    loss, _ = linear_cross_entropy(x, w, targets, weights, kinds, num_kinds=KINDS, backend=BACKEND)
    first = torch.autograd.grad(2.0 * loss, (x, w), retain_graph=True)
    second = torch.autograd.grad(6.0 * loss, (x, w))
    for a, b in zip(first, second, strict=True):
        assert distance(b, 3 * a) < 1e-6


def test_tied_embeddings_sum_both_gradients():
    data = case(zero=0.0)
    _, head, _, targets, weights, kinds = (t.to(DEVICE) for t in data)
    ids = torch.arange(23, device=DEVICE)
    grads = []
    for fused in (True, False):
        table = head.clone().requires_grad_()
        x = F.embedding(ids, table)
        if fused:
            loss, _ = linear_cross_entropy(x, table, targets, weights, kinds, num_kinds=KINDS, backend=BACKEND)
        else:
            loss = (F.cross_entropy(x @ table.t(), targets, reduction="none") * weights).sum()
        loss.backward()
        grads.append(table.grad)
    assert distance(*grads) < 1e-6


@pytest.mark.skipif(BACKEND == "triton" and DEVICE == "cpu", reason="the interpreter mishandles 16-bit types")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bits_are_no_worse_than_plain(dtype):
    """A loss scale comes in `scale`; weights far below fp16's range must survive."""
    hidden, head, bias, targets, weights, kinds = case(n=64, h=128, v=777)
    data = (hidden.to(dtype).float(), head.to(dtype).float(), bias, targets, weights * 1e-9, kinds)
    got = ours(data, dtype=dtype, scale=1e9, softcap=30.0)
    assert [g.dtype for g in got] == [torch.float32, torch.float32, dtype, dtype]
    exact = naive(data, torch.float64, scale=1e9, softcap=30.0)
    plain = naive((*data[:4], weights, kinds), dtype, products=torch.float32, device=DEVICE, scale=1.0, softcap=30.0)
    for index in (0, 2, 3):
        assert distance(got[index], exact[index]) <= distance(plain[index], exact[index]) + 1e-4


@pytest.mark.skipif(BACKEND == "triton", reason="the Triton pass is fp32 inside")
def test_gradients_by_finite_differences():
    """In fp64, where the naive formulas above cannot share a mistake with ours."""
    hidden, head, bias, targets, weights, kinds = case(n=5, h=3, v=7, zero=0.2)
    leaves = [t.double().requires_grad_() for t in (hidden.nan_to_num(), head, bias)]
    teacher = teacher_of((hidden, head, bias, targets, weights, kinds), k=3)
    for reverse in (False, True):

        def loss(x, w, b, reverse=reverse):
            return linear_cross_entropy(
                x, w, targets, weights, kinds, num_kinds=KINDS, bias=b, softcap=4.0, label_smoothing=0.1, z_loss=0.02,
                teacher=dataclasses.replace(teacher, reverse=reverse), chunk_rows=2,
            )[0]  # fmt: skip

        assert torch.autograd.gradcheck(loss, leaves)


def test_a_teacher_alone_reaches_rows_of_zero_weight():
    data = case(zero=0.0)
    data[4].zero_()
    hidden, head, bias, _, weights, kinds = data
    data = (hidden, head, bias, torch.full((23,), -100), weights, kinds)
    teacher = teacher_of(data)
    got = ours(data, teacher=teacher, active=None)
    assert got[0] > 0
    assert (got[1] == 0).all()
    ones = naive((hidden, head, bias, torch.zeros(23, dtype=torch.long), weights + 1e-30, kinds), torch.float64,
                 teacher=teacher)  # fmt: skip
    assert distance(got[0], ones[0]) < 1e-6
    assert distance(got[2], ones[2]) < 2e-6
    assert (got[2][(kinds == 1).to(DEVICE)] == 0).all()  # weight 0 for kind 1


def test_a_teacher_that_agrees_teaches_nothing():
    data = case(zero=0.0)
    hidden, head, _, _, _, _ = data
    log_probs, ids = torch.log_softmax(hidden.double() @ head.double().t(), 1).topk(6)
    for reverse in (False, True):
        teacher = TeacherTopK(ids, log_probs.float(), torch.ones(KINDS), reverse)
        with_teacher, without = ours(data, teacher=teacher), ours(data)
        assert distance(with_teacher[0], without[0]) < 1e-6
        assert distance(with_teacher[2], without[2]) < 1e-5


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
def test_bad_weights_are_refused(bad):
    hidden, head, bias, targets, weights, kinds = case(zero=0.0)
    weights[7] = bad
    with pytest.raises(ValueError, match=r"weights must be finite and >= 0, but row 7 holds"):
        check_weights(weights)
    if DEVICE == "cpu":
        with pytest.raises(ValueError, match=r"weights must be finite and >= 0, but row 7 holds"):
            ours((hidden, head, bias, targets, weights, kinds))
    else:
        assert torch.isnan(ours((hidden, head, bias, targets, weights, kinds))[0])


@pytest.mark.skipif(DEVICE != "cpu", reason="values are not checked on a GPU")
def test_bad_values_are_refused():
    hidden, head, bias, targets, weights, kinds = case(zero=0.0)
    with pytest.raises(ValueError, match=r"targets of weighted rows must lie in \[0, 401\), not -100"):
        ours((hidden, head, bias, targets.fill_(-100), weights, kinds))
    with pytest.raises(ValueError, match="kinds must lie below num_kinds = 5, not 9"):
        ours((*case(zero=0.0)[:5], kinds.fill_(9)))
    with pytest.raises(ValueError, match="factors of dynamic must be finite and >= 0, but row 0 holds -1"):
        ours(case(), dynamic=lambda nll, p, entropy: -torch.ones_like(nll))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": torch.zeros(23, dtype=torch.int32)}, "targets must be torch.int64, not torch.int32"),
        ({"weights": torch.ones(22)}, r"weights must have shape \(23,\), not \(22,\)"),
        ({"hidden": torch.ones(23, 36)}, r"hidden \(N, H\) and weight \(V, H\) do not fit"),
        ({"bias": torch.ones(400)}, r"bias must have shape \(401,\)"),
        ({"chunk_rows": 0}, "chunk_rows must be at least 1"),
        ({"softcap": 0.0}, "softcap must be > 0"),
        ({"label_smoothing": 1.0}, r"label_smoothing must lie in \[0, 1\)"),
        ({"z_loss": -1.0}, "z_loss must be >= 0"),
        ({"backend": "cuda"}, "backend must be auto, triton or reference"),
        ({"dynamic": Excess(0.0)}, "dynamic=Excess needs reference_nll"),
        ({"dynamic": lambda nll, p, entropy: nll.sum()}, "dynamic must return one factor a row"),
        (
            {"teacher": TeacherTopK(torch.zeros(23, 2, dtype=torch.long), torch.zeros(23, 2), torch.ones(4))},
            r"teacher.weights must have shape \(5,\), not \(4,\)",
        ),
    ],
)
def test_arguments_that_do_not_fit_are_named(change, message):
    hidden, head, _, targets, weights, kinds = (t.to(DEVICE) for t in case(zero=0.0))
    arguments = {"hidden": hidden, "weight": head, "targets": targets, "weights": weights, "kinds": kinds}
    arguments |= {"num_kinds": KINDS, "backend": BACKEND} | change
    with pytest.raises(ValueError, match=message):
        linear_cross_entropy(**arguments)
