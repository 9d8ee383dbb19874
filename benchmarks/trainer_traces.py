"""What the trainers' benchmarks train on: word problems with long traces, one student, one measure of loss.

A document is a question of reasoning-gym's gsm_symbolic and a trace that first recalls other problems with their
solutions, then solves its own. How much it recalls is drawn so that a trace's words are lognormal: traces of real
teachers spread so (most short, some very long), and padding pays for it. Everything follows from the seed.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from tracestill.data_pipeline.store import TokenStore
from tracestill.data_pipeline.teachers import gsm_symbolic
from tracestill.launch.stages import plan_works
from tracestill.trainer.recipe import MAIN_ARM, build
from tracestill.trainer.run_directory import RunDirectory

SEED = 0
MEDIAN_WORDS, SPREAD = 70, 0.8  # of the lognormal distribution of a trace's words; 0.8 as of published traces
LONGEST_WORDS = 700  # of a trace
TEST = 100  # held-out documents on which the students are compared
LEARNING_RATE = 1e-3  # constant, AdamW without decay, betas 0.9 and 0.95, gradients clipped to 1, for everybody


def write_questions(path: Path, count: int) -> None:
    """``count`` questions as lines that the recipe's file source reads, each with its long worked solution."""
    problems = gsm_symbolic.questions({"train": count}, gsm_symbolic.Options(), SEED)
    rng = random.Random(f"trainer traces {SEED}")
    with path.open("w", encoding="utf-8") as lines:
        for problem in problems:
            goal = min(LONGEST_WORDS, MEDIAN_WORDS * rng.lognormvariate(0, SPREAD))
            solution = problem.metadata["solution"]
            recalled = ""
            while len(f"{recalled}{solution}".split()) < goal:
                other = rng.choice(problems)
                text = f"{other.question.removesuffix(gsm_symbolic.ASK)} {other.metadata['solution']}".split()
                left = int(goal) - len(f"{recalled}{solution}".split())
                recalled += " ".join(text[: max(1, left)]).replace("####", "So") + "\n"
            line = {"question": problem.question, "gold": problem.gold, "solution": recalled + solution}
            lines.write(json.dumps(line) + "\n")


def recipe(questions: Path, start: Path, *, documents: int, test: int, capacity: int, vocabulary: int) -> Any:
    """Our trainer's recipe: one pack a step, prompts without weight, every other token 1, as the peers mask them."""
    return build(
        {
            "name": "trainer_cpu",
            "seed": SEED,
            "questions": {"source": str(questions), "train": documents, "test": test},
            "sample": {"teachers": [{"name": "recorded", "use": "gsm_symbolic"}], "samples": 1},
            "select": {"answer": False, "equations": False, "unique_paths": False},  # the same documents for everybody
            "encode": {"tokenizer": {"vocab_size": vocabulary}},
            "plan": {"capacity": capacity, "packs_per_step": 1},
            "student": {"pretrained": str(start)},
            "weighting": {"weights": {"prompt": 0}, "normaliser": "tokens"},
            "train": {
                "epochs": 1,
                "ranks": 1,
                "lr": LEARNING_RATE,
                "schedule": "constant",
                "weight_decay": 0.0,
                "precision": "fp32",
            },
        },
        where="trainer_cpu",
    )


def prepare(root: Path, shape: dict[str, int], **sizes: int) -> RunDirectory:
    """Everything up to the plan, by the pipeline's own stages, and the students' common start in ``root/start``."""
    questions, start = root / "questions.jsonl", root / "start"
    write_questions(questions, sizes["documents"] + sizes["test"])
    run = RunDirectory.create(root / "run", recipe(questions, start, **sizes))
    for work in plan_works(run):
        if work.stage in ("sample", "select", "tokenizer", "encode", "plan"):
            work.action(work.label, Console(quiet=True))
    about = json.loads((run.stage(MAIN_ARM, "encode") / "manifest.json").read_text(encoding="utf-8"))
    ids = {f"{name}_token_id": about["special_ids"][name] for name in ("bos", "eos", "pad")}
    torch.manual_seed(SEED)
    config = LlamaConfig(**shape, **ids, vocab_size=about["vocab_size"], tie_word_embeddings=True)
    LlamaForCausalLM(config).save_pretrained(start)
    return run


def store(run: RunDirectory, split: str = "tokens") -> TokenStore:
    return TokenStore(run.stage(MAIN_ARM, "encode") / f"{split}.arrow", run.recipe.span_kinds())


def examples(documents: TokenStore) -> list[dict[str, list[int]]]:
    """The documents as Hugging Face's trainers take them: unshifted labels, -100 on the prompt."""
    prompt = documents.kind_names.index("prompt")
    found = []
    for index in range(len(documents)):
        tokens, kinds = documents.tokens(index), documents.kinds(index)
        labels = [-100 if kind == prompt else token for token, kind in zip(tokens.tolist(), kinds, strict=True)]
        found.append({"input_ids": tokens.tolist(), "labels": labels})
    return found


@torch.no_grad()
def mean_loss(start: Path, weights: dict[str, torch.Tensor], documents: TokenStore) -> float:
    """Mean nll of all targets but the prompt's, by transformers' own model, each document alone."""
    model = AutoModelForCausalLM.from_pretrained(start).eval()
    missing, unexpected = model.load_state_dict(weights, strict=False)
    if unexpected or set(missing) - {"lm_head.weight"}:
        raise ValueError(f"weights do not fit the student: {missing}, {unexpected}")
    total, count = 0.0, 0
    for example in examples(documents):
        logits = model(torch.tensor([example["input_ids"]]), use_cache=False).logits[0, :-1]
        labels = torch.tensor(example["labels"][1:])
        total += F.cross_entropy(logits.float(), labels, ignore_index=-100, reduction="sum").item()
        count += int((labels != -100).sum())
    return total / count
