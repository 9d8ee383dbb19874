"""Encoding: every token gets the kind and step of its text, every record is accounted for, nothing needs torch."""

import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
from encode_cases import KINDS, PLAN, TRACE, conserved, names, prepare, record
from hypothesis import given, settings
from hypothesis import strategies as st

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.base.schema import (
    Span,
)
from tracestill.data_pipeline.base.stage import is_current, read_manifest
from tracestill.data_pipeline.documents.document import encode
from tracestill.data_pipeline.documents.encode import EncodeConfig, run, stage_config
from tracestill.data_pipeline.documents.made import Bounds, Made
from tracestill.data_pipeline.plan.plan import PlanConfig
from tracestill.data_pipeline.segmentation import SegmentConfig, segmenter
from tracestill.data_pipeline.tokens.remembered import first_visible
from tracestill.data_pipeline.tokens.render import load_tokenizer, prompt_ids, split_output
from tracestill.data_pipeline.tokens.store import TokenStore
from tracestill.data_pipeline.tokens.tokenizer import train_sentencepiece, write_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """One whose tokens straddle what they can: words, spaces before words, parts of words."""
    path = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(train_sentencepiece([f"What is {i} + 4? {TRACE} abcd abcd" for i in range(50)], 400), path)
    return load_tokenizer(path)


# ---- one document


def test_a_document_by_hand(tokenizer):
    spans = (Span(0, 10, "plan"), Span(10, 22, "prose"), Span(22, 34, "derive"), Span(34, 50, "check"))
    assert [TRACE[s.start : s.end] for s in spans] == [
        "Order 3,4.", " Let me add.", " 3 + 4 = 7.\n", "Check 7 - 4 = 3.",
    ]  # fmt: skip
    (document,) = encode(tokenizer, [record(spans=spans)], KINDS)
    assert [a.dtype for a in document] == ["int32", "uint8", "uint16"]
    text = {
        kind: tokenizer.backend.decode(document.tokens[document.kinds == KINDS.id(kind)], skip_special_tokens=False)
        for kind in KINDS.names
    }
    assert text == {
        "pad": "",
        "prompt": "What is 3 + 4?",
        "plan": "Order 3,4.",
        "prose": " Let me add.",
        "derive": " 3 + 4 = 7.\n",
        "check": "Check 7 - 4 = 3.",
        "answer": "7",
        "control": "<s><think></think></s>",
        **dict.fromkeys(("expression", "result", "statement"), ""),
    }
    by_step = [tokenizer.decode(document.tokens[document.steps == i]) for i in range(1, 4)]
    assert by_step == [" Let me add. ", "3 + 4 = 7.\n", "Check 7 - 4 = 3."]  # the space alone lies in step 1
    assert document.steps[document.kinds == KINDS.id("plan")].tolist() == [0] * sum(document.kinds == KINDS.id("plan"))
    assert split_output(tokenizer, document.tokens[len(prompt_ids(tokenizer, "What is 3 + 4?")) :]) == (
        TRACE,
        "7",
        True,
    )


def test_a_token_that_straddles_a_boundary_goes_with_its_first_visible_character(tokenizer):
    assert tokenizer.encode(["so abcd"])[0].tokens[-1] == "▁abcd"
    kind = {cut: names(encode(tokenizer, [record(trace="so abcd", spans=(Span(0, cut, "plan"), Span(cut, 7, "check")))],
                              KINDS)[0].kinds)[-4] for cut in range(2, 7)}  # fmt: skip
    # the token begins with the space at 2; the a stands at 3
    assert kind == {2: "check", 3: "check", 4: "plan", 5: "plan", 6: "plan"}


PARTS = "a|abcd| |  |\n|\t|7| = |Check |. |é|漢|😀|</think>|<s>|\u3000"
texts = st.lists(st.sampled_from(PARTS.split("|")), max_size=20).map("".join)


@settings(max_examples=200, deadline=None)
@given(question=texts, trace=texts, answer=texts, data=st.data())
def test_every_token_by_brute_force(tokenizer, question, trace, answer, data):
    cuts = sorted(data.draw(st.sets(st.integers(1, len(trace) - 1), max_size=5)) if len(trace) > 1 else ())
    bounds = list(zip([0, *cuts], [*cuts, len(trace)], strict=True)) if trace else []
    spans = tuple(Span(a, b, data.draw(st.sampled_from(KINDS.members("trace")))) for a, b in bounds)
    (document,) = encode(tokenizer, [record(question, trace, answer, spans)], KINDS)
    # what it says: the parts come back, literal control symbols stay text
    prompt = prompt_ids(tokenizer, question)
    assert document.tokens[: len(prompt)].tolist() == prompt
    assert split_output(tokenizer, document.tokens[len(prompt) :]) == (trace, answer, True)
    controls = [tokenizer.bos, tokenizer.think, tokenizer.end_think, tokenizer.eos]
    assert document.tokens[document.kinds == KINDS.id("control")].tolist() == controls
    # kinds, character by character
    encoding = tokenizer.encode([trace])[0]
    begin = len(prompt) + 1
    end = begin + len(encoding.ids)
    assert set(names(document.kinds[1 : begin - 1])) <= {"prompt"}
    assert set(names(document.kinds[end + 1 : -1])) <= {"answer"}
    for token, (first, last) in enumerate(encoding.offsets):
        visible = [c for c in range(first, last) if not trace[c].isspace()]
        at = visible[0] if visible else first
        wanted = next(span.kind for span in spans if span.start <= at < span.end)
        assert names(document.kinds)[begin + token] == wanted
    assert not document.steps[:begin].any()
    assert not document.steps[end:].any()


