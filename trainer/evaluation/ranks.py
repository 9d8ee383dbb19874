"""Evaluation by several processes: the entry point that DeepSpeed's launcher starts on every rank.

    deepspeed --num_gpus 2 --module tracestill.trainer.evaluation.ranks --run-dir runs/demo --arm traces

Rank 0 evaluates. Whenever it asks, it leaves word of the texts that are wanted beside the answers; every rank writes
its share with the whole model, and keeps it there, where rank 0 reads it. A text is decided by its query, so that the
result does not depend on the number of ranks; and nobody waits in a collective while others write or judge.
"""

from __future__ import annotations

if __name__ == "__main__":  # before anything else is imported: `python -m` has put the working directory first
    from tracestill.data_pipeline.guards.working_directory import leave_working_directory

    leave_working_directory()

import argparse
import contextlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tracestill.data_pipeline.base.stage import write_whole
from tracestill.trainer.assembly.rank import Begun as Beginning
from tracestill.trainer.assembly.rank import as_rank
from tracestill.trainer.engine.engine import World, connect, leave
from tracestill.trainer.evaluation import evaluate
from tracestill.trainer.evaluation.answers import Answers, answers_beside
from tracestill.trainer.evaluation.asking import Begun, Job, LocalAsker, Query
from tracestill.trainer.evaluation.baseline import arm_asker, model_asker
from tracestill.trainer.faults.watchdog import Watchdog
from tracestill.trainer.ranks.collectives import together
from tracestill.trainer.recipe.recipe import MAIN_ARM
from tracestill.trainer.recipe.run_directory import RunDirectory

WAIT = 0.05  # seconds between two looks for what others wrote
PROGRESS = "progress.json"
END = "end"  # word that nothing more is asked
EACH = 4  # queries a rank, from which on the samples of one stay together


class Team:
    """The ranks that write for one evaluation. ``folder`` is where word is left, on a disk that all of them see."""

    def __init__(self, folder: Path, rank: int, ranks: int, watch: Watchdog | None = None) -> None:
        self.folder, self.rank, self.ranks, self.watch = folder, rank, ranks, watch
        self.asked = 0  # times

    def begin(self) -> None:
        """On rank 0, before any other one looks."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for left in [*self.folder.glob("ask-*.json"), self.folder / END]:
            left.unlink(missing_ok=True)

    def share(self, queries: Sequence[Query], jobs: Sequence[Job]) -> list[Job]:
        used = {at: number for number, at in enumerate(dict.fromkeys(job.query for job in jobs))}
        told = [[used[at], sample] for at, sample in jobs]
        write_whole(self.folder / f"ask-{self.asked:05d}.json", json.dumps([[queries[at] for at in used], told]))
        self.asked += 1
        return mine_of(queries, jobs, self.rank, self.ranks)

    def wait(self, are_there: Callable[[], bool], answers: Answers) -> None:
        while not are_there():
            answers.look()
            self.rest()

    def end(self) -> None:
        write_whole(self.folder / END, "")

    def serve(self, asker: LocalAsker) -> None:
        """On the other ranks: write shares until the end."""
        while not (self.folder / END).exists():
            path = self.folder / f"ask-{self.asked:05d}.json"
            if not path.exists():
                self.rest()
                continue
            self.asked += 1
            queries, jobs = read(path)
            asker.write(queries, mine_of(queries, jobs, self.rank, self.ranks), self.told)

    def rest(self) -> None:
        self.told(0, 0)
        time.sleep(WAIT)

    def told(self, done: int, total: int) -> None:
        if self.watch is not None:
            self.watch.phase("measure", self.asked)


def read(path: Path) -> tuple[list[Query], list[Job]]:
    queries, jobs = json.loads(path.read_text(encoding="utf-8"))
    found = [Query(*each)._replace(begun=Begun(*each[Query._fields.index("begun")])) for each in queries]
    return found, [Job(*job) for job in jobs]


def mine_of(queries: Sequence[Query], jobs: Sequence[Job], rank: int, ranks: int) -> list[Job]:
    """The jobs of one rank, the longest questions shared out first; samples of a question together, so that one rank
    reads its prompt, unless there are few questions."""
    order = sorted(jobs, key=lambda job: (-len(queries[job.query].question), job))
    found = list(dict.fromkeys(job.query for job in order))
    if len(found) < EACH * ranks:
        return order[rank::ranks]
    mine = set(found[rank::ranks])
    return [job for job in order if job.query in mine]


def say_progress(folder: Path, done: int, total: int) -> None:
    """Tokens, as rank 0 can tell of all ranks, for whoever has started them."""
    draft = folder / f".{PROGRESS}.tmp"
    with contextlib.suppress(OSError):  # a full disk is for the answers to tell of
        draft.write_text(json.dumps([done, total]), encoding="utf-8")
        draft.replace(folder / PROGRESS)


def read_progress(folder: Path) -> tuple[int, int]:
    """Tokens done, and those to be expected; nothing was told yet: 0 of 0."""
    try:
        done, total = json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 0, 0
    return done, total


def work(run: RunDirectory, arm: str, model: Path | None, folder: Path, world: World, watch: Watchdog) -> int:
    """One rank's work, once it has met the others. Always 0."""
    directory = run.stage(arm, "evaluate") if model is None else run.model(arm)
    team = Team(answers_beside(directory).with_suffix(".asked"), world.rank, world.ranks, watch)
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
        return 0
    if model is None:
        with arm_asker(run, arm, world.device, team=team) as (asker, _):
            team.serve(asker)
    else:
        with model_asker(run, arm, model, world.device, team=team) as asker:
            team.serve(asker)
    return 0


def main(words: Sequence[str] | None = None) -> int:
    """Evaluate, as one of the ranks. Exit codes as of ``trainer.train``."""
    parser = argparse.ArgumentParser(description="Evaluate a student of a run; started by `tracestill evaluate`.")
    parser.add_argument("--run-dir", type=Path, required=True, help="directory whose stages up to train have run")
    parser.add_argument("--arm", default=MAIN_ARM, help="arm of the recipe, or the name of a model")
    parser.add_argument("--model", type=Path, help="directory of a model that is no arm")
    parser.add_argument("--local_rank", type=int, default=0, help="given by the launcher")
    arguments = parser.parse_args(words)

    def begin(run: RunDirectory) -> Beginning:
        own = run.recipe if arguments.model else run.for_arm(arguments.arm)
        world = connect(own.train.model_copy(update={"sequence_parallel": 1}))
        folder = run.evaluate_folder(arguments.arm)
        watchdog = Watchdog(folder, own.train.watchdog)
        return watchdog, lambda watch: work(run, arguments.arm, arguments.model, folder, world, watch)

    return as_rank(arguments.run_dir, begin)


if __name__ == "__main__":
    leave(main())
