"""Stages of the user's own, which a recipe names: ``stages: {lengths: {use: my_stages:LENGTHS, after: encode}}``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rich.console import Console

from tracestill.data_pipeline.base import own_modules
from tracestill.data_pipeline.base.content import contents, named_files
from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.options import check_options
from tracestill.data_pipeline.base.stage import CONTENTS, read_manifest
from tracestill.launch.run.stage_spec import Case, Identity, StageSpec, Work
from tracestill.trainer.recipe.own_stage import OwnStage


def own_stage(name: str, own: OwnStage) -> StageSpec:
    """The record that ``use`` names, under the recipe's name for it. Its config also holds its options, and the digests
    of its files and of those that its options name. Who only looks at a run imports nothing, and takes what a finished
    stage says of itself.

    Raises InputError if there is no such record.
    """
    if own_modules.is_looking():
        return StageSpec(name, lambda case: as_held(name, case), unseen, is_unseen=True)
    module, _, variable = own.use.partition(":")
    found = getattr(own_modules.load(module, f"stages.{name}.use"), variable, None)
    if not isinstance(found, StageSpec):
        raise InputError(f"stages.{name}.use: {module} has no StageSpec '{variable}'")

    def identity(case: Case) -> Identity:
        try:
            config, inputs = found.identity(case)
        except InputError as error:
            raise InputError(f"stages.{name}: {error}") from error
        files = {f"stages.{name}.module": own_modules.files(module), **named_files(own.options, "options")}
        held = {**config.get(CONTENTS, {}), **contents(files, case.run.memory)}
        return {**config, "options": own.options, CONTENTS: held}, inputs

    def do(work: Work, console: Console) -> None:
        found.do(work, console)
        if not work.is_current():  # nothing, or what the next run would not know as its own
            raise InputError(
                f"stages.{name}: has left no result of this work in {work.directory}; write it in "
                "`with stage(work.directory, work.stage, work.config, work.inputs)`"
            )

    return replace(found, name=name, identity=identity, do=do, command="")


def own_options(own: OwnStage | None, spec: StageSpec) -> Any:
    """The options of a stage of one's own as its ``Options``. Raises InputError naming each wrong one."""
    if own is None or own_modules.is_looking():
        return None
    if spec.Options is None and own.options:
        raise InputError(f"stages.{spec.name}.options: it takes none")
    return check_options(spec.Options, own.options, f"stages.{spec.name}.options") if spec.Options else None


def as_held(name: str, case: Case) -> Identity:
    shared = case.run.root / name
    held = read_manifest(shared if shared.exists() else case.run.stage(case.arm, name)) or {}
    inputs = {stage: case.place(stage) or case.run.stage(case.arm, stage) for stage in held.get("inputs", {})}
    return held.get("config", {}), inputs


def unseen(work: Work, console: Console) -> None:
    raise InputError(f"{work.label}: its module is not imported by a command that only looks at a run")
