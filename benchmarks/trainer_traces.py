"""What the trainers' benchmarks train on: word problems with long traces, one student, one measure of loss.

A document is a question of reasoning-gym's gsm_symbolic and a trace that first recalls other problems with their
solutions, then solves its own. How much it recalls is drawn so that a trace's words are lognormal: traces of real
teachers spread so (most short, some very long), and padding pays for it. Everything follows from the seed.

Or traces of your own: lines with a ``question`` and an ``answer``, a worked solution that ends in ``#### result``, as
GSM8K has them; for a student that is there already, through its own chat template.
"""

from __future__ import annotations

import itertools
import json
import random
import re
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from tracestill.data_pipeline.sampling.teachers import gsm_symbolic
from tracestill.data_pipeline.tokens.store import TokenStore
from tracestill.launch.run.stages import plan_works
from tracestill.trainer.recipe.recipe import MAIN_ARM, build
from tracestill.trainer.recipe.run_directory import RunDirectory

SEED = 0
MEDIAN_WORDS, SPREAD = 70, 0.8  # of the lognormal distribution of a trace's words; 0.8 as of published traces
LONGEST_WORDS = 700  # of a trace
TEST = 100  # held-out documents on which the students are compared
LEARNING_RATE = 1e-3  # constant, AdamW without decay, betas 0.9 and 0.95, gradients clipped to 1, for everybody
FINE_TUNING_RATE = 2e-5  # the same of a student that is there already


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


def read_questions(traces: Path, path: Path, count: int) -> None:
    """``count`` lines of ``traces`` as the recipe's file source reads them, without GSM8K's marks for a calculator."""
    with traces.open(encoding="utf-8") as theirs, path.open("w", encoding="utf-8") as lines:
        found = list(itertools.islice(theirs, count))
        if len(found) < count:
            raise SystemExit(f"{traces}: {len(found)} lines, {count} are needed")
        for given in map(json.loads, found):
            solution = re.sub(r"<<[^<>]*>>", "", given["answer"])
            line = {"question": given["question"], "gold": solution.rpartition("####")[2].strip(), "solution": solution}
            lines.write(json.dumps(line) + "\n")


def recipe(questions: Path, student: Path, encode: dict[str, Any], lr: float, **sizes: int) -> Any:
    """Our trainer's recipe: one pack a step, prompts without weight, every other token 1, as the peers mask them."""
    return build(
        {
            "name": "trainer_cpu",
            "seed": SEED,
            "questions": {"source": str(questions), "train": sizes["documents"], "test": sizes["test"]},
            "sample": {"teachers": [{"name": "recorded", "use": "gsm_symbolic"}], "samples": 1},
            "select": {"policy": "none", "paths": {"same": "off"}},  # the same documents for everybody
            "encode": encode,
            "plan": {"capacity": sizes["capacity"], "packs_per_step": 1},
            "student": {"pretrained": str(student)},
            "weighting": {"weights": {"prompt": 0}, "normaliser": "tokens"},
            "train": {
                "epochs": 1,
                "ranks": 1,
                "lr": lr,
                "schedule": "constant",
                "weight_decay": 0.0,
                "precision": "fp32",
                "checkpoint_interval": None,  # peers save nothing while they are timed
            },
        },
        where="trainer_cpu",
    )


def prepare(root: Path, shape: dict[str, int], **sizes: int) -> RunDirectory:
    """Everything up to the plan, by the pipeline's own stages, and the students' common start in ``root/start``."""
    questions, start = root / "questions.jsonl", root / "start"
    write_questions(questions, sizes["documents"] + sizes["test"])
    encode = {"tokenizer": {"vocab_size": sizes["vocabulary"]}}
    run = data_stages(root, recipe(questions, start, encode, LEARNING_RATE, **sizes))
    about = json.loads((run.stage(MAIN_ARM, "encode") / "manifest.json").read_text(encoding="utf-8"))
    ids = {f"{name}_token_id": about["special_ids"][name] for name in ("bos", "eos", "pad")}
    torch.manual_seed(SEED)
    config = LlamaConfig(**shape, **ids, vocab_size=about["vocab_size"], tie_word_embeddings=True)
    LlamaForCausalLM(config).save_pretrained(start)
    return run


def prepare_student(root: Path, student: Path, traces: Path, **sizes: int) -> RunDirectory:
    """The same for a student that is there, which stands in ``root/start`` too, and for traces of a file."""
    questions, start = root / "questions.jsonl", root / "start"
    start.symlink_to(student.resolve(), target_is_directory=True)
    read_questions(traces, questions, sizes["documents"] + sizes["test"])
    encode = {"template": "chat", "tokenizer": {"path": str(start), "vocab_size": None}}
    return data_stages(root, recipe(questions, start, encode, FINE_TUNING_RATE, **sizes))


def data_stages(root: Path, recipe: Any) -> RunDirectory:
    run = RunDirectory.create(root / "run", recipe)
    for work in plan_works(run):
        if work.stage in ("sample", "select", "tokenizer", "encode", "plan"):
            work.spec.do(work, Console(quiet=True))
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
    model = AutoModelForCausalLM.from_pretrained(start, local_files_only=True, trust_remote_code=False).eval()
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
