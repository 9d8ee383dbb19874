"""A tiny student and steps of weighted documents, for tests of the engine; and what they should come to.

The reference is independent of the project's code: transformers' own Llama with eager attention on each document
alone, and the weighted sum of its log-probabilities written out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tracestill.data_pipeline.base.kinds import Kinds

VOCABULARY = 61
NUM_KINDS = 8
KINDS = Kinds(Kinds().names[:NUM_KINDS])  # fewer than there are, so that a column is not taken for another
TABLE = np.array([0, 0, 1.5, 1, 0.25, 0, 2, 1], dtype=np.float32)  # (K,) weight of each kind; prompt and prose 0
PROMPT = 1
SHAPE: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.15,
}
ADAM: dict[str, Any] = {"lr": 3e-3, "betas": (0.9, 0.95), "eps": 1e-4}
WEIGHT_DECAY = 0.1


@dataclass(frozen=True)
class Document:
    tokens: np.ndarray  # (n,) int32
    kinds: np.ndarray  # (n,) uint8
    weight: float  # of the record

    def weights(self) -> np.ndarray:
        """(n - 1,) float64: w of each target."""
        return TABLE[self.kinds[1:]].astype(np.float64) * np.float64(np.float32(self.weight))


def documents(step: int, count: int = 12) -> list[Document]:
    """The documents of a step: some tokens of every kind, lengths 2 to 40, one record of zero weight."""
    random = np.random.default_rng(1000 + step)
    found = []
    for index in range(count):
        n = int(random.integers(2, 41))
        tokens = random.integers(3, VOCABULARY, n).astype(np.int32)
        kinds = np.sort(random.integers(1, NUM_KINDS, n)).astype(np.uint8)
        found.append(Document(tokens, kinds, 0.0 if index == 5 else float(random.uniform(0.2, 2.0))))
    return found


def weightless(step: int) -> Document:
    """A document of prompt only, which carries no weight."""
    tokens = np.random.default_rng(step).integers(3, VOCABULARY, 17).astype(np.int32)
    return Document(tokens, np.full(17, PROMPT, dtype=np.uint8), 1.0)


def normaliser(step: int) -> float:
    """c = 1 / sum of w over the step."""
    return 1.0 / sum(float(document.weights().sum()) for document in documents(step))


def plain_model(tied: bool, seed: int = 0) -> LlamaForCausalLM:
    """transformers' own model, eager attention, fp32."""
    torch.manual_seed(seed)
    values = {key: value for key, value in SHAPE.items() if key != "model_type"}
    config = LlamaConfig(
        **values, vocab_size=VOCABULARY, tie_word_embeddings=tied, bos_token_id=1, eos_token_id=2, pad_token_id=0
    )
    config._attn_implementation = "eager"
    return LlamaForCausalLM(config)


def plain_loss(model: LlamaForCausalLM, step: int) -> torch.Tensor:
    """L = sum w * c * nll, every document alone, in the model's own type."""
    total = torch.zeros((), dtype=model.dtype)
    for document in documents(step):
        ids = torch.from_numpy(document.tokens.astype(np.int64))
        log_p = torch.log_softmax(model(input_ids=ids[None], use_cache=False).logits[0, :-1], dim=-1)
        nll = -log_p[torch.arange(len(ids) - 1), ids[1:]]
        total = total + (torch.from_numpy(document.weights()).to(model.dtype) * nll).sum()
    return total * normaliser(step)


@contextmanager
def one_thread() -> Iterator[None]:
    """Tiny tensors are slower on several threads, much so on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@one_thread()
def exact_norm(seed: int) -> float:
    """Norm of the first step's gradient, of an untied model of this seed."""
    model = plain_model(tied=False, seed=seed)
    plain_loss(model, 0).backward()
    return torch.nn.utils.clip_grad_norm_(model.parameters(), float("inf")).item()


@dataclass(frozen=True)
class Reference:
    losses: list[float]
    norms: list[float]  # of the gradient, before clipping
    gradient: dict[str, torch.Tensor]  # of the first step, before clipping
    final: dict[str, torch.Tensor]  # parameters after all steps


@one_thread()
def reference(start: dict[str, torch.Tensor], *, tied: bool, clip: float, steps: int, dtype: torch.dtype) -> Reference:
    """``steps`` updates by torch's AdamW in one process, without DeepSpeed."""
    model = plain_model(tied)
    model.load_state_dict(start)
    model = model.to(dtype)
    plain = {name for name, p in model.named_parameters() if p.ndim < 2 or "embed" in name}
    groups = [
        {"params": [p for n, p in model.named_parameters() if n not in plain], "weight_decay": WEIGHT_DECAY},
        {"params": [p for n, p in model.named_parameters() if n in plain], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, foreach=False, **ADAM)
    losses, norms, gradient = [], [], {}
    for step in range(steps):
        loss = plain_loss(model, step)
        loss.backward()
        if step == 0:
            gradient = {name: p.grad.clone() for name, p in model.named_parameters()}
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), clip or float("inf"))
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        norms.append(norm.item())
    return Reference(losses, norms, gradient, {name: p.detach().clone() for name, p in model.named_parameters()})
