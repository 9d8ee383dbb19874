"""How long a document may be for a student: the positions that its config names. Imports no torch, so that the encode
stage knows before a model is there."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from tracestill.trainer.recipe.student_settings import StudentConfig

NAMES = ("max_position_embeddings", "n_positions")  # GPT-2 and its like say n_positions
RELATIVE = ("t5", "mt5", "umt5")  # n_positions binds nothing there
SCALED = ("linear", "dynamic", "yarn", "longrope")  # RoPE for a multiple of the first training's; llama3 names it all


def positions_of(student: StudentConfig) -> int | None:
    """The bound that the recipe or the config.json of ``student.pretrained`` names; None if it names none."""
    if student.config is not None:
        return positions_in(student.config)
    assert student.pretrained is not None
    try:
        values = json.loads((student.pretrained / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):  # loading it will say so
        return None
    return positions_in(values) if isinstance(values, dict) else None


def positions_in(config: Mapping[str, Any]) -> int | None:
    """The bound in a transformers config, or in that of its text model. Scaled RoPE reaches factor times as far."""
    text = config.get("text_config")
    values = text if isinstance(text, Mapping) else config
    kind = values.get("model_type", config.get("model_type"))
    named = [values.get(name) for name in NAMES if kind not in RELATIVE]
    bound = next((value for value in named if isinstance(value, int) and value > 0), None)
    rope = values.get("rope_parameters") or values.get("rope_scaling")
    if bound is None or not isinstance(rope, Mapping) or rope.get("rope_type", rope.get("type")) not in SCALED:
        return bound
    factor = rope.get("factor")
    first = rope.get("original_max_position_embeddings") or bound
    if not isinstance(first, int) or not isinstance(factor, int | float) or not math.isfinite(factor):
        return bound
    return max(bound, int(first * factor))
