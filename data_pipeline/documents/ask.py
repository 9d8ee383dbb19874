"""How any model is asked and read: by its tokenizer's own chat template, or if it has none, by the bare question.

A model that this project did not train need not know the layout of a recipe's documents. An instruct model is given
its generation prompt, a base model the question as its tokenizer begins a text; an export is asked as it was trained,
since its template writes that. Nothing here can lay out a document: see ``layout`` for what is trained on.
"""

from __future__ import annotations

import datetime
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.documents.chat_parts import CLOSING, OPENING, messages_of, writes_system
from tracestill.data_pipeline.documents.chat_template import ChatTemplate, named_token, template_source
from tracestill.data_pipeline.sampling.readers.thought import TAG, split_thought
from tracestill.data_pipeline.tokens.layout import Reading
from tracestill.data_pipeline.tokens.render import (
    END_THINK,
    THINK,
    ids_behind,
    load_backend,
    load_config,
    symbols_in,
)

LEAD = "The answer is "  # of a model that has no mark of its own between trace and answer
DATE = datetime.date(2024, 7, 26)  # of templates that write one: what a model answers shall not depend on the day


class AskLayout:
    """One model directory. ``prompt_ids``, ``control_in``, ``stops``, ``pad`` and ``read`` are as in ``Layout``."""

    def __init__(
        self,
        directory: Path,
        *,
        system: str | None = None,
        variables: Mapping[str, Any] | None = None,
        ends: Collection[int] = (),
    ) -> None:
        """``system`` and ``variables`` are for a chat template; variables that it does not read are left out. ``ends``:
        ids at which the model stops, besides its tokenizer's ``eos_token``.

        Raises InputError if the tokenizer cannot be read, or nothing tells where the model stops.
        """
        self.system: str | None = system
        self.template: ChatTemplate | None = None
        config = load_config(directory / "tokenizer_config.json")
        self.backend = load_backend(directory / "tokenizer.json")
        try:
            source = template_source(directory, config)
        except InputError:
            source = ""
        if source:
            read = {name: value for name, value in (variables or {}).items() if name in source}
            self.template = ChatTemplate(directory, read, date=DATE)
            self.backend.encode_special_tokens = False  # the template writes its delimiters as text
        self.takes_system = self.template is not None and writes_system(self.template)
        vocabulary = self.backend.get_vocab(with_added_tokens=True)
        self.tags = {i for i in map(vocabulary.get, (THINK, END_THINK)) if i is not None}
        eos, pad = (vocabulary.get(named_token(config, name) or "") for name in ("eos", "pad"))
        self.stops = tuple(dict.fromkeys(i for i in (eos, *ends) if i is not None))
        if not self.stops:
            raise InputError(
                f'{directory}: nothing tells where this model stops; set "eos_token" in tokenizer_config.json'
            )
        self.pad = self.stops[0] if pad is None else pad
        tags = list(TAG.finditer(self.asked("How much is 1 + 2?")))
        self.prefilled = bool(tags) and not (tags[-1]["shut"] or tags[-1]["close"])

    def asked(self, question: str, system: str | None = None) -> str:
        """The text of the prompt, without what the tokenizer itself puts around it."""
        if self.template is None:
            return question
        return self.template.render(messages_of(self.system if system is None else system, question), generation=True)

    def prompt_ids(self, question: str, system: str | None = None) -> list[int]:
        """The ids after which the model writes. A template writes its control symbols itself."""
        return self.backend.encode(self.asked(question, system), add_special_tokens=self.template is None).ids

    def begun_ids(self, trace: str, *, closed: bool) -> list[int]:
        """As ``Layout.begun_ids``. A model that thinks between tags gets these; any other one's trace is closed by the
        words that lead to an answer."""
        if not trace and not closed:
            return []
        thinks = self.prefilled or bool(self.tags)
        opening = "" if self.prefilled or not thinks else OPENING
        closing = (CLOSING if thinks else f"\n{LEAD}" if trace else LEAD) if closed else ""
        return ids_behind(self.backend, "", opening + trace + closing)

    def control_in(self, question: str) -> str | None:
        """As ``Layout.control_in``."""
        return next(iter(symbols_in(self.backend, [question], self.tags)[0]), None)

    def read(self, ids: Sequence[int]) -> Reading:
        """Trace and answer; a trace is what stands in a think block of any model's tags, which the prompt or the model
        opens. Without one, the text is trace and answer at once."""
        written = [int(i) for i in ids]
        end = next((at for at, token in enumerate(written) if token in self.stops), None)
        said = self.backend.decode(written[:end], skip_special_tokens=False)
        found = split_thought(said)
        closed = found is not None and (bool(found.rest) or found.fault != "unfinished")
        trace = said.strip() if found is None else found.thought
        answer = found.rest if found and closed else None if found or self.prefilled else said
        return Reading(
            text=self.backend.decode(written, skip_special_tokens=False),
            trace=trace,
            answer=answer if end is not None else None,
            finished=end is not None,
            trace_tokens=len(self.backend.encode(trace, add_special_tokens=False).ids),
            in_form=closed and end is not None,
        )
