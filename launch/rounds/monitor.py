"""What is known of a round once it has data, and once it has a student: figures kept as stages of its directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console

from tracestill.data_pipeline.answers.verifier import verify_config
from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.stage import is_current, stage, write_json
from tracestill.launch.rounds.figures import new_ones, teachers_kept, traces_of, ways
from tracestill.launch.run.progress import bar
from tracestill.trainer.evaluation.baseline import exported
from tracestill.trainer.evaluation.evaluate import held_out, keep, predict, this_device
from tracestill.trainer.evaluation.predictions import summary
from tracestill.trainer.recipe.recipe import MAIN_ARM
from tracestill.trainer.recipe.run_directory import RunDirectory
from tracestill.trainer.recipe.verifying import verifier_of

MONITOR, VALIDATION = "monitor", "validation"  # directories of a round
FIGURES = "figures.json"


def data_figures(run: RunDirectory, first: RunDirectory, rare: float) -> dict[str, Any]:
    """``figures.traces_of`` a round whose records have been selected, the ``teachers`` of round 0's kept ones, and how
    many records of these are kept ``beside`` the new ones."""
    directory = run.root / MONITOR
    own, of_first = ({name: each.stage(MAIN_ARM, name) for name in ("sample", "select")} for each in (run, first))
    inputs = own if run.root == first.root else own | {f"first/{name}": path for name, path in of_first.items()}
    config = {"rare": rare}
    if not is_current(directory, MONITOR, config, inputs):
        with stage(directory, MONITOR, config, inputs) as work:
            reference = ways(**of_first)
            first_teachers = sorted({each.teacher for each in reference})
            every = reference if run.root == first.root else ways(**own)
            new = reference if run.root == first.root else new_ones(every, first_teachers)
            beside = sum(each.kept for each in every) - sum(each.kept for each in new)
            found = {**traces_of(new, reference, rare), "teachers": teachers_kept(reference), "beside": beside}
            write_json(work.path / FIGURES, found)
            work.counts = {"in": len(new), "out": len(new)}
    return read(directory / FIGURES)


def student_figures(run: RunDirectory, console: Console) -> dict[str, Any]:
    """``accuracy`` with its interval, ``questions`` and their ``split``, of a round whose student was evaluated:
    of validation questions, which are asked here, or without any of the test questions; and ``test`` likewise."""
    test = read(run.stage(MAIN_ARM, "evaluate") / "result.json")
    found = validated(run, console) if run.recipe.questions.validation else test
    keys = ("accuracy", "accuracy_low", "accuracy_high", "questions")
    split = "validation" if run.recipe.questions.validation else "test"
    own = {**{key: found[key] for key in keys}, "split": split, "answer_tokens": found["trace_tokens_mean"]}
    return {**own, "cut_off": found["truncated"] / found["questions"], "test": {key: test[key] for key in keys}}


def validated(run: RunDirectory, console: Console) -> dict[str, Any]:
    """The result of asking a round's student the validation questions."""
    directory, recipe = run.root / VALIDATION, run.recipe
    evaluate = recipe.evaluate.model_dump(mode="json")
    config = {"evaluate": evaluate, "seed": recipe.seed, **verify_config(recipe.verify, run.memory)}
    inputs = {name: run.stage(MAIN_ARM, name) for name in ("train", "sample")}
    if not is_current(directory, VALIDATION, config, inputs):
        questions = held_out(inputs["sample"] / "questions.parquet", None, VALIDATION)
        with stage(directory, VALIDATION, config, inputs) as work, bar(VALIDATION, console, "tokens") as progress:
            verifier = verifier_of(recipe, run.root)
            rows = predict(recipe, questions, exported(inputs["train"]), this_device(), progress.set, verifier)
            keep(work, rows, summary(rows))
    return read(directory / "result.json")


def read(path: Path) -> dict[str, Any]:
    """What a stage of a round has found out."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        said = f"{path}: not readable as JSON ({error}); remove {path.parent} and give the command again"
        raise InputError(said) from error