def test_first_visible_character():
    offsets = np.array([[0, 1], [0, 3], [1, 2], [2, 5], [3, 4], [4, 6], [5, 6]])
    assert first_visible(["  ab \n"], offsets, np.array([0, 7])).tolist() == [0, 2, 1, 2, 3, 4, 5]


def test_a_step_number_that_does_not_fit_is_the_last_one(tokenizer):
    trace = "a\n" * 65_600
    (document,) = encode(tokenizer, [record(trace=trace, spans=(Span(0, len(trace), "prose"),))], KINDS)
    steps = document.steps[document.kinds == KINDS.id("prose")].astype(int)
    assert (np.diff(steps) >= 0).all()
    assert steps[-1] == 65_535
    assert len(set(steps)) == 65_536


def test_dropped_and_empty_traces(tokenizer):
    kept, dropped = (encode(tokenizer, [record()], KINDS, trace)[0] for trace in ("keep", "drop"))
    (empty,) = encode(tokenizer, [record(trace="", spans=())], KINDS)
    assert dropped.tokens.tolist() == empty.tokens.tolist()
    assert tokenizer.backend.decode(dropped.tokens, skip_special_tokens=False) == (
        "<s>What is 3 + 4?<think></think>7</s>"
    )
    assert set(names(dropped.kinds)) == {"control", "prompt", "answer"}
    outside = ~np.isin(kept.kinds, [KINDS.id(k) for k in KINDS.members("trace")])
    assert kept.tokens[outside].tolist() == dropped.tokens.tolist()


def test_kinds_of_the_user(tokenizer):
    kinds = Kinds.with_extra({"aside": "trace"})
    spans = (Span(0, 3, "aside"), Span(3, 6, "prose"))
    (document,) = encode(tokenizer, [record(trace="so abc", spans=spans)], kinds)
    assert kinds.id("aside") in document.kinds
    with pytest.raises(InputError, match="span kind 'aside' is no kind of the trace"):
        encode(tokenizer, [record(trace="so abc", spans=spans)], KINDS)


@pytest.mark.parametrize("spans", [(), (Span(0, 3, "plan"),), (Span(1, 6, "plan"),), (Span(0, 9, "plan"),),
                                   (Span(0, 6, "answer"),)])  # fmt: skip
def test_spans_that_do_not_cover_the_trace_are_refused(tokenizer, spans):
    made = record(trace="so abc", spans=spans)
    with pytest.raises(InputError, match=f"record {made.record_id} .*question {made.question_id}.*: span"):
        encode(tokenizer, [made], KINDS)


# ---- the stage


def test_the_stage_writes_every_split(tmp_path):
    train = [record(f"What is {i} + 4?", weight=0.5 + i, index=i) for i in range(600)]
    test = [record(f"What is {i} + 5?", "So 5. Then 3 + 5 = 8.", "8", index=i) for i in range(3)]
    validation = [record(f"What is {i} + 6?", "Xylem 6. So 3 + 6 = 9.", "9", index=i) for i in range(2)]
    inputs = prepare(tmp_path, train, test, validation)
    told = []
    more = {"segment": SegmentConfig(by="rules"), "progress": lambda *at: told.append(at)}
    run(EncodeConfig(), KINDS, PLAN, tmp_path / "encode", **more, **inputs)
    assert told[-1] == (605, 605)
    assert len(told) > 2
    manifest = read_manifest(tmp_path / "encode")
    counts = conserved(manifest)
    assert (counts["in"], counts["out"], counts["rejected"], counts["trimmed"]) == (605, 605, {}, 0)
    assert counts["tokens_lost"] == {}
    tokenizer = load_tokenizer(inputs["tokenizer"])
    assert manifest["kinds"] == list(KINDS.names)
    assert manifest["special_ids"] == tokenizer.special_ids
    assert manifest["vocab_size"] == tokenizer.size
    stores = (
        ("train", "tokens.arrow", train),
        ("validation", "validation.arrow", validation),
        ("test", "test.arrow", test),
    )
    for split, name, records in stores:
        store = TokenStore(tmp_path / "encode" / name, KINDS)
        assert store.ids == [r.record_id for r in records]
        assert store.question_ids == [r.question_id for r in records]
        assert store.weights.tolist() == [r.weight for r in records]
        assert counts["splits"][split]["tokens"] == store.lengths.sum()
        targets = {k: int(n) for k, n in zip(KINDS.names, store.counts.sum(axis=0), strict=True) if n}
        assert counts["splits"][split]["targets"] == targets
        for i in (0, len(records) - 1):
            (document,) = encode(tokenizer, [records[i]], KINDS)
            np.testing.assert_array_equal(store.tokens(i), document.tokens)
            np.testing.assert_array_equal(store.kinds(i), document.kinds)
            np.testing.assert_array_equal(store.steps(i), document.steps)
    assert pq.read_table(tmp_path / "encode" / "rejected.parquet").num_rows == 0


