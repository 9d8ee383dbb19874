"""Many traces at a time, by tables of words and codes: the same as one by one, token by token, by plain loops."""

from __future__ import annotations

import hashlib
import json
import pickle
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_texts import ODD
from real_data import DATA, needs_data

from tracestill.data_pipeline.base.schema import Record, Span, Spans
from tracestill.data_pipeline.segmentation import SegmentConfig, Segmenter, clauses, flow, formulas, many, parts
from tracestill.data_pipeline.segmentation.lexer import (
    CLOSE,
    LATEX,
    LATEX_SIGNS,
    MARK,
    NUMBER,
    OPEN,
    OTHER,
    SIGN,
    STOP,
    WORD,
    lex,
)
from tracestill.data_pipeline.segmentation.words import ANYWHERE, FACTORS, JOINTS, OPERATORS

mixed = st.lists(st.sampled_from([*ODD, ". ", ", ", "\n", "  ", " = ", "7", " 3 * 4"]), max_size=6).map("".join)
texts = st.lists(st.one_of(mixed, st.text(max_size=40)), max_size=5)


@settings(max_examples=200, deadline=None)
@given(texts)
def test_words_that_are_remembered_give_the_tokens_of_the_whole_text(some: list[str]) -> None:
    lexed, bounds = flow.LEXICON(some)
    assert len(lexed.types) == bounds[-1]
    for text, first, after in zip(some, bounds, bounds[1:], strict=False):
        assert lexed.types[after - 1] == 0, "nothing goes on into the next text"
        own = slice(first, after - 1)
        found = [column[own] for column in lexed]
        assert found == list(lex(text))


def test_what_is_remembered_is_bounded_and_learned_again(monkeypatch: pytest.MonkeyPatch) -> None:
    lexicon = many.Lexicon()
    first = lexicon(ODD)
    monkeypatch.setattr(many, "MOST_WORDS", 3)
    assert lexicon(ODD) == first
    assert len(lexicon(["a b"])[0].types) == 3
    assert len(lexicon.numbers) == 3, "of the last texts alone"
    assert lexicon([]) == (([], [], [], [], b""), [0])


@settings(max_examples=100, deadline=None)
@given(mixed)
def test_codes_find_what_a_look_at_each_token_finds(text: str) -> None:
    lexed = lex(text)
    types, words, codes = lexed.types, lexed.texts, lexed.codes
    every = range(len(types))

    def found(pattern) -> list[int]:
        return [match.start() for match in pattern.finditer(codes)]

    def signs(at: int) -> bool:
        own = words[at] in OPERATORS or words[at] in ("x", "of")
        latex = types[at] == LATEX and words[at] in LATEX_SIGNS
        return types[at] in (SIGN, MARK) or latex or (types[at] == WORD and own)

    def letter(at: int) -> bool:
        if types[at] != WORD or len(words[at]) != 1 or not words[at].isascii():
            return False
        return words[at] not in formulas.LETTER_WORDS or at + 1 == len(types) or types[at + 1] != WORD

    assert found(formulas.SIGNS) == [at for at in every if signs(at)]
    assert [at for at in every if formulas.is_variable(lexed, at)] == [at for at in every if letter(at)]
    assert found(clauses.BOUNDS) == [
        at for at in every if types[at] in (STOP, OPEN, CLOSE) or (types[at] == WORD and words[at] in JOINTS)
    ]
    assert found(clauses.SAID) == [at for at in every if words[at] in ANYWHERE]
    valued = [at for at in every if types[at] == WORD and (words[at] in FACTORS or words[at][0] >= "぀")]
    assert found(clauses.OF_VALUE) == valued
    assert found(clauses.WORDS) == [at for at in every if types[at] == WORD]
    plain = all(kind in (STOP, OTHER) or (kind == WORD and not signs(at)) for at, kind in enumerate(types))
    assert bool(clauses.PLAIN.fullmatch(codes)) == (plain and not valued)
    numbers = [at for at in every if types[at] == NUMBER]
    assert formulas.places_of(formulas.NUMBER_CODE, codes, 0, len(types)) == numbers


