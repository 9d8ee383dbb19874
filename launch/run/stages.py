"""The registry of stages, in their order, and the pieces of work that they are in a run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from tracestill.data_pipeline.base import own_modules
from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.kinds import nearest
from tracestill.data_pipeline.base.options import check_options
from tracestill.data_pipeline.base.stage import CONTENTS, read_manifest
from tracestill.launch.report.report import write_report
from tracestill.launch.run.data_stages import DATA_STAGES
from tracestill.launch.run.own_stages import own_options, own_stage
from tracestill.launch.run.progress import line
from tracestill.launch.run.scoring import SCORE
from tracestill.launch.run.stage_spec import Case, How, StageSpec, Work, place_of
from tracestill.launch.run.student_stages import EVALUATE, TRAIN, ask_endpoint, ask_model, measure_task
from tracestill.trainer.lock.run_lock import SILENCE, held, remove_if_empty
from tracestill.trainer.recipe.recipe import MAIN_ARM, Recipe
from tracestill.trainer.recipe.run_directory import RunDirectory

REPORT_LOCK = ".lock-report"  # a folder with the lock of the report alone


def do_report(work: Work, console: Console) -> None:
    alone = work.case.run.root / REPORT_LOCK
    with held(alone, patience=SILENCE):  # it may be asked for while another command runs
        write_report(work.case.run, work.case.before)
    remove_if_empty(alone)


def reported(manifest: Mapping[str, Any], directory: Path) -> str:
    missing = manifest["counts"]["missing"]
    return f"written, {missing} stage(s) missing in it" if missing else "written"


PLAN = next(at for at, spec in enumerate(DATA_STAGES) if spec.name == "plan")
STAGES = (
    *DATA_STAGES[:PLAN],
    SCORE,
    *DATA_STAGES[PLAN:],
    TRAIN,
    EVALUATE,
    StageSpec("report", lambda case: ({}, {}), do_report, reported, per_arm=False, always=True),
)


def stages_of(recipe: Recipe | None = None) -> list[StageSpec]:
    """The stages of a recipe in their order: those built in, and its own behind the ones that they follow.

    Raises InputError for a name that is taken, one that is unknown, and what is no stage.
    """
    found, stages = list(STAGES), recipe.stages if recipe else {}
    if recipe is not None:
        arms = [recipe.for_arm(arm) for arm in recipe.arm_names()]
        found = [spec for spec in STAGES if not spec.optional or any(spec.parts(own) for own in arms)]
    for name, own in stages.items():
        names = [spec.name for spec in found]
        if name in names:
            raise InputError(f"stages.{name}: is the name of a built-in stage; choose another")
        if own.after not in names[:-1]:
            raise InputError(f"stages.{name}.after: no stage '{own.after}' before it{nearest(own.after, names[:-1])}")
        at = names.index(own.after) + 1
        while found[at].name in stages:  # of its own they come in the recipe's order
            at += 1
        found.insert(at, own_stage(name, own))
    return found


def compared(recipe: Recipe) -> tuple[list[str], list[str]]:
    """The stages that make data, and the others: what two runs are compared by."""
    specs = [spec for spec in stages_of(recipe) if not spec.always]
    return [spec.name for spec in specs if spec.is_data], [spec.name for spec in specs if not spec.is_data]


def command_names(recipe: Recipe | None = None) -> list[str]:
    """What ``--until`` takes, in the order of stages. Imports no stage of the recipe's own."""
    with own_modules.looking():
        return list(dict.fromkeys(spec.does_it for spec in stages_of(recipe)))


def stage_position(name: str, recipe: Recipe | None = None) -> int:
    """Place of a stage in the order of stages. Raises InputError naming the nearest known stage."""
    names = command_names(recipe)
    if name not in names:
        left = next((spec for spec in STAGES if spec.does_it == name), None)
        if left is not None:
            raise InputError(f"{name}: this recipe has no such stage; {left.optional}")
        raise InputError(f"unknown stage '{name}'{nearest(name, names)}")
    return names.index(name)


def plan_works(run: RunDirectory, how: How = How()) -> list[Work]:
    """Every directory that the stages of a run write, the report last, in an order in which inputs come first.

    Raises InputError if a file that the recipe names (questions, tokenizer) cannot be read.
    """
    found: dict[Path, Work] = {}
    names = command_names(run.recipe)
    for spec in stages_of(run.recipe):
        for arm in run.recipe.arm_names() if spec.per_arm else [MAIN_ARM]:
            own = run.for_arm(arm)
            for part in spec.parts(own) if spec.needed(own) else ():
                options = own_options(run.recipe.stages.get(spec.name), spec)
                case = Case(run, arm, options, how, tuple(found.values()), part)
                work = work_of(spec, case, names.index(spec.does_it))
                found.setdefault(work.directory, work)  # a shared one comes from the first arm
    return list(found.values())


