"""Which backend a model gets on a machine and why, each backend's call, and models that packing cannot isolate."""

import inspect
import sys
from copy import deepcopy
from functools import wraps
from importlib.machinery import ModuleSpec
from itertools import pairwise
from types import ModuleType

import pytest
import torch
import transformers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from tracestill.kernels.attention import BACKENDS, SDPA, Backend, Needs, choose, needs_of, register
from tracestill.kernels.attention.groups import group_documents, grouped_attention
from tracestill.kernels.attention.registered import attention, dispatch

BY_NAME = {backend.name: backend for backend in BACKENDS}
MODULES = {
    "flash-4": ["flash_attn", "flash_attn.cute"],
    "flash-3": ["flash_attn_interface"],
    "flash-2": ["flash_attn", "flash_attn_2_cuda"],
    "varlen": ["torch.nn.attention.varlen"],
}
CUDA, BF16 = "cuda", torch.bfloat16


def pretend(monkeypatch, capability, installed, hip=None):
    """A machine with a CUDA device of some compute capability, and these backends' packages alone."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    monkeypatch.setattr(torch.version, "hip", hip)
    there = {module for name in installed for module in MODULES[name]}
    for module in {module for modules in MODULES.values() for module in modules}:
        fake = ModuleType(module) if module in there else None
        if fake is not None:
            fake.__spec__, fake.__path__ = ModuleSpec(module, None), []
        monkeypatch.setitem(sys.modules, module, fake)


@pytest.mark.parametrize(
    ("capability", "installed", "needs", "best"),
    [
        ((8, 0), {"flash-2", "varlen"}, {}, "flash-2"),
        ((8, 9), {"flash-3", "flash-4", "varlen"}, {}, "varlen"),
        ((9, 0), {"flash-2", "flash-3", "varlen"}, {}, "flash-3"),
        ((9, 0), set(MODULES), {}, "flash-4"),
        ((10, 0), {"flash-2", "flash-3", "varlen"}, {}, "flash-2"),
        ((12, 0), {"flash-4", "varlen"}, {}, "varlen"),
        ((9, 0), {"varlen"}, {}, "varlen"),
        ((7, 5), {"flash-2", "varlen"}, {}, "sdpa"),
        ((9, 0), set(), {}, "sdpa"),
        # what a model needs
        ((9, 0), set(MODULES), {"dropout": "attention_dropout=0.1"}, "flash-2"),
        ((9, 0), {"flash-3", "varlen"}, {"dropout": "attention_dropout=0.1"}, "sdpa"),
        ((9, 0), set(MODULES), {"window": "w", "gqa": "g", "head_dim": 128}, "flash-4"),
        ((9, 0), set(MODULES), {"head_dim": 256}, "flash-3"),
        ((9, 0), set(MODULES), {"head_dim": 512}, "sdpa"),
        ((9, 0), set(MODULES), {"value_dim": "v_head_dim=128"}, "sdpa"),
        ((9, 0), {"varlen", "flash-2"}, {"softcap": "attn_logit_softcapping=50.0"}, "flash-2"),
        ((9, 0), set(MODULES), {"softcap": "attn_logit_softcapping=50.0"}, "flash-3"),
        ((9, 0), set(MODULES), {"head_dim": 24, "head_divisor": 8}, "flash-4"),
        ((9, 0), set(MODULES), {"head_dim": 20, "head_divisor": 20}, "flash-2"),  # the others' kernels refuse it
        ((9, 0), {"flash-3", "flash-4", "varlen"}, {"head_dim": 24, "head_divisor": 4}, "sdpa"),
    ],
)
def test_auto_takes_the_first_backend_that_can(monkeypatch, capability, installed, needs, best):
    pretend(monkeypatch, capability, installed)
    choice = choose("auto", CUDA, BF16, Needs(**needs))
    assert choice.backend is BY_NAME[best]
    names = [backend.name for backend in BACKENDS]
    assert names == ["flash-4", "flash-3", "flash-2", "varlen", "sdpa"], "the order of preference"
    assert all(name in choice.reason for name in names[: names.index(best)])


def test_auto_on_a_cpu_or_in_fp32_is_sdpa(monkeypatch):
    pretend(monkeypatch, (9, 0), set(MODULES))
    for device, dtype, why in (("cpu", BF16, "runs on cuda, not on 'cpu'"), (CUDA, torch.float32, "not float32")):
        choice = choose("auto", device, dtype)
        assert choice.backend is SDPA
        assert "flash-4, flash-3, flash-2, varlen: " in choice.reason, "one reason is said once"
        assert why in choice.reason
    assert choose("sdpa", CUDA, BF16) == (SDPA, "as asked for")


def test_amd_has_flash_2_alone(monkeypatch):
    pretend(monkeypatch, (9, 0), set(MODULES), hip="6.2")
    choice = choose("auto", CUDA, BF16)
    assert choice.backend.name == "flash-2"
    assert "flash-4, flash-3: needs an NVIDIA device" in choice.reason
    with pytest.raises(ValueError, match="'varlen' cannot run: it needs an NVIDIA device; use flash-2, sdpa"):
        choose("varlen", CUDA, BF16)
    assert choose("sdpa", CUDA, BF16).backend is SDPA


@pytest.mark.parametrize(
    ("name", "device", "dtype", "capability", "needs", "message"),
    [
        ("flash", "cpu", torch.float32, (9, 0), {}, "unknown attention backend 'flash'; known: auto, flash-4"),
        ("flash-2", "cpu", BF16, (9, 0), {}, "'flash-2' cannot run: it runs on cuda, not on 'cpu'; use sdpa"),
        ("flash-2", CUDA, BF16, (9, 0), {}, "not installed; pip install flash-attn --no.*; use varlen, sdpa"),
        ("flash-4", CUDA, BF16, (9, 0), {}, "not installed; pip install 'flash-attn-4>="),
        ("flash-4", CUDA, BF16, (8, 0), {}, "not installed"),
        ("varlen", CUDA, torch.float32, (9, 0), {}, "takes bfloat16 or float16, not float32; train in bf16"),
        ("varlen", CUDA, BF16, (7, 5), {}, r"needs compute capability 8\.0 or later; this device has 7\.5"),
        (
            "varlen",
            CUDA,
            BF16,
            (9, 0),
            {"head_dim": 20, "head_divisor": 20},
            "has only heads of multiples of 8 .*head_dim=20.; use",
        ),
        ("varlen", CUDA, BF16, (9, 0), {"dropout": "d=0.1"}, r"has no dropout \(d=0.1\); use sdpa"),
        ("varlen", CUDA, BF16, (9, 0), {"softcap": "cap=5"}, "has no softcap .cap=5.; use flash-3 on cuda, flash-2 on"),
        ("auto", "cpu", BF16, (9, 0), {"softcap": "c"}, "varlen: runs on cuda, not on 'cpu'; sdpa: has no softcap"),
        ("auto", CUDA, BF16, (9, 0), {"softcap": "c"}, "flash-4, varlen, sdpa: has no softcap .c.; flash-3: is not"),
    ],
)
def test_an_impossible_choice_says_what_would_help(monkeypatch, name, device, dtype, capability, needs, message):
    pretend(monkeypatch, capability, {"varlen"})
    with pytest.raises(ValueError, match=message):
        choose(name, device, dtype, Needs(**needs))


@pytest.mark.parametrize(("name", "wanted"), [("flash-3", r"9\.x"), ("flash-4", r"9\.0 to 10\.x")])
def test_a_device_may_be_too_new(monkeypatch, name, wanted):
    pretend(monkeypatch, (12, 0), {name})
    with pytest.raises(ValueError, match=rf"needs compute capability {wanted}; this device has 12\.0"):
        choose(name, CUDA, BF16)


@pytest.mark.parametrize(
    ("family", "changes", "wanted"),
    [
        ("llama", {"hidden_size": 64, "num_attention_heads": 4}, {"head_dim": 16}),
        ("llama", {"attention_dropout": 0.1, "head_dim": 24}, {"dropout": "attention_dropout=0.1", "head_dim": 24}),
        ("llama", {"hidden_size": 60, "num_attention_heads": 3}, {"head_dim": 20, "head_divisor": 20}),
        ("mistral", {"sliding_window": 7}, {"window": "sliding_window=7", "gqa": "num_key_value_heads=8"}),
        ("mistral", {"sliding_window": None}, {"window": ""}),
        ("qwen2", {"sliding_window": 7, "use_sliding_window": False}, {"window": "", "gqa": ""}),
        ("gemma3_text", {"sliding_window": 9}, {"window": "sliding_window=9", "softcap": ""}),
        ("gemma3_text", {"layer_types": ["full_attention"] * 26}, {"window": ""}),
        ("gemma2", {}, {"softcap": "attn_logit_softcapping=50.0", "head_dim": 256}),
        ("gpt2", {"attn_pdrop": 0.0}, {"dropout": "", "head_dim": 64}),
        ("gpt2", {}, {"dropout": "attn_pdrop=0.1"}),
        ("deepseek_v3", {}, {"value_dim": "v_head_dim=128", "head_dim": 192, "head_divisor": 64}),
        ("gemma4_text", {}, {"head_dim": 512, "value_dim": ""}),  # its layers differ
    ],
)
def test_what_a_model_needs_is_read_from_its_config(family, changes, wanted):
    if family not in CONFIG_MAPPING:
        pytest.skip(f"transformers {transformers.__version__} has no {family}")
    found = needs_of(CONFIG_MAPPING[family](**changes))
    assert {name: getattr(found, name) for name in wanted} == wanted


def test_a_config_of_somebodys_own_may_say_it_layer_by_layer():
    class Own(transformers.PretrainedConfig):
        model_type = "own"

    lists = {"num_attention_heads": [4, 2], "num_key_value_heads": [4, 1], "sliding_window": [0, 9]}
    found = needs_of(Own(hidden_size=48, **lists))
    assert found == Needs(window="sliding_window=9", gqa="num_key_value_heads=1", head_dim=24, head_divisor=12)
    assert needs_of(Own(num_attention_heads=4)) == Needs(), "no size is known"


# The calls


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

    ours, theirs = (inspect.signature(f).parameters for f in (torch_varlen, varlen_attn))
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


# A model's own


def fake(name, factor, calls):
    """A backend for the CPU that says when it is called; its outputs are ``factor`` times the right ones."""

    def attend(query, key, value, cu_seqlens, longest, *, scale):
        calls.append((name, longest))
        return factor * SDPA.attend(query, key, value, cu_seqlens, longest, scale=scale)

    return Backend(name, attend, gqa=True)


def test_models_of_one_process_keep_their_own_backends():
    """Whatever is built, chosen and registered after them, through copies, and after transformers' own generation."""
    calls = []
    backends = [fake("first", 1.0, calls), fake("second", 2.0, calls), fake("second", 3.0, calls)]
    config = transformers.LlamaConfig(
        vocab_size=20, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip

    def built(backend):
        torch.manual_seed(0)
        own = deepcopy(config)
        choice = choose(backend, needs=needs_of(own))
        assert choice == (backend, "as asked for")
        return AutoModelForCausalLM.from_config(own, attn_implementation=register(choice.backend)).eval()

    ids, cu = torch.tensor([[3, 4, 5, 6, 7]]), torch.tensor([0, 2, 5], dtype=torch.int32)
    positions = torch.tensor([[0, 1, 0, 1, 2]])

    def run(model):
        calls.clear()
        logits = model(ids, position_ids=positions, use_cache=False, cu_seq_lens_q=cu, max_length_q=3).logits
        (call,) = calls
        return call[0], logits

    models = [built(backend) for backend in backends]
    alone = [run(model)[1] for model in models]
    assert not any(torch.equal(a, b) for a, b in pairwise(alone)), "two of one name are two"
    choose("auto")
    register(SDPA)
    models += [deepcopy(models[1]), built(SDPA)]
    calls.clear()
    models[0].generate(ids, max_new_tokens=2, do_sample=False)
    assert calls == [], "rows with a cache are transformers' own SDPA"
    models[1].set_attn_implementation("sdpa")
    models[1].set_attn_implementation(register(backends[1]))
    for at in (0, 1, 2, 1, 0, 3, 2):
        name, logits = run(models[at])
        assert name == backends[1 if at == 3 else at].name
        assert torch.equal(logits, alone[1 if at == 3 else at])
    with pytest.raises(ValueError, match="not enough values"):
        run(models[4])
    assert "flash" not in register(BY_NAME["flash-2"]), "transformers would take it for its own"


def test_an_exchange_is_given_the_models_own_attention():
    calls = []
    backend = fake("own", 1.0, calls)

    def exchange(attend, module, query, *rest, **options):
        assert "exchange" not in options
        return attend(module, 2 * query, *rest, **options)

    registered = transformers.AttentionInterface()[register(backend)]
    assert registered.func is dispatch
    cu = torch.tensor([0, 4], dtype=torch.int32)
    out, _ = registered(*layer(), exchange=exchange, cu_seq_lens_q=cu, max_length_q=4)
    assert calls == [("own", 4)]
    assert out.shape == (1, 4, 2, 8)


def gemma_2(implementation, cap=0.5):
    torch.manual_seed(0)
    config = transformers.Gemma2Config(
        vocab_size=20, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=4, head_dim=4,
        num_key_value_heads=2, sliding_window=3, attn_logit_softcapping=cap, query_pre_attn_scalar=1,
        initializer_range=0.5, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config, attn_implementation=implementation).eval()


@torch.no_grad()
def test_a_softcap_holds_in_ordinary_rows_too():
    """In those in which a head is checked as a student is built, and in which a model writes."""
    ours, theirs = gemma_2(register(BY_NAME["flash-2"])), gemma_2("eager")
    ids = torch.randint(3, 20, (2, 9), generator=torch.Generator().manual_seed(1))
    assert (theirs(ids).logits - gemma_2("eager", cap=50.0)(ids).logits).abs().max() > 0.1, "it matters here"
    seen = torch.ones_like(ids)
    seen[1, :4] = 0  # padded on the left
    for options in ({"use_cache": False}, {"attention_mask": seen}):
        mine, wanted = (model(ids, **options).logits for model in (ours, theirs))
        torch.testing.assert_close(mine[:, 4:], wanted[:, 4:], atol=1e-5, rtol=1e-5)
    more = {"attention_mask": seen, "max_new_tokens": 6, "do_sample": False}
    assert torch.equal(ours.generate(ids, **more), theirs.generate(ids, **more))


# Models


@pytest.mark.parametrize(
    "family", ["llama", "qwen2", "qwen3", "gemma3_text", "mistral", "mixtral", "olmo2", "phi3", "gpt2"]
)
def test_models_that_only_attend_are_accepted(family):
    needs_of(CONFIG_MAPPING[family]())


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
        ("bert", "its attention is not causal"),
        ("t5", "encoder-decoder"),
    ],
)
def test_models_that_packing_cannot_isolate_are_refused_by_name(family, reason):
    with pytest.raises(ValueError, match=f"model '{family}' cannot be packed: .*{reason}"):
        needs_of(CONFIG_MAPPING[family]())


def test_layers_nobody_heard_of_are_refused():
    config = transformers.LlamaConfig(num_hidden_layers=1)
    config.layer_types = ["telepathy"]
    with pytest.raises(ValueError, match="nothing is known of its 'telepathy' layers"):
        needs_of(config)


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
