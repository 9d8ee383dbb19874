from copy import deepcopy
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    Qwen3Config,
)

from tracestill.kernels.attention import SDPA, register
from tracestill.kernels.attention import groups as attention_groups
from tracestill.kernels.attention.groups import cut_lengths, group_documents, grouped_attention, groups_of
from tracestill.kernels.attention.registered import attention
from tracestill.kernels.pack import pack

SHAPE = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CONFIGS = {
    "llama": LlamaConfig(num_hidden_layers=2, **SHAPE),
    "qwen3": Qwen3Config(num_hidden_layers=2, head_dim=16, **SHAPE),
    "gemma3": Gemma3TextConfig(
        num_hidden_layers=3,
        head_dim=16,
        sliding_window=9,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        **SHAPE,
    ),
    "mistral": MistralConfig(num_hidden_layers=2, sliding_window=11, **SHAPE),
}
LENGTHS = (13, 1, 40, 2, 25, 40, 7)  # equal, single, shorter and longer than the windows


@pytest.fixture(params=["grouped", "one by one"])
def way(request, monkeypatch):
    """Each of the two ways through SDPA, whatever the costs say."""
    monkeypatch.setattr(attention_groups, "GATHER_COST", 0 if request.param == "grouped" else 10**6)
    return request.param


def build(family, attention=None, dtype=torch.float32):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(
        deepcopy(CONFIGS[family]), attn_implementation=attention or register(SDPA), dtype=dtype
    )


def packed(seed=0, lengths=LENGTHS, length=None):
    """Documents that can be learned (each counts up by its own step), with kinds of several weights."""
    rng = np.random.default_rng(seed)
    tokens = np.concatenate([3 + (rng.integers(90) + rng.integers(1, 9) * np.arange(n)) % 94 for n in lengths])
    kinds = rng.integers(0, 4, len(tokens)).astype(np.uint8)
    weights = rng.uniform(0.2, 2, len(lengths)).astype(np.float32)
    table = np.array([0, 1, 0.3, 2], np.float32)
    return pack(tokens, kinds, np.r_[0, np.cumsum(lengths)], weights, table, length=length)


def forward(model, batch):
    return model(
        batch.input_ids,
        position_ids=batch.position_ids,
        use_cache=False,
        cu_seq_lens_q=batch.cu_seqlens,
        cu_seq_lens_k=batch.cu_seqlens,
        max_length_q=batch.max_length,
        max_length_k=batch.max_length,
    ).logits[0]


def apart(model, batch):
    """Logits of every document run by itself, joined."""
    bounds = batch.cu_seqlens.tolist()
    return torch.cat([model(batch.input_ids[:, a:b], use_cache=False).logits[0] for a, b in pairwise(bounds)])


def backward(logits, batch):
    nll = F.cross_entropy(logits, batch.labels, reduction="none", ignore_index=-100)
    weight = batch.loss_weight.to(nll.dtype)
    loss = (nll * weight).sum() / weight.sum()
    loss.backward()
    return loss.detach()


def gradients(model):
    return {name: p.grad.double() for name, p in model.named_parameters()}


def distance(a, b):
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


@pytest.mark.parametrize("family", CONFIGS)
def test_documents_in_a_pack_equal_documents_alone(family, way):
    """Bounds of the design page: logits and loss 1e-6, gradient 2e-6, a parameter 4 x the plain error vs fp64."""
    batch = packed(length=sum(LENGTHS) + 5)
    assert (groups_of(batch.cu_seqlens).gather is None) == (way == "one by one")
    ours, plain, exact = build(family), build(family, "eager"), build(family, "eager", torch.float64)
    exact.load_state_dict(plain.state_dict())
    logits, wanted = forward(ours, batch), apart(plain, batch)
    for a, b in pairwise([0, *np.cumsum(LENGTHS).tolist()]):  # the row's padding has logits of zero
        assert distance(logits[a:b], wanted[a:b]) < 1e-6, (a, b)
    losses = [backward(logits, batch), backward(wanted, batch), backward(apart(exact, batch), batch)]
    assert distance(losses[0], losses[1]) < 1e-6
    got, near, true = gradients(ours), gradients(plain), gradients(exact)
    assert distance(torch.cat([g.flatten() for g in got.values()]), torch.cat([near[k].flatten() for k in got])) < 2e-6
    for name in got:
        allowed = max(4 * distance(near[name], true[name]), 1e-6)
        assert distance(got[name], true[name]) <= allowed, name


