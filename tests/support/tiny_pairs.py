"""Tiny encoder-decoders and steps of weighted documents for them; and what they should come to.

The reference is independent of the project's code: transformers' own model with eager attention on the question and
the text of each document alone, and the weighted sum of its log-probabilities written out.
"""

from __future__ import annotations

import copy
import inspect
import types
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tiny_step import NUM_KINDS, TABLE, VOCABULARY
from torch import nn
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel
from transformers.models.umt5.modeling_umt5 import UMT5Attention

from tracestill.trainer.recipe.settings import StudentConfig
from tracestill.trainer.student.student import Student, build_student

BOS, EOS, PAD = 1, 2, 0
T5: dict[str, Any] = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "dropout_rate": 0.0}
BART: dict[str, Any] = {
    **{"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4},
    **{"decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 64},
    **{"dropout": 0.0, "init_std": 0.2},
}
FAMILIES: dict[str, dict[str, Any]] = {
    "t5": {"model_type": "t5", **T5},
    # no scaling of hidden states; made small as its inventors' checkpoints are
    "flan-t5": {
        **{"model_type": "t5", **T5, "initializer_factor": 0.3},
        **{"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    },
    "mt5": {"model_type": "mt5", **T5, "initializer_factor": 0.3},
    "umt5": {"model_type": "umt5", **T5},
    "bart": {"model_type": "bart", **BART},
    "mbart": {"model_type": "mbart", **BART},
}
if "is_causal" not in inspect.signature(UMT5Attention).parameters:
    del FAMILIES["umt5"]  # refused: transformers 5.17 computes it wrongly


@dataclass(frozen=True)
class Pair:
    """A document: what the encoder reads, and what the decoder writes."""

    question: np.ndarray  # (e,) int32
    text: np.ndarray  # (m,) int32
    kinds: np.ndarray  # (m,) uint8
    weight: float  # of the record

    def weights(self) -> np.ndarray:
        """(m,) float64: w of each target, the text's first token included."""
        return TABLE[self.kinds].astype(np.float64) * np.float64(np.float32(self.weight))


def pairs(step: int, count: int = 12) -> list[Pair]:
    """The documents of a step: lengths 2 to 30 on both sides, one record of zero weight."""
    random = np.random.default_rng(2000 + step)
    found = []
    for index in range(count):
        e, m = random.integers(2, 31, 2).tolist()
        question, text = (random.integers(3, VOCABULARY, n).astype(np.int32) for n in (e, m))
        kinds = np.sort(random.integers(2, NUM_KINDS, m)).astype(np.uint8)
        found.append(Pair(question, text, kinds, 0.0 if index == 5 else float(random.uniform(0.2, 2.0))))
    return found


def flat(documents: list[Pair]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Tokens, kinds, offsets and weights as a token store gathers them."""
    tokens = [part for d in documents for part in (d.question, d.text)]
    kinds = [part for d in documents for part in (np.zeros(len(d.question), np.uint8), d.kinds)]
    offsets = np.cumsum([0, *(len(d.question) + len(d.text) for d in documents)]).astype(np.int32)
    weights = np.array([d.weight for d in documents], np.float32)
    return (
        np.concatenate([np.zeros(0, np.int32), *tokens]),
        np.concatenate([np.zeros(0, np.uint8), *kinds]),
        offsets,
        weights,
    )


def normaliser(step: int) -> float:
    """c = 1 / sum of w over the step."""
    return 1.0 / sum(float(pair.weights().sum()) for pair in pairs(step))


def student(family: str = "t5", **more: Any) -> Student:
    ids = {"vocab_size": VOCABULARY, "bos_id": BOS, "eos_id": EOS, "pad_id": PAD}
    return build_student(StudentConfig(config=FAMILIES[family]), **ids, num_kinds=NUM_KINDS, **more)


def plain_model(like: PreTrainedModel, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """transformers' own model with the same parameters, eager attention."""
    config = copy.deepcopy(like.config)
    model = AutoModelForSeq2SeqLM.from_config(config, attn_implementation="eager", dtype=torch.float32)
    model.load_state_dict(like.state_dict())
    model = model.to(dtype)
    for module in model.modules():
        if type(module).__name__.endswith("LayerNorm") and not isinstance(module, nn.LayerNorm):
            module.forward = types.MethodType(own_norm, module)
    return model


def own_norm(self: Any, hidden: torch.Tensor) -> torch.Tensor:
    """T5's norm in the type of its input; theirs falls back to fp32."""
    return self.weight * hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)


def log_p(model: PreTrainedModel, pair: Pair) -> torch.Tensor:
    """(m,) log-probability of each token of the text, the document alone."""
    text = torch.from_numpy(pair.text.astype(np.int64))
    fed = torch.cat([torch.tensor([model.config.decoder_start_token_id]), text[:-1]])
    question = torch.from_numpy(pair.question.astype(np.int64))
    logits = model(input_ids=question[None], decoder_input_ids=fed[None], use_cache=False).logits[0]
    return torch.log_softmax(logits, dim=-1)[torch.arange(len(text)), text]


def plain_loss(model: PreTrainedModel, documents: list[Pair], c: float = 1.0) -> torch.Tensor:
    """L = sum w * c * nll, every document alone, in the model's own type."""
    total = torch.zeros((), dtype=model.dtype)
    for pair in documents:
        total = total - (torch.from_numpy(pair.weights()).to(model.dtype) * log_p(model, pair)).sum()
    return total * c
