"""The text of a chat document becomes tokens, and what the tokenizer may spoil is found.

Of a batch all tokens are looked at together. Only a text that may be refused is looked at by itself, by ``check``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from tokenizers import Tokenizer

from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.base.schema import Record
from tracestill.data_pipeline.documents.chat_parts import ChatParts
from tracestill.data_pipeline.documents.document import kinds_and_steps
from tracestill.data_pipeline.tokens.forms import Form
from tracestill.data_pipeline.tokens.layout import Document, Encoded
from tracestill.data_pipeline.tokens.remembered import Remembered, Tokens


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


class ChatTokens:
    """Tokens of the texts that one template writes."""

    def __init__(
        self,
        backend: Tokenizer,
        size: int,  # ids are below it
        controls: Mapping[int, str],  # symbols that are no text
        eos: int,  # the last token of a document
        form: Form | None,
        marks: Mapping[ChatParts, str],  # what ends a trace
        parted: Callable[[str], tuple[str, str | None, bool]],  # as ``ChatLayout.parted``
    ) -> None:
        self.backend, self.controls, self.eos, self.form = backend, controls, eos, form
        self.marks, self.parted = marks, parted
        self.is_control = np.isin(np.arange(size), list(controls))  # (size,)
        self.remembered = Remembered(backend)
        self.tails: dict[str, tuple[int | None, int, list[int]]] = {}

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
        """Why ``check`` refuses each text, if it does; only those that may be refused are looked at closely."""
        doubtful = ~self.surely_good(texts, found)
        refused: list[tuple[str, str] | None] = [None] * len(texts)
        for at in np.flatnonzero(doubtful).tolist():
            own = slice(found.bounds[at], found.bounds[at + 1])
            offsets = np.stack([found.begins[own], found.ends[own]], axis=1)
            try:
                self.check(texts[at], found.ids[own], offsets)
            except Refused as why:
                refused[at] = why.why
        return refused

    def surely_good(self, texts: Sequence[Text], found: Tokens) -> np.ndarray:
        """(T,) whether texts are good for sure, as ``check`` has it."""
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
        good &= ids[bounds[1:] - 1] == self.eos
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

    def check(
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
            prompt = self.ids_of(text.text[: text.ends[0]])
            if ids[: len(prompt)].tolist() != prompt:
                at = next(i for i, (a, b) in enumerate(zip(prompt, ids.tolist(), strict=False)) if a != b)
                piece = text.text[slice(*offsets[at].tolist())]
                raise Refused("merges_with_prompt", f"the token {piece!r} begins in the generation prompt")
        if ids[-1] != self.eos:
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
        found = self.backend.encode(header, add_special_tokens=False)
        for at in reversed(range(len(found.ids))):
            token = added.get(found.ids[at])
            if token is not None and not (token.lstrip or token.rstrip or token.single_word or token.normalized):
                return found.ids[at], len(header) - found.offsets[at][1], found.ids[at + 1 :]
        return None, 0, []

    def ids_of(self, text: str) -> list[int]:
        return self.backend.encode(text, add_special_tokens=False).ids


def starts_of(texts: Sequence[Text]) -> np.ndarray:
    """(T,) int64: where each text begins if they stand one behind the other."""
    lengths = np.fromiter((len(text.text) for text in texts), np.int64, len(texts))
    return np.cumsum(lengths) - lengths


def notes_of(text: Text, straddling: int) -> dict[str, int]:
    """What is worth counting of a document."""
    notes = {f"trimmed_{name}": 1 for name in text.trimmed}
    return {**notes, "straddling_tokens": straddling} if straddling else notes