@pytest.mark.parametrize("family", CONFIGS)
def test_bf16_is_as_near_to_the_truth_as_the_plain_model(family):
    batch = packed()
    ours, plain = build(family, dtype=torch.bfloat16), build(family, "eager", torch.bfloat16)
    exact = build(family, "eager", torch.float64)
    exact.load_state_dict(plain.state_dict())
    true = apart(exact, batch)
    assert distance(forward(ours, batch), true) <= 1.1 * distance(apart(plain, batch), true) + 1e-3


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("poison", ["tokens", "nan"])
def test_a_changed_document_moves_no_other_by_one_bit(family, poison, way):
    batch, model = packed(), build(family)
    embedded = model.get_input_embeddings()(batch.input_ids).detach()
    bounds = batch.cu_seqlens.tolist()

    def run(inputs):
        inputs = inputs.clone().requires_grad_()
        logits = model(
            inputs_embeds=inputs, position_ids=batch.position_ids, use_cache=False, cu_seq_lens_q=batch.cu_seqlens
        ).logits[0]
        grad = torch.zeros_like(logits)
        grad[others] = 1.0
        return logits.detach(), torch.autograd.grad(logits, inputs, grad)[0][0]

    for document in (2, 4, 6):
        start, end = bounds[document], bounds[document + 1]
        others = torch.ones(bounds[-1], dtype=torch.bool)
        others[start:end] = False
        changed = embedded.clone()
        changed[:, start:end] = changed[:, start:end] * 3 + 1 if poison == "tokens" else float("nan")
        before, after = run(embedded), run(changed)
        assert not torch.equal(before[0][~others], after[0][~others])
        assert torch.equal(before[0][others], after[0][others])
        assert torch.equal(before[1][others], after[1][others])


@pytest.mark.parametrize("family", CONFIGS)
def test_generation_equals_eager(family):
    ours, plain = build(family).eval(), build(family, "eager").eval()
    torch.manual_seed(1)
    ids = torch.randint(3, 97, (3, 15))
    left_padded = torch.ones_like(ids)
    left_padded[0, :6] = 0
    left_padded[2, :1] = 0
    options = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    for mask in (left_padded, torch.ones_like(ids)):
        for cache in (True, False):
            a = ours.generate(ids, attention_mask=mask, use_cache=cache, **options)
            assert torch.equal(a, plain.generate(ids, attention_mask=mask, use_cache=cache, **options))


@pytest.mark.parametrize("family", CONFIGS)
def test_rows_without_cu_seqlens_equal_eager_or_are_refused(family):
    ours, plain = build(family), build(family, "eager")
    ids = torch.randint(3, 97, (2, 30))
    assert distance(ours(ids, use_cache=False).logits, plain(ids, use_cache=False).logits) < 1e-6
    batch = packed()
    with pytest.raises(ValueError, match="positions restart inside a row but no cu_seq_lens_q was given"):
        ours(batch.input_ids, position_ids=batch.position_ids, use_cache=False)


def naive(query, key, value, bounds, scale, window):
    """Softmax over an explicit mask of the whole row, in float64."""
    query, key, value = (x.double() for x in (query, key, value))
    key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], dim=1) for x in (key, value))
    at = torch.arange(query.shape[2])
    document = torch.bucketize(at, torch.tensor(bounds[1:]), right=True)
    seen = (document[:, None] == document[None]) & (at[:, None] >= at[None])
    if window is not None:
        seen &= at[:, None] - at[None] < window
    scores = (query @ key.transpose(-1, -2) * scale).masked_fill(~seen, float("-inf"))
    return (scores.softmax(-1) @ value).transpose(1, 2)


@pytest.mark.parametrize("window", [None, 1, 5, 64])
@pytest.mark.parametrize("lengths", [(64,), (1,), (1, 1, 1), (3, 60, 1), (17,) * 4, tuple(range(1, 14)), (90, 2, 33)])
def test_grouped_attention_equals_an_explicit_mask(lengths, window, way):
    torch.manual_seed(len(lengths))
    bounds = [0, *np.cumsum(lengths).tolist()]
    groups = group_documents(torch.tensor(bounds, dtype=torch.int32))
    shapes = [(1, heads, bounds[-1], 8) for heads in (6, 2, 2)]
    inputs = [torch.randn(shape, requires_grad=True) for shape in shapes]
    copies = [x.detach().double().requires_grad_() for x in inputs]
    out = grouped_attention(*inputs, groups, scale=0.3, window=window)
    wanted = naive(*copies, bounds, 0.3, window)
    assert distance(out, wanted) < 1e-6
    up = torch.randn_like(out)
    for got, true in zip(
        torch.autograd.grad(out, inputs, up), torch.autograd.grad(wanted, copies, up.double()), strict=True
    ):
        assert distance(got, true) < 2e-6 if true.norm() > 1e-9 else got.norm() < 1e-5


