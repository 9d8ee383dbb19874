import inspect
from itertools import pairwise

import pytest
import torch
import transformers
from transformers import CONFIG_MAPPING

from tracestill.kernels.attention import backends as attention_backends
from tracestill.kernels.attention import registered as attention
from tracestill.kernels.attention.backends import BACKENDS, Choice, backends, choose, varlen_attention
from tracestill.kernels.attention.groups import group_documents, grouped_attention
from tracestill.kernels.attention.models import refuse_unpackable


class Machine:
    """Pretends to be a machine with a CUDA device of some compute capability and some packages."""

    def __init__(self, monkeypatch, capability, installed):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
        monkeypatch.setattr(torch.version, "hip", None)
        monkeypatch.setattr(attention_backends, "_installed", lambda backend: backend in installed)


@pytest.mark.parametrize(
    ("capability", "installed", "best"),
    [
        ((8, 0), {"flash-2", "varlen"}, "flash-2"),
        ((8, 9), {"flash-3", "flash-4", "varlen"}, "varlen"),
        ((9, 0), {"flash-2", "flash-3", "varlen"}, "flash-3"),
        ((9, 0), set(BACKENDS), "flash-4"),
        ((10, 0), {"flash-2", "flash-3", "varlen"}, "flash-2"),
        ((9, 0), {"varlen"}, "varlen"),
        ((7, 5), {"flash-2", "varlen"}, "sdpa"),
        ((9, 0), set(), "sdpa"),
    ],
)
def test_auto_takes_the_best_backend_that_runs(monkeypatch, capability, installed, best):
    Machine(monkeypatch, capability, installed)
    choice = choose("auto", "cuda", torch.bfloat16)
    assert choice.backend == best
    assert all(name in choice.reason for name in BACKENDS[: BACKENDS.index(best)])


def test_auto_on_a_cpu_or_in_fp32_is_sdpa(monkeypatch):
    Machine(monkeypatch, (9, 0), set(BACKENDS))
    assert choose("auto", "cpu").backend == "sdpa"
    assert choose("auto", "cuda", torch.float32).backend == "sdpa"
    assert choose("sdpa", "cuda", torch.bfloat16) == Choice("sdpa", "forced by the recipe")


@pytest.mark.parametrize(
    ("name", "device", "dtype", "capability", "message"),
    [
        ("flash", "cpu", torch.float32, (9, 0), "unknown attention backend 'flash'; known: auto, flash-4"),
        ("flash-2", "cpu", torch.bfloat16, (9, 0), "'flash-2' cannot run: it runs on CUDA devices, not on 'cpu'"),
        ("flash-2", "cuda", torch.bfloat16, (9, 0), "not installed; pip install flash-attn"),
        ("flash-4", "cuda", torch.bfloat16, (9, 0), "not installed; pip install flash-attn-4"),
        ("varlen", "cuda", torch.float32, (9, 0), "takes bfloat16 or float16, not float32"),
        ("varlen", "cuda", torch.bfloat16, (7, 5), "needs compute capability 8.0 or later; this device has 7.5"),
    ],
)
def test_an_impossible_choice_says_what_would_help(monkeypatch, name, device, dtype, capability, message):
    Machine(monkeypatch, capability, {"varlen"})
    with pytest.raises(ValueError, match=message):
        choose(name, device, dtype)


def test_flash_3_needs_hopper(monkeypatch):
    Machine(monkeypatch, (10, 0), {"flash-3"})
    with pytest.raises(ValueError, match=r"needs compute capability 9\.x; this device has 10\.0"):
        choose("flash-3", "cuda", torch.bfloat16)


def test_every_backend_has_a_state():
    assert list(backends("cpu")) == list(BACKENDS)
    assert backends("cpu")["sdpa"] == "ready"


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
    q, k, v, cu_seqlens_q=None, cu_seqlens_k=None, max_seqlen_q=None, max_seqlen_k=None, seqused_q=None,
    seqused_k=None, page_table=None, softmax_scale=None, causal=False, window_size=(None, None),
    learnable_sink=None, softcap=0.0, num_splits=1, pack_gqa=None, deterministic=False,
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


STAND_INS = {"flash-2": flash_2, "flash-4": flash_4, "varlen": torch_varlen}


def test_the_stand_in_has_the_signature_of_torch():
    from torch.nn.attention.varlen import varlen_attn

    ours, theirs = (inspect.signature(f).parameters for f in (torch_varlen, varlen_attn))
    assert {k: v.kind for k, v in ours.items()} == {k: theirs[k].kind for k in ours if k in theirs}


@pytest.mark.parametrize("backend", STAND_INS)
@pytest.mark.parametrize("window", [None, 1, 4])
@pytest.mark.parametrize("heads", [2, 4])
def test_each_backend_is_asked_for_what_sdpa_computes(monkeypatch, backend, window, heads):
    """Windows, scale, heads and layout: the calls mean the same in every backend's own terms."""
    function = STAND_INS[backend]
    found = (function, frozenset(inspect.signature(function).parameters))
    monkeypatch.setattr(attention_backends, "function_of", lambda name: found)
    torch.manual_seed(0)
    shapes = [(1, 4, 20, 8), (1, heads, 20, 8), (1, heads, 20, 8)]
    inputs = [torch.randn(shape, dtype=torch.bfloat16) for shape in shapes]
    cu = torch.tensor([0, 6, 7, 20], dtype=torch.int32)
    got = varlen_attention(backend, *inputs, cu, 13, 0.4, window, None, 0.0)
    wanted = grouped_attention(*(x.float() for x in inputs), group_documents(cu), scale=0.4, window=window)
    assert got.shape == wanted.shape
    torch.testing.assert_close(got.float(), wanted, atol=0.02, rtol=0.02)


