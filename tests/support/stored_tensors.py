"""What a checkpoint's files hold, put together independently of the code under test: by the headers alone."""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file


def stored_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Every whole tensor of a checkpoint but the ranks' RNG; fails unless each element was written once."""
    found: dict[str, torch.Tensor] = {}
    counts: dict[str, torch.Tensor] = {}
    for name in sorted(path.glob("*.safetensors")):
        with safe_open(name, framework="pt") as file:
            places = json.loads((file.metadata() or {}).get("shards", "{}"))
            for key in file.keys():  # noqa: SIM118
                if key.startswith("rng/"):
                    continue
                tensor = file.get_tensor(key)
                start, shape = places.get(key, (0, list(tensor.shape)))
                whole = found.setdefault(key, torch.empty(shape, dtype=tensor.dtype))
                seen = counts.setdefault(key, torch.zeros(math.prod(shape), dtype=torch.int64))
                assert list(whole.shape) == list(shape), key
                whole.view(-1)[start : start + tensor.numel()] = tensor.reshape(-1)
                seen[start : start + tensor.numel()] += 1
    wrong = [key for key, seen in counts.items() if not (seen == 1).all()]
    assert wrong == [], "not written once"
    return found


def stored_bytes(path: Path) -> dict[str, bytes]:
    """Everything in a checkpoint's files as it lies there, the ranks' RNG too."""
    files = sorted(path.glob("*.safetensors"))
    return {
        f"{file.name}: {key}": tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        for file in files
        for key, tensor in load_file(file).items()
    }
