"""A tiny tokenizer and student for tests of export, generation and evaluation."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

CONTROL = ["<pad>", "<s>", "</s>", "<think>", "</think>"]
RECIPE = {  # of a student that is asked
    "name": "tiny",
    "questions": {"source": "digit_sum", "train": 10, "test": 5},
    "sample": {"teachers": [{"name": "solver"}]},
    "plan": {"capacity": 256, "packs_per_step": 1},
    "student": {"config": {"model_type": "llama"}},
    "train": {"steps": 1},
}
WORDS = [*CONTROL, *"0123456789", "+", "=", "so", "is", "add", "the", "<unk>"]


def save_tokenizer(directory: Path) -> PreTrainedTokenizerFast:
    """Whole words, control symbols as special tokens."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        extra_special_tokens=["<think>", "</think>"],
    )
    wrapped.save_pretrained(directory)
    return wrapped


def tiny_config(**changes: object) -> dict[str, object]:
    return {
        "model_type": "llama",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "vocab_size": 32,
        # large enough that attention matters: with the usual 0.02 a wrong mask would change nothing
        "initializer_range": 0.4,
        **changes,
    }


def tiny_model(seed: int = 0, **changes: object) -> PreTrainedModel:
    config = tiny_config(**changes)
    torch.manual_seed(seed)
    kind = str(config.pop("model_type"))
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **config)).eval()
