"""Trainings on a student's own texts in miniature, and what a step of them comes to by plain models in float64."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fake_run import STUDENT, mini_recipe, run_data_stages
from transformers import LlamaConfig, LlamaForCausalLM

from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.base.schema import read_rows
from tracestill.data_pipeline.base.stage import read_manifest
from tracestill.data_pipeline.tokens.store import TokenStore
from tracestill.trainer.on_policy.texts import TEXT_SCHEMA
from tracestill.trainer.recipe.recipe import Recipe
from tracestill.trainer.recipe.run_directory import RunDirectory

TRAIN = "arms/traces/train"
K = 5
WEIGHTS = {"prompt": 0.0, "trace": 2.0, "answer": 0.5, "control": 0.75}
OWN = {"questions": 3, "samples": 2, "refresh": 2, "max_new_tokens": 12}
WIDE = {**STUDENT, "initializer_range": 0.3}  # its draws, and a teacher's opinion of them, differ


def recipe(teacher: Path | str | dict[str, Any], own: dict[str, Any] | None = None, **train: Any) -> Recipe:
    named = teacher if isinstance(teacher, dict) else str(teacher)
    about = {"teacher": named, **({} if teacher == "none" else {"k": K}), **OWN, **(own or {})}
    settings = {"steps": 5, "ranks": 2, "zero": 2, "log_every": 1, "checkpoint_every": 1, "lr": 3e-2, "keep": 9}
    return mini_recipe(
        arms={},
        student={"config": WIDE},
        weighting={"weights": WEIGHTS},
        train={**settings, "on_policy": about, **train},
        deepspeed={"zero_optimization": {"stage3_param_persistence_threshold": 0, "reduce_bucket_size": 4000}},
    )


def prepared(root: Path) -> tuple[Path, Path]:
    """A run whose data are ready, and a teacher of its vocabulary."""
    run = RunDirectory.create(root / "data", recipe("none"))
    run_data_stages(run)
    about = read_manifest(run.stage("traces", "encode")) or {}
    ids = {f"{name}_token_id": about["special_ids"][name] for name in ("bos", "eos", "pad")}
    shape = {name: value for name, value in WIDE.items() if name != "model_type"}
    torch.manual_seed(11)
    model = LlamaForCausalLM(LlamaConfig(**shape, **ids, vocab_size=about["vocab_size"]))
    model.save_pretrained(root / "teacher")
    for file in run.stage("traces", "tokenizer").glob("*.json"):
        if file.name != "manifest.json":
            shutil.copy(file, root / "teacher")
    return run.root, root / "teacher"


def copied(data: Path, root: Path, of: Recipe) -> RunDirectory:
    """The same data, to be trained on by another recipe."""
    shutil.copytree(data, root)
    return RunDirectory.create(root, of, replace=True)


def texts_of(run: Path, number: int) -> list[dict[str, Any]]:
    return read_rows(run / TRAIN / f"refreshes/{number:06d}/written/texts.parquet", TEXT_SCHEMA)


def store_of(run: Path, number: int) -> TokenStore:
    return TokenStore(run / TRAIN / f"refreshes/{number:06d}/written/tokens.arrow")


def plain(run: RunDirectory, weights: dict[str, torch.Tensor]) -> LlamaForCausalLM:
    """transformers' own model in float64 with a student's weights."""
    about = read_manifest(run.stage("traces", "encode")) or {}
    shape = {name: value for name, value in WIDE.items() if name != "model_type"}
    model = LlamaForCausalLM(LlamaConfig(**shape, vocab_size=about["vocab_size"])).double()
    model.load_state_dict({name: tensor.double() for name, tensor in weights.items()}, strict=True)
    return model


def log_probs(model: LlamaForCausalLM, tokens: np.ndarray) -> torch.Tensor:
    """(n - 1, V) of what follows each token."""
    ids = torch.from_numpy(tokens.astype(np.int64))[None]
    return torch.log_softmax(model(input_ids=ids, use_cache=False).logits[0, :-1], dim=-1)


def loss_of(
    store: TokenStore,
    rows: list[dict[str, Any]],
    student: LlamaForCausalLM,
    teacher: LlamaForCausalLM | None,
    bound: float,
    divergence: str = "reverse",
    beta: float = 0.5,
) -> float:
    """A step that holds all of a refresh's documents: the weighted mean of a divergence, or of advantage times nll;
    each token times the ratio of its probability now to that when it was drawn, at most ``bound`` (0: no correction).
    """
    kinds, total, whole = Kinds(), 0.0, 0.0
    good = [row for row in rows if not row["reason"]]
    for document, row in enumerate(good):
        tokens = store.tokens(document)
        with torch.no_grad():
            now = log_probs(student, tokens)
            q = None if teacher is None else log_probs(teacher, tokens)
        for at in range(1, len(tokens)):
            line = kinds.lineages[kinds.names[store.kinds(document)[at]]]
            v = next((WEIGHTS[name] for name in line if name in WEIGHTS), 1.0)
            if not v:
                continue
            whole += v
            p = now[at - 1]
            ratio = 1.0
            if bound:
                then = row["logprobs"][at - row["prompt"]]
                ratio = min(bound, float((p[int(tokens[at])] - then).exp()))
            if q is None:
                total -= v * ratio * (1.0 if row["correct"] else -1.0) * float(p[int(tokens[at])])
                continue
            log_q, ids = q[at - 1].topk(K)
            log_q = torch.from_numpy(log_q.numpy().astype(np.float16).astype(np.float64))  # as channels hold them
            both = [torch.cat([each, 1 - each.sum(0, keepdim=True)]) for each in (p[ids].exp(), log_q.exp())]
            total += v * ratio * apart(*both, divergence, beta)
    return total / whole


def apart(p: torch.Tensor, q: torch.Tensor, divergence: str, beta: float) -> float:
    """(K + 1,) probabilities of student and teacher, the last the rest of the mass: KL(p || q), KL(q || p), or the
    generalised Jensen-Shannon divergence (Agarwal et al., arXiv 2306.13649)."""

    def kl(of: torch.Tensor, from_: torch.Tensor) -> float:
        return float((of * (of / from_).log()).sum())

    if divergence == "jsd":
        mean = beta * q + (1 - beta) * p
        return beta * kl(q, mean) + (1 - beta) * kl(p, mean)
    return kl(p, q) if divergence == "reverse" else kl(q, p)
