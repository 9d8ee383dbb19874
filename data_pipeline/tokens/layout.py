"""The layout of documents: how a record becomes tokens, what the model reads, and how what it writes is split.

``plain`` is this project's own (see ``document``; in a form without think tags, that of ``chat.PLAIN``); ``chat`` is
that of the tokenizer's chat template (see ``chat``); ``encoder_decoder`` puts the question of a plain document on a
side of its own (see ``sides``); ``two_task`` makes two documents of a record (see ``two_task``). How trace and answer
are written is the ``form`` (see ``forms``). Encoding, evaluation and export ask the recipe's layout, so that all of
them agree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from tokenizers import Tokenizer

from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.base.schema import Record
from tracestill.data_pipeline.tokens.forms import THINK_FORM, Form, form_of


class TwoTaskConfig(BaseModel):
    """The ``encode.two_task`` block: two documents a record, told apart by what stands before the question."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    trace_prefix: str = Field("[rationale] ", min_length=1, description="before the question whose trace is written")
    answer_prefix: str = Field("[label] ", min_length=1, description="before the question that is answered at once")

    @model_validator(mode="after")
    def _differ(self) -> TwoTaskConfig:
        if self.trace_prefix == self.answer_prefix:
            raise ValueError("trace_prefix and answer_prefix must differ, or the student cannot tell the tasks apart")
        return self


class LayoutConfig(BaseModel):
    """The keys of the ``encode`` block that decide the layout of documents."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    template: Literal["plain", "chat", "encoder_decoder"] = Field(
        default="plain",
        description="plain: <s> question <think> trace </think> answer </s>; chat: the tokenizer's own; "
        "encoder_decoder: plain with the question for the encoder, which a student like T5 sets by itself",
    )
    system: str | None = Field(default=None, description="chat only: the system prompt of every document; null: none")
    variables: dict[str, bool | int | float | str] = Field(
        default={}, description="chat only: variables that the template reads, such as enable_thinking"
    )
    turn: Literal["template", "generated"] = Field(
        default="template",
        description="chat only; template: the assistant's turn as the template writes it; generated: the generation "
        "prompt, <think>, trace, </think>, answer and the template's end of turn, for templates that drop reasoning",
    )
    trace: Literal["keep", "drop"] = Field(
        default="keep", description="drop: answers only; the think block stays and is empty"
    )
    form: str = Field(
        default=THINK_FORM,
        description="how the student writes trace and answer; think: between think tags; sentence, hashes, boxed, or a "
        "pattern of your own with {trace} and {answer}: text that needs no new symbols",
    )
    two_task: TwoTaskConfig | None = Field(
        default=None, description="two documents a record: one trains the trace, the other the answer"
    )

    @property
    def marks(self) -> Form | None:
        """What stands around trace and answer; None: think tags."""
        return form_of(self.form)

    @property
    def has_symbols(self) -> bool:
        """Whether the tokenizer has to have bos, eos, pad and the think tags as symbols."""
        return self.template != "chat" and self.marks is None

    @field_validator("form")
    @classmethod
    def _readable(cls, form: str) -> str:
        form_of(form)
        return form

    def own_texts(self) -> dict[str, str]:
        """Texts that the recipe itself puts into documents, by their keys."""
        found = {"encode.system": self.system} if self.system else {}
        if self.two_task is not None:
            found |= {f"encode.two_task.{key}": text for key, text in self.two_task.model_dump().items()}
        return found

    @model_validator(mode="after")
    def _fitting(self) -> LayoutConfig:
        if self.template != "chat":
            for key, given in (("system", self.system), ("variables", self.variables)):
                if given:
                    raise ValueError(f"encode.{key} needs encode.template: chat")
            if self.turn != "template":
                raise ValueError("encode.turn needs encode.template: chat")
        if self.marks and (self.two_task or self.template == "encoder_decoder"):
            other = "encode.two_task" if self.two_task else "an encoder-decoder"
            raise ValueError(f"encode.form: {other} writes think tags; leave one of the two out")
        if self.two_task and self.trace == "drop":
            raise ValueError("encode.two_task trains on traces; leave encode.trace: drop out")
        return self


class Document(NamedTuple):
    """One tokenised record."""

    tokens: np.ndarray  # (n,) int32
    kinds: np.ndarray  # (n,) uint8
    steps: np.ndarray  # (n,) uint16


class Encoded(NamedTuple):
    """What became of one record: its documents by the ending of their id, or why there are none."""

    documents: dict[str, Document]
    refused: tuple[str, str] | None = None  # reason and detail
    notes: Mapping[str, int] = MappingProxyType({})  # what is worth counting, such as straddling tokens


class Reading(NamedTuple):
    """What a model wrote after the prompt.

    A model that closes no trace because it opened none, as one that was never trained on the layout, has written all of
    its answer in the open: it is trace and answer at once (see ``answers.find_answer``).
    """

    text: str  # all of it, control symbols included
    trace: str
    answer: str | None  # where the answer stands; None: cut off, or a trace that was opened was never closed
    finished: bool  # the model ended by itself
    trace_tokens: int
    in_form: bool  # it closed its trace, and ended
    begun: str | None = None  # of an answer that was cut off what there is, as far as the layout tells


class Layout(Protocol):
    """One way of writing documents with one tokenizer. Ids of tokens are below ``size``."""

    backend: Tokenizer
    size: int
    special_ids: dict[str, int | None]  # bos (None: there is none), eos (the last symbol of a document), pad
    pad: int
    stops: tuple[int, ...]  # symbols at which generation ends, the last one of a document first
    findings: dict[str, Any]  # what the manifest tells about the layout
    chat_template: str | None  # what an export puts in place of the tokenizer's own; None: nothing
    takes_system: bool  # whether a system prompt can be said

    def encode(self, records: Sequence[Record], kinds: Kinds) -> list[Encoded]:
        """The documents of the records, of any length. Raises InputError naming the record whose spans are bad."""
        ...

    def prompt_ids(self, question: str, system: str | None = None) -> list[int]:
        """The ids after which the model writes: the beginning of the documents of the question. ``system``: a system
        prompt in place of the recipe's, if the layout ``takes_system``."""
        ...

    def begun_ids(self, trace: str, *, closed: bool) -> list[int]:
        """The ids that stand behind ``prompt_ids`` once the model has begun to write this trace, as documents have
        it (where they have none, as they would); ``closed``: up to where the answer begins. Of an empty trace that is
        not closed there are none."""
        ...

    def control_in(self, question: str) -> str | None:
        """A control symbol that the export's tokenizer would read in a question, which is text; None: there is none.
        Such a question is neither trained on nor asked."""
        ...

    def asking(self, question: str) -> tuple[list[dict[str, str]], dict[str, Any]]:
        """Messages and variables of which transformers' ``apply_chat_template`` makes ``prompt_ids`` in an export."""
        ...

    def read(self, ids: Sequence[int]) -> Reading:
        """Trace and answer in the ids that a model wrote after the prompt; what follows a stop is padding."""
        ...
