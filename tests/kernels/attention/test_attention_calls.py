"""Each backend's call: what it is given, what it computes, and what no record told."""

import inspect
import sys
from functools import wraps
from itertools import pairwise
from types import ModuleType

import pytest
import torch

from tracestill.kernels.attention import BACKENDS, SDPA, Needs
from tracestill.kernels.attention.groups import group_documents, grouped_attention
from tracestill.kernels.attention.registered import attention

BY_NAME = {backend.name: backend for backend in BACKENDS}
MODULES = {
    "flash-4": ["flash_attn", "flash_attn.cute"],
    "flash-3": ["flash_attn_interface"],
    "flash-2": ["flash_attn", "flash_attn_2_cuda"],
    "varlen": ["torch.nn.attention.varlen"],
}
CUDA, BF16 = "cuda", torch.bfloat16


def plain_varlen(q, k, v, bounds, scale, left):
    """(T, H, d) causal attention by document; `left` tokens before the query are seen, all of them if -1."""
    out = torch.empty(q.shape[0], q.shape[1], v.shape[2])
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    for a, b in pairwise(bounds):
        at = torch.arange(b - a)
        seen = at[:, None] >= at[None]
        if left >= 0:
            seen &= at[:, None] - at[None] <= left
        scores = torch.einsum("qhd,khd->hqk", q[a:b].float(), k[a:b].float()) * scale
        out[a:b] = torch.einsum("hqk,khd->qhd", scores.masked_fill(~seen, -torch.inf).softmax(-1), v[a:b].float())
    return out


def flash_2(
    q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0, softmax_scale=None,
    causal=False, window_size=(-1, -1), softcap=0.0, alibi_slopes=None, deterministic=False,
    return_attn_probs=False, block_table=None,
):  # fmt: skip
    """flash-attn 2's documented signature and meaning, in plain PyTorch."""
    assert causal
    assert cu_seqlens_q.dtype == cu_seqlens_k.dtype == torch.int32
    assert max_seqlen_q == max_seqlen_k == cu_seqlens_q.diff().max()
    return plain_varlen(q, k, v, cu_seqlens_q.tolist(), softmax_scale, window_size[0]).to(q.dtype)


def flash_4(
    q, k, v, qv=None, cu_seqlens_q=None, cu_seqlens_k=None, max_seqlen_q=None, max_seqlen_k=None, min_seqlen_k=None,
    seqused_q=None, seqused_k=None, gather_kv_indices=None, page_table=None, softmax_scale=None, causal=False,
    window_size=(None, None), learnable_sink=None, softcap=0.0, num_splits=1, pack_gqa=None, deterministic=False,
):  # fmt: skip
    """flash-attn 4's: no window is None, no dropout, and (out, log-sum-exp) comes back."""
    assert causal
    left = -1 if window_size[0] is None else window_size[0]
    return plain_varlen(q, k, v, cu_seqlens_q.tolist(), softmax_scale, left).to(q.dtype), None


def torch_varlen(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, return_aux=None, scale=None, window_size=(-1, -1),
    enable_gqa=False, seqused_k=None, block_table=None, num_splits=None,
):  # fmt: skip
    """torch.nn.attention.varlen.varlen_attn: causal is a window of (left, 0)."""
    assert window_size[1] == 0
    assert enable_gqa == (query.shape[1] != key.shape[1])
    return plain_varlen(query, key, value, cu_seq_q.tolist(), scale, window_size[0]).to(query.dtype)


def torch_varlen_2_11(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, return_aux=None, scale=None, window_size=(-1, -1)
):
    """As the oldest torch that setup.py allows has it: fewer heads of keys are asked for by their number alone."""
    return plain_varlen(query, key, value, cu_seq_q.tolist(), scale, window_size[0]).to(query.dtype)


STAND_INS = {
    "flash-2": ("flash_attn", "flash_attn_varlen_func", flash_2),
    "flash-3": ("flash_attn_interface", "flash_attn_varlen_func", flash_4),
    "flash-4": ("flash_attn.cute", "flash_attn_varlen_func", flash_4),
    "varlen": ("torch.nn.attention.varlen", "varlen_attn", torch_varlen),
}


def put_in(monkeypatch, name, seen=None):
    """Put a stand-in where a backend looks for its function; ``seen`` gets the arguments of its calls by name."""
    module, attribute, function = STAND_INS[name]

    @wraps(function)
    def noted(*args, **kwargs):
        if seen is not None:
            seen.append(inspect.signature(function).bind(*args, **kwargs).arguments)
        return function(*args, **kwargs)

    fake = ModuleType(module)
    setattr(fake, attribute, noted)
    for parent in MODULES[name]:
        monkeypatch.setitem(sys.modules, parent, fake if parent == module else ModuleType(parent))
    return BY_NAME[name]


def test_the_stand_in_has_the_signature_of_torch():
    from torch.nn.attention.varlen import varlen_attn

    theirs = inspect.signature(varlen_attn).parameters
    ours = inspect.signature(torch_varlen if "enable_gqa" in theirs else torch_varlen_2_11).parameters
    assert {k: v.kind for k, v in ours.items()} == {k: theirs[k].kind for k in ours if k in theirs}


