"""What the command line does with a recipe or a run directory: open it, check it, and run stages of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracestill.data_pipeline.base.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from tracestill.launch.commands.options import Changes, Place
    from tracestill.launch.hosts.cluster import Cluster
    from tracestill.launch.run.stage_spec import Work
    from tracestill.trainer.recipe.run_directory import RunDirectory


@contextlib.contextmanager
def looking() -> Iterator[None]:
    """Meanwhile nothing that a recipe names is imported, or need be there."""
    from tracestill.data_pipeline.base import own_modules

    with own_modules.looking():
        yield


def single(stage: str, place: Place, changes: Changes, arm: str | None = None, **training: Any) -> None:
    """Run one stage; ``training`` as ``execute`` takes it."""
    execute(place, changes, first=stage, last=stage, arm=arm, **training)


def execute(
    place: Place,
    changes: Changes,
    *,
    first: str,
    last: str,
    arm: str | None = None,
    resume: str = "auto",
    cluster: Cluster | None = None,
    dry_run: bool = False,
    max_restarts: int = 0,
    recover: bool = False,
) -> None:
    """Claim the run directory and run the stages ``first`` to ``last`` in it; or only print what would train.

    ``recover``: a damaged journal becomes a new one first, with what can be read from it.
    """
    from tracestill.launch.run.checks import check_works
    from tracestill.launch.run.runner import of_arm, require_inputs, run_stages
    from tracestill.launch.run.stage_spec import How
    from tracestill.launch.run.stages import describe_end, plan_works, stage_position
    from tracestill.trainer.ranks.console import Terminal, say

    console = Terminal(stderr=True)
    asked = open_run(place.recipe, place.run_dir, changes.settings)
    if asked.recipe.rounds is not None and first != "report":
        raise InputError(
            f"{place.recipe}: has rounds, which `tracestill rounds` runs; each is a run of its own, such as "
            f"{asked.root / 'rounds' / '0'}"
        )
    replace = dry_run or may_replace(asked, changes)
    own = asked.recipe.for_arm(arm or "traces")
    begin, end = (stage_position(name, asked.recipe) for name in (first, last))
    works = plan_works(asked, How(resume, cluster, max_restarts))
    chosen = [w for w in works if begin <= w.position <= end and of_arm(asked, w, arm)]
    if arm and not own.train.trains and not chosen:
        raise InputError(f"--arm {arm}: its student is not trained (train: none); `tracestill evaluate` takes it")
    if begin:
        require_inputs(chosen, works, place.recipe)
    check_works(asked, chosen, console, resume=resume, cluster=cluster)
    if dry_run:
        from tracestill.launch.start.dry_run import describe_training

        for work in chosen:
            say(f"# arm {work.arm}\n{describe_training(asked, str(work.arm), resume, cluster)}")
        return
    with claimed(asked, console, replace=replace):
        if recover:
            say_recovered(asked.journal, console)
        run_stages(chosen, console)
        describe_end(asked, chosen, console)


def evaluate_model(place: Place, changes: Changes, model: str) -> None:
    """Let a model that is no arm, as ``DIR`` or ``NAME=DIR``, answer the held-out questions of a run."""
    from tracestill.launch.run.stages import model_work
    from tracestill.trainer.recipe.recipe import plain_name

    name, equals, path = ("", "", model) if Path(model).exists() else model.rpartition("=")
    if not Path(path).is_dir():
        raise InputError(f"--model {model}: no such directory; expected DIR or NAME=DIR")
    name = name if equals else Path(path).absolute().name
    if not plain_name(name):
        raise InputError(f"--model {model}: '{name}' is no name for it; give it one: --model NAME={path}")
    ask_others(place, changes, lambda run: [model_work(run, name, Path(path))])


def evaluate_endpoint(place: Place, changes: Changes, endpoint: str, model: str | None, key_env: str | None) -> None:
    """Let a served model answer the held-out questions of a run: at an address, or named in the recipe."""
    from tracestill.launch.run.stages import endpoint_work

    ask_others(place, changes, lambda run: [endpoint_work(run, endpoint, model, key_env)])


def evaluate_tasks(place: Place, changes: Changes, arm: str | None, tasks: list[str]) -> None:
    """Let lm-evaluation-harness measure the students of a run, or that of an arm."""
    from tracestill.launch.run.stages import task_works

    ask_others(place, changes, lambda run: task_works(run, arm, tasks))


def ask_others(place: Place, changes: Changes, works_of: Callable[[RunDirectory], list[Work]]) -> None:
    """Do work that is no stage of a run's own."""
    from tracestill.launch.run.runner import require_inputs, run_stages
    from tracestill.launch.run.stages import describe_end, plan_works
    from tracestill.trainer.ranks.console import Terminal

    asked = open_run(place.recipe, place.run_dir, changes.settings)
    replace = may_replace(asked, changes)
    works = plan_works(asked)
    others = works_of(asked)
    require_inputs(others, [*works, *others], place.recipe)
    console = Terminal(stderr=True)
    with claimed(asked, console, replace=replace):
        run_stages(others, console)
        describe_end(asked, others, console)


