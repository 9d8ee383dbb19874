"""Asking a student through one interface, wherever it is: in this process (below), or behind a server (endpoint).

A text is decided by its query, the number of the sample, and the recipe's seed: not by who else is asked, nor by how
many processes ask.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from transformers import PreTrainedModel

from tracestill.data_pipeline.answers.numbers.number import number
from tracestill.data_pipeline.documents.ask import AskLayout
from tracestill.data_pipeline.sampling.readers.chain import Chain
from tracestill.data_pipeline.tokens.layout import Layout, Reading
from tracestill.trainer.evaluation.generate import Ask, Written, write
from tracestill.trainer.evaluation.predictions import answer_in
from tracestill.trainer.ranks.threads import ThreadChoice
from tracestill.trainer.recipe.positions import positions_in
from tracestill.trainer.recipe.recipe import Recipe

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


class Reply(NamedTuple):
    """One text that a student wrote, as it is read. What had begun is part of its text and trace."""

    text: str  # control symbols included
    trace: str
    answer: str | None  # None: cut off, or no answer in what was written
    read_by: str  # as in PREDICTION_SCHEMA
    finished: bool  # the student ended by itself
    in_form: bool  # the trace was closed, as documents have it, and the student ended
    tokens: int  # that it wrote, besides what had begun
    trace_tokens: int
    logprob: float | None  # of what it wrote, under the student as it is, nats; None: the server does not say
    ids: tuple[int, ...] = ()  # that it wrote, ending with a stop if it finished; none of a server


class Asker(Protocol):
    """One student."""

    takes_system: bool

    def ask(self, queries: Sequence[Query], progress: Progress = lambda done, total: None) -> list[list[Reply] | None]:
        """The ``samples`` replies to each query, in their order. None: not asked, as its text holds a control symbol,
        which an export would read as one. Raises InputError for a query that the student has no positions for."""
        ...


def key_of(*names: str) -> int:
    """A key of 64 bits from what a query is about: its task, variation, id of the question."""
    return int.from_bytes(hashlib.sha256("\0".join(names).encode()).digest()[:8], "little")


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


class LocalAsker:
    """A model in this process, asked in a layout of documents."""

    def __init__(
        self,
        model: PreTrainedModel,
        layout: Layout | AskLayout,
        recipe: Recipe,
        threads: ThreadChoice | None = None,
    ) -> None:
        self.model, self.layout, self.recipe, self.threads = model, layout, recipe, threads
        self.chain, self.takes_system = Chain(recipe.sample.readers), layout.takes_system

    def ask(self, queries: Sequence[Query], progress: Progress = lambda done, total: None) -> list[list[Reply] | None]:
        asked = [at for at, query in enumerate(queries) if not self.holds_control(query)]
        settings: dict[str, Any] = {"batch_size": self.recipe.evaluate.batch_size, "seed": self.recipe.seed}
        written = write(
            self.model,
            [self.ask_of(queries[at]) for at in asked],
            stops=self.layout.stops,
            pad_id=self.layout.pad,
            **settings,
            progress=progress,
            threads=self.threads,
        )
        found: list[list[Reply] | None] = [None] * len(queries)
        for at, texts in zip(asked, written, strict=True):
            found[at] = [self.read(queries[at], text) for text in texts]
        return found

    def holds_control(self, query: Query) -> bool:
        texts = query.question, query.system or "", query.begun.trace
        return any(self.layout.control_in(text) is not None for text in texts)

    def ask_of(self, query: Query) -> Ask:
        """What has begun takes from the room of what follows, where the model's positions are few."""
        prompt, begun = self.layout.prompt_ids(query.question, query.system), self.begun_ids(query)
        limit, both = query.max_new_tokens, self.model.config.is_encoder_decoder
        if begun and (positions := positions_in(self.model.config.to_dict())) is not None:
            limit = max(1, min(limit, positions - len(begun) - (0 if both else len(prompt))))
        ids, decoder = (prompt, begun) if both else ([*prompt, *begun], [])
        return Ask(ids, limit, query.samples, query.temperature, query.key, decoder)

    def begun_ids(self, query: Query) -> list[int]:
        return self.layout.begun_ids(query.begun.trace, closed=query.begun.closed)

    def read(self, query: Query, text: Written) -> Reply:
        found = self.layout.read([*self.begun_ids(query), *text.ids])
        reply = reply_of(found, query.numeric, self.chain, len(text.ids), text.logprob)
        return reply._replace(ids=tuple(text.ids))
