"""Tasks of lm-evaluation-harness on a student: an adapter, so that nobody has to write its command.

The student is asked through its own chat template, as it was trained, and what stands behind its trace is its answer.
One that is not trained is asked as its training would begin with it.
"""

from __future__ import annotations

import contextlib
import importlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from tracestill.data_pipeline.base.content import contents
from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.stage import CONTENTS, stage, write_json
from tracestill.data_pipeline.documents.encode import load_layout
from tracestill.data_pipeline.tokens.render import END_THINK
from tracestill.trainer.evaluation.baseline import answering, exported, load_trained, untrained_student
from tracestill.trainer.export.export import copy_tokenizer, quiet
from tracestill.trainer.loading.loading import load_tokenizer
from tracestill.trainer.recipe.precision import use_gpu
from tracestill.trainer.recipe.recipe import Recipe, plain_name
from tracestill.trainer.recipe.run_directory import RunDirectory

STAGE = "harness"
EXTRA = "--lm-eval needs lm-evaluation-harness: pip install 'tracestill[lm-eval]'"
YAML = (".yaml", ".yml")


def harness_stage(held: RunDirectory, arm: str, task: str) -> tuple[Path, dict[str, Any], dict[str, Path]]:
    """Directory, config and inputs of a task's result. ``task``: a name that the harness knows, or a YAML file of one;
    files beside it that it names count as it does. Raises InputError for a task without a name for its folder."""
    own, path = held.for_arm(arm), Path(task)
    name = path.stem if path.suffix in YAML else task
    if not plain_name(name):
        raise InputError(f"--lm-eval {task}: expected the name of a task, or a file such as my_task.yaml")
    asking = {"limit": own.evaluate.questions, "max_new_tokens": own.evaluate.max_new_tokens}
    student, inputs = held.student_of(arm)
    config: dict[str, Any] = {"task": name, **asking, "precision": own.train.precision, **student}
    if path.suffix in YAML:
        try:
            said = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"--lm-eval {task}: not readable ({error})") from error
        beside = [other for other in path.parent.iterdir() if other.is_file() and other.name in said]
        files = {file.name: file for file in (path, *beside)}
        config[CONTENTS] = contents({"--lm-eval": files}, held.memory)
    return held.root / "arms" / arm / STAGE / name, config, inputs


def run_task(held: RunDirectory, arm: str, task: str) -> None:
    """Let the harness measure the student of an arm on one task: result.json holds ``metrics`` by task (a group has
    several), how many ``samples`` each has, and the version. ``evaluate.questions`` bounds the samples of a task, and
    ``evaluate.max_new_tokens`` a text, unless the task says how long one is.

    Raises InputError without the harness, an export, or such a task, and for one that cannot be loaded.
    """
    directory, config, inputs = harness_stage(held, arm, task)
    try:
        lm_eval = importlib.import_module("lm_eval")
        models = importlib.import_module("lm_eval.models.huggingface")
        tasks = importlib.import_module("lm_eval.tasks")
    except ImportError as error:
        raise InputError(f"{EXTRA} ({error})") from error
    recipe = held.for_arm(arm)
    is_file = Path(task).suffix in YAML
    known = tasks.TaskManager(include_defaults=not is_file)  # to read all of them takes longer than to load a student
    if not is_file and task not in known.all_tasks:
        raise InputError(f"--lm-eval {task}: lm-evaluation-harness {lm_eval.__version__} knows no such task")
    try:
        known.load([task])
    except Exception as error:  # of a file of the user's and its code, or a data set that does not come
        why = " ".join(str(error).split())[:300]
        raise InputError(f"--lm-eval {task}: the harness cannot load it ({type(error).__name__}: {why})") from error
    device = torch.device("cuda" if use_gpu() else "cpu")
    student = type("Student", (models.HFLM,), {"max_gen_toks": recipe.evaluate.max_new_tokens})  # else it is 256
    with stage(directory, STAGE, config, inputs) as work, loaded(recipe, inputs, device) as (own, tokenizer):
        end = tokenizer.convert_tokens_to_ids(END_THINK)
        model = student(
            pretrained=own,
            tokenizer=tokenizer,
            batch_size=recipe.evaluate.batch_size,
            think_end_token=END_THINK if end in (None, tokenizer.unk_token_id) else end,
        )
        try:
            found = lm_eval.simple_evaluate(
                model,
                tasks=[task],
                limit=recipe.evaluate.questions,
                task_manager=known,
                apply_chat_template=tokenizer.chat_template is not None,
                random_seed=recipe.seed % 2**32,
                numpy_random_seed=recipe.seed % 2**32,
                torch_random_seed=recipe.seed,
                fewshot_random_seed=recipe.seed,
                log_samples=False,
            )
        except AssertionError as error:  # longer texts than the student has positions for
            raise InputError(f"--lm-eval {task}: {error}") from error
        samples = {name: counts["effective"] for name, counts in found["n-samples"].items()}
        told = {"lm_eval": lm_eval.__version__, "samples": samples, "metrics": metrics_of(found["results"])}
        write_json(work.path / "result.json", told)
        work.counts = {"in": sum(samples.values()), "out": sum(samples.values())}


@contextlib.contextmanager
def loaded(recipe: Recipe, inputs: dict[str, Path], device: torch.device) -> Iterator[tuple[PreTrainedModel, Any]]:
    """An arm's student and its tokenizer, as an export has both. Raises InputError if they are not there yet."""
    if recipe.train.trains:
        source = exported(inputs["train"])
        yield load_trained(recipe, source, device), load_tokenizer(source)
        return
    source = inputs["tokenizer"]
    student = untrained_student(recipe, source, device).model
    with tempfile.TemporaryDirectory() as folder, quiet():
        copy_tokenizer(source, Path(folder), load_layout(recipe.encode, source))
        student.config.save_pretrained(folder)
        tokenizer = load_tokenizer(Path(folder))
    with answering(student):
        yield student, tokenizer


def metrics_of(results: dict[str, dict[str, Any]]) -> dict[str, dict[str, dict[str, float | None]]]:
    """Task -> metric, with its filter -> ``value`` and ``error`` (standard error; None: not told)."""
    found: dict[str, dict[str, dict[str, float | None]]] = {}
    for task, row in results.items():
        found[task] = {}
        for key, value in row.items():
            metric, comma, kept = key.partition(",")
            if comma and not metric.endswith("_stderr") and isinstance(value, int | float):
                error = row.get(f"{metric}_stderr,{kept}")
                name = metric if kept == "none" else f"{metric} ({kept})"
                found[task][name] = {"value": float(value), "error": error if isinstance(error, float) else None}
    return found
