"""Evaluation of a student on held-out questions: what it answers, and how well it predicts each kind.

    python -m tracestill.trainer.evaluation.evaluate --run-dir runs/demo --arm traces

Accuracy comes from free generation: nothing of the reference reaches the student but the question. The loss of
each span kind comes from teacher forcing on the held-out documents, every target with weight 1, through the same
packed forward pass that trains. The student of an arm that is not trained (``train: none``) and any other model
answer the same questions, and the same reader finds their answers.
"""

from __future__ import annotations

if __name__ == "__main__":  # before anything else is imported: `python -m` has put the working directory first
    from tracestill.data_pipeline.guards.working_directory import leave_working_directory

    leave_working_directory()

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, Progress, TaskProgressColumn, TimeRemainingColumn

from tracestill.data_pipeline.answers import Verifier
from tracestill.data_pipeline.answers.verifier import how_of
from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.schema import QUESTION_SCHEMA, read_rows, write_rows
from tracestill.data_pipeline.base.stage import Stage, identity, stage, write_json
from tracestill.data_pipeline.documents.encode import load_layout
from tracestill.data_pipeline.sampling.teachers.api.endpoint import EndpointConfig
from tracestill.data_pipeline.tokens.store import TokenStore
from tracestill.trainer.evaluation.answers import Answers, answers_beside, forget_asked
from tracestill.trainer.evaluation.asking import Asker, LocalAsker, Query, Team, is_numeric, key_of, row_of
from tracestill.trainer.evaluation.baseline import arm_asker, exported, load_trained, model_asker, untrained_student
from tracestill.trainer.evaluation.endpoint import EndpointAsker
from tracestill.trainer.evaluation.parts import Context, measured
from tracestill.trainer.evaluation.predictions import PREDICTION_SCHEMA, summary, verified
from tracestill.trainer.lock import run_lock
from tracestill.trainer.losses.general import Students, general
from tracestill.trainer.losses.losses import load_student, teacher_forced
from tracestill.trainer.measures.said import said
from tracestill.trainer.measures.unasked import OVERLONG, Unasked
from tracestill.trainer.ranks.console import Terminal, plain_column, say
from tracestill.trainer.ranks.threads import choice_for, threads_kept
from tracestill.trainer.recipe.precision import use_gpu
from tracestill.trainer.recipe.recipe import MAIN_ARM, Recipe
from tracestill.trainer.recipe.run_directory import RunDirectory
from tracestill.trainer.recipe.settings import EvaluateConfig
from tracestill.trainer.recipe.verifying import verifier_of

MOST_LONG = 0.5  # share of held-out questions too long to be asked: with more, the settings are at fault


def run(
    held: RunDirectory,
    arm: str,
    progress: Callable[[int, int], None] = lambda done, total: None,
    *,
    device: torch.device | None = None,
    team: Team | None = None,
) -> None:
    """The evaluate stage of one arm: writes result.json and predictions.parquet.

    ``progress`` is as ``generate`` takes it; ``team``: other processes that share what is to be written. Uses a GPU if
    there is one, in the type of the training; on a CPU as many threads as are fastest on the first tokens, unless
    OMP_NUM_THREADS says how many. Raises InputError if a stage that it reads has not finished, or there is no held-out
    question.
    """
    started = time.perf_counter()
    recipe, directory = held.recipe.for_arm(arm), held.stage(arm, "evaluate")
    config, inputs = held.evaluate_stage(arm)
    sample, encode = inputs["sample"], inputs["encode"]
    device = device or this_device()
    source = exported(inputs["train"]) if recipe.train.trains else inputs["tokenizer"]
    questions = held_out(sample / "questions.parquet", recipe.evaluate.questions)
    verifier = verifier_of(recipe, held.root)
    if team is None:
        forget_asked(directory)
    with threads_kept(), stage(directory, "evaluate", config, inputs) as work:
        threads = choice_for(device)
        with arm_asker(held, arm, device, threads, team) as (asker, student):
            predictions, result = examined(recipe, questions, asker, verifier, work, sample, progress)
        if (encode / "test.arrow").exists():
            store = TokenStore(encode / "test.arrow", recipe.span_kinds())
            result["documents"] = len(store)
            student = student or load_student(source, recipe, device)
            result["kinds"] = teacher_forced(student, store, device, threads, progress)
        if recipe.evaluate.general is not None:
            after = student or load_student(source, recipe, device)
            before = partial(untrained_student, recipe, held.stage(arm, "tokenizer"), device)
            students = Students(
                load_layout(recipe.encode, source), device, threads, before if recipe.train.trains else None, after
            )
            result["general"] = general(recipe, students, work.path, progress)
        result["threads"] = threads.chosen if threads else None
        result["seconds"] = round(time.perf_counter() - started, 3)
        keep(work, predictions, result)


