"""What ``train.on_policy`` adds to a rank's memory, as ``memory.Setting`` has it: a teacher, and texts in writing."""

from __future__ import annotations

from typing import Any

from tracestill.trainer.recipe.recipe import Recipe


def own_texts(recipe: Recipe, ranks: int) -> dict[str, Any]:
    """Fields of ``memory.Setting``; empty for a student that writes no texts of its own. Of texts their prompts are not
    counted, which nobody knows before there are data. Raises InputError if the teacher does not load."""
    own = recipe.train.on_policy
    if own is None:
        return {}
    limit = own.max_new_tokens or recipe.evaluate.max_new_tokens
    texts = min(recipe.evaluate.batch_size, -(-own.questions // ranks) * own.samples)
    if recipe.evaluate.batch_tokens is not None:
        texts = max(1, min(texts, recipe.evaluate.batch_tokens // limit))
    found = {"texts": texts, "text_tokens": limit}
    if own.has_teacher:
        from tracestill.trainer.student.check import elements_of  # torch, which not every forecast has loaded

        found |= {"beside": elements_of(own.teacher, ranks), "entries": own.k}
    return found
