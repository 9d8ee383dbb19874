"""Evaluation on several ranks of this host, by the launcher that trains."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from tracestill.data_pipeline.base.errors import InputError
from tracestill.launch.run.progress import bar
from tracestill.launch.run.restarts import explained
from tracestill.launch.run.stage_spec import Work
from tracestill.launch.start import deepspeed_command
from tracestill.launch.start.deepspeed_command import Ranks, TrainingFailed
from tracestill.trainer.faults import stopping
from tracestill.trainer.faults.failure import FAILURE
from tracestill.trainer.ranks.cores import usable_cores, wanted_threads
from tracestill.trainer.recipe.recipe import Recipe

ENTRY_POINT = "tracestill.trainer.assembly.evaluation_ranks"
CONSOLE_LOG = "console.log"


def ranks_of(recipe: Recipe) -> Ranks:
    """Ranks that evaluate here: as ``evaluate.ranks`` says, or one a GPU. Raises InputError if there are fewer GPUs."""
    asked, gpus, cores = recipe.evaluate.ranks, deepspeed_command.count_gpus(), usable_cores()
    if asked == "auto":
        return Ranks(max(1, gpus))
    if gpus and asked > gpus:
        raise InputError(f"evaluate.ranks: {asked} ranks need {asked} GPUs, this host offers {gpus}; lower it")
    return Ranks(asked, None if gpus else wanted_threads() or max(1, cores // asked))


def on_ranks(work: Work, console: Console, ranks: Ranks, words: Sequence[str]) -> None:
    """Evaluate by ``ranks``, which are told ``words``. Raises InputError for what they refuse, TrainingFailed if they
    end otherwise before all is there; what was written is kept."""
    from tracestill.trainer.evaluation.answers import forget_asked
    from tracestill.trainer.evaluation.ranks import PROGRESS, read_progress

    run, arm = work.case.run, work.case.arm
    folder = run.evaluate_folder(arm)
    stopping.clear(folder, FAILURE, PROGRESS)
    start, log = deepspeed_command.start_ranks(ENTRY_POINT, words, ranks, run.root), folder / CONSOLE_LOG
    where = "GPU" if start.gpus else "CPU"
    console.print(
        f"  {work.label}: starting {start.ranks} rank(s) on {where}, output in {log}",
        style="dim",
        highlight=False,
        soft_wrap=True,
    )
    kept = f"{work.label}: what was written is kept, and the same command goes on"
    try:
        with bar(work.label, console, "tokens", work.directory) as progress:
            how = start.arguments, log, start.environment
            deepspeed_command.run(
                *how, lambda: progress.set(*read_progress(folder)), start.watch, what="the evaluation"
            )
    except (TrainingFailed, InputError) as error:
        told = explained(error, folder, log)
        raise TrainingFailed(f"{told}\n  {kept}") if isinstance(told, TrainingFailed) else told from None
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted in {kept}") from None
    finally:
        forget_asked(work.directory)  # ranks that were killed could not
    if not work.is_current():  # the launcher ends with 0 if a signal ends what it started
        cut = TrainingFailed(f"the evaluation ended before its last answer; the whole output is in {log}")
        raise explained(cut, folder, log)
