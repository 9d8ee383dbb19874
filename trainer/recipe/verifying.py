"""The verifier of a recipe, with its judge if it names one: what ``select`` and ``evaluate`` share."""

from __future__ import annotations

from pathlib import Path

from tracestill.data_pipeline.answers.judge import BUDGET, Judge
from tracestill.data_pipeline.answers.verifier import KEPT, Verifier
from tracestill.data_pipeline.sampling.asking.kept import Kept, refuse_without_price
from tracestill.data_pipeline.sampling.sample_config import make_teachers
from tracestill.trainer.recipe.recipe import Recipe


def verifier_of(recipe: Recipe, run: Path) -> Verifier:
    """Ready to judge. What a judge says is kept in the directory of the run, for every stage and every later one."""
    name = recipe.verify.judge
    if name is None:
        return Verifier(recipe.verify)
    asked = make_teachers(recipe.sample, recipe.questions)[name]
    place = [teacher.name for teacher in recipe.sample.teachers].index(name)
    budget = recipe.verify.budget
    refuse_without_price(asked.teacher, budget, BUDGET, f"sample.teachers.{place}.options.price")
    identity = [asked.module, asked.options]
    return Verifier(recipe.verify, Judge(Kept(asked.teacher, name, run / KEPT, identity, budget=budget)))
