"""``segment`` in a recipe: which ways there are, spans that somebody gives, and what is taken out of a trace."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tracestill.data_pipeline.base import own_modules
from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.schema import Record, Span
from tracestill.data_pipeline.segmentation import SegmentConfig, Segmenter, own_module
from tracestill.data_pipeline.segmentation.clean import cleaned
from tracestill.data_pipeline.segmentation.segmenter import stage_config

TRACE = "First find it: 3 + 4 = 7. That is all.\nWait, is it? So he has 7."
OWN = """
from tracestill.data_pipeline.base.schema import Span
def halves(question, trace):
    at = len(trace) // 2
    return [Span(0, at, "plan"), Span(at, len(trace), question)]
def short(question, trace):
    return [Span(0, 1, "plan")]
def text(question, trace):
    return "plan"
"""


def record(trace: str, spans: tuple[Span, ...] = (), question: str = "prose") -> Record:
    return Record("r", "q", question, "7", trace, "7", spans, 1.0, "t", "", 1.0, 0)


def cut(trace: str, spans: tuple[Span, ...] = (), **segment: object) -> list[str]:
    """``kind text`` of each span."""
    found = Segmenter(SegmentConfig.model_validate(segment))(record(trace, spans))
    return [f"{span.kind} {found.trace[span.start : span.end].strip()}" for span in found.spans]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "their_cuts.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)


def test_the_ways_to_segment() -> None:
    assert cut(TRACE) == [
        *("plan First find it:", "expression 3 + 4 =", "result 7.", "prose That is all."),
        *("check Wait, is it?", "prose So he has 7."),
    ]
    sentences = [
        "plan First find it:",
        "derive 3 + 4 = 7.",
        "prose That is all.",
        "check Wait, is it?",
        "prose So he has 7.",
    ]
    assert cut(TRACE, by="rules") == sentences
    assert cut(TRACE, by="lines") == [
        *("plan First find it:", "derive 3 + 4 = 7. That is all.", "check Wait, is it? So he has 7."),
    ]
    assert cut(TRACE, by="spans") == []
    assert cut("", by="lines") == []
    model = cut(TRACE, by="model")
    assert model[:3] == ["plan First find it:", "expression 3 + 4 =", "result 7."]


def test_a_function_of_the_users(own: None) -> None:
    assert cut("abcd", by="their_cuts:halves") == ["plan ab", "prose cd"]
    with pytest.raises(InputError, match=r"their_cuts:short of the trace 'abcd': spans end at 1, the trace at 4"):
        cut("abcd", by="their_cuts:short")
    with pytest.raises(InputError, match=r"their_cuts:text must return Spans, got 'plan'"):
        cut("abcd", by="their_cuts:text")
    config = SegmentConfig(by="their_cuts:halves")
    assert own_module(config) == "their_cuts"
    before = stage_config(config)
    Path(own_modules.find("their_cuts").origin).write_text(OWN + "\n# changed\n")  # type: ignore[arg-type, union-attr]
    assert stage_config(config) != before, "another function makes other documents"


@pytest.mark.parametrize(
    ("segment", "message"),
    [
        ({"by": "flows"}, "unknown way to segment 'flows'; did you mean 'flow'"),
        ({"by": "their_cuts:missing"}, "their_cuts has no function 'missing'"),
        ({"by": "no_such_module:cut"}, "cannot import 'no_such_module'"),
        ({"model": "m.json"}, "segment.model belongs to segment.by: model, not flow"),
        ({"clean": ["everything"]}, "calculator"),
        ({"bye": "flow"}, "Extra inputs"),
    ],
)
def test_what_is_no_way_to_segment_is_named(own: None, segment: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SegmentConfig.model_validate(segment)


def test_spans_that_are_given_stay() -> None:
    mine = (Span(0, 20, "check"), Span(20, len(TRACE), "prose"))
    for by in ("flow", "rules", "spans"):
        assert cut(TRACE, mine, by=by) == [f"check {TRACE[:20].strip()}", f"prose {TRACE[20:].strip()}"]


MARKED = st.lists(st.sampled_from(["<<1+2=3>>", "a", " b", "<<", ">>", "<<4>>", "c."]), max_size=12)


@settings(max_examples=150, deadline=None)
@given(MARKED, st.lists(st.integers(0, 60), max_size=4))
def test_taking_out_leaves_every_character_its_kind(pieces: list[str], cuts: list[int]) -> None:
    trace = "".join(pieces)
    ends = sorted({min(at, len(trace)) for at in cuts} | {len(trace)}) if trace else []
    ends = [end for end in ends if end]
    spans = tuple(Span(a, b, str(i)) for i, (a, b) in enumerate(zip([0, *ends], ends, strict=False)))
    found = cleaned(record(trace, spans), ["calculator"])
    kinds = {at: span.kind for span in spans for at in range(span.start, span.end)}
    kept, at = [], 0
    while at < len(trace):  # written out by hand, mark by mark
        end = trace.find(">>", at) + 2 if trace.startswith("<<", at) and ">>" in trace[at:] else 0
        if end and "<" not in trace[at + 2 : end - 2] and ">" not in trace[at + 2 : end - 2]:
            at = end
        else:
            kept.append((trace[at], kinds[at]))
            at += 1
    assert found.trace == "".join(character for character, _ in kept)
    assert [span.kind for span in found.spans for _ in range(span.start, span.end)] == [kind for _, kind in kept]
