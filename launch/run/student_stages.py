"""The stages of a student: it is trained, and it answers questions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from tracestill.data_pipeline.base.places import claim
from tracestill.data_pipeline.base.stage import missing_files
from tracestill.data_pipeline.sampling.teachers.api.endpoint import EndpointConfig
from tracestill.launch.report.evaluation.section import evaluation
from tracestill.launch.report.report import read_json
from tracestill.launch.report.training.curves import training
from tracestill.launch.run.evaluating import on_ranks, ranks_of
from tracestill.launch.run.progress import bar
from tracestill.launch.run.stage_spec import StageSpec, Work
from tracestill.launch.run.training import train_arm
from tracestill.trainer.checkpoint.files import CHECKPOINTS, remove_all, written
from tracestill.trainer.measures.said import said


def do_train(work: Work, console: Console) -> None:
    train_arm(work.case.run, work.case.arm, work.label, console, **vars(work.case.how))


def trained(manifest: Mapping[str, Any], directory: Path) -> str:
    steps = manifest["counts"].get("steps")
    return "trained" if steps is None else f"{steps:,} steps{by_own_texts(manifest.get('on_policy'))}"


def by_own_texts(told: Mapping[str, Any] | None) -> str:
    """What came of a student's own texts, and what they cost; empty if it learnt from others'."""
    if told is None:
        return ""
    time = ", ".join(f"{name} {share:.0%}" for name, share in told["time"].items())
    rejected = "".join(f", {reason.replace('_', ' ')} {count:,}" for reason, count in told["rejected"].items())
    text = f"; {told['out']:,} of {told['in']:,} texts of its own{rejected} in {told['refreshes']:,} refreshes, right "
    text += f"{told['right_first']:.0%} in the first and {told['right_last']:.0%} in the last; time: {time}"
    return text + (f"\n  ended early: {told['ended']['why']}" if told["ended"] else "")


def drop_checkpoints(train: Path) -> str:
    """Delete the checkpoints of a finished training whose export is whole; what was deleted, in words."""
    folder = train / CHECKPOINTS
    found = written(folder)
    if not found or missing_files(train):
        return ""
    claim(folder)  # it may have become a link since
    size = sum(path.stat().st_size for held in found for path in held.rglob("*") if path.is_file())
    remove_all(folder)
    return f"; its checkpoints are deleted (train.keep: 0), {size / 1e9:.2f} GB"


def do_evaluate(work: Work, console: Console) -> None:
    from tracestill.trainer.evaluation import evaluate

    run, ranks = work.case.run, ranks_of(work.case.recipe)
    if ranks.count > 1:
        return on_ranks(work, console, ranks, ["--run-dir", str(run.root.absolute()), "--arm", work.case.arm])
    with bar(work.label, console, "tokens", work.directory) as progress:
        return evaluate.run(run, work.case.arm, progress.set)


def ask_model(model: Path) -> Callable[[Work, Console], None]:
    """The evaluation of a model that is no arm of the run."""

    def do(work: Work, console: Console) -> None:
        from tracestill.trainer.evaluation import evaluate

        run, name, ranks = work.case.run, work.case.arm, ranks_of(work.case.run.recipe)
        if ranks.count > 1:
            words = ["--run-dir", str(run.root.absolute()), "--arm", name, "--model", str(model.absolute())]
            return on_ranks(work, console, ranks, words)
        with bar(work.label, console, "tokens", work.directory) as progress:
            return evaluate.run_model(run, name, model, progress.set)

    return do


def ask_endpoint(endpoint: EndpointConfig) -> Callable[[Work, Console], None]:
    """The evaluation of a served model."""

    def do(work: Work, console: Console) -> None:
        from tracestill.trainer.evaluation import evaluate

        with bar(work.label, console, "answers", work.directory) as progress:
            evaluate.run_endpoint(work.case.run, work.case.arm, endpoint, progress.set)

    return do


def evaluated(manifest: Mapping[str, Any], directory: Path) -> str:
    result = read_json(directory / "result.json")
    if result is None:
        return "its result is gone"
    threads = f", by {result['threads']} thread(s)" if result.get("threads") else ""
    left = f", {result['not_asked']:,} not asked" if result.get("not_asked") else ""
    undecided = sum(result.get("undecided", {}).values())
    left += f", {undecided:,} undecided" if undecided else ""
    when = f"; {result['right_when_answered']:.1%} of {result['answered']:,} answered" if result.get("answered") else ""
    when = "; none answered" if result.get("answered") == 0 else when
    return (
        f"{result['accuracy']:.1%} of {result['questions']:,} questions right{when}{left}, "
        f"{result['truncated']:,} cut off{threads}" + "".join(f"\n  {line}" for line in said(result))
    )


def measure_task(task: str) -> StageSpec:
    """A task of lm-evaluation-harness on an arm's student; its identity: ``harness_stage``."""

    def do(work: Work, console: Console) -> None:
        from tracestill.trainer.evaluation.harness import run_task

        run_task(work.case.run, work.case.arm, task)

    return StageSpec("harness", lambda case: ({}, {}), do, tasks_told)


def tasks_told(manifest: Mapping[str, Any], directory: Path) -> str:
    result = read_json(directory / "result.json")
    if result is None:
        return "its result is gone"
    told = []
    for task, metrics in result["metrics"].items():
        values = ", ".join(f"{name} {row['value']:.4f}" for name, row in metrics.items())
        told.append(f"{task}: {values}")
    return "; ".join(told)


TRAIN = StageSpec(
    "train",
    lambda case: case.run.train_stage(case.arm),
    do_train,
    trained,
    training,
    needed=lambda recipe: recipe.train.trains,
    resumes=True,
    tidy=lambda work: "" if work.case.recipe.train.keep else drop_checkpoints(work.directory),
)
EVALUATE = StageSpec(
    "evaluate",
    lambda case: case.run.evaluate_stage(case.arm),
    do_evaluate,
    evaluated,
    evaluation,
    redo="every answer so far is kept",
)