def test_the_stage_is_current_until_something_changes(tmp_path, monkeypatch):
    inputs = prepare(tmp_path, [record(index=i) for i in range(3)])
    for name in ("encode", "again"):
        run(EncodeConfig(), KINDS, PLAN, tmp_path / name, **inputs)
    assert read_manifest(tmp_path / "encode")["files"] == read_manifest(tmp_path / "again")["files"]
    assert not (tmp_path / "encode" / "test.arrow").exists()

    def current(config=EncodeConfig(), kinds=KINDS, plan=PLAN, segment=SegmentConfig()):
        return is_current(tmp_path / "encode", "encode", stage_config(config, kinds, plan, segment), inputs)

    assert current()
    assert current(plan=PlanConfig(capacity=512, packs_per_step=4))
    assert not current(EncodeConfig(trace="drop"))
    assert not current(kinds=Kinds.with_extra({"aside": None}))
    assert not current(plan=PlanConfig(capacity=513, packs_per_step=2))
    assert not current(plan=PlanConfig(capacity=512, packs_per_step=2, overlong="drop"))
    assert not current(segment=SegmentConfig(by="rules"))
    assert not current(segment=SegmentConfig(clean=("calculator",)))
    monkeypatch.setattr(segmenter, "VERSION", segmenter.VERSION + 1)
    assert not current(), "what another version makes of a trace is another thing"


def test_a_trace_is_cut_as_the_recipe_says_and_what_lacks_spans_is_rejected(tmp_path):
    """Teachers' spans stay; ``spans`` takes those alone. ``clean`` takes the calculator out."""
    trace = "So 3 + 4 = <<3+4=7>>7."
    given = record(trace=trace, spans=(Span(0, 10, "plan"), Span(10, len(trace), "derive")), index=0)
    inputs = prepare(tmp_path, [given, record(trace=trace, spans=(), index=1)])
    found = {}
    for name, segment in (("flow", {}), ("spans", {"by": "spans"}), ("clean", {"clean": ("calculator",)})):
        run(EncodeConfig(), KINDS, PLAN, tmp_path / name, segment=SegmentConfig(**segment), **inputs)
        store, tokenizer = TokenStore(tmp_path / name / "tokens.arrow", KINDS), load_tokenizer(inputs["tokenizer"])
        found[name] = [
            {
                k: tokenizer.decode(store.tokens(d)[store.kinds(d) == KINDS.id(k)]).strip()
                for k in KINDS.members("trace")
            }
            for d in range(len(store))
        ]
        counts = conserved(read_manifest(tmp_path / name))
        assert counts["rejected"] == ({"no_spans": 1} if name == "spans" else {})
    flow, spans, clean = ([{k: t for k, t in one.items() if t} for one in found[n]] for n in ("flow", "spans", "clean"))
    assert spans == flow[:1] == [{"plan": "So 3 + 4 =", "derive": "<<3+4=7>>7."}]
    assert flow[1] == {"statement": "So", "expression": "3 + 4 = <<3+4=7>>", "result": "7."}
    assert clean[0] == {"plan": "So 3 + 4 =", "derive": "7."}
    assert clean[1] == {"statement": "So", "expression": "3 + 4 =", "result": "7."}


def test_answers_only(tmp_path):
    train = [record(index=i) for i in range(5)]
    inputs = prepare(tmp_path, train)
    run(EncodeConfig(trace="drop"), KINDS, PLAN, tmp_path / "encode", **inputs)
    counts = conserved(read_manifest(tmp_path / "encode"))
    assert set(counts["splits"]["train"]["targets"]) == {"prompt", "answer", "control"}


LONG = "So 3 + 4 = 7. " * 40


