"""What each stage of a run reads, writes and is decided by: the pieces of work of a whole run, in order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from tracestill.data_pipeline.base import own_modules
from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.places import claim
from tracestill.data_pipeline.base.stage import CONTENTS, missing_files, read_manifest
from tracestill.data_pipeline.documents import encode
from tracestill.data_pipeline.plan import plan_stage
from tracestill.data_pipeline.sampling import sample
from tracestill.data_pipeline.selection import selection
from tracestill.data_pipeline.tokens import tokenizer
from tracestill.launch.hosts.cluster import Cluster
from tracestill.launch.run.progress import bar
from tracestill.launch.run.runner import Work
from tracestill.launch.run.training import train_arm
from tracestill.trainer.checkpoint.files import CHECKPOINTS, remove_all, written
from tracestill.trainer.recipe.run_directory import STAGES, RunDirectory


def plan_works(
    run: RunDirectory, *, resume: str = "auto", cluster: Cluster | None = None, max_restarts: int = 0
) -> list[Work]:
    """Every directory that the stages before the report write, in an order in which inputs come first.

    Students are trained on the hosts of ``cluster``, or on this one, and started again as ``train_arm`` does.

    Raises InputError if a file that the recipe names (questions, tokenizer) cannot be read.
    """
    arms = run.recipe.arm_names()
    trained = [arm for arm in arms if run.recipe.for_arm(arm).train.trains]
    makers: list[Callable[[str], Work]] = [
        lambda arm: select_work(run, arm),
        lambda arm: tokenizer_work(run, arm),
        lambda arm: encode_work(run, arm),
        lambda arm: plan_work(run, arm),
        lambda arm: train_work(run, arm, resume, cluster, max_restarts),
        lambda arm: evaluate_work(run, arm),
    ]
    owners = [arms, arms, arms, trained, trained, arms]  # an arm that is not trained needs no plan
    found: dict[Path, Work] = {}
    works = [make(arm) for make, of in zip(makers, owners, strict=True) for arm in of]
    for work in [sample_work(run), *works]:
        found.setdefault(work.directory, work)  # a shared one comes from the first arm
    return list(found.values())


def sample_work(run: RunDirectory) -> Work:
    recipe = run.recipe

    def action(label: str, console: Console) -> None:
        with bar(label, console) as progress:
            sample.run(
                recipe.questions,
                recipe.sample,
                seed=recipe.seed,
                directory=run.stage("", "sample"),
                journal=run.journal,
                kinds=recipe.span_kinds(),
                progress=progress.set,
                memory=run.memory,
            )

    config = sample.stage_config(recipe.questions, recipe.sample, recipe.seed, run.memory)
    return Work("sample", None, run.stage("", "sample"), config, {}, action)


def select_work(run: RunDirectory, arm: str) -> Work:
    own, source, directory = run.recipe.for_arm(arm), run.stage(arm, "sample"), run.stage(arm, "select")

    def action(label: str, console: Console) -> None:
        with bar(label, console) as progress:
            selection.run(own.select, directory=directory, sample=source, progress=progress.set, memory=run.memory)

    name = arm_of(run, directory, arm)
    return Work("select", name, directory, selection.stage_config(own.select, run.memory), {"sample": source}, action)


def tokenizer_work(run: RunDirectory, arm: str) -> Work:
    own, directory = run.recipe.for_arm(arm), run.stage(arm, "tokenizer")
    where = {"sample": run.stage(arm, "sample"), "select": run.stage(arm, "select")}
    plain = own.encode.template != "chat"

    def action(label: str, console: Console) -> None:
        with bar(label, console):  # SentencePiece does not tell how far it is
            tokenizer.run(own.encode.tokenizer, directory, **where, plain=plain)

    config = tokenizer.stage_config(own.encode.tokenizer, plain)
    return Work("tokenizer", arm_of(run, directory, arm), directory, config, where, action)


def encode_work(run: RunDirectory, arm: str) -> Work:
    own, directory, kinds = run.recipe.for_arm(arm), run.stage(arm, "encode"), run.recipe.for_arm(arm).span_kinds()
    inputs = {name: run.stage(arm, name) for name in ("sample", "select", "tokenizer")}
    given = own.encode.tokenizer
    checked = own.encode.template == "chat" and given.path is not None and not given.add_symbols
    if checked and not own_modules.is_looking():
        assert given.path is not None
        encode.load_layout(own.encode, given.path)  # refuses a template before any work is done

    def action(label: str, console: Console) -> None:
        with bar(label, console) as progress:
            encode.run(own.encode, kinds, own.plan, directory, **inputs, progress=progress.set)

    config = encode.stage_config(own.encode, kinds, own.plan)
    return Work("encode", arm_of(run, directory, arm), directory, config, inputs, action)


def plan_work(run: RunDirectory, arm: str) -> Work:
    own, directory, source = run.recipe.for_arm(arm), run.stage(arm, "plan"), run.stage(arm, "encode")
    length = {"steps": own.train.steps, "epochs": own.train.epochs}

    def action(label: str, console: Console) -> None:
        with bar(label, console) as progress:
            plan_stage.run(directory, source, own.plan, seed=own.seed, **length, progress=progress.set)

    config = plan_stage.stage_config(own.plan, seed=own.seed, **length)
    return Work("plan", arm_of(run, directory, arm), directory, config, {"encode": source}, action)


def train_work(run: RunDirectory, arm: str, resume: str, cluster: Cluster | None, max_restarts: int) -> Work:
    config, inputs = run.train_stage(arm)

    def action(label: str, console: Console) -> None:
        train_arm(run, arm, label, console, resume=resume, cluster=cluster, max_restarts=max_restarts)

    directory, keep = run.stage(arm, "train"), run.for_arm(arm).train.keep
    tidy = None if keep else lambda: drop_checkpoints(directory)
    return Work("train", arm, directory, config, inputs, action, tidy)


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


def evaluate_work(run: RunDirectory, arm: str) -> Work:
    config, inputs = run.evaluate_stage(arm)

    def action(label: str, console: Console) -> None:
        from tracestill.trainer.evaluation import evaluate

        with bar(label, console, "tokens") as progress:
            evaluate.run(run, arm, progress.set)

    return Work("evaluate", arm, run.stage(arm, "evaluate"), config, inputs, action)


def model_work(run: RunDirectory, name: str, model: Path) -> Work:
    """A model that is no arm answers the held-out questions. Raises InputError if its name is an arm's or another's."""
    if name in run.recipe.arm_names():
        raise InputError(f"--model {model}: '{name}' is an arm of the run; give it another name: --model NAME={model}")
    config, inputs = run.model_stage(model)
    held = (read_manifest(run.model(name)) or {}).get("config", config)
    moved = config[CONTENTS] and held.get(CONTENTS) == config[CONTENTS]
    if held["model"] != config["model"] and not moved:
        raise InputError(
            f"--model {model}: '{name}' is {held['model']} in this run; give it a name: --model NAME={model}"
        )

    def action(label: str, console: Console) -> None:
        from tracestill.trainer.evaluation import evaluate

        with bar(label, console, "tokens") as progress:
            evaluate.run_model(run, name, model, progress.set)

    return Work("evaluate", name, run.model(name), config, inputs, action)


def arm_of(run: RunDirectory, directory: Path, arm: str) -> str | None:
    """The arm that a directory belongs to; None if the arms share it."""
    return arm if (run.root / "arms") in directory.parents else None


def describe_end(run: RunDirectory, works: list[Work], console: Console) -> None:
    """What to look at, or to do, after the work."""
    last = max((work.position for work in works), default=0)
    if STAGES[last] == "report":
        text = f"report: {run.stage('', 'report') / 'report.html'}"
    else:
        text = f"next: tracestill {STAGES[last + 1]} {run.root}"
    console.print(text, style="bold", highlight=False, soft_wrap=True)