@pytest.mark.parametrize(
    ("backend", "softcap", "dropout", "message"),
    [
        ("varlen", 30.0, 0.0, "'varlen' has no softcap; force 'flash-2'"),
        ("varlen", None, 0.1, "'varlen' has no dropout"),
        ("flash-4", None, 0.1, "'flash-4' has no dropout_p"),
    ],
)
def test_an_option_the_backend_lacks_is_an_error(monkeypatch, backend, softcap, dropout, message):
    function = STAND_INS[backend]
    found = (function, frozenset(inspect.signature(function).parameters))
    monkeypatch.setattr(attention_backends, "function_of", lambda name: found)
    x, cu = torch.ones(1, 2, 4, 8, dtype=torch.bfloat16), torch.tensor([0, 4], dtype=torch.int32)
    with pytest.raises(ValueError, match=message):
        varlen_attention(backend, x, x, x, cu, 4, 1.0, None, softcap, dropout)


def test_backends_take_no_fp32():
    x, cu = torch.ones(1, 2, 4, 8), torch.tensor([0, 4], dtype=torch.int32)
    with pytest.raises(ValueError, match="'varlen' takes bfloat16 or float16"):
        varlen_attention("varlen", x, x, x, cu, 4, 1.0, None, None, 0.0)


@pytest.mark.parametrize(
    "family", ["llama", "qwen2", "qwen3", "gemma3_text", "mistral", "mixtral", "olmo2", "phi3", "gpt2"]
)
def test_models_that_only_attend_are_accepted(family):
    refuse_unpackable(CONFIG_MAPPING[family]())


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("mamba", "recurrent state"),
        ("mamba2", "recurrent state"),
        ("jamba", "recurrent state"),
        ("zamba2", "recurrent state"),
        ("falcon_h1", "recurrent state"),
        ("nemotron_h", "recurrent state"),
        ("qwen3_next", "recurrent state"),
        ("qwen3_5_text", "recurrent state"),
        ("recurrent_gemma", "recurrent state"),
        ("minimax", "recurrent state"),
        ("rwkv", "recurrent state"),
        ("lfm2", "convolves along the row"),
        ("llama4_text", "cuts the row, not the document, into chunks"),
        ("deepseek_v32", "selects or compresses keys over the whole row"),
        ("gpt_oss", "attention sinks"),
        ("bloom", "does not take its attention from transformers' AttentionInterface"),
        ("gemma2", "attention backend 'sdpa' has no softcap"),
        ("t5", "encoder-decoder"),
    ],
)
def test_models_that_packing_cannot_isolate_are_refused_by_name(family, reason):
    with pytest.raises(ValueError, match=f"model '{family}' cannot be packed: .*{reason}"):
        refuse_unpackable(CONFIG_MAPPING[family]())


def test_softcap_is_accepted_where_the_backend_has_one():
    refuse_unpackable(CONFIG_MAPPING["gemma2"](), "flash-2")
    with pytest.raises(ValueError, match="'varlen' has no softcap"):
        refuse_unpackable(CONFIG_MAPPING["gemma2"](), "varlen")


def test_layers_nobody_heard_of_are_refused():
    config = transformers.LlamaConfig(num_hidden_layers=1)
    config.layer_types = ["telepathy"]
    with pytest.raises(ValueError, match="nothing is known of its 'telepathy' layers"):
        refuse_unpackable(config)


def test_register_says_what_it_chose():
    choice = attention.register("auto", "cpu")
    assert choice.backend == "sdpa"
    assert "not on 'cpu'" in choice.reason
    assert transformers.AttentionInterface._global_mapping[attention.NAME] is attention.dispatch
    with pytest.raises(ValueError, match="'varlen' cannot run"):
        attention.register("varlen", "cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("window", [None, 33])
def test_backends_agree_on_a_gpu(backend, window):
    if backends("cuda", torch.bfloat16)[backend] != "ready":
        pytest.skip(backends("cuda", torch.bfloat16)[backend])
    torch.manual_seed(0)
    cu = torch.tensor([0, 100, 101, 400], dtype=torch.int32, device="cuda")
    q, k, v = (torch.randn(1, h, 400, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True) for h in (8, 2, 2))
    copies = [x.detach().double().cpu().requires_grad_() for x in (q, k, v)]
    wanted = grouped_attention(*copies, group_documents(cu.cpu()), scale=0.125, window=window)
    half = grouped_attention(q, k, v, group_documents(cu), scale=0.125, window=window)
    got = half if backend == "sdpa" else varlen_attention(backend, q, k, v, cu, 299, 0.125, window, None, 0.0)
    up = torch.randn_like(wanted)
    true = torch.autograd.grad(wanted, copies, up)
    naive = torch.autograd.grad(half, (q, k, v), up.cuda().bfloat16(), retain_graph=backend == "sdpa")
    mine = torch.autograd.grad(got, (q, k, v), up.cuda().bfloat16())
    for a, b, c in zip((got, *mine), (half, *naive), (wanted, *true), strict=True):
        error, allowed = ((x.double().cpu() - c).norm() / c.norm() for x in (a, b))
        assert error <= 1.5 * allowed + 1e-3
