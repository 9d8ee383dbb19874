"""A tokenizer's own chat template: found in its directory, and rendered as transformers renders it.

A chat template is a program that came with a download. It runs in Jinja's immutable sandbox, in a process of its own
and under limits (see ``template_process``); it sees the messages, the names of the special tokens and the recipe's
variables, and nothing else. transformers itself is not used, because importing its tokenizers imports torch.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.kinds import nearest
from tracestill.data_pipeline.documents.template_process import Asked, render
from tracestill.data_pipeline.tokens.render import load_config

NAMED_TOKENS = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
OUR_NAMES = ("messages", "tools", "documents", "add_generation_prompt")  # the recipe's variables may not replace them
FILE = "chat_template.jinja"

Messages = Sequence[Mapping[str, str]]


class ChatTemplate:
    """The template of one tokenizer directory, with the variables that the recipe gives it."""

    def __init__(
        self,
        directory: Path,
        variables: Mapping[str, Any],
        *,
        date: datetime.date | None = None,
        source: str | None = None,
    ) -> None:
        """``date`` is every day to the template; None: ``asked_for_date`` tells that it asks for one. ``source``: a
        template in place of the directory's.

        Raises InputError if there is no template, it is no Jinja, or it does not read one of ``variables``.
        """
        self.directory = directory
        config = load_config(directory / "tokenizer_config.json")
        self.file = directory / (FILE if (directory / FILE).is_file() else "tokenizer_config.json")
        self.source = template_source(directory, config) if source is None else source
        self.date = None if date is None else date.isoformat()
        about = render(self.file, self.source, date=self.date)
        self.asked_for_date = about.asked_for_date
        self.context = {f"{name}_token": token for name in NAMED_TOKENS if (token := named_token(config, name))}
        for name in variables:
            if name in OUR_NAMES or name not in about.reads:
                names = sorted({*about.reads} - {*OUR_NAMES, *self.context, *about.known})
                raise InputError(
                    f"encode.variables.{name}: the chat template of {directory} reads no variable of this name"
                    + (nearest(name, names) if names else "; it reads none")
                )
        self.context |= variables

    def render(self, messages: Messages, *, generation: bool = False) -> str:
        """The text of the messages; with ``generation``, up to where the model goes on.

        Raises Refusal if the template refuses them, InputError if it goes beyond its limits of time and memory.
        """
        (found,) = self.results([(messages, generation)])
        if isinstance(found, Refusal):
            raise found
        return found

    def render_all(self, asked: Sequence[tuple[Messages, bool]]) -> list[str | Refusal]:
        """As ``render``, many at a time; refusals are among what is returned."""
        if len(asked) > 1:
            return self.results(asked)
        try:
            return [self.render(messages, generation=generation) for messages, generation in asked]
        except Refusal as refused:
            return [refused]

    def results(self, asked: Sequence[tuple[Messages, bool]]) -> list[str | Refusal]:
        found = render(self.file, self.source, [Asked(*one, self.context) for one in asked], date=self.date)
        self.asked_for_date |= found.asked_for_date
        return [
            one if isinstance(one, str) else Refusal(self.directory, messages, one)
            for one, (messages, _) in zip(found.results, asked, strict=True)
        ]


class Refusal(InputError):
    """A template that does not write some messages, and why."""

    def __init__(self, directory: Path, messages: Messages, why: object) -> None:
        roles = ", ".join(message["role"] for message in messages)
        super().__init__(f"{directory}: its chat template refuses the messages {roles} ({why})")


def template_source(directory: Path, config: Mapping[str, Any]) -> str:
    """The template, from chat_template.jinja or else tokenizer_config.json. Raises InputError if there is none."""
    path = directory / FILE
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: not readable ({error})") from error
    found = config.get("chat_template")
    if isinstance(found, list):  # several, by name
        found = {entry.get("name"): entry.get("template") for entry in found if isinstance(entry, dict)}.get("default")
    if not isinstance(found, str) or not found:
        raise InputError(
            f"{directory}: the tokenizer has no chat template; set encode.template: plain, or put the template of the "
            "student's family into chat_template.jinja there"
        )
    return found


def named_token(config: Mapping[str, Any], name: str) -> str | None:
    """The text of ``<name>_token`` in a tokenizer_config.json, if it has one."""
    symbol = config.get(f"{name}_token")
    content = symbol.get("content") if isinstance(symbol, dict) else symbol
    return content if isinstance(content, str) else None
