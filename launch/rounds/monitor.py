"""What is known of a round once it has data, and once it has a student: figures kept as stages of its directory."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from rich.console import Console

from tracestill.data_pipeline.answers.plain import normal_text
from tracestill.data_pipeline.answers.verifier import verify_config
from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.intervals import Z95
from tracestill.data_pipeline.base.schema import read_rows
from tracestill.data_pipeline.base.stage import is_current, stage, write_json
from tracestill.data_pipeline.rounds.diversity import apart, beside
from tracestill.data_pipeline.rounds.figures import PATHS, Way, new_ones, teachers_kept, traces_of, ways
from tracestill.data_pipeline.rounds.own_figures import figures_of, refreshes_in
from tracestill.data_pipeline.sampling.sample_config import RECORDED
from tracestill.data_pipeline.selection.config import CHECKS
from tracestill.data_pipeline.selection.paths import path_of
from tracestill.data_pipeline.soundness.checkers.chain import Checks
from tracestill.data_pipeline.soundness.equations import equations
from tracestill.data_pipeline.variations.further import HELD_OUT
from tracestill.data_pipeline.variations.variation import PLAIN
from tracestill.launch.run.progress import bar
from tracestill.trainer.checkpoint.train_place import REFRESHES
from tracestill.trainer.evaluation.baseline import exported
from tracestill.trainer.evaluation.evaluate import held_out, keep, predict, this_device
from tracestill.trainer.evaluation.predictions import summary
from tracestill.trainer.measures.samples import NAME as SAMPLES
from tracestill.trainer.measures.samples import SAMPLE_SCHEMA
from tracestill.trainer.recipe.recipe import MAIN_ARM
from tracestill.trainer.recipe.run_directory import RunDirectory
from tracestill.trainer.recipe.verifying import verifier_of

MONITOR, VALIDATION = "monitor", "validation"  # directories of a round
FIGURES = "figures.json"
FORMAT = 2  # of these; those of another one are computed anew


def data_figures(run: RunDirectory, first: RunDirectory, rare: float) -> dict[str, Any]:
    """``figures.traces_of`` a round whose records have been selected, the ``teachers`` of round 0's kept ones, and how
    many records of these are kept ``beside`` the new ones. Where first teachers wrote more in this round (``teacher:
    mixture``), ``first_new`` counts that; it is not watched."""
    directory = run.root / MONITOR
    own, of_first = ({name: each.stage(MAIN_ARM, name) for name in ("sample", "select")} for each in (run, first))
    inputs = own if run.root == first.root else own | {f"first/{name}": path for name, path in of_first.items()}
    config = {"rare": rare, "figures": FORMAT}
    if not is_current(directory, MONITOR, config, inputs):
        with stage(directory, MONITOR, config, inputs) as work:
            reference = ways(**of_first)
            first_teachers = sorted({each.teacher for each in reference})
            every = reference if run.root == first.root else ways(**own)
            new = reference if run.root == first.root else new_ones(every, first_teachers)
            kept = sum(each.kept for each in every) - sum(each.kept for each in new)
            found = {**traces_of(new, reference, rare), "teachers": teachers_kept(reference), "beside": kept}
            if more := more_of_first(every, run, first):
                counts = {key: sum(getattr(each, key) for each in more) for key in ("right", "kept")}
                found["first_new"] = {"traces": len(more), **counts}
            write_json(work.path / FIGURES, found)
            work.counts = {"in": len(new), "out": len(new)}
    return read(directory / FIGURES)


def text_figures(run: RunDirectory, first: RunDirectory, rare: float, teacher: str) -> list[dict[str, Any]]:
    """``own_figures.figures_of`` the texts that a round's student, ``teacher`` by name, wrote while it was trained,
    beside round 0's traces."""
    directory, train = run.root / MONITOR, run.stage(MAIN_ARM, "train")
    of_first = {name: first.stage(MAIN_ARM, name) for name in ("sample", "select")}
    checks = run.recipe.select.model_dump(mode="json", include={"checks"})
    config, inputs = {"rare": rare, "figures": FORMAT, **checks}, {"train": train, **of_first}
    if not is_current(directory, MONITOR, config, inputs):
        with stage(directory, MONITOR, config, inputs) as work:
            held = Checks(run.recipe.select.checks, CHECKS)
            found = figures_of(refreshes_in(train / REFRESHES), ways(**of_first), rare, held, teacher)
            write_json(work.path / FIGURES, {"refreshes": found})
            work.counts = {"in": len(found), "out": len(found)}
    return list(read(directory / FIGURES)["refreshes"])