def plain_step_ends(trace: str) -> tuple[int, ...]:
    """``step_ends`` without a look at what stands before a stop."""
    ends = []
    for match in parts.STEP_END.finditer(trace):
        at = match.start()
        if trace[at] == ".":
            back = max(0, at - parts.LOOK_BACK)
            goes_on = parts.GOES_ON.search(trace, back, match.end() + parts.LOOK_AHEAD)
            if parts.ABBREVIATION.search(trace, back, at + 1) or (goes_on is not None and goes_on.end() > at):
                continue
        ends.append(match.end())
    if trace and (not ends or ends[-1] < len(trace)):
        ends.append(len(trace))
    if ends and not trace[: ends[0]].strip():
        ends = ends[1:] or [len(trace)]
    return tuple(ends)


stops = st.sampled_from([*parts.ABBREVIATIONS, *parts.BEFORE_NUMBER, "5", "12", "word", "\n1", "ends", "NO", "Dr"])


@settings(max_examples=150, deadline=None)
@given(mixed, st.lists(st.tuples(stops, st.sampled_from([". ", ".\n", ". 5", ".5", "! ", ".  B "]))).map(list))
def test_abbreviations_are_found_where_they_may_be(text: str, more: list[tuple[str, str]]) -> None:
    for whole in (text, text + " ".join(word + stop for word, stop in more)):
        assert parts.step_ends.__wrapped__(whole) == plain_step_ends(whole)


def record(trace: str, question: str = "He has 48 apples. How many?", spans=()) -> Record:
    return Record("r", "q", question, "7", trace, "7", spans, 1.0, "solver", "", 1.0, 0)


@settings(max_examples=60, deadline=None)
@given(texts, st.sampled_from(["flow", "rules", "model", "spans"]))
def test_all_is_each_one_by_one(some: list[str], by: str) -> None:
    cut = Segmenter(SegmentConfig(by=by, clean=("calculator",)))
    own = [record(text, question) for text, question in zip(some, reversed(some), strict=True)]
    own += [record(text, spans=(Span(0, len(text), "check"),)) for text in some if text]
    assert cut.all(own) == [cut(one) for one in own]
    if by == "flow":
        for found in cut.all(own)[: len(some)]:  # those that bring no spans
            assert tuple(found.spans) == parts.spans_of(flow.flow(found.question, found.trace))


def digest(pairs) -> str:
    told = [[list(part) for part in flow.flow(question, trace)] for question, trace in pairs]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


def test_what_flow_makes_of_a_trace_has_not_changed() -> None:
    """If this is meant to change, so is ``segmenter.VERSION``: stored documents are encoded again."""
    assert digest([(ODD[at - 3], text) for at, text in enumerate(ODD)]) == "1507a599736ca5f2"
    assert (
        digest([(ODD[at - 1], ODD[at - 7] + text + ODD[at - 2]) for at, text in enumerate(ODD)]) == "c2f6a25aedd5f266"
    )


@needs_data
def test_what_flow_makes_of_real_traces_has_not_changed() -> None:
    assert DATA is not None
    pairs = []
    for path in sorted((DATA / "gsm8k_teachers").glob("*.jsonl")):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[:60]]
        pairs += [(row["question"], row["output"]) for row in rows]
    assert digest(pairs) == "bb62601ef01fea63"
    assert flow.spans_by_flow(pairs) == [parts.spans_of(flow.flow(*pair)) for pair in pairs]


def test_spans_without_an_object_each_are_spans() -> None:
    spans = Spans([2, 5, 9], ["plan", "check", "prose"])
    plain = (Span(0, 2, "plan"), Span(2, 5, "check"), Span(5, 9, "prose"))
    assert spans == plain
    assert plain == spans
    assert spans != plain[:2]
    assert tuple(spans) == plain
    assert [spans[0], spans[-1], *spans[1:]] == [plain[0], plain[-1], *plain[1:]]
    assert (len(spans), hash(spans), repr(spans)) == (3, hash(plain), repr(plain))
    assert pickle.loads(pickle.dumps(spans)) == plain  # noqa: S301
    assert not Spans([], [])
    one = record("123456789", spans=spans)
    assert one == replace(one, spans=plain)
