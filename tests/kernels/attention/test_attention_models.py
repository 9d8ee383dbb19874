"""Models keep their own attention, and those that packing cannot isolate are refused."""

from copy import deepcopy
from itertools import pairwise

import pytest
import torch
import transformers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from tracestill.kernels.attention import BACKENDS, SDPA, Backend, choose, needs_of, register
from tracestill.kernels.attention.registered import dispatch

(FLASH_2,) = (backend for backend in BACKENDS if backend.name == "flash-2")


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
    assert "flash" not in register(FLASH_2), "transformers would take it for its own"


def test_an_exchange_is_given_the_models_own_attention():
    calls = []
    backend = fake("own", 1.0, calls)

    def exchange(attend, module, query, *rest, **options):
        assert "exchange" not in options
        return attend(module, 2 * query, *rest, **options)

    registered = transformers.AttentionInterface()[register(backend)]
    assert registered.func is dispatch
    cu = torch.tensor([0, 4], dtype=torch.int32)
    module = torch.nn.Module()
    module.is_causal = True
    row = torch.ones(1, 2, 4, 8, dtype=torch.bfloat16)
    out, _ = registered(module, row, row, row, None, exchange=exchange, cu_seq_lens_q=cu, max_length_q=4)
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
    ours, theirs = gemma_2(register(FLASH_2)), gemma_2("eager")
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
