"""What each round is, as a recipe: round 0 is the recipe itself, a later one learns from traces of a student, too.

A round's recipe says all of it, so that any command works on its directory: the student's traces are a file of
``questions.files``, replayed; what the first teachers said is found in the journal, which all rounds share.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.rounds.config import RoundsConfig
from tracestill.data_pipeline.sampling.sample_config import RECORDED
from tracestill.trainer.checkpoint.train_place import EXPORT
from tracestill.trainer.recipe.recipe import MAIN_ARM, SHARED, Recipe, build, merge
from tracestill.trainer.recipe.run_directory import RunDirectory

ROUNDS = "rounds"
WRITTEN, TRACES = "written", "traces.parquet"  # in a round's directory: what the student of the round before wrote
CHUNKS = f".{WRITTEN}"  # and what is finished of it while it is not whole
FIRST, REST = "first", "rest"  # parts of a round's documents
UNCHANGED = {  # keys that rounds.changes cannot have beside those that no arm changes, and why
    "evaluate": "rounds are compared by it; all share it",
    "distil": "later rounds follow the teacher of rounds.on_policy; leave it out",
    "score": "a student's own texts are read by the teacher of rounds.on_policy; leave it out",
    "student.config": "the student is that of the round before; leave it out",
    "student.pretrained": "the student is that of the round before; leave it out",
    "encode.tokenizer": "all rounds have round 0's; leave it out",
    "train.on_policy": "that is rounds.on_policy; leave it out",
}
FIELDS = {name: name for name in ("question", "gold", "reasoning", "answer", "teacher", "weight")}


def settings_of(recipe: Recipe) -> RoundsConfig:
    assert recipe.rounds is not None
    return recipe.rounds


def student_of(round_: int) -> str:
    """The name as a teacher of the student that a round has trained."""
    return f"student-{round_}"


def folder_of(root: Path, round_: int) -> Path:
    return root / ROUNDS / str(round_)


def round_of(root: Path, recipe: Recipe, round_: int, first: Collection[str] = ()) -> RunDirectory:
    """A round as the run that it is, below the directory ``root`` of all rounds; nothing is written. ``first``: the
    teachers of round 0's kept records, where these have to have the share ``keep``; else every document comes once."""
    return RunDirectory(folder_of(root, round_), recipe_of(root, recipe, round_, first))


def recipe_of(root: Path, recipe: Recipe, round_: int, first: Collection[str] = ()) -> Recipe:
    settings = settings_of(recipe)
    own = {**recipe.model_dump(mode="json"), "name": f"{recipe.name}-{round_}"[:100], "rounds": None}
    if round_ and settings.on_policy is not None:
        own |= of_on_policy(root, recipe, round_)
    elif round_:
        place = folder_of(root, round_) / WRITTEN / TRACES
        held = own["questions"]
        fields = {**FIELDS, "trace": "none", "metadata": []}
        files = [*held["files"], {"path": str(place), "fields": fields}]
        own["questions"] = {**held, "max_rejected": 1.0, "files": files}  # a student's faults are no reason to end
        own["sample"] = sampled(own["sample"], recipe, round_)
        if recipe.encode.tokenizer.path is None:  # that of round 0, so that rounds differ in their data alone
            tokenizer = RunDirectory(folder_of(root, 0), recipe).stage(MAIN_ARM, "tokenizer")
            own["encode"] = {**own["encode"], "tokenizer": {"path": str(tokenizer)}}
        if settings.keep is not None and first:
            own["plan"] = {**own["plan"], "mixture": mixture(settings.keep, first)}
    return build(own, where=f"round {round_}")


def of_on_policy(root: Path, recipe: Recipe, round_: int) -> dict[str, Any]:
    """The blocks of a later round in which the student of the round before goes on with texts of its own. Raises
    InputError for what all rounds share, or cannot do."""
    settings = settings_of(recipe)
    assert settings.on_policy is not None
    if recipe.student.encoder_decoder:
        raise InputError("rounds.on_policy: an encoder-decoder; only decoders write here")
    if shared := sorted(SHARED & settings.changes.keys()):
        raise InputError(f"rounds.changes.{shared[0]}: all rounds share it")
    for block in ("train", "student", "encode"):
        if not isinstance(given := settings.changes.get(block, {}), dict):
            raise InputError(f"rounds.changes.{block}: expected a mapping of its keys, got {given!r}")
    for key, why in UNCHANGED.items():
        block, _, name = key.partition(".")
        if block in settings.changes and (not name or name in settings.changes[block]):
            raise InputError(f"rounds.changes.{key}: {why}")
    held = merge(recipe.model_dump(mode="json"), settings.changes)
    if "steps" in settings.changes.get("train", {}):
        held["train"]["epochs"] = None
    before = RunDirectory(folder_of(root, round_ - 1), recipe).stage(MAIN_ARM, "train")
    first = RunDirectory(folder_of(root, 0), recipe).stage(MAIN_ARM, "tokenizer")
    return {
        **{name: block for name, block in held.items() if name in settings.changes},
        **{"distil": None, "score": held["score"] if recipe.plan.channels else {}},  # what round 0 followed
        "train": {**held["train"], "on_policy": settings.on_policy.model_dump(mode="json")},
        "student": {**held["student"], "config": None, "pretrained": str(before / EXPORT)},
        "encode": {**held["encode"], "tokenizer": {"path": str(first)}},  # with its symbols
    }


def sampled(held: dict[str, Any], recipe: Recipe, round_: int) -> dict[str, Any]:
    """The block ``sample`` of a later round. With ``keep: 0`` the first teachers are asked for no trace: were these
    left out after selection, the paths would go with them that the student has in common with them. Who judges,
    rewords or criticises stays."""
    settings, name = settings_of(recipe), student_of(round_ - 1)
    asked = [each for each in recipe.sample.teachers if not each.only_revises]
    more: dict[str, Any] = {"max_rejected": 1.0}
    student = {"name": name, "use": RECORDED, "options": {"teacher": name}}
    if settings.keep == 0:
        others = {settings.critic, recipe.verify.judge, *(each.by for each in recipe.evaluate.reworders)}
        kept = [{**each, "only_revises": True} for each in held["teachers"] if each["name"] in others]
        more["teachers"] = [student, *kept]
    elif not any(each.use == RECORDED and not each.options.get("teacher") for each in asked):
        more["teachers"] = [*held["teachers"], student]
    # else: who replays all traces replays these, too, under the name that their file gives
    if settings.teacher == "mixture":
        more["samples"] = recipe.sample.samples * (round_ + 1)
    if settings.critic is not None:
        more["revise"] = {"teacher": settings.critic, "of": [name]}
    elif settings.keep == 0:
        more["revise"] = None
    elif recipe.sample.revise is not None:
        more["revise"] = {**held["revise"], "of": held["revise"]["of"] or [each.name for each in asked]}
    return {**held, **more}


def mixture(keep: float, first: Collection[str]) -> dict[str, Any]:
    """The share of the first teachers, and of all that is new."""
    parts = {FIRST: {"share": keep, "where": {"teacher": sorted(first)}}, REST: {"share": 1 - keep}}
    return {"parts": parts, "by": "documents"}
