"""The models that are asked: the student that an arm has trained, that of an arm before its first step, and any other
directory that transformers loads."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.stage import read_manifest
from tracestill.data_pipeline.documents.ask import AskLayout
from tracestill.data_pipeline.documents.encode import load_layout
from tracestill.trainer.evaluation.answers import Answers, answers_beside
from tracestill.trainer.evaluation.asking import LocalAsker, Team
from tracestill.trainer.export.export import holds_model, quiet
from tracestill.trainer.ranks.threads import ThreadChoice
from tracestill.trainer.recipe.precision import training_dtype
from tracestill.trainer.recipe.recipe import Recipe
from tracestill.trainer.recipe.run_directory import RunDirectory
from tracestill.trainer.student.student import Student, build_student
from tracestill.trainer.writing.generate import load_exported

SAID = {"what": "the model", "remedy": "look whether all of its files are there"}


@contextlib.contextmanager
def arm_asker(
    held: RunDirectory, arm: str, device: torch.device, threads: ThreadChoice | None = None, team: Team | None = None
) -> Iterator[tuple[LocalAsker, Student | None]]:
    """Who asks the student of an arm; and that student itself, if it is not trained."""
    recipe, (_, inputs) = held.recipe.for_arm(arm), held.evaluate_stage(arm)
    trains = recipe.train.trains
    source = exported(inputs["train"]) if trains else inputs["tokenizer"]
    student = None if trains else untrained_student(recipe, source, device)
    layout = load_layout(recipe.encode, source)
    model = load_trained(recipe, source, device) if student is None else student.model
    with (
        Answers(answers_beside(held.stage(arm, "evaluate")), held.who_writes(arm), begin=leads(team)) as answers,
        contextlib.nullcontext() if student is None else answering(model),
    ):
        yield LocalAsker(model, layout, recipe, threads, answers, team), student


@contextlib.contextmanager
def model_asker(
    held: RunDirectory,
    name: str,
    model: Path,
    device: torch.device,
    threads: ThreadChoice | None = None,
    team: Team | None = None,
) -> Iterator[LocalAsker]:
    """Who asks any model, in its own layout (see ``data_pipeline.ask``)."""
    loaded, layout = load_any(held.recipe, model, device)
    with Answers(answers_beside(held.model(name)), held.who_writes_model(model), begin=leads(team)) as answers:
        yield LocalAsker(loaded, layout, held.recipe, threads, answers, team)


def leads(team: Team | None) -> bool:
    return team is None or team.rank == 0


def exported(train_dir: Path) -> Path:
    """The export of a finished training. Raises InputError if there is none."""
    if read_manifest(train_dir) is None or not holds_model(train_dir / "export"):
        raise InputError(f"{train_dir}: training has not finished, no exported student; run `tracestill train` first")
    return train_dir / "export"


def load_trained(recipe: Recipe, export_dir: Path, device: torch.device) -> PreTrainedModel:
    trusted = recipe.student.trust_remote_code
    return load_exported(export_dir, device, training_dtype(recipe.train, device), trusted=trusted)


def untrained_student(recipe: Recipe, tokenizer: Path, device: torch.device) -> Student:
    """The student as training would begin with it: rows for new control symbols included; an adapter adds nothing yet.

    ``tokenizer`` is the directory of the tokenizer stage. Raises InputError as ``build_student`` does.
    """
    layout, dtype = load_layout(recipe.encode, tokenizer), training_dtype(recipe.train, device)
    with quiet():
        student = build_student(
            recipe.student,
            vocab_size=layout.size,
            bos_id=layout.special_ids["bos"],
            eos_id=layout.stops[0],
            pad_id=layout.pad,
            num_kinds=len(recipe.span_kinds()),
            seed=recipe.seed,
            device=device,
            dtype=dtype,
            chunk_rows=recipe.train.chunk_rows,
            known_tokens=(read_manifest(tokenizer) or {}).get("known_tokens", layout.size),
        )
    student.model.generation_config = GenerationConfig()  # a model's own settings are no part of the comparison
    return student.cast(dtype).to(device).eval()


@contextlib.contextmanager
def answering(model: PreTrainedModel) -> Iterator[None]:
    """Meanwhile a student writes as plain transformers does, with the attention that fits its cache."""
    ours = model.config._attn_implementation
    if not model.config.is_encoder_decoder:
        model.set_attn_implementation("sdpa" if model._supports_sdpa else "eager")
    try:
        yield
    finally:
        if not model.config.is_encoder_decoder:
            model.set_attn_implementation(ours)


def load_any(recipe: Recipe, directory: Path, device: torch.device) -> tuple[PreTrainedModel, AskLayout]:
    """A model directory, and how it is asked. Raises InputError if it holds no model with a tokenizer."""
    if not holds_model(directory):
        raise InputError(f"--model {directory}: no model of transformers (no config.json there)")
    trusted = recipe.student.trust_remote_code
    model = load_exported(directory, device, training_dtype(recipe.train, device), trusted=trusted, **SAID)
    ends = {*ids_in(directory / "generation_config.json"), *ids_in(directory / "config.json")}
    encode = recipe.encode
    layout = AskLayout(directory, system=encode.system, variables=encode.variables, ends=sorted(ends))
    rows, highest = model.get_input_embeddings().weight.shape[0], max(layout.prompt_ids("How much is 1 + 2?"))
    if highest >= rows:
        raise InputError(f"--model {directory}: its tokenizer has the token {highest}, but the model {rows} embeddings")
    model.generation_config = GenerationConfig()
    return model, layout


def ids_in(path: Path) -> list[int]:
    """The ids at which a model stops by one of its configs; none if there is no such file."""
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")
    except (OSError, ValueError, AttributeError):
        return []
    return [i for i in (found if isinstance(found, list) else [found]) if isinstance(i, int)]
