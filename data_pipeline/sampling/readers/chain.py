"""How raw text becomes trace and answer: readers tried in order, the first that reads it is named in the record.

The reader ``think`` takes off what reasoning models think between tags, or give apart (``reasoning_content``), and lets
those after it read the rest. What no reader reads is not thrown away: it is rejected for a reason, with its text.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.kinds import nearest
from tracestill.data_pipeline.base.options import check_options
from tracestill.data_pipeline.guards.names import Name
from tracestill.data_pipeline.sampling.readers.checks import ChecksConfig, faults
from tracestill.data_pipeline.sampling.readers.json_answer import JsonOptions, cut_off, json_answer
from tracestill.data_pipeline.sampling.readers.marks import READERS, AnswerReader, Marked
from tracestill.data_pipeline.sampling.readers.marks import said as said_in
from tracestill.data_pipeline.sampling.readers.own import RegexOptions, own_reader, regex_reader
from tracestill.data_pipeline.sampling.readers.symbols import without_ends
from tracestill.data_pipeline.sampling.readers.thought import Thought, split_thought
from tracestill.data_pipeline.sampling.teachers import Said

THINK = "think"
KNOWN = (THINK, "json", *READERS, "regex")
UNREAD = "unread"
GIVEN = "given"  # by whom an answer is read that stands in a column of its own


class ReaderConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    use: Name = Field(
        description="think, json, boxed, hashes, sentence, last_number, whole, regex, or my_module:function"
    )
    options: dict[str, Any] = Field({}, description="the reader's own options; json: take, number; regex: pattern")


class NoOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


DEFAULT = (THINK, "json", "boxed", "hashes", "sentence", "last_number", "whole")


class Read(NamedTuple):
    """What was read: by which readers, and what the checks found."""

    trace: str
    answer: str
    reader: str
    faults: tuple[tuple[str, str], ...] = ()  # (reason, detail), those first that reject it


class Unread(NamedTuple):
    reason: str
    detail: str


class Chain:
    """Readers of a recipe, made ready. Raises InputError that names the recipe's field."""

    def __init__(
        self,
        readers: Sequence[str | ReaderConfig] = DEFAULT,
        checks: ChecksConfig = ChecksConfig(),
        field: str = "sample",
    ) -> None:
        configs = [ReaderConfig(use=reader) if isinstance(reader, str) else reader for reader in readers]
        self.thinks = any(reader.use == THINK for reader in configs)
        self.named = [
            (reader.use, made)
            for at, reader in enumerate(configs)
            if (made := make_reader(reader, f"{field}.readers.{at}")) is not None
        ]
        self.checks, self.wanted = checks, checks.wanted()

    def read(self, said: Said, numeric: bool | None) -> Read | Unread:
        """Trace and answer of a text; ``numeric``: whether a number is asked for, None if that is not known."""
        raw = without_ends(said.raw)
        thought = Thought(said.reasoning.strip(), raw.strip()) if said.reasoning else None
        if thought is None and self.thinks:
            thought = split_thought(raw)
        by = [THINK] if thought is not None else []
        rest = raw if thought is None else thought.rest
        found: Marked | None
        if said.answer is not None:
            found, name = Marked(rest.strip(), said_in(said.answer, numeric) or said.answer.strip()), GIVEN
        else:
            found, name = self.answer_of(rest, numeric)
            if found is not None and name != "json" and self.torn(rest):
                found, thought = None, Thought("", "", "unfinished")
        if thought is not None and thought.thought:
            found = found._replace(trace=thought.thought) if found else None
        fault = thought.fault if thought is not None else ""
        if found is None:
            return unread(raw, fault, said.finish, self.checks)
        return self.checked(found, "+".join([*by, name]), fault, said.finish, given=name == GIVEN)

    def checked(self, found: Marked, reader: str, fault: str = "", finish: str = "", *, given: bool = False) -> Read:
        """A trace with what the checks find in it: ``fault`` as of ``Thought``, ``given`` as in ``faults``."""
        seen = faults(
            found.trace,
            found.answer,
            found.after,
            thought_fault=fault,
            finish=finish,
            given=given,
            wanted=self.wanted,
        )
        ordered = sorted(seen, key=lambda each: getattr(self.checks, each[0]) != "reject")
        return Read(found.trace, found.answer, reader, tuple(ordered))

    def answer(self, said: Said) -> str | None:
        """The answer that a text gives, whatever is asked for; None if no reader reads it, or a check rejects it."""
        read = self.read(said, None)
        return None if isinstance(read, Unread) or self.rejects(read) else read.answer

    def answer_of(self, text: str, numeric: bool | None) -> tuple[Marked | None, str]:
        for name, reader in self.named:
            if (found := reader(text, numeric)) is not None and found.answer.strip():
                return found, name
        return None, ""

    def torn(self, text: str) -> bool:
        """Whether JSON was begun, which one of the readers expects, and never came to its answer."""
        return any(name == "json" for name, _ in self.named) and cut_off(text)

    def rejects(self, read: Read) -> Unread | None:
        """The check for which a trace is left out, if there is one."""
        for reason, detail in read.faults:
            if getattr(self.checks, reason) == "reject":
                return Unread(reason, detail)
        return None


def unread(raw: str, fault: str, finish: str, checks: ChecksConfig) -> Unread:
    """Why no reader reads a text."""
    for reason, detail in faults("x", "x", "", thought_fault=fault, finish=finish, given=False, wanted=checks.wanted()):
        return Unread(reason, f"{detail}, and no answer follows")
    if not raw.strip():
        return Unread("empty", "the text is empty")
    return Unread(UNREAD, f"no reader finds an answer in it; it ends in {raw.strip()[-60:]!r}")


def make_reader(config: ReaderConfig, field: str) -> AnswerReader | None:
    """The function of a reader; None for ``think``, which reads no answer."""
    where = f"{field}.options"
    if config.use == "json":
        return partial(json_answer, options=check_options(JsonOptions, config.options, where))
    if config.use == "regex":
        return regex_reader(check_options(RegexOptions, config.options, where))
    if ":" in config.use:
        return own_reader(config.use, config.options, field)
    check_options(NoOptions, config.options, where)
    if config.use == THINK:
        return None
    if config.use not in READERS:
        raise InputError(
            f"{field}.use: unknown reader '{config.use}'{nearest(config.use, KNOWN)}, or my_module:function"
        )
    return READERS[config.use]
