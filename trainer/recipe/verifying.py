"""The verifier of a recipe, with its judge if it names one: what ``select`` and ``evaluate`` share."""

from __future__ import annotations

from pathlib import Path

from tracestill.data_pipeline.answers.judge import Judge
from tracestill.data_pipeline.answers.verifier import KEPT, Verifier
from tracestill.data_pipeline.sampling.sample_config import make_teachers
from tracestill.trainer.recipe.recipe import Recipe


def verifier_of(recipe: Recipe, run: Path) -> Verifier:
    """Ready to judge. What a judge says is kept in the directory of the run, for every stage and every later one."""
    name = recipe.verify.judge
    if name is None:
        return Verifier(recipe.verify)
    asked = make_teachers(recipe.sample, recipe.questions)[name]
    return Verifier(recipe.verify, Judge(asked.teacher, name, run / KEPT, [asked.module, asked.options]))