def may_replace(asked: RunDirectory, changes: Changes) -> bool:
    """Whether the recipe asked for may take another one's place in the run directory: where it was said so, and where
    no stage has finished, which holds nothing that another recipe could spoil. Raises InputError if it holds another
    recipe, and may not; nothing is read or loaded for it, and no lock is put into a foreign directory."""
    from tracestill.data_pipeline.base.stage import MANIFEST
    from tracestill.trainer.recipe.run_directory import RunDirectory

    places = ("[!.]*", "arms/*/*", "rounds/*/*")
    replace = changes.replace or not any(any(asked.root.glob(f"{place}/{MANIFEST}")) for place in places)
    RunDirectory.refuse(asked.root, asked.recipe, replace=replace)
    return replace


@contextlib.contextmanager
def claimed(asked: RunDirectory, console: Console, *, replace: bool) -> Iterator[None]:
    """Meanwhile this process alone writes into the run directory, which holds the recipe asked for.

    Who only looks at it needs no lock, and may write the report, which has one of its own. Raises InputError if the
    directory holds another recipe that it may not ``replace``, cannot be written to, or another process that lives
    writes into it.
    """
    from tracestill.data_pipeline.base import own_modules
    from tracestill.data_pipeline.base.room import needs_room
    from tracestill.trainer.recipe.run_directory import RunDirectory

    with needs_room(asked.root) if own_modules.is_looking() else locked(asked.root, console):
        RunDirectory.create(asked.root, asked.recipe, replace=replace)
        yield


@contextlib.contextmanager
def locked(root: Path, console: Console) -> Iterator[None]:
    """Hold a run directory's lock, and tell where a disk of it is full, whatever the block does there."""
    from tracestill.data_pipeline.base.room import needs_room
    from tracestill.trainer.lock.run_lock import held

    def tell(text: str) -> None:
        console.print(text, style="yellow", highlight=False, markup=False, soft_wrap=True)

    with needs_room(root), held(root, tell):
        yield


def say_recovered(journal: Path, console: Console) -> None:
    from tracestill.data_pipeline.sampling.journal_recovery import recover

    count, aside = recover(journal)
    text = f"{journal} is whole" if aside is None else f"{journal}: made anew from what can be read of {aside}"
    console.print(f"{text}; it holds {count:,} samples", highlight=False, soft_wrap=True)


def open_run(recipe: Path, run_dir: Path | None, settings: list[str] | None) -> RunDirectory:
    """The run that the arguments mean. Nothing is written. Says which modules the recipe imports before it does."""
    from tracestill.data_pipeline.base import own_modules
    from tracestill.trainer.recipe.recipe import load_recipe
    from tracestill.trainer.recipe.run_directory import RECIPE, RunDirectory, as_held

    if recipe.is_dir():
        RunDirectory.check(recipe)
    path = recipe / RECIPE if recipe.is_dir() else recipe
    if not own_modules.is_looking():
        say_imports(path, settings)
    loaded = load_recipe(path, settings or (), shown=recipe.is_dir() and own_modules.is_looking())
    root = run_dir or (recipe if recipe.is_dir() else Path("runs") / loaded.name)
    return RunDirectory(root, as_held(loaded, root) if own_modules.is_looking() else loaded)


def say_imports(path: Path, settings: list[str] | None) -> None:
    """Say on stderr which modules of whom a recipe is about to import; of ranks that mpirun started, the first does."""
    from tracestill.trainer.ranks.console import say
    from tracestill.trainer.ranks.join_ranks import is_first
    from tracestill.trainer.recipe.recipe import imports_of

    for line in imports_of(path, settings or ()) if is_first() else ():
        say(line, err=True)


def default_root(recipe: Path) -> Path:
    from tracestill.trainer.recipe.recipe import load_recipe

    return Path("runs") / load_recipe(recipe).name
