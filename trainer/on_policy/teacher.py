"""Who scores the student's texts: a model that says of each token what it would expect.

It lies on every rank, whole or with its part of the parameters (``zero: 3``), or a server has it. Ranks share the
documents in shards, as in the stage ``score``; a server is asked by the first. The channels lie beside the texts, and
are written again where they are missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.stage import is_current
from tracestill.data_pipeline.channels import Channels
from tracestill.data_pipeline.channels.channel import topk
from tracestill.data_pipeline.rounds.on_policy import OnPolicyConfig
from tracestill.data_pipeline.tokens.store import TokenStore
from tracestill.trainer.assembly.job import Job
from tracestill.trainer.on_policy.texts import Meeting
from tracestill.trainer.ranks.collectives import each, first_says, together
from tracestill.trainer.recipe.student_settings import StudentConfig
from tracestill.trainer.scoring.model import SERVED_TOKENS, check_tokens, load, open_served
from tracestill.trainer.scoring.reading import LocalModel
from tracestill.trainer.scoring.shard import read_shard, shared_writer
from tracestill.trainer.scoring.summary import counts_of, kept_of
from tracestill.trainer.student.student import Student
from tracestill.trainer.weighting.weighting import weighed_kinds

if TYPE_CHECKING:
    from tracestill.trainer.scoring.server import ServedModel

KEY = "train.on_policy.teacher"
CHANNELS = "teacher"  # folder of a refresh


class TextScorer:
    """The teacher, once it is needed."""

    def __init__(self, job: Job, own: OnPolicyConfig, special_ids: dict[str, Any], vocabulary: int) -> None:
        """Called on every rank. Raises InputError if the model does not load, has another vocabulary, or less of it
        than ``k``, and as ``open_served``."""
        self.job, self.own = job, own
        self.local: LocalModel | None = None
        self.served: ServedModel | None = None  # on the first rank: one process asks
        if own.teacher.server is not None:
            together(self.open_served, f"{KEY}: cannot be asked")
            return
        path = Path(own.teacher.model)
        together(partial(check_tokens, job.tokenizer, path), f"{KEY}: cannot be read")
        made = {**{f"{name}_id": special_ids[name] for name in ("bos", "eos", "pad")}, "vocab_size": vocabulary}
        config = StudentConfig(pretrained=path, attention=job.recipe.student.attention)
        self.local = load(config, KEY, job.recipe, job.engine, made, self.check, zero=own.teacher.zero)

    def open_served(self) -> None:
        if self.job.engine.rank == 0 and (server := self.own.teacher.server) is not None:
            self.served = open_served(self.job.run, self.job.arm, KEY, self.own.teacher.model, server)

    def check(self, student: Student) -> None:
        if student.model.config.is_encoder_decoder:
            path = self.own.teacher.model
            raise InputError(f"{KEY}: {path} is an encoder-decoder; only a decoder reads what a decoder writes")
        if self.own.k > (rows := len(student.head[0].weight)):
            raise InputError(f"train.on_policy.k: {self.own.k} entries a token of a vocabulary of {rows}; lower it")

    def score(self, number: int, directory: Path, store: TokenStore, meeting: Meeting) -> Channels:
        """The channels of the documents of refresh ``number``, written where they are not there. Called on every rank;
        raises Left on all."""
        job, place = self.job, directory / CHANNELS
        channels = topk(self.own.k, weighed(job))
        config = {"k": self.own.k, "kinds": weighed(job)}
        inputs = {"encode": store.path.parent}
        if not first_says(lambda: is_current(place, "score", config, inputs), f"{place}: cannot be read"):
            who, lead = f"{place}: cannot be begun", job.engine.rank == 0
            out, missing = shared_writer(who, lead, place, store, channels, config, inputs)
            total = sum(int(store.lengths[one.first : one.end].sum()) for one in (out.shards[at] for at in missing))
            source, mine, capacity = self.share_of(missing)
            along = None if source is None else source.along

            def write() -> None:
                read = 0
                with meeting(number, "teacher reads", total, "tokens", along) as ranks:

                    def tick(tokens: int = 0) -> None:
                        nonlocal read
                        read += tokens
                        job.phase("measure")
                        ranks.tick(read)

                    if source is not None:
                        source.join(ranks.meet, tick)
                    for at in mine:
                        shard = out.shards[at]
                        values = read_shard(source, store, shard.documents, channels, capacity, tick)
                        out.write(shard, {one.name: kept_of(store, shard, one, values) for one in channels})

            together(write, f"{KEY}: cannot score the student's texts")
            together(lambda: out.finish(counts_of(out)) if lead else None, f"{place}: cannot be finished")
        return each(lambda: Channels(place, store), f"{place}: cannot be read")

    def share_of(self, missing: Sequence[int]) -> tuple[Any, Sequence[int], int]:
        """Who reads on this rank, which shards, and how many tokens at a time."""
        if self.local is not None:
            return self.local, missing[self.job.engine.rank :: self.job.engine.ranks], self.job.recipe.plan.capacity
        return self.served, missing if self.served is not None else (), SERVED_TOKENS


def weighed(job: Job) -> tuple[str, ...]:
    """The kinds of which the teacher is asked: those that weigh anything at some step."""
    kinds = job.recipe.span_kinds()
    asked = weighed_kinds(job.recipe.weighting, kinds)
    return tuple(name for name, weighs in zip(kinds.names, asked, strict=True) if weighs)
