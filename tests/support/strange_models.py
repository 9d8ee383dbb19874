"""Model directories for tests of what comes from strangers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tiny_export import tiny_model

from tracestill.trainer.loading.loading import load_model

CPU = torch.device("cpu")
IDS = {"vocab_size": 22, "bos_id": 1, "eos_id": 2, "pad_id": 0, "num_kinds": 8}  # as ``build_student`` takes them


def save_model(directory: Path) -> Path:
    tiny_model().save_pretrained(directory)
    return directory


def load(path: Path, trusted: str | None = None) -> Any:
    return load_model(path, encoder_decoder=False, dtype=torch.float32, trusted=trusted)[0]


def set_config(directory: Path, **values: object) -> None:
    file = directory / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def save_adapter(directory: Path, base: str) -> Path:
    """peft's, for ``q_proj`` of the tiny model in ``base``."""
    directory.mkdir()
    settings = {"peft_type": "LORA", "base_model_name_or_path": base, "r": 2, "lora_alpha": 4,
                "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}  # fmt: skip
    (directory / "adapter_config.json").write_text(json.dumps(settings))
    shapes = {"lora_A": (2, 32), "lora_B": (32, 2)}
    tensors = {
        f"base_model.model.model.layers.{layer}.self_attn.q_proj.{name}.weight": torch.ones(shape)
        for layer in range(2)
        for name, shape in shapes.items()
    }
    save_file(tensors, directory / "adapter_model.safetensors", metadata={"format": "pt"})
    return directory