def more_of_first(every: Sequence[Way], run: RunDirectory, first: RunDirectory) -> list[Way]:
    """What round 0's teachers wrote in this round: those that replay traces write nothing, and the others gave as many
    samples to a question in each round before (``recipes.sampled``)."""
    asked = {each.name for each in first.recipe.sample.teachers if each.use != RECORDED and not each.only_revises}
    earlier, is_later = first.recipe.sample.samples * int(run.root.name), run.root != first.root
    return [each for each in every if is_later and each.teacher in asked and each.sample >= earlier]


def student_figures(run: RunDirectory, first: RunDirectory, console: Console) -> dict[str, Any]:
    """``accuracy`` with its interval, ``questions`` and their ``split``, of a round whose student was evaluated:
    of validation questions, which are asked here, or without any of the test questions; and ``test`` likewise, with
    what else ``evaluate`` measures of these, ``beyond_accuracy``. ``apart``: ``samples_apart``; of a later round
    ``apart_beside``: how often samples differ, and those of the ``first`` one's student, to questions that both have
    solved twice, as ``diversity.beside`` has it, or null."""
    test = read(run.stage(MAIN_ARM, "evaluate") / "result.json")
    found = validated(run, console) if run.recipe.questions.validation else test
    keys = ("accuracy", "accuracy_low", "accuracy_high", "questions")
    split = "validation" if run.recipe.questions.validation else "test"
    own = {**{key: found[key] for key in keys}, "split": split, "answer_tokens": found["trace_tokens_mean"]}
    own |= {"cut_off": found["truncated"] / found["questions"], "test": {key: test[key] for key in keys}}
    paths = sampled_paths(run)
    own |= {"apart": samples_apart(paths)}
    if run.root != first.root:
        both = beside(paths, sampled_paths(first))
        own |= {"apart_beside": both and both._asdict()}
    return own | beyond_accuracy(test)


def sampled_paths(run: RunDirectory) -> dict[str, list[str]]:
    """Test question -> the paths of its right and sound samples: of the student itself, drawn at the same temperature
    in all rounds. Empty without ``evaluate.samples``."""
    samples = run.stage(MAIN_ARM, "evaluate") / f"{SAMPLES}.parquet"
    if not samples.is_file():
        return {}
    held: dict[str, list[str]] = {}
    for row in read_rows(samples, SAMPLE_SCHEMA):
        if row["correct"] and row["sound"]:
            path = path_of(row["trace"], equations(row["trace"]), normal_text(row["trace"]), PATHS)
            held.setdefault(row["question_id"], []).append(path)
    return held


def samples_apart(paths: Mapping[str, Sequence[str]]) -> dict[str, Any] | None:
    """The probability that two of a question's ``sampled_paths`` differ, with its interval. None for fewer than two
    questions that have two."""
    found = [apart(own) for own in paths.values() if len(own) > 1]
    if len(found) < 2:
        return None
    share, half = fmean(found), Z95 * stdev(found) / math.sqrt(len(found))
    return {"share": share, "low": max(0.0, share - half), "high": min(1.0, share + half), "questions": len(found)}


def beyond_accuracy(test: Mapping[str, Any]) -> dict[str, Any]:
    """What parts of an evaluation say of its student, each as ``share``, ``low``, ``high`` and ``questions``, of those
    that are switched on: ``ece`` of the shares of votes (``evaluate.samples``); ``variations``, right answers in all
    other forms of the questions, and in their plain one; ``tasks``, those of other tasks by name."""
    found: dict[str, Any] = {}
    votes = (test.get("samples") or {}).get("calibration", {}).get("votes") or {}
    if votes.get("count"):
        ends = {"low": votes.get("ece_low"), "high": votes.get("ece_high")}  # earlier versions wrote none
        found["ece"] = {"share": votes["ece"], **ends, "questions": votes["count"]}
    transfer = test.get("transfer") or {}
    if (varied := transfer.get("varied", {}).get(HELD_OUT)) is not None:
        found["variations"] = {**told(varied), "plain": varied["plain"]}
    others = {task: told(cells[PLAIN]) for task, cells in transfer.get("cells", {}).items() if task != HELD_OUT}
    return found | ({"tasks": others} if others else {})


def told(cell: Mapping[str, Any]) -> dict[str, Any]:
    """The accuracy of a cell of the matrix."""
    return {**{key: cell["accuracy"][key] for key in ("share", "low", "high")}, "questions": cell["questions"]}


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
