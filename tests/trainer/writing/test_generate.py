"""Batched generation against a loop without padding or cache."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
import torch
from tiny_export import tiny_model
from transformers import LlamaForCausalLM

from tracestill.data_pipeline.base.errors import InputError
from tracestill.trainer.writing import decoding
from tracestill.trainer.writing import generate as module
from tracestill.trainer.writing.decoding import Wanted, drawn
from tracestill.trainer.writing.generate import Ask, generate, load_exported, padded, write

BOS, EOS, PAD = 1, 2, 0
LIMIT = 24


def make_prompts(count: int) -> list[list[int]]:
    draw = random.Random(1)
    return [[BOS, *(draw.randrange(3, 32) for _ in range(draw.randrange(0, 12)))] for _ in range(count)]


def one_at_a_time(model, prompt: list[int], stops: tuple[int, ...] = (EOS,)) -> list[int]:
    """Greedy, the whole row again for each token: no batch, no padding, no cache."""
    ids = list(prompt)
    for _ in range(LIMIT):
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits
        ids.append(int(logits[0, -1].argmax()))
        if ids[-1] in stops:
            break
    return ids[len(prompt) :]


@pytest.mark.parametrize("batch_size", [1, 7, 64])
@pytest.mark.parametrize("model_type", ["llama", "qwen2", "gpt2"])
def test_batches_write_what_single_rows_write(model_type: str, batch_size: int) -> None:
    changes = {"n_embd": 32, "n_layer": 2, "n_head": 4} if model_type == "gpt2" else {}
    model = tiny_model(seed=3, model_type=model_type, **changes)
    prompts = make_prompts(20)
    settings = {"stops": [EOS], "pad_id": PAD, "max_new_tokens": LIMIT, "batch_size": batch_size}
    got = generate(model, prompts, **settings)
    with torch.inference_mode():
        assert got == [one_at_a_time(model, prompt) for prompt in prompts]
    if model_type == "llama":  # otherwise half of this test would test nothing
        stopped = [row[-1] == EOS for row in got]
        assert any(stopped)
        assert not all(stopped)
        assert all(len(row) == LIMIT for row, done in zip(got, stopped, strict=True) if not done)


def test_a_row_ends_at_the_first_of_its_stops() -> None:
    model, prompts, stops = tiny_model(seed=3), make_prompts(20), (14, EOS)
    got = generate(model, prompts, stops=stops, pad_id=PAD, max_new_tokens=LIMIT, batch_size=7)
    with torch.inference_mode():
        assert got == [one_at_a_time(model, prompt, stops) for prompt in prompts]
    assert {row[-1] for row in got} >= {*stops}


def test_those_behind_a_batch_that_ends_at_once_are_written_too() -> None:
    model, prompts = tiny_model(seed=3), make_prompts(9)
    got = generate(model, prompts, stops=[EOS], pad_id=PAD, max_new_tokens=1, batch_size=2)
    with torch.inference_mode():
        assert got == [one_at_a_time(model, prompt)[:1] for prompt in prompts]


def test_sampling_follows_the_softmax_of_the_logits() -> None:
    model = tiny_model(vocab_size=400, initializer_range=0.1)
    prompt = [BOS, 9, 8, 7]
    draws, temperature = 20_000, 0.8
    settings = {"stops": [EOS], "pad_id": PAD, "max_new_tokens": 1, "batch_size": draws}
    rows = generate(model, [prompt] * draws, temperature=temperature, seed=5, **settings)
    with torch.inference_mode():
        wanted = (model(input_ids=torch.tensor([prompt])).logits[0, -1].double() / temperature).softmax(-1)
    counts = torch.bincount(torch.tensor([row[0] for row in rows]), minlength=400).double()
    chi_square = float(((counts - draws * wanted) ** 2 / (draws * wanted)).sum())
    # 399 degrees of freedom: mean 399, standard deviation 28; keeping 50 tokens only gives thousands
    assert chi_square < 399 + 6 * 28


def test_sampling_repeats_with_its_seed_and_leaves_the_generator_alone() -> None:
    model, prompts = tiny_model(), make_prompts(9)
    settings = {"stops": [EOS], "pad_id": PAD, "max_new_tokens": LIMIT, "batch_size": 4, "temperature": 1.0}
    torch.manual_seed(11)
    before = torch.get_rng_state()
    first = generate(model, prompts, seed=1, **settings)
    assert torch.equal(torch.get_rng_state(), before)
    assert generate(model, prompts, seed=1, **settings) == first
    assert generate(model, prompts, seed=2, **settings) != first


def test_progress_is_told_by_tokens(monkeypatch) -> None:
    monkeypatch.setattr(module, "TELL_SECONDS", 0.0)
    seen: list[tuple[int, int]] = []
    settings = {"stops": [EOS], "pad_id": PAD, "max_new_tokens": LIMIT, "batch_size": 8}
    rows = generate(tiny_model(seed=3), make_prompts(20), progress=lambda *told: seen.append(told), **settings)
    lengths = [len(row) for row in rows]
    assert min(lengths) < LIMIT, "or nothing is to be foreseen"
    assert seen[0] == (8, 20 * LIMIT), "a token of each row, and no answer has ended"
    assert seen[-1] == (sum(lengths), sum(lengths))
    done = [tokens for tokens, _ in seen]
    assert done == sorted(done)
    assert all(tokens <= total for tokens, total in seen)
    assert max(b - a for a, b in pairwise(done)) <= 8, "at each token"


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_samples_are_those_of_their_prompt_and_number_whoever_is_written_beside_them(temperature: float) -> None:
    model, prompts = tiny_model(seed=3), make_prompts(13)
    settings = {"stops": [EOS], "pad_id": PAD, "seed": 4}
    asks = [Ask(prompt, LIMIT - at, 1 + at % 4, temperature) for at, prompt in enumerate(prompts)]
    together = write(model, asks, batch_size=6, **settings)
    assert [len(texts) for texts in together] == [ask.samples for ask in asks]
    for at, ask in enumerate(asks):
        (alone,) = write(model, [ask._replace(key=at)], batch_size=1, **settings)
        for one, other in zip(alone, together[at], strict=True):
            assert (one.ids, one.finished) == (other.ids, other.finished)
            assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)
    assert (len({tuple(text.ids) for text in together[3]}) > 1) == (temperature > 0)


def test_log_probabilities_are_the_models_own_at_any_temperature() -> None:
    model, prompts = tiny_model(seed=3), make_prompts(5)
    asks = [Ask(prompt, LIMIT, 2, 0.7) for prompt in prompts]
    for prompt, texts in zip(prompts, write(model, asks, stops=[EOS], pad_id=PAD, batch_size=4), strict=True):
        for text in texts:
            assert text.finished == (text.ids[-1] == EOS)
            with torch.inference_mode():
                logits = model(input_ids=torch.tensor([prompt + text.ids])).logits[0].double().log_softmax(-1)
            at = torch.arange(len(prompt) - 1, len(prompt) + len(text.ids) - 1)
            assert text.logprobs == pytest.approx(logits[at, text.ids].tolist(), abs=1e-4)


def test_transformers_own_loop_writes_the_same_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompts = tiny_model(seed=3), make_prompts(11)
    asks = [Ask(prompt, LIMIT - at, 2, at % 2 * 0.9) for at, prompt in enumerate(prompts)]
    settings = {"stops": [14, EOS], "pad_id": PAD, "batch_size": 5, "seed": 2}
    ours = write(model, asks, **settings)
    monkeypatch.setattr(module, "can_decode", lambda model: False)
    theirs = write(model, asks, **settings)
    assert [[text.ids for text in texts] for texts in ours] == [[text.ids for text in texts] for texts in theirs]
    assert [[text.finished for text in texts] for texts in ours] == [
        [text.finished for text in texts] for texts in theirs
    ]
    logprobs = [[p for texts in found for text in texts for p in text.logprobs] for found in (ours, theirs)]
    assert logprobs[0] == pytest.approx(logprobs[1], abs=1e-4)


class TakesLittle(LlamaForCausalLM):
    """As code of a model's own may be: it names what it takes, and takes nothing else."""

    def forward(self, input_ids, attention_mask=None, past_key_values=None, use_cache=None, return_dict=True):
        given = {"attention_mask": attention_mask, "past_key_values": past_key_values, "use_cache": use_cache}
        return super().forward(input_ids=input_ids, **given)


