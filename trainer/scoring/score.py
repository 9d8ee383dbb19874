"""Scoring: a model reads the stored documents, and writes what it says of them beside the token store. The entry point
that DeepSpeed's launcher starts on every rank.

deepspeed --num_gpus 2 --module tracestill.trainer.scoring.score --run-dir runs/demo --arm traces --scorer base

Every rank reads shards of its own, with the whole model, or with its part of the parameters and the others' (``zero:
3``); beside these no two ranks exchange anything but which shards are missing at the start, and whether one has failed.
So shards hold the same, whoever writes them, and what a crash leaves is gone on with by any number of ranks.
"""

from __future__ import annotations

if __name__ == "__main__":  # before anything else is imported: `python -m` has put the working directory first
    from tracestill.data_pipeline.guards.working_directory import leave_working_directory

    leave_working_directory()

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.documents.encode import STORES
from tracestill.data_pipeline.tokens.store import TokenStore
from tracestill.trainer.assembly.rank import Begun, as_rank, parser_of
from tracestill.trainer.engine.engine import World, connect, leave
from tracestill.trainer.faults.leaving import meetings
from tracestill.trainer.faults.watchdog import Watchdog
from tracestill.trainer.metrics.headway import spell
from tracestill.trainer.ranks.collectives import each, together
from tracestill.trainer.ranks.console import say
from tracestill.trainer.recipe.run_directory import RunDirectory
from tracestill.trainer.recipe.score_settings import EXACT
from tracestill.trainer.scoring.by_attention import influence_by_attention
from tracestill.trainer.scoring.by_attention import tokens_read as tokens_hidden
from tracestill.trainer.scoring.influence import influence, tokens_read
from tracestill.trainer.scoring.model import SERVED_TOKENS, open_local, open_served
from tracestill.trainer.scoring.reading import Source
from tracestill.trainer.scoring.shard import read_shard, shared_writer
from tracestill.trainer.scoring.summary import counts_of, foreseen, kept_of

WAIT = 0.5  # seconds between two looks for shards of other hosts


class Way(NamedTuple):
    """A way to find the influence of steps."""

    measure: Callable[..., np.ndarray]
    tokens: Callable[..., int]  # how many it reads


WAYS = {None: Way(influence, tokens_read), "attention": Way(influence_by_attention, tokens_hidden)}
"""``approximate`` of a scorer -> its way."""


def score(run: RunDirectory, arm: str, name: str, world: World, watch: Watchdog) -> int:
    """One rank's work, once it has met the others. Always 0."""
    own, where = run.for_arm(arm), f"score.{name}"
    kinds, encode, scorer = own.span_kinds(), run.stage(arm, "encode"), own.score[name]
    store = TokenStore(encode / STORES["train"], kinds)
    channels = scorer.written(kinds)
    config, inputs = run.score_stage(arm, name)
    started = time.perf_counter()
    watch.phase("start", 0)
    about = run.scores(arm)[name], store, channels, config, inputs
    writer, missing = shared_writer(f"{about[0]}: cannot be begun", world.rank == 0, *about)
    mine = [writer.shards[number] for number in missing[world.rank :: world.ranks]]
    of_tokens = [channel for channel in channels if channel.per == "token"]
    by_step = WAYS[scorer.approximate] if len(of_tokens) < len(channels) else None

    def open_source() -> Source | None:
        if not mine and scorer.zero != 3:  # at 3 no rank reads alone
            return None
        if scorer.server is None:
            return open_local(run, arm, name, store, channels, world)
        return open_served(run, arm, where, scorer.model, scorer.server)

    def write() -> None:
        read = [writer.shards[number].documents for number in missing]
        total = sum(int(store.lengths[documents].sum(dtype=np.int64)) for documents in read if of_tokens)
        total += sum(by_step.tokens(store, documents, kinds) for documents in read if by_step)
        teller = Teller(total, world.ranks, watch, quiet=world.rank != 0)
        with meetings(bool, teller.live, None if source is None else source.along) as ranks:

            def tick(tokens: int = 0) -> None:
                teller.read(tokens)
                ranks.tick(teller.done)

            how: Any = {"capacity": own.plan.capacity if scorer.server is None else SERVED_TOKENS, "tick": tick}
            if source is not None:
                source.join(ranks.meet, tick)
            for shard in mine:
                assert source is not None
                teller.shard = shard.number
                teller.live()
                values = read_shard(source, store, shard.documents, of_tokens, **how) if of_tokens else {}
                if by_step:
                    values["influence"] = by_step.measure(source, store, shard.documents, kinds, **how)
                writer.write(shard, {channel.name: kept_of(store, shard, channel, values) for channel in channels})

    if missing:
        watch.phase("load", 0)
        source = each(open_source, f"{where}: cannot be opened")
        together(write, f"{where}: cannot score the documents")
    if world.rank == 0:
        watch.phase("save", len(mine))
        while not all(map(writer.there, writer.shards)):  # a file system may show other hosts' late
            time.sleep(WAIT)
        extra: dict[str, Any] = {"foreseen_bytes": foreseen(store, channels)}
        extra["model_seconds"] = round(time.perf_counter() - started, 3)
        if any(channel.per == "step" for channel in channels):
            extra["influence"] = scorer.approximate or EXACT
        writer.finish(counts_of(writer), extra)
    return 0


class Teller:
    """Keeps the watchdog awake, and says once how long it will take."""

    def __init__(self, total: int, ranks: int, watch: Watchdog, *, quiet: bool) -> None:
        self.total, self.ranks, self.watch, self.quiet = total, ranks, watch, quiet
        self.shard = 0
        self.begun, self.done, self.packs = time.perf_counter(), 0, 0

    def live(self, done: int = 0) -> None:
        self.watch.phase("measure", self.shard)

    def read(self, tokens: int) -> None:
        """A pack of so many tokens is read; 0: not yet."""
        self.live()
        if not tokens:
            return
        self.done, self.packs = self.done + tokens, self.packs + 1
        if self.packs == 2 and not self.quiet:  # the first one warms up
            seconds = time.perf_counter() - self.begun
            left = self.total * seconds / self.done / self.ranks
            say(f"{self.done:,} tokens in {seconds:.1f} s; all {self.total:,} on {self.ranks} rank(s): {spell(left)}")


def main(words: Sequence[str] | None = None) -> int:
    """Score, as one of the ranks. Exit codes as of ``trainer.train``."""
    parser = parser_of("Score the documents of a run; started by `tracestill score`.", "encode")
    parser.add_argument("--scorer", required=True, help="one of the recipe's block score")
    arguments = parser.parse_args(words)

    def begin(run: RunDirectory) -> Begun:
        own = run.for_arm(arguments.arm)
        if arguments.scorer not in own.score:
            raise InputError(f"--scorer {arguments.scorer}: arm {arguments.arm} has {', '.join(own.score)}")
        world = connect(own.train.model_copy(update={"sequence_parallel": 1}))  # each rank reads rows alone
        watchdog = Watchdog(run.score_folder(arguments.arm, arguments.scorer), own.train.watchdog)
        return watchdog, lambda watch: score(run, arguments.arm, arguments.scorer, world, watch)

    return as_rank(arguments.run_dir, begin)


if __name__ == "__main__":
    leave(main())
