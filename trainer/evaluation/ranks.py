"""Several processes that write for one evaluation.

Rank 0 evaluates. Whenever it asks, it leaves word of the texts that are wanted, in a folder; every rank writes its
share with the whole model, and keeps it among the answers, where rank 0 reads it. A text is decided by its query, so
that the result does not depend on the number of ranks; and nobody waits in a collective while others write or judge.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tracestill.data_pipeline.base.stage import write_whole
from tracestill.trainer.evaluation.answers import Answers
from tracestill.trainer.evaluation.asking import Begun, Job, LocalAsker, Query

WAIT = 0.05  # seconds between two looks for what others wrote
PROGRESS = "progress.json"
END = "end"  # word that nothing more is asked
EACH = 4  # queries a rank, from which on the samples of one stay together


class Team:
    """The ranks that write for one evaluation. ``folder`` is where word is left, on a disk that all of them see;
    ``beat`` is told, many times a minute, that this one lives, and how often it was asked."""

    def __init__(self, folder: Path, rank: int, ranks: int, beat: Callable[[int], None] = lambda asked: None) -> None:
        self.folder, self.rank, self.ranks, self.beat = folder, rank, ranks, beat
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
        self.beat(self.asked)


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