class TakesPositions(LlamaForCausalLM):
    def forward(self, input_ids, attention_mask=None, position_ids=None, past_key_values=None, use_cache=None):
        given = {"attention_mask": attention_mask, "past_key_values": past_key_values, "use_cache": use_cache}
        return super().forward(input_ids=input_ids, position_ids=position_ids, **given)


@pytest.mark.parametrize(("kind", "ours"), [(TakesLittle, False), (TakesPositions, True)])
def test_a_model_is_given_nothing_that_it_does_not_name(kind: type, ours: bool) -> None:
    model, prompts = tiny_model(seed=3), make_prompts(7)
    settings = {"stops": [EOS], "pad_id": PAD, "max_new_tokens": LIMIT, "batch_size": 3}
    wanted = generate(model, prompts, **settings)
    model.__class__ = kind
    assert decoding.can_decode(model) == ours
    if ours:  # without positions, this one counts padding, too
        assert generate(model, prompts, **settings) == wanted
    else:
        assert len(generate(model, prompts, **settings)) == len(prompts)


def test_buffers_are_cut_and_widened_as_texts_come_and_go(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(seed=3)
    draw = random.Random(5)
    prompts = [[BOS, *(draw.randrange(3, 32) for _ in range(n))] for n in (2, 3, 40, 1, 60, 2, 5, 30, 1, 2)]
    wanted = [Wanted(at, 0, prompt, LIMIT, 0.0) for at, prompt in enumerate(prompts)]
    calls = []
    for name in ("keep_last", "widen"):
        plain = getattr(decoding.Layer, name)
        monkeypatch.setattr(
            decoding.Layer, name, lambda *given, plain=plain, name=name: (calls.append(name), plain(*given))[1]
        )
    monkeypatch.setattr(decoding, "AHEAD", 4)
    found = {}
    decoding.Decoder(model, [EOS], PAD, 2, 0).write(
        iter(wanted), lambda one, text: found.update({one.prompt: text.ids})
    )
    with torch.inference_mode():
        assert [found[at] for at in range(len(prompts))] == [one_at_a_time(model, prompt) for prompt in prompts]
    assert {"keep_last", "widen"} <= set(calls), "or nothing is tested"


@pytest.mark.parametrize("ours", [True, False])
def test_no_more_tokens_than_allowed_are_held_at_a_time(monkeypatch: pytest.MonkeyPatch, ours: bool) -> None:
    model = tiny_model(seed=3)
    draw = random.Random(6)
    wanted = [
        Wanted(at, 0, [BOS, *(draw.randrange(3, 32) for _ in range(draw.randrange(40)))], draw.randrange(1, LIMIT), 0.0)
        for at in range(40)
    ]
    texts: list[dict[int, list[int]]] = [{}, {}]
    rows: list[int] = []
    keep = decoding.choose

    def counting(logits, of):
        rows.append(len(of))
        return keep(logits, of)

    monkeypatch.setattr(module, "can_decode", lambda model: ours)
    for bound, found in zip((None, 150), texts, strict=True):
        rows.clear()
        for where in (decoding, module):
            monkeypatch.setattr(where, "choose", counting)
        settings = {"stops": [EOS], "pad_id": PAD, "batch_size": 16, "batch_tokens": bound}
        module.write_wanted(
            model, wanted, lambda one, text, found=found: found.update({one.prompt: text.ids}), **settings
        )
    assert texts[0] == texts[1]
    longest = max(len(one.ids) + one.limit for one in wanted)
    assert 150 // longest < max(rows) < 16, "shorter ones may be more"
    assert rows[0] == 150 // longest


def test_a_draw_picks_the_token_in_whose_share_it_falls() -> None:
    p = torch.tensor([0.0, 0.25, 0.0, 0.5, 0.25, 0.0]).repeat(100) / 100
    draws = torch.tensor([0.0, 0.001, 0.004, 0.3333, 0.5, 0.9999, 1 - 2**-53], dtype=torch.float64)
    found = drawn(p.log().expand(len(draws), -1), draws).tolist()
    running = p.double().cumsum(0)
    assert found == [int((running > draw).nonzero()[0]) if draw < running[-1] else 598 for draw in draws]
    assert all(p[token] > 0 for token in found)


@pytest.mark.parametrize(("left", "row", "mask_row"), [(True, [0, 0, 5], [0, 0, 1]), (False, [5, 0, 0], [1, 0, 0])])
def test_padding(left, row, mask_row) -> None:
    ids, mask = padded([[5], [6, 7, 8]], PAD, left=left)
    assert ids.tolist() == [row, [6, 7, 8]]
    assert mask.tolist() == [mask_row, [1, 1, 1]]


def test_more_tokens_than_positions_are_refused() -> None:
    with pytest.raises(InputError, match=r"evaluate.max_new_tokens: 120 after a prompt of 9 .* lower it to 119"):
        generate(tiny_model(), [[BOS] * 9], stops=[EOS], pad_id=PAD, max_new_tokens=120, batch_size=1)
    with pytest.raises(InputError, match=r"exceeds the student's 128 positions; raise max_position_embeddings"):
        generate(tiny_model(), [[BOS] * 130], stops=[EOS], pad_id=PAD, max_new_tokens=1, batch_size=1)


def test_missing_export_says_what_to_run(tmp_path) -> None:
    with pytest.raises(InputError, match=r"no exported student; run `tracestill train` first"):
        load_exported(tmp_path / "export", torch.device("cpu"))
