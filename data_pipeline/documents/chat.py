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
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Encoding

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.base.schema import Record, Span
from tracestill.data_pipeline.documents.chat_parts import ChatParts, find_parts, findings_of, messages_of, shown
from tracestill.data_pipeline.documents.chat_template import ChatTemplate, Refusal, named_token
from tracestill.data_pipeline.documents.document import bare_document, is_bare, kinds_and_steps
from tracestill.data_pipeline.tokens.layout import Document, Encoded, LayoutConfig, Reading
from tracestill.data_pipeline.tokens.remembered import Remembered, Tokens
from tracestill.data_pipeline.tokens.render import END_THINK, load_backend, load_config, symbols_in

PROBE_TRACE = "So  two\ngaps,\n\n a\ttab &amp; <b>é漢</b>\n1. {{ x }}"
PARTS = ("question", "trace", "answer")
# the template of plain documents without think tags; the first symbol is written if the tokenizer begins texts with it
PLAIN = (
    "{BOS}{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'] + '\\n' }}"
    "{% elif m['role'] == 'assistant' %}{{ m['content'] + eos_token }}{% endif %}{% endfor %}"
)


class Refused(Exception):
    """A record that the template or the tokenizer spoils."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.why = reason, detail


class Text(NamedTuple):
    """A record rendered: the text of its document, and where its parts are."""

    text: str
    parts: ChatParts
    question: tuple[int, int]  # first character, and the one after the last
    ends: tuple[int, int, int, int, int]  # of the prompt, opening delimiter, trace, closing delimiter, answer
    skipped: int  # characters of the record's trace before the first one that is written
    trimmed: list[str]  # parts that lost white space at an end


class ChatLayout:
    """The chat template of the tokenizer in a directory, or ``PLAIN``, as a recipe uses it."""

    def __init__(self, directory: Path, config: LayoutConfig) -> None:
        """Raises InputError if the template cannot be trained on, naming what it does and what to set."""
        self.config, self.where = config, f"{directory}: its chat template"
        self.form = config.marks
        self.tails: dict[str, tuple[int | None, int, list[int]]] = {}
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
        self.is_control = np.isin(np.arange(self.size), list(self.controls))  # (size,)
        self.remembered = Remembered(self.backend)
        ids = {name: None if token is None else vocabulary.get(token) for name, token in tokens.items()}
        stop, self.pad = vocabulary[self.parts.stop], vocabulary[tokens["pad"]]
        self.special_ids: dict[str, int | None] = {**ids, "eos": stop}
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
        laid_out = iter(self.laid_out(kept, texts, kinds))
        return [found or next(laid_out) for found in made]

    def laid_out(self, records: Sequence[Record], texts: Sequence[Text], kinds: Kinds) -> list[Encoded]:
        """The documents of records as they are rendered."""
        if not texts:
            return []
        found = self.remembered([text.text for text in texts])
        refused = self.refusals(texts, found)
        if any(refused):  # which may have bad spans
            good = [not why for why in refused]
            pairs = [pair for pair, is_good in zip(zip(records, texts, strict=True), good, strict=True) if is_good]
            rest = iter(self.laid_out([record for record, _ in pairs], [text for _, text in pairs], kinds))
            return [Encoded({}, why) if why else next(rest) for why in refused]
        counts, bounds = found.lengths, found.bounds
        starts = np.repeat(starts_of(texts), counts)
        edges = (np.array([text.ends for text in texts], np.int64) + starts_of(texts)[:, None]).ravel()

        def parts_at(places: np.ndarray) -> np.ndarray:  # 0 prompt, 1 opening, 2 trace, 3 closing, 4 answer, 5 end
            return np.searchsorted(edges, places + starts, side="right") - np.repeat(np.arange(len(texts)) * 5, counts)

        part = parts_at(found.seen)
        names = ("prompt", "control", "control", "control", "answer", "control")
        kind = np.array([kinds.id(name) for name in names], np.uint8)[part]
        step = np.zeros(len(part), np.uint16)
        inside = np.flatnonzero(part == 2)
        before = np.array([text.ends[1] - text.skipped for text in texts])
        of_text = np.repeat(np.arange(len(texts)), counts)[inside]
        at, held = found.seen[inside] - before[of_text], np.bincount(of_text, minlength=len(texts))
        kind[inside], step[inside] = kinds_and_steps(records, at, held, kinds)
        straddles = parts_at(found.begins) != parts_at(np.maximum(found.ends - 1, found.begins))
        straddling = np.add.reduceat(straddles, bounds[:-1], dtype=np.int64).tolist()
        places = zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)
        documents = [Document(found.ids[a:b], kind[a:b], step[a:b]) for a, b in places]
        return [
            Encoded({"": document}, None, notes_of(text, count))
            for text, document, count in zip(texts, documents, straddling, strict=True)
        ]

    def refusals(self, texts: Sequence[Text], found: Tokens) -> list[tuple[str, str] | None]:
        """Why ``check_tokens`` refuses each text, if it does; only those that may be refused are looked at closely."""
        doubtful = ~self.surely_good(texts, found)
        refused: list[tuple[str, str] | None] = [None] * len(texts)
        for at in np.flatnonzero(doubtful).tolist():
            own = slice(found.bounds[at], found.bounds[at + 1])
            offsets = np.stack([found.begins[own], found.ends[own]], axis=1)
            try:
                self.check_tokens(texts[at], found.ids[own], offsets)
            except Refused as why:
                refused[at] = why.why
        return refused

    def surely_good(self, texts: Sequence[Text], found: Tokens) -> np.ndarray:
        """(T,) whether texts are good for sure, as ``check_tokens`` has it."""
        good = np.fromiter(map(self.is_marked_well, texts), bool, len(texts))
        starts, bounds, ids = starts_of(texts), found.bounds, found.ids
        # a symbol in a part
        symbols = np.flatnonzero(self.is_control[ids])
        of_text = np.searchsorted(bounds, symbols, side="right") - 1
        place = found.begins[symbols]
        insides = np.array([(*text.question, *text.ends[1:]) for text in texts])[of_text]
        forged = np.zeros(len(symbols), bool)
        for begin in (0, 2, 4):
            forged |= (insides[:, begin] <= place) & (place < insides[:, begin + 1])
        good[of_text[forged]] = False
        good &= ids[bounds[1:] - 1] == self.special_ids["eos"]
        # the tokens of the prompt: see ``begins_with_prompt``
        ends = found.ends + np.repeat(starts, found.lengths)
        for header in {text.parts.header for text in texts}:
            own = np.array([text.parts.header == header for text in texts])
            symbol, behind, tail = self.tail(header)
            if symbol is None:
                good &= ~own
                continue
            wanted = np.array([text.ends[0] - behind for text in texts]) + starts
            at = np.searchsorted(ends, wanted)
            there = (ids[at] == symbol) & (ends[at] == wanted)
            follow = np.minimum(at[:, None] + 1 + np.arange(len(tail)), bounds[1:, None] - 1)
            there &= (ids[follow] == np.array(tail, ids.dtype)).all(axis=1)
            there &= at + len(tail) < bounds[1:]
            good &= there | ~own
        return good

    def is_marked_well(self, text: Text) -> bool:
        """Whether the mark between trace and answer, and those of a form, do for sure what they should."""
        _, opened, trace_end, closed, answer_end = text.ends
        mark = self.marks[text.parts]
        if not mark:
            return self.form is None
        if text.text.find(mark, closed, answer_end) >= 0:
            return False
        if self.form is None:
            return text.text.find(mark, opened, trace_end) < 0
        written = text.text[text.ends[0] :].removesuffix(text.parts.stop)
        return self.parted(written) == (text.text[opened:trace_end], text.text[closed:answer_end], True)

    def check_tokens(
        self,
        text: Text,
        ids: np.ndarray,  # (n,) tokens of the whole text; an Encoding makes them anew at each look
        offsets: np.ndarray,  # (n, 2)
    ) -> None:
        """Raises Refused if the tokens forge a delimiter, or do not begin with those of the prompt."""
        _, opened, trace_end, closed, answer_end = text.ends
        inside = {"question": text.question, "trace": (opened, trace_end), "answer": (closed, answer_end)}
        mark = self.marks[text.parts]
        # of think tags the first one counts, of a form's marks, which are text, the last
        unmarked = ("trace", "answer") if self.form is None else ("answer",)
        where = np.isin(ids, list(self.controls))
        symbols = list(zip(offsets[where, 0].tolist(), ids[where].tolist(), strict=True))
        for name, (begin, end) in inside.items():
            forged = [self.controls[symbol] for first, symbol in symbols if begin <= first < end]
            if name in unmarked and mark and mark in text.text[begin:end]:
                forged.append(mark)
            if forged:
                raise Refused("control_in_text", f"the {name} holds {forged[0]}")
        if self.form is not None:
            written = text.text[text.ends[0] :].removesuffix(text.parts.stop)
            trace, answer = text.text[opened:trace_end], text.text[closed:answer_end]
            if (read := self.parted(written)) != (trace, answer, True):
                raise Refused("control_in_text", f"with the marks of encode.form the answer is read as {read[1]!r:.80}")
        if not self.begins_with_prompt(text, ids, offsets):
            prompt = self.tokens_of([text.text[: text.ends[0]]])[0].ids
            if ids[: len(prompt)].tolist() != prompt:
                at = next(i for i, (a, b) in enumerate(zip(prompt, ids.tolist(), strict=False)) if a != b)
                piece = text.text[slice(*offsets[at].tolist())]
                raise Refused("merges_with_prompt", f"the token {piece!r} begins in the generation prompt")
        if ids[-1] != self.special_ids["eos"]:
            raise Refused("template_alters", f"the tokenizer does not keep {text.parts.stop} whole")

    def begins_with_prompt(self, text: Text, ids: np.ndarray, offsets: np.ndarray) -> bool:
        """Whether the tokens begin with those of the prompt for sure. A symbol parts what is tokenised before it from
        what is after it, so only what the prompt holds behind its last one is compared."""
        symbol, behind, tokens = self.tail(text.parts.header)
        at = int(np.searchsorted(offsets[:, 1], text.ends[0] - behind))  # the first token that ends there
        there = symbol is not None and at < len(ids) and ids[at] == symbol and offsets[at, 1] == text.ends[0] - behind
        return there and ids[at + 1 : at + 1 + len(tokens)].tolist() == tokens

    def tail(self, header: str) -> tuple[int | None, int, list[int]]:
        """``tail_of`` a header, found once."""
        if header not in self.tails:
            self.tails[header] = self.tail_of(header)
        return self.tails[header]

    def tail_of(self, header: str) -> tuple[int | None, int, list[int]]:
        """The last symbol in the end of a prompt (None: there is none that always stands alone), how many characters
        are behind it, and their tokens."""
        added = self.backend.get_added_tokens_decoder()
        found = self.tokens_of([header])[0]
        for at in reversed(range(len(found.ids))):
            token = added.get(found.ids[at])
            if token is not None and not (token.lstrip or token.rstrip or token.single_word or token.normalized):
                return found.ids[at], len(header) - found.offsets[at][1], found.ids[at + 1 :]
        return None, 0, []

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

    def prompt_ids(self, question: str) -> list[int]:
        asked = self.template.render(messages_of(self.config.system, question), generation=True)
        return self.tokens_of([asked])[0].ids

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
        )


def between(text: str, before: str, after: str) -> str:
    """The text between two delimiters; without white space around it, if it is not written as in training."""
    if text.startswith(before) and text[len(before) :].endswith(after):
        return text[len(before) : len(text) - len(after)]
    return text.strip().removeprefix(before.strip()).removesuffix(after.strip()).strip()


def trimmed(given: Sequence[str], closings: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Question, trace, answer and delimiter, in all ways in which templates trim them."""
    yield from product(*map(trimmings, given), closings)


def starts_of(texts: Sequence[Text]) -> np.ndarray:
    """(T,) int64: where each text begins if they stand one behind the other."""
    lengths = np.fromiter((len(text.text) for text in texts), np.int64, len(texts))
    return np.cumsum(lengths) - lengths


def notes_of(text: Text, straddling: int) -> dict[str, int]:
    """What is worth counting of a document."""
    notes = {f"trimmed_{name}": 1 for name in text.trimmed}
    return {**notes, "straddling_tokens": straddling} if straddling else notes


def trimmings(text: str) -> list[str]:
    """The text, and what templates leave of it when they trim its ends."""
    breaks = text.strip("\n"), text.lstrip("\n"), text.rstrip("\n")
    return list(dict.fromkeys((text, *breaks, text.strip(), text.lstrip(), text.rstrip())))


def closing_mark(parts: ChatParts) -> str:
    """What ends a trace in the text that a student writes; empty if it writes none."""
    return END_THINK if END_THINK in parts.closing else parts.closing.strip()
