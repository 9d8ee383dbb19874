"""linear_cross_entropy against plain PyTorch in float64, option by option.

These tests run the reference path, and, started by test_linear_cross_entropy_triton.py with TEST_BACKEND=triton,
the Triton pass: under the interpreter, or with TEST_DEVICE=cuda on a GPU.
"""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from linear_cross_entropy_cases import (
    BACKEND,
    DEVICE,
    EPSILON,
    KINDS,
    case,
    compare,
    distance,
    naive,
    ours,
    teacher_of,
)

from tracestill.kernels.loss import (
    Excess,
    Focal,
    PowerOfP,
    TeacherTopK,
    check_weights,
    linear_cross_entropy,
)


@pytest.fixture(autouse=True)
def _poisoned():
    """torch.empty holds NaN, so that an output that is not written shows."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(before)


SOME = torch.tensor([False, True, False, True, False])
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
    "excess": {"dynamic": Excess(0.25), "reference_nll": torch.linspace(0, 12, 23)},
    "function": {"dynamic": lambda nll, p, entropy: nll * p + 0.1 * entropy},
    "dft_of_kinds": {"dynamic": PowerOfP(1.0), "dynamic_kinds": SOME},
    "excess_of_kinds": {"dynamic": Excess(0.25), "reference_nll": torch.linspace(0, 12, 23), "dynamic_kinds": SOME},
    "function_of_kinds": {"dynamic": lambda nll, p, entropy: nll * p, "dynamic_kinds": SOME},
    "teacher_forward": {"teacher": {"divergence": "forward"}},
    "teacher_reverse": {"teacher": {"divergence": "reverse", "scale": 0.7}},
    "teacher_jsd": {"teacher": {"divergence": "jsd", "scale": torch.tensor([1.0, 2.0, 0.5, 0.0, 3.0])}},
    "teacher_jsd_skewed": {"teacher": {"divergence": "jsd", "beta": 0.1}},
    "everything": {
        "use_bias": True,
        "logit_scale": 0.7,
        "softcap": 8.0,
        "label_smoothing": 0.05,
        "z_loss": 0.003,
        "dynamic": Focal(1.5),
        "dynamic_kinds": SOME,
        "teacher": {"divergence": "jsd"},
    },
}


def test_a_function_sees_the_rows_that_it_multiplies_alone():
    data, seen = case(), []

    def one_where_nothing_is_asked(nll, p, entropy):
        seen.append(torch.stack([nll, p, entropy]))
        return torch.where(nll.isnan(), -5.0, 1.0)

    plain = ours(data)
    for use_bias in (False, True):  # entropy by the short cut, and without
        plain = ours(data, use_bias=use_bias)
        got = ours(data, use_bias=use_bias, dynamic=one_where_nothing_is_asked, dynamic_kinds=SOME)
        for a, b in zip(got, plain, strict=True):
            assert distance(a, b) < EPSILON
    multiplied = int((SOME[data[5].long()] & (data[4] != 0)).sum())
    assert int(torch.cat(seen, 1).isfinite().all(0).sum()) == 2 * multiplied


def test_a_function_that_asks_for_them_is_told_its_rows_kinds():
    table = torch.tensor([0.5, 1.0, 2.0, 0.0, 3.0])

    class OfKind:
        by_kind = True

        def __call__(self, nll, p, entropy, kinds):
            return table.to(nll.device)[kinds.long()]

    data = case()
    weighed = (*data[:4], data[4] * table[data[5].long()], data[5])
    got, expected = ours(data, dynamic=OfKind()), ours(weighed)
    for a, b in zip((got[0], *got[2:]), (expected[0], *expected[2:]), strict=True):
        assert distance(a, b) < EPSILON


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_is_as_exact_as_plain_pytorch(name):
    data, options = case(), dict(OPTIONS[name])
    if "teacher" in options:
        options["teacher"] = teacher_of(data, **options["teacher"])
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
    assert Excess(0.2)(nll, p, entropy, reference).tolist() == [1, 0]
    # And through the operation: what is multiplied by the probability is the weight of loss and gradient alike.
    plain, dft = ours(data), ours(data, dynamic=PowerOfP(1.0))
    by_function = ours(data, dynamic=lambda nll, p, entropy: p)
    for a, b in zip(dft, by_function, strict=True):
        assert distance(a, b) < 1e-6
    assert dft[0] < plain[0]
    assert torch.equal(dft[1][:, [0, 2, 3]], plain[1][:, [0, 2, 3]])  # c never sees the multiplier


@pytest.mark.parametrize("teacher", [False, True])
def test_a_scale_of_one_a_kind_scales_rows_of_that_kind(teacher):
    data, scale = case(), torch.tensor([0.5, 0.25, 3.0, 0.01, 1.0])
    more = {"teacher": teacher_of(data, scale=scale)} if teacher else {}
    got = compare(data, upstream=-1.7, scale=scale, label_smoothing=0.1, z_loss=0.01, **more)
    assert got[1][:, 0].sum() == pytest.approx(float((data[4] * scale[data[5].long()]).sum()), rel=1e-6)
    none = ours(data, scale=torch.where(torch.arange(KINDS) == 1, 0.0, scale), **more)
    assert not none[1][1].any(), "a kind of scale 0 has no weight (and kind 1 none of the teacher's)"
    assert not none[2][(data[5] == 1).to(DEVICE)].any()


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
    for divergence in ("forward", "reverse", "jsd"):

        def loss(x, w, b, divergence=divergence):
            return linear_cross_entropy(
                x, w, targets, weights, kinds, num_kinds=KINDS, bias=b, softcap=4.0, label_smoothing=0.1, z_loss=0.02,
                teacher=dataclasses.replace(teacher, divergence=divergence, beta=0.3), chunk_rows=2,
            )[0]  # fmt: skip

        assert torch.autograd.gradcheck(loss, leaves)


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
        ({"scale": torch.ones(4)}, r"scale must be one number or have shape \(5,\), not \(4,\)"),
        ({"softcap": 0.0}, "softcap must be > 0"),
        ({"label_smoothing": 1.0}, r"label_smoothing must lie in \[0, 1\)"),
        ({"z_loss": -1.0}, "z_loss must be >= 0"),
        ({"backend": "cuda"}, "backend must be auto, triton or reference"),
        ({"dynamic": Excess(0.0)}, "dynamic=Excess needs reference_nll"),
        ({"dynamic_kinds": SOME[:4]}, r"dynamic_kinds must be torch.bool \(5,\), not torch.bool \(4,\)"),
        ({"dynamic_kinds": SOME.float()}, r"dynamic_kinds must be torch.bool \(5,\), not torch.float32"),
        ({"dynamic": lambda nll, p, entropy: nll.sum()}, "dynamic must return one factor a row"),
        (
            {"teacher": TeacherTopK(torch.zeros(23, 2, dtype=torch.long), torch.zeros(23, 2), torch.ones(4))},
            r"teacher.weights must be torch.float32 \(23,\), not torch.float32 \(4,\)",
        ),
        (
            {"teacher": TeacherTopK(torch.zeros(23, 2, dtype=torch.short), torch.zeros(23, 2), torch.ones(23))},
            "teacher.ids must be torch.int32 or torch.int64, not torch.int16",
        ),
    ],
)
def test_arguments_that_do_not_fit_are_named(change, message):
    hidden, head, _, targets, weights, kinds = (t.to(DEVICE) for t in case(zero=0.0))
    arguments = {"hidden": hidden, "weight": head, "targets": targets, "weights": weights, "kinds": kinds}
    arguments |= {"num_kinds": KINDS, "backend": BACKEND} | change
    with pytest.raises(ValueError, match=message):
        linear_cross_entropy(**arguments)