@pytest.mark.parametrize("name", STAND_INS)
@pytest.mark.parametrize("window", [None, 1, 4])
@pytest.mark.parametrize("heads", [2, 4])
def test_each_backend_is_asked_for_what_sdpa_computes(monkeypatch, name, window, heads):
    """Windows, scale, heads and layout: the calls mean the same in every backend's own terms."""
    backend = put_in(monkeypatch, name)
    torch.manual_seed(0)
    shapes = [(1, 4, 20, 8), (1, heads, 20, 8), (1, heads, 20, 8)]
    inputs = [torch.randn(shape, dtype=torch.bfloat16) for shape in shapes]
    cu = torch.tensor([0, 6, 7, 20], dtype=torch.int32)
    options = {} if window is None else {"window": window}
    got = backend.attend(*inputs, cu, 13, scale=0.4, **options)
    wanted = grouped_attention(*(x.float() for x in inputs), group_documents(cu), scale=0.4, window=window)
    assert got.shape == wanted.shape
    torch.testing.assert_close(got.float(), wanted, atol=0.02, rtol=0.02)


@pytest.mark.parametrize("heads", [2, 4])
def test_the_oldest_torch_has_varlen_too(monkeypatch, heads):
    monkeypatch.setitem(STAND_INS, "varlen", (*STAND_INS["varlen"][:2], torch_varlen_2_11))
    test_each_backend_is_asked_for_what_sdpa_computes(monkeypatch, "varlen", 4, heads)


@pytest.mark.parametrize(
    ("name", "options", "passed"),
    [
        ("flash-2", {"softcap": 30.0, "dropout": 0.1}, {"softcap": 30.0, "dropout_p": 0.1}),
        ("flash-3", {"softcap": 30.0}, {"softcap": 30.0}),
        ("flash-4", {"window": 3}, {"window_size": (2, 0)}),
    ],
)
def test_what_a_record_offers_reaches_the_kernel(monkeypatch, name, options, passed):
    seen = []
    backend = put_in(monkeypatch, name, seen)
    x, cu = torch.ones(1, 2, 4, 8, dtype=BF16), torch.tensor([0, 4], dtype=torch.int32)
    backend.attend(x, x, x, cu, 4, scale=0.5, **options)
    assert {key: seen[0].get(key) for key in passed} == passed
    assert not {"softcap", "dropout_p", "window_size"} & (seen[0].keys() - passed.keys())


@pytest.mark.parametrize("backend", [backend for backend in BACKENDS if backend is not SDPA], ids=str)
def test_a_record_offers_what_its_stand_in_takes(backend):
    """Signatures of the packages, as their documentation has them."""
    takes = inspect.signature(STAND_INS[backend.name][2]).parameters
    wrong = backend.name == "flash-4"  # the gradient, in some of its releases
    assert (backend.softcap, backend.dropout) == ("softcap" in takes and not wrong, "dropout_p" in takes)
    assert backend.window == ("window_size" in takes)


def layer(query=(1, 2, 4, 8)):
    module = torch.nn.Module()
    module.is_causal = True
    return module, *[torch.ones(query, dtype=BF16)] * 3, None


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("varlen", {"softcap": 30.0}, "'varlen' has no softcap"),
        ("varlen", {"dropout": 0.1}, "'varlen' has no dropout"),
        ("flash-4", {"dropout": 0.1}, "'flash-4' has no dropout"),
        ("varlen", {}, "'varlen' runs on cuda, not on 'cpu'"),
    ],
)
def test_what_no_config_told_is_an_error_in_the_forward_pass(name, options, message):
    cu = torch.tensor([0, 4], dtype=torch.int32)
    with pytest.raises(ValueError, match=message):
        attention(BY_NAME[name], *layer(), cu_seq_lens_q=cu, **options)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("backend", BACKENDS, ids=str)
@pytest.mark.parametrize("window", [None, 33])
def test_backends_agree_on_a_gpu(backend, window):
    if problem := backend.obstacle(torch.device("cuda"), torch.bfloat16, Needs(window="w", gqa="g", head_dim=64)):
        pytest.skip(problem)
    torch.manual_seed(0)
    cu = torch.tensor([0, 100, 101, 400], dtype=torch.int32, device="cuda")
    q, k, v = (torch.randn(1, h, 400, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True) for h in (8, 2, 2))
    copies = [x.detach().double().cpu().requires_grad_() for x in (q, k, v)]
    wanted = grouped_attention(*copies, group_documents(cu.cpu()), scale=0.125, window=window)
    half = grouped_attention(q, k, v, group_documents(cu), scale=0.125, window=window)
    options = {} if window is None else {"window": window}
    got = half if backend is SDPA else backend.attend(q, k, v, cu, 299, scale=0.125, **options)
    up = torch.randn_like(wanted)
    true = torch.autograd.grad(wanted, copies, up)
    naive = torch.autograd.grad(half, (q, k, v), up.cuda().bfloat16(), retain_graph=backend is SDPA)
    mine = torch.autograd.grad(got, (q, k, v), up.cuda().bfloat16())
    for a, b, c in zip((got, *mine), (half, *naive), (wanted, *true), strict=True):
        error, allowed = ((x.double().cpu() - c).norm() / c.norm() for x in (a, b))
        assert error <= 1.5 * allowed + 1e-3