def run_model(
    held: RunDirectory,
    name: str,
    model: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
    *,
    device: torch.device | None = None,
    team: Team | None = None,
) -> None:
    """Let any model directory answer the held-out questions of a run.

    Writes result.json and predictions.parquet as ``run`` does, under ``name``; without losses by kind, since its tokens
    are others, nor on general text. Raises InputError if there is no such model, or the sample stage has not finished.
    """
    started, recipe = time.perf_counter(), held.recipe
    config, inputs = held.model_stage(model)
    device = device or this_device()
    questions = held_out(inputs["sample"] / "questions.parquet", recipe.evaluate.questions)
    if team is None:
        forget_asked(held.model(name))
    with threads_kept(), stage(held.model(name), "evaluate", config, inputs) as work:
        threads = choice_for(device)
        verifier = verifier_of(recipe, held.root)
        with model_asker(held, name, model, device, threads, team) as asker:
            predictions, result = examined(recipe, questions, asker, verifier, work, inputs["sample"], progress)
        result["threads"] = threads.chosen if threads else None
        keep(work, predictions, {**result, "seconds": round(time.perf_counter() - started, 3)})


def run_endpoint(
    held: RunDirectory,
    name: str,
    endpoint: EndpointConfig,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Let a served model answer the held-out questions of a run, as ``run_model`` does; ``progress`` is told answers.

    Raises InputError if the sample stage has not finished, and as ``EndpointAsker.ask``.
    """
    started = time.perf_counter()
    config, inputs = held.endpoint_stage(endpoint)
    questions = held_out(inputs["sample"] / "questions.parquet", held.recipe.evaluate.questions)
    verifier, directory = verifier_of(held.recipe, held.root), held.model(name)
    with stage(directory, "evaluate", config, inputs) as work:
        who = identity("answers", held.who_answers(endpoint), {})
        with Answers(answers_beside(directory), who) as answers:
            asker = EndpointAsker(name, endpoint, held.recipe, answers)
            predictions, result = examined(held.recipe, questions, asker, verifier, work, inputs["sample"], progress)
        result["threads"] = None
        keep(work, predictions, {**result, "seconds": round(time.perf_counter() - started, 3)})


def examined(
    recipe: Recipe,
    questions: Sequence[Mapping[str, Any]],
    asker: Asker,
    verifier: Verifier,
    work: Stage,
    sample: Path,
    progress: Callable[[int, int], None],
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The answers to the held-out questions, and what result.json says of them and of the parts that are switched on;
    the parts' own rows are written into the stage."""
    predictions = answer(recipe, questions, asker, progress, verifier)
    refuse_many_long(predictions)
    asked = asker.shown(questions[0]["question"])
    parts = measured(Context(recipe, questions, predictions, asker, verifier, work.path, sample, progress))
    return predictions, {**summary(predictions, recipe.seed), **parts, "asked": asked, "documents": 0, "kinds": {}}


def this_device() -> torch.device:
    return torch.device("cuda" if use_gpu() else "cpu")


def keep(work: Stage, predictions: list[dict[str, Any]], result: Mapping[str, Any]) -> None:
    write_rows(work.path / "predictions.parquet", predictions, PREDICTION_SCHEMA)
    write_json(work.path / "result.json", result)
    work.counts = {"in": len(predictions), "out": len(predictions)}


def held_out(path: Path, limit: int | None, split: str = "test") -> list[dict[str, Any]]:
    """The first ``limit`` questions of a split. Raises InputError if there is none."""
    rows = [row for row in read_rows(path, QUESTION_SCHEMA) if row["split"] == split][:limit]
    if not rows:
        raise InputError(f"{path}: holds no question of the split '{split}'; set questions.{split} and sample again")
    return rows


def predict(
    recipe: Recipe,
    questions: Sequence[Mapping[str, Any]],
    export_dir: Path,
    device: torch.device,
    progress: Callable[[int, int], None],
    verifier: Verifier | None = None,
) -> list[dict[str, Any]]:
    """As ``answer``, by an exported student."""
    asker = LocalAsker(load_trained(recipe, export_dir, device), load_layout(recipe.encode, export_dir), recipe)
    return answer(recipe, questions, asker, progress, verifier)


def answer(
    recipe: Recipe,
    questions: Sequence[Mapping[str, Any]],
    asker: Asker,
    progress: Callable[[int, int], None],
    verifier: Verifier | None = None,
) -> list[dict[str, Any]]:
    """One row of PREDICTION_SCHEMA for each question. Without a ``verifier`` the recipe's, in which nobody judges.

    A question that holds a control symbol, or leaves no room for ``max_new_tokens``, is not asked, and counts as
    wrong.
    """
    verifier = verifier or Verifier(recipe.verify)
    for row in questions:  # before the work of asking
        verifier.check(how_of(row.get("metadata") or "", verifier.config.use))
    replies = asker.ask([query_of(row, recipe.evaluate) for row in questions], progress)
    rows = [
        row_of(row, told) if isinstance(told, Unasked) else row_of(row, told[0]) | asker.by_token(told[0])
        for row, told in zip(questions, replies, strict=True)
    ]
    return verified(rows, questions, verifier)


def refuse_many_long(rows: Sequence[Mapping[str, Any]]) -> None:
    """Raise InputError, naming one of them, if more than MOST_LONG of all held-out questions were too long to be asked.
    ``rows``: PREDICTION_SCHEMA."""
    long = [row for row in rows if row["read_by"] == OVERLONG]
    if len(long) > MOST_LONG * len(rows):
        raise InputError(
            f"evaluate.max_new_tokens: {long[0]['detail']}; so it is with {len(long)} of {len(rows)} held-out "
            f"questions, such as {long[0]['question'][:60]!r}"
        )


def query_of(question: Mapping[str, Any], config: EvaluateConfig) -> Query:
    """A held-out question as it is asked."""
    return Query(
        question["question"],
        key_of(question["question_id"]),
        config.max_new_tokens,
        temperature=config.temperature,
        numeric=is_numeric(question["gold"]),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tracestill.trainer.evaluation.evaluate", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--run-dir", type=Path, required=True, help="directory of the run, such as runs/demo")
    parser.add_argument("--arm", default=MAIN_ARM, help="which student of the run (default: %(default)s)")
    options = parser.parse_args(arguments)
    console = Terminal(stderr=True)
    try:
        held = RunDirectory.open(options.run_dir)
        directory = held.stage(options.arm, "evaluate")
        columns = plain_column("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
        shown = Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
        with run_lock.held(held.root), shown as bar:
            task = bar.add_task(f"evaluate {options.arm}", total=None)
            run(held, options.arm, lambda done, all: bar.update(task, completed=done, total=all))
    except InputError as error:
        say(f"error: {error}", err=True)
        return error.exit_code
    result = json.loads((directory / "result.json").read_text(encoding="utf-8"))
    left = f" ({result['not_asked']} of them not asked)" if result["not_asked"] else ""
    say(
        f"{options.arm}: accuracy {result['accuracy']:.1%} "
        f"({result['accuracy_low']:.1%} to {result['accuracy_high']:.1%}) on {result['questions']} questions{left}, "
        f"{result['truncated']} cut off, {result['trace_tokens_mean']:.1f} tokens a trace"
    )
    for line in said(result):
        say(f"  {line}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
