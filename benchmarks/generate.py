"""How fast a student is asked: against transformers' ``generate`` one text after the other, and in its plain batches.

    python benchmarks/generate.py [--json PATH] [--threads N] [--quick]

A student of ten million parameters writes 8 samples to each of 300 questions, up to 256 tokens each; ``--quick``: 4 to
each of 32, up to 96 tokens. Its weights are random, and one token in 128 is a stop, so that texts are of all lengths,
as a student's traces are: about 110 tokens in the mean. Questions are of 20 to 120 tokens, in no order. Plain batches
are ``model.generate`` with ``num_return_sequences``, as many texts at a time as we have, in the order in which they
come. One text after the other is measured on every 48th (``--quick``: every 8th). Rates are tokens of texts, their
stops included, a second of the clock; those a second of the CPU stand beside them, for a machine on which others work.
Ours and theirs draw other numbers, so that their texts differ in length by chance; rates do not depend on it by much.

At temperature 0 the texts of all questions are compared with those of ``generate``, question by question, in fp32.
Where they part, a forward pass over the text so far in float64 says how near the two tokens were: within ``NEAR`` of a
logit no arithmetic in fp32 decides between them.

``generate_batch``, transformers' continuous batching, stands beside them where it runs. It is no way to ask: it draws
from one generator, so that a text depends on who else is asked, and it keeps no likelihood of what was drawn.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from machine import claim, finish, table
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from tracestill.trainer.writing.generate import Ask, padded, write

CONFIG = {
    **{"model_type": "llama", "vocab_size": 8192, "hidden_size": 320, "intermediate_size": 864},
    **{"num_hidden_layers": 6, "num_attention_heads": 5, "num_key_value_heads": 5, "max_position_embeddings": 1024},
    **{"tie_word_embeddings": True, "initializer_range": 0.05},
}
PAD, BOS = 0, 1
STOPS = list(range(64, 128))  # of 8,192
TEMPERATURE = 1.0
BATCH = 128
NEAR = 1e-3
ONE_BY_ONE, BATCHES = 5.0, 1.5


def student() -> PreTrainedModel:
    torch.manual_seed(0)
    given = dict(CONFIG)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(given.pop("model_type"), **given)).eval()


def questions(count: int) -> list[list[int]]:
    draw = random.Random(1)
    return [[BOS, *(draw.randrange(128, 8192) for _ in range(draw.randrange(19, 120)))] for _ in range(count)]


def settings(limit: int, **more: Any) -> GenerationConfig:
    return GenerationConfig(max_new_tokens=limit, eos_token_id=STOPS, pad_token_id=PAD, **more)


def drawing(limit: int, samples: int) -> GenerationConfig:
    how = {"do_sample": True, "temperature": TEMPERATURE, "top_k": 0, "top_p": 1.0}
    return settings(limit, num_return_sequences=samples, **how)


def cut(ids: list[int]) -> list[int]:
    """Up to the first stop."""
    return ids[: next((at + 1 for at, token in enumerate(ids) if token in STOPS), len(ids))]


@torch.inference_mode()
def theirs(model: PreTrainedModel, prompts: Sequence[list[int]], how: GenerationConfig) -> list[list[int]]:
    """One batch by transformers."""
    ids, mask = padded(prompts, PAD, left=True)
    rows = model.generate(input_ids=ids, attention_mask=mask, generation_config=how)[:, ids.shape[1] :]
    return [cut(row) for row in rows.tolist()]


def timed(write_all: Callable[[], list[list[int]]]) -> dict[str, float]:
    clock, cpu = time.perf_counter(), time.process_time()
    tokens = sum(map(len, write_all()))
    found = {"tokens": tokens, "seconds": time.perf_counter() - clock, "cpu_seconds": time.process_time() - cpu}
    return {
        **found,
        "tokens_a_second": tokens / found["seconds"],
        "tokens_a_cpu_second": tokens / found["cpu_seconds"],
    }


def ours(model: PreTrainedModel, prompts: Sequence[list[int]], limit: int, samples: int) -> list[list[int]]:
    asks = [Ask(prompt, limit, samples, TEMPERATURE if samples > 1 else 0.0) for prompt in prompts]
    texts = write(model, asks, stops=STOPS, pad_id=PAD, batch_size=BATCH)
    return [text.ids for each in texts for text in each]


def batches(model: PreTrainedModel, prompts: Sequence[list[int]], limit: int, samples: int) -> list[list[int]]:
    size, how = BATCH // samples, drawing(limit, samples)
    groups = (prompts[at : at + size] for at in range(0, len(prompts), size))
    return [text for group in groups for text in theirs(model, group, how)]


def one_by_one(model: PreTrainedModel, prompts: Sequence[list[int]], limit: int) -> list[list[int]]:
    return [text for prompt in prompts for text in theirs(model, [prompt], drawing(limit, 1))]


def continuous(model: PreTrainedModel, prompts: Sequence[list[int]], limit: int, samples: int) -> list[list[int]]:
    how = settings(limit, do_sample=True, temperature=TEMPERATURE, top_k=0, top_p=1.0)
    many = [prompt for prompt in prompts for _ in range(samples)]
    found = model.generate_batch(inputs=many, generation_config=how, progress_bar=False)
    return [cut(list(one.generated_tokens)) for one in found.values()]


def compare(model: PreTrainedModel, prompts: Sequence[list[int]], limit: int) -> dict[str, int]:
    """How many greedy texts are equal, part at a near tie, and part otherwise."""
    mine = ours(model, prompts, limit, 1)
    found = {"equal": 0, "near_ties": 0, "others": 0}
    exact: PreTrainedModel | None = None
    for prompt, text in zip(prompts, mine, strict=True):
        (plain,) = theirs(model, [prompt], settings(limit, do_sample=False))
        if text == plain:
            found["equal"] += 1
            continue
        at = next((i for i, (a, b) in enumerate(zip(text, plain, strict=False)) if a != b), None)
        exact = exact or student().double()
        if at is None:
            found["others"] += 1
            continue
        with torch.inference_mode():
            logits = exact(input_ids=torch.tensor([prompt + text[:at]])).logits[0, -1]
        gap = abs(float(logits[text[at]] - logits[plain[at]]))
        found["near_ties" if gap < NEAR else "others"] += 1
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    wanted = parser.parse_args()
    torch.set_num_threads(wanted.threads)
    model = student()
    count, samples, limit, every = (32, 4, 96, 8) if wanted.quick else (300, 8, 256, 48)
    prompts = questions(count)
    few = [prompt for prompt in prompts for _ in range(samples)][::every]
    ways: dict[str, Callable[[], list[list[int]]]] = {
        "ours": lambda: ours(model, prompts, limit, samples),
        "plain batches": lambda: batches(model, prompts, limit, samples),
        "one by one": lambda: one_by_one(model, few, limit),
        "continuous": lambda: continuous(model, prompts[:: 2 if wanted.quick else 10], limit, samples),
    }
    for warm in (lambda: ours(model, prompts[:2], 8, 2), lambda: batches(model, prompts[:2], 8, 2)):
        warm()
    found: dict[str, Any] = {}
    for name, way in ways.items():
        try:
            found[name] = timed(way)
        except Exception as error:
            if name != "continuous":
                raise
            found[name] = f"does not run here: {type(error).__name__}: {str(error)[:200]}"
    greedy = compare(model, prompts, limit)
    rows = [
        [name, *(held[key] for key in ("tokens", "seconds", "tokens_a_second", "tokens_a_cpu_second"))]
        for name, held in found.items()
        if isinstance(held, dict)
    ]
    print(table(["way", "tokens", "seconds", "tokens/s", "tokens/s of the CPU"], rows))
    print(f"\ngreedy texts: {greedy}")
    rate = {name: held["tokens_a_second"] for name, held in found.items() if isinstance(held, dict)}
    claims = [
        claim("rate over one by one", rate["ours"] / rate["one by one"], ">=", ONE_BY_ONE),
        claim("rate over plain batches", rate["ours"] / rate["plain batches"], ">=", BATCHES),
        claim("greedy texts that part where there is no near tie", greedy["others"], "<=", 0),
    ]
    parameters = sum(p.numel() for p in model.parameters())
    about = {"parameters": parameters, "questions": count, "samples": samples, "limit": limit, "batch": BATCH}
    return finish({**about, "threads": wanted.threads, "ways": found, "greedy": greedy}, claims, wanted.json)


if __name__ == "__main__":
    sys.exit(main())