def test_overlong_error_names_the_record_and_its_length(tmp_path):
    long = record(trace=LONG, index=9)
    inputs = prepare(tmp_path, [record(), long])
    (document,) = encode(load_tokenizer(inputs["tokenizer"]), [long], KINDS)
    n = len(document.tokens)
    with pytest.raises(InputError, match=rf"record {long.record_id} .*: {n} tokens exceed plan.capacity 100"):
        run(EncodeConfig(), KINDS, PlanConfig(capacity=100, packs_per_step=1), tmp_path / "encode", **inputs)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["sample", "select", "tokenizer"]
    run(EncodeConfig(trace="drop"), KINDS, PlanConfig(capacity=100, packs_per_step=1), tmp_path / "encode", **inputs)
    run(EncodeConfig(), KINDS, PlanConfig(capacity=n, packs_per_step=1), tmp_path / "encode", **inputs)  # just fits


@pytest.mark.parametrize("policy", ["drop", "trim_trace"])
def test_overlong_documents_are_dropped_or_trimmed_and_counted(tmp_path, policy):
    train, test = [record(), record(trace=LONG, index=9)], [record("What is 9 + 9?", LONG, "18")]
    inputs = prepare(tmp_path, train, test)
    tokenizer = load_tokenizer(inputs["tokenizer"])
    long = [encode(tokenizer, [r], KINDS)[0] for r in (train[1], test[0])]
    run(
        EncodeConfig(),
        KINDS,
        PlanConfig(capacity=100, packs_per_step=1, overlong=policy),
        tmp_path / "encode",
        **inputs,
    )
    counts = conserved(read_manifest(tmp_path / "encode"))
    store = TokenStore(tmp_path / "encode" / "tokens.arrow", KINDS)
    assert store.lengths.max() <= 100
    rejected = pq.read_table(tmp_path / "encode" / "rejected.parquet").to_pylist()
    lost = sum(counts["tokens_lost"].values())
    if policy == "drop":
        assert counts["rejected"] == {"overlong": 2}
        assert [r["record_id"] for r in rejected] == [test[0].record_id, train[1].record_id]
        assert rejected[0]["detail"] == f"{len(long[1].tokens)} tokens, plan.capacity 100"
        assert lost == sum(len(d.tokens) for d in long)
        assert len(store) == 1
        assert not (tmp_path / "encode" / "test.arrow").exists()
    else:
        assert (counts["rejected"], counts["trimmed"], rejected) == ({}, 2, [])
        assert lost == sum(len(d.tokens) - 100 for d in long)
        assert set(counts["tokens_lost"]) <= set(KINDS.members("trace"))
        assert store.lengths[1] == 100
        assert tokenizer.decode(store.tokens(1)).startswith("What is 3 + 4?So 3 +")
        assert counts["splits"]["train"]["targets"]["pad"] == 1  # the token after the cut carries no weight


def test_records_without_question_or_answer_are_rejected(tmp_path):
    train = [record(), record(answer=" \n", index=1), record(question=" ", index=2), record(answer="", index=3)]
    inputs = prepare(tmp_path, train)
    run(EncodeConfig(), KINDS, PLAN, tmp_path / "encode", **inputs)
    assert conserved(read_manifest(tmp_path / "encode"))["rejected"] == {"empty_answer": 2, "empty_question": 1}
    rejected = pq.read_table(tmp_path / "encode" / "rejected.parquet").to_pylist()
    assert [(r["record_id"], r["reason"]) for r in rejected] == [
        (train[1].record_id, "empty_answer"),
        (train[2].record_id, "empty_question"),
        (train[3].record_id, "empty_answer"),
    ]


def test_no_document_left_is_refused(tmp_path):
    inputs = prepare(tmp_path, [record(answer="")], [record("held out")])
    with pytest.raises(InputError, match=r"no document of a training question is left \(empty_answer: 1\)"):
        run(EncodeConfig(), KINDS, PLAN, tmp_path / "encode", **inputs)
    assert not (tmp_path / "encode").exists()


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf"), None])
def test_a_bad_weight_is_refused(weight):
    bad = record(weight=weight)
    with pytest.raises(InputError, match=f"record {bad.record_id} .*weight"):
        Made(Bounds(KINDS, PLAN)).add(bad, None)


def test_an_unfinished_stage_is_refused(tmp_path):
    inputs = prepare(tmp_path, [record()])
    (inputs["tokenizer"] / "manifest.json").unlink()
    with pytest.raises(InputError, match="tokenizer: this stage has not finished"):
        run(EncodeConfig(), KINDS, PLAN, tmp_path / "encode", **inputs)


def test_nothing_here_imports_torch():
    modules = ("documents.document", "documents.encode", "tokens.tokenizer", "tokens.render", "tokens.store")
    code = ";".join(f"import tracestill.data_pipeline.{name}" for name in modules)
    code += "; import sys; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
