"""A text that a student wrote as the document that it is: its very tokens, each with a kind and a step.

Encoding the text again might cut it into other tokens than those that were drawn. So tokens are kept as they are, and
their kinds found by what they stand for: the layout says what of the text is trace and what answer, ``segment`` cuts
the trace. For a text in the layout's own form, cut into the tokenizer's own tokens, that is the document which encoding
makes; for one that was cut off, the beginning of that. It then has no end: its last token is of the part that was being
written, and no symbol follows, so that nothing is learnt of where texts end. Of a text that neither opens nor closes a
trace all is trace, in every layout: an answer stands in it (``tokens.layout.Reading``), but where is not marked.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.base.schema import Record
from tracestill.data_pipeline.documents.chat import ChatLayout
from tracestill.data_pipeline.documents.document import PlainLayout, kinds_and_steps
from tracestill.data_pipeline.segmentation import SegmentConfig, Segmenter
from tracestill.data_pipeline.tokens.layout import Document, Layout, Reading
from tracestill.data_pipeline.tokens.pieces import FOLLOWS, pieces
from tracestill.data_pipeline.tokens.render import load_backend


class OwnText(NamedTuple):
    """What a student wrote to a question."""

    question: str  # as the student read it
    ids: Sequence[int]
    reading: Reading  # what the layout reads in them


class Places(NamedTuple):
    """Where the tokens of a text stand."""

    trace: np.ndarray  # (m,) numbers of the tokens of the trace
    at: np.ndarray  # (m,) their characters in it
    answer: np.ndarray  # (a,) numbers of the tokens of the answer
    unknown: np.ndarray  # (u,) of those that could be either


NONE = np.zeros(0, np.int64)
Span = tuple[int, int]  # characters [begin, end)


class OwnDocuments:
    """Makes documents of texts, in one layout with the tokenizer in a directory."""

    prompts: dict[str, list[int]]  # of the questions of the last call

    def __init__(self, layout: Layout, tokenizer: Path, segment: SegmentConfig, kinds: Kinds) -> None:
        self.layout, self.kinds = layout, kinds
        self.backend = load_backend(tokenizer / "tokenizer.json")
        self.segmenter = Segmenter(segment.model_copy(update={"clean": ()}))  # nothing may be taken out of a text

    def __call__(self, texts: Sequence[OwnText]) -> list[Document]:
        """The document of each: the prompt, and all that was written. Of a text whose trace is not found in it, as with
        a tokenizer that cleans what it decodes, all that is no symbol is ``prose``."""
        self.prompts = {question: self.layout.prompt_ids(question) for question in {text.question for text in texts}}
        places = [self.places(text) for text in texts]
        records = self.segmenter.all([record_of(text) for text in texts])
        counts = np.array([len(one.trace) for one in places], np.int64)
        found = kinds_and_steps(records, np.concatenate([NONE, *(p.at for p in places)]), counts, self.kinds)
        ends = np.cumsum(counts)
        return [
            self.document(text, where, *(of_all[end - count : end] for of_all in found))
            for text, where, end, count in zip(texts, places, ends.tolist(), counts.tolist(), strict=True)
        ]

    def document(self, text: OwnText, where: Places, kind: np.ndarray, step: np.ndarray) -> Document:
        prompt = self.prompts[text.question]
        tokens = np.array([*prompt, *text.ids], np.int32)
        kinds = np.full(len(tokens), self.kinds.id("control"), np.uint8)
        steps = np.zeros(len(tokens), np.uint16)
        kinds[: len(prompt)] = self.kinds.id("prompt")
        kinds[len(prompt) + where.answer] = self.kinds.id("answer")
        kinds[len(prompt) + where.unknown] = self.kinds.id("prose")
        kinds[len(prompt) + where.trace], steps[len(prompt) + where.trace] = kind, step
        return Document(tokens, kinds, steps)

    def places(self, text: OwnText) -> Places:
        ids = list(text.ids)
        said = ["" if piece == FOLLOWS else piece for piece in pieces(self.backend, ids)]
        whole = "".join(said)
        ends = np.cumsum([len(piece) for piece in said])
        seen = np.array([first_seen(piece) for piece in said], np.int64) + ends - [len(piece) for piece in said]
        if isinstance(self.layout, PlainLayout):
            return between_symbols(self.layout, ids, whole, seen, ends, text.reading.trace)
        assert isinstance(self.layout, ChatLayout)
        stop = next((at for at, token in enumerate(ids) if token in self.layout.stops), None)
        spoken = whole if stop is None else whole[: int(ends[stop]) - len(said[stop])]
        found = between_texts(self.layout, spoken, text.reading)
        if found is None:
            added = self.backend.get_added_tokens_decoder()
            return Places(NONE, NONE, NONE, np.flatnonzero([token not in added for token in ids]))
        (begin, end), (after, last) = found
        inside = np.flatnonzero((seen >= begin) & (seen < end))
        of_answer = np.flatnonzero((seen >= after) & (seen < last))
        return Places(inside, np.minimum(seen[inside] - begin, len(text.reading.trace) - 1), of_answer, NONE)


def between_symbols(
    layout: PlainLayout, ids: list[int], whole: str, seen: np.ndarray, ends: np.ndarray, trace: str
) -> Places:
    """The plain layout's symbols are tokens: the trace ends at the first </think>, the answer at </s>."""
    of = layout.tokenizer
    stop = ids.index(of.eos) if of.eos in ids else len(ids)
    closed = ids.index(of.end_think) if of.end_think in ids[:stop] else stop
    symbols = np.isin(ids, [*of.special_ids.values()])
    inside = np.flatnonzero(~symbols[:closed])
    answer = closed + np.flatnonzero(~symbols[closed:stop])
    if not len(inside) or not trace:
        return Places(NONE, NONE, answer, NONE)
    first = int(inside[0])
    begin = int(ends[first - 1]) if first else 0
    lead = max(whole[begin:].find(trace), 0)  # decoding leaves out the space that a text of SentencePiece begins with
    return Places(inside, np.clip(seen[inside] - begin - lead, 0, len(trace) - 1), answer, NONE)


