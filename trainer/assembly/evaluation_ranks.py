"""Evaluation by several processes: the entry point that DeepSpeed's launcher starts on every rank.

    deepspeed --num_gpus 2 --module tracestill.trainer.assembly.evaluation_ranks --run-dir runs/demo --arm traces

See ``evaluation.ranks`` for who does what.
"""

from __future__ import annotations

if __name__ == "__main__":  # before anything else is imported: `python -m` has put the working directory first
    from tracestill.data_pipeline.guards.working_directory import leave_working_directory

    leave_working_directory()

from collections.abc import Sequence
from pathlib import Path

from tracestill.trainer.assembly.rank import Begun, as_rank, parser_of
from tracestill.trainer.engine.engine import World, connect, leave
from tracestill.trainer.evaluation import evaluate
from tracestill.trainer.evaluation.answers import asked_beside, forget_asked
from tracestill.trainer.evaluation.baseline import arm_asker, model_asker
from tracestill.trainer.evaluation.ranks import Team, say_progress
from tracestill.trainer.faults.watchdog import Watchdog
from tracestill.trainer.ranks.collectives import together
from tracestill.trainer.recipe.run_directory import RunDirectory


def work(run: RunDirectory, arm: str, model: Path | None, folder: Path, world: World, watch: Watchdog) -> int:
    """One rank's work, once it has met the others. Always 0."""
    directory = run.stage(arm, "evaluate") if model is None else run.model(arm)
    team = Team(
        asked_beside(directory),
        world.rank,
        world.ranks,
        lambda asked: watch.phase("measure", asked),
    )
    if world.rank == 0:
        team.begin()
    together(lambda: None, "cannot begin")
    watch.phase("load", 0)
    if world.rank == 0:

        def told(done: int, total: int) -> None:
            team.told(done, total)
            say_progress(folder, done * team.ranks, total * team.ranks)

        if model is None:
            evaluate.run(run, arm, told, device=world.device, team=team)
        else:
            evaluate.run_model(run, arm, model, told, device=world.device, team=team)
        team.end()
    elif model is None:
        with arm_asker(run, arm, world.device, team=team) as (asker, _):
            team.serve(asker)
    else:
        with model_asker(run, arm, model, world.device, team=team) as asker:
            team.serve(asker)
    together(lambda: None, "cannot end")
    if world.rank == 0:
        forget_asked(directory)
    return 0


def main(words: Sequence[str] | None = None) -> int:
    """Evaluate, as one of the ranks. Exit codes as of ``trainer.train``."""
    parser = parser_of("Evaluate a student of a run; started by `tracestill evaluate`.", "train")
    parser.add_argument("--model", type=Path, help="directory of a model that is no arm; --arm is then its name")
    arguments = parser.parse_args(words)

    def begin(run: RunDirectory) -> Begun:
        own = run.recipe if arguments.model else run.for_arm(arguments.arm)
        world = connect(own.train.model_copy(update={"sequence_parallel": 1}))
        folder = run.evaluate_folder(arguments.arm)
        watchdog = Watchdog(folder, own.train.watchdog)
        return watchdog, lambda watch: work(run, arguments.arm, arguments.model, folder, world, watch)

    return as_rank(arguments.run_dir, begin)


if __name__ == "__main__":
    leave(main())