def work_of(spec: StageSpec, case: Case, position: int) -> Work:
    shared = case.run.root / spec.name  # who only looks at a run does not know whether a stage of its own is
    per_arm = spec.per_arm and not (spec.is_unseen and shared.exists())
    directory = case.run.stage(case.arm, place_of(spec, case.part)) if per_arm else shared
    config, inputs = spec.identity(case)
    arm = case.arm if (case.run.root / "arms") in directory.parents else None
    return Work(spec, case, position, directory, arm, config, inputs)


def model_work(run: RunDirectory, name: str, model: Path) -> Work:
    """A model that is no arm answers the held-out questions. Raises InputError if its name is an arm's or another's."""
    if name in run.recipe.arm_names():
        raise InputError(f"--model {model}: '{name}' is an arm of the run; give it another name: --model NAME={model}")
    config, inputs = run.model_stage(model)
    held = (read_manifest(run.model(name)) or {}).get("config", config)
    moved = config[CONTENTS] and held.get(CONTENTS) == config[CONTENTS]
    if held.get("model") != config["model"] and not moved:
        other = held.get("model", "a served model")
        raise InputError(f"--model {model}: '{name}' is {other} in this run; give it a name: --model NAME={model}")
    spec, at = replace(EVALUATE, do=ask_model(model)), stage_position(EVALUATE.name, run.recipe)
    return Work(spec, Case(run, name), at, run.model(name), name, config, inputs)


def task_works(run: RunDirectory, arm: str | None, tasks: Sequence[str]) -> list[Work]:
    """Tasks of lm-evaluation-harness on the students of a run, or that of ``arm``; those that are not trained, too.
    Raises InputError for two tasks of one name."""
    from tracestill.trainer.evaluation.harness import harness_stage

    found, at = list[Work](), stage_position(EVALUATE.name, run.recipe)
    for name in run.recipe.arm_names() if arm is None else [arm]:
        for task in tasks:
            directory, config, inputs = harness_stage(run, name, task)
            if any(directory == work.directory for work in found):
                raise InputError(f"--lm-eval {task}: another task has the same name, {directory.name}; rename its file")
            found.append(
                Work(measure_task(task), Case(run, name, part=directory.name), at, directory, name, config, inputs)
            )
    return found


def endpoint_work(run: RunDirectory, endpoint: str, model: str | None, key_env: str | None) -> Work:
    """A served model answers the held-out questions: one of ``evaluate.endpoints``, or ``model`` at an address. Raises
    InputError for neither, and for a name that is an arm's or another model's."""
    from tracestill.data_pipeline.sampling.teachers.api.endpoint import EndpointConfig

    known = run.recipe.evaluate.endpoints
    given = {"model": model, "api_key_env": key_env}
    if (config := known.get(endpoint)) is not None:
        name = endpoint
        options = config.model_dump(exclude_unset=True)
    elif "://" in endpoint and model:
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", model).strip("._-") or "endpoint"
        options = {"url": endpoint}
    elif "://" in endpoint:
        raise InputError(f"--endpoint {endpoint}: which model of this server? add --model-name NAME")
    else:
        here = f"evaluate.endpoints holds {', '.join(known)}" if known else "the recipe has no evaluate.endpoints"
        raise InputError(f"--endpoint {endpoint}: no address, such as http://localhost:8000/v1, and {here}")
    if name in run.recipe.arm_names():
        raise InputError(f"--endpoint {endpoint}: '{name}' is an arm of the run; name it otherwise")
    checked = check_options(
        EndpointConfig, {**options, **{key: value for key, value in given.items() if value is not None}}, "--endpoint"
    )
    identity, inputs = run.endpoint_stage(checked)
    held = (read_manifest(run.model(name)) or {}).get("config", identity)
    if held.get("endpoint", {}).get("model") != checked.model:
        other = held.get("model") or held["endpoint"]["model"]
        raise InputError(
            f"--endpoint {endpoint}: '{name}' is {other} in this run; put this one under another name into "
            "evaluate.endpoints"
        )
    spec, at = replace(EVALUATE, do=ask_endpoint(checked)), stage_position(EVALUATE.name, run.recipe)
    return Work(spec, Case(run, name), at, run.model(name), name, identity, inputs)


def describe_end(run: RunDirectory, works: list[Work], console: Console) -> None:
    """What to look at, or to do, after the work."""
    names = command_names(run.recipe)
    last = names[max((work.position for work in works), default=0)]
    if last == names[-1]:
        text = f"report: {run.root / last / 'report.html'}"
    else:
        text = f"next: {command_for(names[names.index(last) + 1], run.root)}"
    console.print(text, style="bold", highlight=False, soft_wrap=True)


def show_own_stages(run: RunDirectory, arm: str, console: Console) -> None:
    """A line about each stage of the recipe's own that has finished."""
    for work in plan_works(run) if run.recipe.stages else ():
        if work.stage in run.recipe.stages and work.arm in (None, arm) and (summary := work.summary()):
            console.print(line(work.label, summary, ""), soft_wrap=True)


def command_for(name: str, run: Path) -> str:
    """The command that does a stage: one of a recipe's own has none but ``run``."""
    built_in = any(name == spec.does_it for spec in STAGES)
    return f"tracestill {name} {run}" if built_in else f"tracestill run {run} --until {name}"