def between_texts(layout: ChatLayout, whole: str, reading: Reading) -> tuple[Span, Span] | None:
    """Where trace and answer stand in what was ``whole`` said before a stop; the part in which it was cut off reaches
    to its end, white space included. None if the trace is not found, as with a tokenizer that cleans what it decodes.

    The texts around them are looked at first: a trace, or an answer, of a letter may stand in these, too.
    """
    trace, answer = reading.trace, reading.begun if reading.answer is None else reading.answer
    opening, ending = layout.parts.opening, layout.parts.tail.removesuffix(layout.parts.stop)
    lead = len(opening.rstrip()) if whole.startswith(opening.rstrip()) else 0
    begin = len(opening) if whole.startswith(opening + trace) else whole.find(trace, lead)
    if begin < 0 and not reading.finished:  # in the middle of a character, which is then shown otherwise
        begin = whole.find(trace.rstrip("\ufffd"), lead)
    if begin < 0:
        return None
    end = begin + len(trace) if trace else 0
    if not reading.finished and reading.begun is None:
        return (begin, len(whole) if trace else 0), (0, 0)
    if not answer:
        return (begin, end), (0, 0)
    rest = whole[end:]
    trimmed = rest.rstrip().removesuffix(ending.strip()).rstrip()
    body = next((body for body in (rest.removesuffix(ending), trimmed) if body.endswith(answer)), None)
    after = end + (rest.rfind(answer.rstrip("\ufffd")) if body is None else len(body) - len(answer))
    if after < end:
        return (begin, end), (0, 0)
    last = after + len(answer)
    is_cut = not reading.finished and (body is None or not whole[last:].strip())  # before what would end the answer
    return (begin, end), (after, len(whole) if is_cut else last)


def first_seen(piece: str) -> int:
    """The first character of a token that is no white space; its first one if all are."""
    return len(piece) - len(piece.lstrip()) if piece.strip() else 0


def record_of(text: OwnText) -> Record:
    """What ``segment`` looks at."""
    return Record("", "", text.question, "", text.reading.trace, text.reading.answer or "", (), 1.0, "", "", 0.0, 0)
