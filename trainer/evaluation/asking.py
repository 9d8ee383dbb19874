"""Asking a student through one interface, wherever it is: in this process (below), or behind a server (endpoint).

A text is decided by its query, the number of the sample, and the recipe's seed: not by who else is asked, nor by how
many processes ask.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple, Protocol

from transformers import PreTrainedModel

from tracestill.data_pipeline.answers.numbers.number import number
from tracestill.data_pipeline.documents.ask import AskLayout
from tracestill.data_pipeline.sampling.readers.chain import Chain
from tracestill.data_pipeline.selection.repetition import repeats, words_of
from tracestill.data_pipeline.tokens.layout import Layout, Reading
from tracestill.data_pipeline.tokens.pieces import ends_in
from tracestill.trainer.evaluation.answers import Answers
from tracestill.trainer.evaluation.predictions import NO_VERDICT, PREDICTION_SCHEMA, answer_in, not_asked
from tracestill.trainer.measures.unasked import OVERLONG, REFUSED, Unasked
from tracestill.trainer.ranks.threads import ThreadChoice
from tracestill.trainer.recipe.positions import positions_in
from tracestill.trainer.recipe.recipe import Recipe
from tracestill.trainer.writing.decoding import Wanted, Written
from tracestill.trainer.writing.generate import no_room, write_wanted

Progress = Callable[[int, int], None]  # told the tokens, or texts, that are done, and those to be expected in all


class Begun(NamedTuple):
    """What a student is made to have written already; nothing of it: neither a trace nor ``closed``."""

    trace: str = ""  # so far
    closed: bool = False  # what parts it from the answer follows, so that the student goes on with the answer


NOTHING = Begun()


class Query(NamedTuple):
    """A question that a student is to answer."""

    question: str
    key: int  # whose draws are its own: see ``key_of``
    max_new_tokens: int  # besides what has begun
    samples: int = 1
    temperature: float = 0.0  # 0 is greedy
    system: str | None = None  # a system prompt in place of the recipe's; only if the asker ``takes_system``
    begun: Begun = NOTHING
    numeric: bool = True  # whether a number is asked for, as far as is known


class Job(NamedTuple):
    """One text to be written."""

    query: int  # its number among those that are asked together
    sample: int


class Reply(NamedTuple):
    """One text that a student wrote, as it is read. What had begun is part of its text and trace."""

    text: str  # control symbols included
    trace: str
    answer: str | None  # None: cut off, or no answer in what was written
    read_by: str  # as in PREDICTION_SCHEMA
    finished: bool  # the student ended by itself
    in_form: bool  # the trace was closed, as documents have it, and the student ended
    tokens: int  # that it wrote, besides what had begun
    trace_tokens: int  # of the trace, likewise
    logprob: float | None  # of what it wrote, under the student as it is, nats; None: the server does not say
    ids: tuple[int, ...] = ()  # that it wrote, ending with a stop if it finished; none of a server
    by_id: tuple[float, ...] = ()  # log p of each of them, nats


Told = list[Reply] | Unasked


class Asker(Protocol):
    """One student."""

    takes_system: bool

    def shown(self, question: str) -> str:
        """How a question is put, for people."""
        ...

    def ask(self, queries: Sequence[Query], progress: Progress = lambda done, total: None) -> list[Told]:
        """The ``samples`` replies to each query, in their order, or why it was not asked."""
        ...

    def by_token(self, reply: Reply) -> dict[str, Any]:
        """``ends`` and ``logprobs`` of PREDICTION_SCHEMA, of a reply that nothing had begun."""
        ...


def key_of(*names: str) -> int:
    """A key of 64 bits from what a query is about: its task, variation, id of the question."""
    return int.from_bytes(hashlib.sha256("\0".join(names).encode()).digest()[:8], "little")


def name_of(query: Query, sample: int) -> str:
    """What names one text: all that decides it, but for its length. Greedy ones are equal, whatever their number and
    whoever asks."""
    drawn = (query.key, sample) if query.temperature > 0 else ()
    told = query.question, query.system, query.begun, query.temperature, drawn
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:32]


def is_numeric(gold: str | None) -> bool:
    """Whether a question asks for a number, by its gold answer."""
    return gold is not None and number(gold) is not None


def reply_of(found: Reading, numeric: bool, chain: Chain, tokens: int, logprob: float | None) -> Reply:
    """What was read, with the answer that the readers find in it."""
    said = answer_in(found, numeric, chain)
    return Reply(
        found.text,
        found.trace,
        said.answer,
        said.rule,
        found.finished,
        found.in_form,
        tokens,
        found.trace_tokens,
        logprob,
    )


def row_of(question: Mapping[str, Any], reply: Reply | Unasked) -> dict[str, Any]:
    """A row of PREDICTION_SCHEMA, but for the verdict and ``Asker.by_token``."""
    if isinstance(reply, Unasked):
        return not_asked(question, reply)
    found = reply._asdict()
    return {
        **{key: question[key] for key in ("question_id", "question", "gold")},
        **{name: found[name] for name in PREDICTION_SCHEMA.names if name in found},
        "repeats": repeats(reply.text, words_of(reply.text)),
        **NO_VERDICT,
    }


class Team(Protocol):
    """The processes that share what is to be written; see ``ranks``."""

    rank: int

    def share(self, queries: Sequence[Query], jobs: Sequence[Job]) -> list[Job]:
        """Tell the others what is asked. Those jobs that this process does."""
        ...

    def wait(self, are_there: Callable[[], bool], answers: Answers) -> None:
        """Until they are; others write the answers meanwhile."""
        ...


class LocalAsker:
    """A model in this process, asked in a layout of documents. What was written lies in ``answers``, and is not written
    again; ``team``: other processes write their share of it."""

    def __init__(
        self,
        model: PreTrainedModel,
        layout: Layout | AskLayout,
        recipe: Recipe,
        threads: ThreadChoice | None = None,
        answers: Answers | None = None,
        team: Team | None = None,
    ) -> None:
        self.model, self.layout, self.recipe, self.threads = model, layout, recipe, threads
        self.answers, self.team = answers or Answers(None), team
        self.chain, self.takes_system = Chain(recipe.sample.readers), layout.takes_system

    def shown(self, question: str) -> str:
        return self.layout.read(self.layout.prompt_ids(question)).text

    def ask(self, queries: Sequence[Query], progress: Progress = lambda done, total: None) -> list[Told]:
        names = [
            self.why_not(query) or [name_of(query, sample) for sample in range(query.samples)] for query in queries
        ]
        missing: dict[str, Job] = {}
        for at, of_query in enumerate(names):
            for sample, name in enumerate(() if isinstance(of_query, Unasked) else of_query):
                limit = queries[at].max_new_tokens
                known = missing.get(name)
                if not self.is_there(name, limit) and (known is None or queries[known.query].max_new_tokens < limit):
                    missing[name] = Job(at, sample)  # the longest that is asked for
        if missing:
            jobs = sorted(missing.values())
            self.write(queries, self.team.share(queries, jobs) if self.team else jobs, progress)
            if self.team:
                limits = {name: queries[job.query].max_new_tokens for name, job in missing.items()}
                self.team.wait(lambda: all(self.is_there(*each) for each in limits.items()), self.answers)
        return [
            of_query if isinstance(of_query, Unasked) else [self.read(query, name) for name in of_query]
            for query, of_query in zip(queries, names, strict=True)
        ]

    def is_there(self, name: str, limit: int) -> bool:
        """Whether enough of a text is known: one that goes on begins as one that was cut off earlier."""
        _, _, finished, allowed = self.answers.get(name, (None, None, False, 0))
        return bool(finished) or allowed >= limit

    def write(self, queries: Sequence[Query], jobs: Sequence[Job], progress: Progress) -> None:
        """Write some of the texts, and keep each."""
        numbers: dict[tuple[tuple[int, ...], ...], int] = {}  # prompt -> its number: equal ones are read once
        of_query: dict[int, Wanted] = {}
        job_of: dict[int, Job] = {}
        wanted: list[Wanted] = []
        for job in jobs:
            query = queries[job.query]
            if job.query not in of_query:
                one = self.wanted_of(query)
                prompt = tuple(one.ids), tuple(one.decoder)
                of_query[job.query] = one._replace(prompt=numbers.setdefault(prompt, len(numbers)))
            if of_query[job.query].limit < 1:  # what has begun leaves no room: it is cut off there
                self.answers.keep(name_of(query, job.sample), [[], [], False, query.max_new_tokens])
                continue
            wanted.append(of_query[job.query]._replace(sample=job.sample))
            job_of[id(wanted[-1])] = job

        def ended(one: Wanted, text: Written) -> None:
            at, sample = job_of[id(one)]
            self.answers.keep(name_of(queries[at], sample), [*text[:3], queries[at].max_new_tokens])

        write_wanted(
            self.model,
            wanted,
            ended,
            stops=self.layout.stops,
            pad_id=self.layout.pad,
            batch_size=self.recipe.evaluate.batch_size,
            batch_tokens=self.recipe.evaluate.batch_tokens,
            seed=self.recipe.seed,
            progress=progress,
            threads=self.threads,
        )

    @cached_property
    def positions(self) -> int | None:
        return positions_in(self.model.config.to_dict())

    def why_not(self, query: Query) -> Unasked | None:
        """Why a query cannot be put to the student; None: it can."""
        for text in (query.question, query.system or "", query.begun.trace):
            if (symbol := self.layout.control_in(text)) is not None:
                return Unasked(REFUSED, f"its text holds {symbol}")
        if self.positions is None:
            return None
        told = no_room(self.wanted_of(query), self.positions, both=self.model.config.is_encoder_decoder)
        return Unasked(OVERLONG, told) if told else None

    def wanted_of(self, query: Query) -> Wanted:
        """What has begun takes from the room of what follows, where the model's positions are few."""
        prompt, begun = self.layout.prompt_ids(query.question, query.system), self.begun_ids(query)
        limit, both = query.max_new_tokens, self.model.config.is_encoder_decoder
        if begun and self.positions is not None:
            limit = min(limit, self.positions - len(begun) - (0 if both else len(prompt)))
        ids, decoder = (prompt, begun) if both else ([*prompt, *begun], [])
        return Wanted(0, 0, ids, limit, query.temperature, query.key, decoder)

    def begun_ids(self, query: Query) -> list[int]:
        return self.layout.begun_ids(query.begun.trace, closed=query.begun.closed)

    def read(self, query: Query, name: str) -> Reply:
        ids, logprobs, _, _ = self.answers[name]
        ids, logprobs = ids[: query.max_new_tokens], logprobs[: query.max_new_tokens]  # more was asked for before
        begun = self.begun_ids(query)
        found = self.layout.read([*begun, *ids])
        reply = reply_of(found, query.numeric, self.chain, len(ids), sum(logprobs))
        before = self.layout.read(begun).trace_tokens if begun else 0
        written = max(0, reply.trace_tokens - before)
        return reply._replace(ids=tuple(ids), by_id=tuple(logprobs), trace_tokens=written)

    def by_token(self, reply: Reply) -> dict[str, Any]:
        return {"ends": ends_in(reply.text, self.layout.backend, reply.ids), "logprobs": list(reply.by_id)}
