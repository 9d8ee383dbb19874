"""Who scores the student's texts: a model beside it, on every rank, that says of each token what it would expect.

Ranks share the documents in shards, as in the stage ``score``; the channels lie beside the texts, and are written again
where they are missing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.stage import is_current
from tracestill.data_pipeline.channels import Channels
from tracestill.data_pipeline.channels.channel import topk
from tracestill.data_pipeline.rounds.on_policy import OnPolicyConfig
from tracestill.data_pipeline.tokens.store import TokenStore
from tracestill.trainer.assembly.job import Job
from tracestill.trainer.batches.rectangles import layout_for
from tracestill.trainer.on_policy.texts import Meeting
from tracestill.trainer.ranks.collectives import each, first_says, together
from tracestill.trainer.recipe.student_settings import StudentConfig
from tracestill.trainer.scoring.model import other_token
from tracestill.trainer.scoring.reading import LocalModel
from tracestill.trainer.scoring.shard import read_shard, shared_writer
from tracestill.trainer.scoring.summary import counts_of, kept_of
from tracestill.trainer.student.student import build_student
from tracestill.trainer.weighting.weighting import weighed_kinds

KEY = "train.on_policy.teacher"
CHANNELS = "teacher"  # folder of a refresh


class TextScorer:
    """The teacher, once it is needed."""

    def __init__(self, job: Job, own: OnPolicyConfig, special_ids: dict[str, Any], vocabulary: int) -> None:
        """Raises InputError if the model does not load, has another vocabulary, or less of it than ``k``."""
        path, recipe, engine = Path(own.teacher), job.recipe, job.engine
        try:
            if other := other_token(job.tokenizer, path):
                raise InputError(f"{other}; take a model with the student's tokenizer")
            student = build_student(
                StudentConfig(pretrained=path, attention=recipe.student.attention),
                vocab_size=vocabulary,
                **{f"{name}_id": special_ids[name] for name in ("bos", "eos", "pad")},
                num_kinds=len(recipe.span_kinds()),
                device=engine.device,
                dtype=engine.dtype,
                chunk_rows=recipe.train.chunk_rows,
            )
            make_row = layout_for(student.model.config).make_row
        except InputError as error:
            raise InputError(f"{KEY}: {str(error).replace('student.pretrained', 'model')}") from error
        if student.model.config.is_encoder_decoder:
            raise InputError(f"{KEY}: {path} is an encoder-decoder; only a decoder reads what a decoder writes")
        rows = len(student.head[0].weight)
        if own.k > rows:
            raise InputError(f"train.on_policy.k: {own.k} entries a token of a vocabulary of {rows}; lower it")
        student.cast(engine.dtype).eval().requires_grad_(False).to(engine.device)
        self.job, self.own = job, own
        self.source = LocalModel(student, make_row, special_ids["pad"], engine.device)

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

            def write() -> None:
                read = 0
                with meeting(number, "teacher reads", total, "tokens") as ranks:

                    def tick(tokens: int) -> None:
                        nonlocal read
                        read += tokens
                        job.phase("measure")
                        ranks.tick(read)

                    for at in missing[job.engine.rank :: job.engine.ranks]:
                        shard = out.shards[at]
                        values = read_shard(
                            self.source, store, shard.documents, channels, job.recipe.plan.capacity, tick
                        )
                        out.write(shard, {one.name: kept_of(store, shard, one, values) for one in channels})

            together(write, f"{KEY}: cannot score the student's texts")
            together(lambda: out.finish(counts_of(out)) if lead else None, f"{place}: cannot be finished")
        return each(lambda: Channels(place, store), f"{place}: cannot be read")


def weighed(job: Job) -> tuple[str, ...]:
    """The kinds of which the teacher is asked: those that weigh anything at some step."""
    kinds = job.recipe.span_kinds()
    asked = weighed_kinds(job.recipe.weighting, kinds)
    return tuple(name for name, weighs in zip(kinds.names, asked, strict=True) if weighs)
