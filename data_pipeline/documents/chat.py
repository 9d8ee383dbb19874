"""Documents in the layout of the tokenizer's own chat template.

    text  header, question, header | <think> | trace   | </think> | answer | end of turn
    kind  prompt                   | control | by span | control  | answer | control

For each record the template is rendered with the real text, which must be its parts (see ``chat_parts``) around
that text and nothing else; white space that it trims at the ends of a part is noted, any other change refuses the
record. The whole is tokenised at once, and a token has the kind of the part that holds its first visible character.
A document begins with the generation prompt, token for token, and ends with the symbol that ends the turn, at which
generation stops.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, product
from pathlib import Path
from typing import Any

from tokenizers import Encoding

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.base.schema import Record, Span
from tracestill.data_pipeline.documents.chat_parts import (
    CLOSING,
    OPENING,
    ChatParts,
    find_parts,
    findings_of,
    messages_of,
    shown,
    writes_system,
)
from tracestill.data_pipeline.documents.chat_template import ChatTemplate, Refusal, named_token
from tracestill.data_pipeline.documents.chat_tokens import ChatTokens, Refused, Text
from tracestill.data_pipeline.documents.document import bare_document, is_bare
from tracestill.data_pipeline.tokens.layout import Encoded, LayoutConfig, Reading
from tracestill.data_pipeline.tokens.render import END_THINK, ids_behind, load_backend, load_config, symbols_in

PROBE_TRACE = "So  two\ngaps,\n\n a\ttab &amp; <b>é漢</b>\n1. {{ x }}"
PARTS = ("question", "trace", "answer")
# the template of plain documents without think tags; the first symbol is written if the tokenizer begins texts with it
PLAIN = (
    "{BOS}{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'] + '\\n' }}"
    "{% elif m['role'] == 'assistant' %}{{ m['content'] + eos_token }}{% endif %}{% endfor %}"
)


class ChatLayout:
    """The chat template of the tokenizer in a directory, or ``PLAIN``, as a recipe uses it."""

    def __init__(self, directory: Path, config: LayoutConfig) -> None:
        """Raises InputError if the template cannot be trained on, naming what it does and what to set."""
        self.config, self.where = config, f"{directory}: its chat template"
        self.form = config.marks
        self.backend = load_backend(directory / "tokenizer.json")
        self.backend.encode_special_tokens = False  # the template writes its delimiters as text
        vocabulary = self.backend.get_vocab(with_added_tokens=True)
        self.size = max(vocabulary.values()) + 1
        names = load_config(directory / "tokenizer_config.json")
        tokens = {name: named_token(names, name) for name in ("bos", "eos", "pad")}
        self.chat_template: str | None = None  # an export keeps the tokenizer's own
        if config.template != "chat":
            if tokens["eos"] not in vocabulary:
                raise InputError(f'{directory}: no symbol ends a text; set "eos_token" in tokenizer_config.json')
            begins = self.backend.encode("1").ids[:1] == [vocabulary.get(tokens["bos"] or "")]
            self.chat_template = PLAIN.replace("{BOS}", "{{ bos_token }}" if begins else "")
            self.where = f"{directory}: the plain layout"
        self.template = ChatTemplate(directory, config.variables, source=self.chat_template)
        self.takes_system = config.template == "chat" and writes_system(self.template)
        if tokens["pad"] not in vocabulary:
            raise InputError(
                f"{directory}: the tokenizer lacks the control symbol pad_token (found {tokens['pad']!r}); set "
                '"pad_token" in tokenizer_config.json to a token of tokenizer.json'
            )
        added = {i: token for i, token in self.backend.get_added_tokens_decoder().items() if token.content.strip()}
        symbols = {token.content for token in added.values() if token.special}
        eos = tokens["eos"] if tokens["eos"] in vocabulary else None
        symbols |= {eos} if eos else set()
        self.without_trace = find_parts(self.template, config, symbols, eos, empty=True)
        self.parts = self.without_trace
        if config.trace == "keep":
            self.parts = find_parts(self.template, config, symbols, eos, empty=False)
        if self.template.asked_for_date:
            raise InputError(
                f"{self.where} writes today's date into the prompt, and documents would depend on the day; give it the "
                "date by the variable that it reads (such as encode.variables: {date_string: 26 Jul 2024}), or take "
                "the date out of the template"
            )
        self.marks = {parts: closing_mark(parts) for parts in (self.parts, self.without_trace)}
        own = "".join(self.parts[:5])
        self.controls = {i: t.content for i, t in added.items() if t.content in symbols or t.content in own}
        ids = {name: None if token is None else vocabulary.get(token) for name, token in tokens.items()}
        stop, self.pad = vocabulary[self.parts.stop], vocabulary[tokens["pad"]]
        self.special_ids: dict[str, int | None] = {**ids, "eos": stop}
        known = (self.backend, self.size, self.controls, stop, self.form)
        self.tokens = ChatTokens(*known, self.marks, self.parted)
        self.stops = tuple(dict.fromkeys(i for i in (stop, ids["eos"]) if i is not None))
        self.findings: dict[str, Any] = findings_of(self.template, config, self.parts)
        if self.form is not None:
            self.findings["form"] = config.form
            if held := [s for s in (self.parts.stop, tokens["eos"]) if s and s in "".join(self.form)]:
                raise InputError(f"encode.form: holds {held[0]}, at which {directory} stops; leave it out")
        probe = Record("", "", PROBE_TRACE, "", PROBE_TRACE, PROBE_TRACE, (Span(0, len(PROBE_TRACE), "prose"),), 1.0,
                       "", "", 1.0, 0)  # fmt: skip
        if refused := self.encode([probe], Kinds())[0].refused:
            raise InputError(f"{self.where} cannot be trained on ({refused[0]}: {refused[1]}); give another one")

    def encode(self, records: Sequence[Record], kinds: Kinds) -> list[Encoded]:
        """As ``Layout.encode``; plain text, which has no question, passes the template by."""
        made = iter(self.rendered([record for record in records if not is_bare(record)], kinds))
        return [self.bare(record, kinds) if is_bare(record) else next(made) for record in records]

    def bare(self, record: Record, kinds: Kinds) -> Encoded:
        if symbol := self.control_in(record.answer):
            return Encoded({}, ("control_in_text", f"the text holds {symbol}"))
        bos, text = self.special_ids["bos"], self.tokens_of([record.answer])[0].ids
        begins = bos is not None and self.backend.encode("1").ids[:1] == [bos]
        return Encoded({"": bare_document(bos if begins else None, text, self.stops[0], kinds)})

    def rendered(self, records: Sequence[Record], kinds: Kinds) -> list[Encoded]:
        """The documents that the template lays out. A record is refused with reason ``template_alters``,
        ``template_refuses``, ``control_in_text`` (a text holds a delimiter, and would forge it) or
        ``merges_with_prompt`` (a token of the prompt takes in the beginning of what the student writes)."""
        made: list[Encoded | None] = []
        texts: list[Text] = []
        given = [self.given(record) for record in records]
        written = self.template.render_all([self.asked(*each) for each in given])
        for record, each, answered in zip(records, given, written, strict=True):
            try:
                texts.append(self.text_of(record, *each, answered))
                made.append(None)
            except Refused as refused:
                made.append(Encoded({}, refused.why))
        kept = [record for record, found in zip(records, made, strict=True) if found is None]
        laid_out = iter(self.tokens.laid_out(kept, texts, kinds))
        return [found or next(laid_out) for found in made]

    def given(self, record: Record) -> tuple[ChatParts, tuple[str, str, str]]:
        """The parts of a record's document, and the question, trace and answer that the template gets for it."""
        trace = record.trace if self.config.trace == "keep" and record.trace.strip() else ""
        parts = self.parts if trace else self.without_trace
        told = record.answer if record.answer.strip() else ""
        if parts.way == "reasoning_content":
            return parts, (record.question, trace, told)
        return parts, (record.question, trace.strip("\n"), told.strip("\n"))  # line breaks come with the delimiters

    def asked(self, parts: ChatParts, given: tuple[str, str, str]) -> tuple[list[dict[str, str]], bool]:
        """What the template is to render: the messages, and whether it is the generation prompt."""
        if parts.way == "generated":
            return messages_of(self.config.system, given[0]), True
        return messages_of(self.config.system, *given, way=parts.way, form=self.form), False

    def text_of(self, record: Record, parts: ChatParts, given: tuple[str, str, str], rendered: str | Refusal) -> Text:
        """The document's text. Raises Refused if the template changes more than white space at the ends of a part."""
        if isinstance(rendered, Refusal):
            raise Refused("template_refuses", str(rendered))
        if parts.way == "generated":
            rendered += "".join((parts.opening, given[1], parts.closing, given[2], parts.tail, parts.rest))
        # with no answer, trimming the turn takes the line breaks of the delimiter before it
        closings = [parts.closing] if given[2] else [parts.closing, parts.closing.rstrip()]
        # nothing is trimmed, as a rule
        for question, thought, answer, closing in chain([(*given, closings[0])], trimmed(given, closings)):
            prompt = parts.before + question + parts.header
            pieces = (prompt, parts.opening, thought, closing, answer, parts.tail)
            text = "".join(pieces)
            if rendered == text + parts.rest:
                break
        else:
            plain = (parts.before, given[0], parts.header, parts.opening, given[1], parts.closing, given[2])
            raise Refused("template_alters", f"it writes {shown(rendered, ''.join(plain) + parts.tail + parts.rest)}")
        prompted = len(prompt)
        opened = prompted + len(parts.opening)
        thought_of = opened + len(thought)
        closed = thought_of + len(closing)
        start = len(parts.before)
        trace = record.trace if given[1] else ""
        pairs = zip(PARTS, (record.question, trace, record.answer), (question, thought, answer), strict=True)
        return Text(
            text,
            parts,
            (start, start + len(question)),
            (prompted, opened, thought_of, closed, closed + len(answer)),
            0 if thought == record.trace else record.trace.index(thought),
            [name for name, whole, written in pairs if whole != written],
        )

    def tokens_of(self, texts: Sequence[str]) -> list[Encoding]:
        return self.backend.encode_batch(list(texts), add_special_tokens=False)

    def prompt_ids(self, question: str, system: str | None = None) -> list[int]:
        said = self.config.system if system is None else system
        asked = self.template.render(messages_of(said, question), generation=True)
        return self.tokens_of([asked])[0].ids

    def begun_ids(self, trace: str, *, closed: bool) -> list[int]:
        parts = self.parts if trace else self.without_trace
        opening, closing = parts.opening, parts.closing
        if trace and self.config.trace == "drop":
            opening, closing, _ = self.form or (OPENING, CLOSING, "")
        begun = opening + trace + closing if closed else opening + trace if trace else ""
        return ids_behind(self.backend, parts.header, begun)

    def control_in(self, question: str) -> str | None:
        return next(iter(symbols_in(self.backend, [question], self.controls)[0]), None)

    def asking(self, question: str) -> tuple[list[dict[str, str]], dict[str, Any]]:
        return messages_of(self.config.system, question), dict(self.config.variables)

    def parted(self, said: str) -> tuple[str, str | None, bool]:
        """Trace and answer of what was said before a stop, and whether the mark between them is there."""
        mark, parts = self.marks[self.parts], self.parts
        ending = parts.tail.removesuffix(parts.stop)
        if not mark:  # the prompt has closed the think block, or there is none
            return "", between(said, "", ending), True
        lead, _, trail = parts.closing.partition(mark)
        opening, lead = (parts.opening, lead) if parts is not self.without_trace else (lead, "")
        if self.form is not None and ending.strip():  # which may hold the mark, as in **18**
            whole = said.endswith(ending)
            bare = said.removesuffix(ending) if whole else said.rstrip().removesuffix(ending.strip())
            thought, found, after = bare.rpartition(mark)
            after += ending if whole else ""
        else:
            thought, found, after = said.rpartition(mark) if self.form else said.partition(mark)
        if found:
            return between(thought, opening, lead), between(after, trail, ending), True
        opens = opening.strip()
        in_the_open = self.form or (opens and not said.lstrip().startswith(opens) and not parts.prefilled)
        return between(said, opening, lead), between(said, "", ending) if in_the_open else None, False

    def read(self, ids: Sequence[int]) -> Reading:
        written = [int(i) for i in ids]
        end = next((i for i, token in enumerate(written) if token in self.stops), None)
        said = self.backend.decode(written[:end], skip_special_tokens=False)
        trace, answer, closed = self.parted(said)
        return Reading(
            text=self.backend.decode(written, skip_special_tokens=False),
            trace=trace,
            answer=answer if end is not None else None,
            finished=end is not None,
            trace_tokens=len(self.tokens_of([trace])[0].ids),
            in_form=closed and end is not None,
            begun=answer if closed and end is None else None,
        )


def between(text: str, before: str, after: str) -> str:
    """The text between two delimiters; without white space around it, if it is not written as in training."""
    if text.startswith(before) and text[len(before) :].endswith(after):
        return text[len(before) : len(text) - len(after)]
    return text.strip().removeprefix(before.strip()).removesuffix(after.strip()).strip()


def trimmed(given: Sequence[str], closings: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Question, trace, answer and delimiter, in all ways in which templates trim them."""
    yield from product(*map(trimmings, given), closings)


def trimmings(text: str) -> list[str]:
    """The text, and what templates leave of it when they trim its ends."""
    breaks = text.strip("\n"), text.lstrip("\n"), text.rstrip("\n")
    return list(dict.fromkeys((text, *breaks, text.strip(), text.lstrip(), text.rstrip())))


def closing_mark(parts: ChatParts) -> str:
    """What ends a trace in the text that a student writes; empty if it writes none."""
    return END_THINK if END_THINK in parts.closing else parts.closing.strip()
