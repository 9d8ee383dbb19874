"""Documents of a batch, laid out together: those of each record by itself, and what is refused is refused likewise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import chat_templates as made
import numpy as np
import pyarrow.parquet as pq
import pytest
from encode_cases import KINDS, record
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from odd_texts import ODD
from tokenizers import Regex, Tokenizer, pre_tokenizers

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.base.schema import GENERAL, Record, Span, Spans, with_spans
from tracestill.data_pipeline.documents.chat import ChatLayout
from tracestill.data_pipeline.documents.chat_tokens import Refused, Text
from tracestill.data_pipeline.documents.document import PlainLayout
from tracestill.data_pipeline.documents.encode import load_layout
from tracestill.data_pipeline.documents.facts import Facts
from tracestill.data_pipeline.segmentation.flow import spans_by_flow
from tracestill.data_pipeline.tokens import columns
from tracestill.data_pipeline.tokens.cuts import PATTERNS
from tracestill.data_pipeline.tokens.layout import Encoded, Layout, LayoutConfig
from tracestill.data_pipeline.tokens.remembered import Tokens
from tracestill.data_pipeline.tokens.tokenizer import train_sentencepiece, write_tokenizer

LAYOUTS = {
    "plain": {},
    "answers only": {"trace": "drop"},
    "two tasks": {"two_task": {}},
    "encoder and decoder": {"template": "encoder_decoder"},
    "chat": {"template": "chat"},
    "chat, system": {"template": "chat", "system": "Answer tersely."},
    "hashes": {"form": "hashes"},
    "boxed": {"form": "boxed", "template": "chat"},
}


@pytest.fixture(scope="module")
def layouts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Layout]:
    plain, chat = tmp_path_factory.mktemp("plain"), made.save(tmp_path_factory.mktemp("chat"), made.CHATML)
    write_tokenizer(train_sentencepiece(list(ODD), 500), plain)
    tokenizer = Tokenizer.from_file(str(chat / "tokenizer.json"))
    split = pre_tokenizers.Split(Regex(sorted(PATTERNS)[1]), "isolated")  # one that is known, so that texts are cut
    words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, words])
    tokenizer.save(str(chat / "tokenizer.json"))
    configs = {name: LayoutConfig(**own) for name, own in LAYOUTS.items()}
    found = {name: load_layout(own, plain if own.has_symbols else chat) for name, own in configs.items()}
    cut = [each for each in found.values() if isinstance(each, ChatLayout | PlainLayout)]
    memories = [each.tokens.remembered if isinstance(each, ChatLayout) else each.tokenizer.remembered for each in cut]
    assert all(own.memory is not None for own in memories)
    return found


def same(one: Encoded, other: Encoded) -> bool:
    arrays = [
        np.array_equal(mine, its) and mine.dtype == its.dtype
        for ending, document in one.documents.items()
        for mine, its in zip(document, other.documents[ending], strict=True)
    ]
    told = [(list(each.documents), each.refused, dict(each.notes)) for each in (one, other)]
    return told[0] == told[1] and all(arrays)


def records_of(texts: Sequence[tuple[str, str, str]]) -> list[Record]:
    spans = spans_by_flow([(question, trace) for question, trace, _ in texts])
    pairs = zip(texts, spans, strict=True)
    return [record(*text, spans=own, index=at) for at, (text, own) in enumerate(pairs)]


some = st.sampled_from([*ODD, "How many?", "3 + 4 = 7.\nCheck 7 - 4 = 3.", "7", "x####", "</think>", "\n\n7 "])
triples = st.lists(st.tuples(some, some, some), max_size=6)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_batch_gives_the_documents_of_each_record(name: str, layouts: dict[str, Layout]) -> None:
    layout = layouts[name]

    @settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(triples)
    def alike(texts: list[tuple[str, str, str]]) -> None:
        records = records_of(texts)
        if name == "chat":
            bare = Record("g", "", "", "", "", "any text", (), 1.0, "", "", 1.0, 0, "", GENERAL)
            records.insert(len(records) // 2, bare)
        together = layout.encode(records, KINDS)
        assert len(together) == len(records)
        for one, own in zip(together, records, strict=True):
            assert same(one, layout.encode([own], KINDS)[0])

    alike()


@pytest.mark.parametrize("name", ["chat", "hashes", "boxed"])
def test_texts_that_pass_together_pass_a_close_look(name: str, layouts: dict[str, Layout], monkeypatch) -> None:
    """``check`` is plain, and decides; the look at all of them must doubt each text that it refuses."""
    tokens = layouts[name].tokens
    seen: list[bool] = []
    plain = type(tokens).refusals

    def both(self, texts: Sequence[Text], found: Tokens):
        for at, text in enumerate(texts):
            own = slice(found.bounds[at], found.bounds[at + 1])
            try:
                self.check(text, found.ids[own], np.stack([found.begins[own], found.ends[own]], axis=1))
                seen.append(True)
            except Refused:
                seen.append(False)
                assert not self.surely_good(texts, found)[at]
        return plain(self, texts, found)

    monkeypatch.setattr(type(tokens), "refusals", both)
    texts = [*ODD, "x#### 7", "\\boxed{7}", "a</think>b", "7<|im_end|>", "<|im_start|>", "\n\n", "The answer is 7."]
    layouts[name].encode(records_of([(texts[at - 1], text, texts[at - 5]) for at, text in enumerate(texts)]), KINDS)
    layouts[name].encode(records_of([("How many?", text, "7") for text in texts]), KINDS)
    layouts[name].encode(records_of([(text, "3 + 4 = 7", "7") for text in texts]), KINDS)
    assert {*seen} == {True, False}
    assert sum(seen) > len(texts)


@pytest.mark.parametrize(
    ("spans", "fault"),
    [
        (Spans([3], ["plan"]), "spans end at 3, the trace at 9"),
        (Spans([3, 3, 9], ["plan", "check", "plan"]), "should begin at 3 and hold a character"),
        (Spans([0, 9], ["plan", "check"]), "should begin at 0 and hold a character"),
        (Spans([3, 9], ["plan", "answer"]), "span kind 'answer' is no kind of the trace"),
        ((Span(0, 3, "plan"), Span(4, 9, "plan")), "should begin at 3 and hold a character"),
        ((Span(0, 3, "plan"), Span(3, 9, "pln")), "span kind 'pln' is no kind of the trace"),
    ],
)
def test_bad_spans_in_a_batch_name_their_record(spans, fault: str, layouts: dict[str, Layout]) -> None:
    good = record(trace="It is 12.", spans=(Span(0, 9, "plan"),))
    bad = with_spans(record(trace="It is 12.", index=7), spans)
    assert bad.record_id != good.record_id
    for name in ("plain", "chat"):
        with pytest.raises(InputError, match=f"record {bad.record_id} .*{fault}"):
            layouts[name].encode([good, bad, good], KINDS)
    assert layouts["answers only"].encode([bad], KINDS)[0].documents, "nobody asks for spans of what is left out"


def test_kinds_of_ones_own_are_those_of_their_records(layouts: dict[str, Layout]) -> None:
    kinds = Kinds.with_extra({"doubt": "check"})
    spans = [(Span(0, 3, "doubt"), Span(3, 9, "plan")), (Span(0, 9, "doubt"),), (Span(0, 9, "prose"),)]
    records = [record(trace="so 4 or 5", spans=own, index=at) for at, own in enumerate(spans)]
    found = [
        {kinds.names[kind] for kind in one.documents[""].kinds} - {"prompt", "answer", "control"}
        for one in layouts["plain"].encode(records, kinds)
    ]
    assert found == [{"doubt", "plan"}, {"doubt"}, {"prose"}]


def test_the_table_of_documents_is_the_same_however_its_rows_come(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(columns, "AT_A_TIME", 4)
    facts = Facts.__new__(Facts)
    facts.types, facts.of, facts.difficulty = {}, {"q1": ("file", "sums")}, {"q1": 0.5}
    known = {name: [f"{name}{at}" for at in range(11)] for name in ("id", "record_id", "teacher", "style")}
    known["question_id"] = ["q1", "q2"] * 5 + ["q1"]
    known |= {"trace_tokens": list(range(11)), "general": [False] * 10 + [True]}
    table = facts.table(known)
    assert table.column("source").to_pylist() == ["file", ""] * 5 + ["file"]
    assert table.column("difficulty").to_pylist() == [0.5, None] * 5 + [None]
    found = []
    for size in (1, 3, 4, 11):
        path = tmp_path / f"{size}.parquet"
        with columns.ColumnsWriter(path, {}) as writer:
            for first in range(0, 11, size):
                writer.add(table[first : first + size])
        found.append(path.read_bytes())
        assert pq.read_table(path).equals(table)
    assert len({*found}) == 1
    assert pq.ParquetFile(path).num_row_groups == 3


def test_nothing_is_a_batch_too(layouts: dict[str, Layout]) -> None:
    assert [layout.encode([], KINDS) for layout in layouts.values()] == [[] for _ in layouts]