@pytest.mark.parametrize("lengths", [(64,), (3, 60, 1), (17,) * 4, (90, 2, 33)])
def test_layers_of_one_row_may_have_windows_of_their_own(lengths, way):
    """They share the row's groups, and the masks kept there."""
    torch.manual_seed(0)
    bounds = [0, *np.cumsum(lengths).tolist()]
    groups = group_documents(torch.tensor(bounds, dtype=torch.int32))
    inputs = [torch.randn(1, heads, bounds[-1], 8) for heads in (6, 2, 2)]
    for window in (5, None, 9, 2, 5, 61):
        out = grouped_attention(*inputs, groups, scale=0.3, window=window)
        assert distance(out, naive(*inputs, bounds, 0.3, window)) < 1e-6, window
    for (length, window), mask in groups.bands.items():
        at = np.arange(length)
        wanted = [[0 <= i - j < window for j in at] for i in at]
        assert mask.tolist() == wanted


def test_grouping_is_the_cheapest_cut_and_covers_every_token(monkeypatch):
    monkeypatch.setattr(attention_groups, "GATHER_COST", -(10**6))
    rng = np.random.default_rng(0)
    for _ in range(30):
        lengths = np.sort(rng.integers(1, rng.integers(2, 300), rng.integers(1, 9)))

        def cost(runs, lengths=lengths):
            return sum(1024 + (b - a) * int(lengths[b - 1]) ** 2 for a, b in runs)

        cuts = range(1 << (len(lengths) - 1))  # every way to cut the sorted lengths
        edges = [[0, *(i + 1 for i in range(len(lengths) - 1) if c >> i & 1), len(lengths)] for c in cuts]
        best = min(cost(list(pairwise(e))) for e in edges)
        assert cost(cut_lengths(lengths)) == best
        groups = group_documents(torch.tensor(np.r_[0, rng.permutation(lengths).cumsum()], dtype=torch.int32))
        assert torch.equal(groups.gather[groups.scatter], torch.arange(groups.total))
        assert sum(b * n for b, n in groups.shapes) == len(groups.gather)


@pytest.mark.parametrize(("lengths", "apart"), [([5] * 300, False), ([300, 299, 150], True), ([2048], True)])
def test_short_documents_share_calls_and_long_ones_do_not(lengths, apart):
    groups = group_documents(torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32))
    assert (groups.gather is None) == apart


def test_groups_are_computed_once_a_row_and_never_stale():
    first = torch.tensor([0, 3, 5], dtype=torch.int32)
    assert groups_of(first) is groups_of(first)
    assert groups_of(first.clone()) is not groups_of(first)
    before = groups_of(first)
    first[1] = 4
    assert groups_of(first) is not before


def call(query=(1, 4, 6, 8), key=(1, 2, 6, 8), mask=None, cu=(0, 2, 6), **options):
    module = torch.nn.Module()
    module.is_causal, module.num_key_value_groups = True, query[1] // key[1]
    cu = None if cu is None else torch.tensor(cu, dtype=torch.int32)
    return attention(
        SDPA, module, torch.ones(query), torch.ones(key), torch.ones(key), mask, cu_seq_lens_q=cu, **options
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cu": (0, 2, 5)}, "cu_seqlens end at 5, but the row holds 6 tokens"),
        ({"cu": (1, 6)}, "cu_seqlens must ascend from 0"),
        ({"cu": (0, 4, 2, 6)}, "cu_seqlens must ascend from 0"),
        ({"query": (2, 4, 6, 8), "key": (2, 2, 6, 8)}, "packed attention takes one row"),
        ({"query": (1, 4, 1, 8)}, "packed attention takes one row and no cache"),
        ({"mask": torch.ones(1, 1, 6, 6)}, "packed rows take no attention_mask"),
        ({"is_causal": False}, "is not causal"),
        ({"softcap": 50.0}, "attention backend 'sdpa' has no softcap"),
        ({"s_aux": torch.ones(4)}, "does not support s_aux"),
        ({"position_bias": torch.ones(4)}, "does not support position_bias"),
    ],
)
def test_what_cannot_be_isolated_is_an_error(options, message):
    with pytest.raises(ValueError, match=message):
        call(**options)


def test_gradient_checkpointing_changes_nothing():
    batch, plain, saving = packed(), build("gemma3"), build("gemma3").train()
    saving.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    backward(forward(plain, batch), batch)
    backward(forward(saving, batch), batch)
    for (name, a), b in zip(gradients(plain).items(), gradients(saving).values(), strict=True):
        assert torch.equal(a, b), name
