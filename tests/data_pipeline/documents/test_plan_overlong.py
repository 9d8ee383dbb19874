"""Documents longer than the capacity, by policy."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.documents.overlong import Fit, fit_document

KINDS = Kinds()
TRACE = np.array([KINDS.id(name) for name in KINDS.members("trace")], np.uint8)
PROMPT, ANSWER, CONTROL, DERIVE, CHECK = (KINDS.id(k) for k in ("prompt", "answer", "control", "derive", "check"))


def fit(kinds: list[int], capacity: int, policy: Literal["error", "drop", "trim_trace"]) -> Fit:
    n = len(kinds)
    return fit_document(
        "record 7", np.arange(n, dtype=np.int32), np.array(kinds, np.uint8), np.arange(n) // 3, capacity, policy, TRACE
    )


DOCUMENT = [PROMPT] * 3 + [CONTROL] + [DERIVE] * 6 + [CHECK] * 4 + [CONTROL] + [ANSWER] * 2  # 17 tokens, trace 4..13


@pytest.mark.parametrize("policy", ["error", "drop", "trim_trace"])
def test_a_document_that_fits_stays(policy: Literal["error", "drop", "trim_trace"]) -> None:
    result = fit(DOCUMENT, 17, policy)
    assert result.outcome == "kept"
    assert result.tokens.tolist() == list(range(17))
    assert result.kinds.tolist() == DOCUMENT
    assert not len(result.lost)
    assert not len(result.cuts)


def test_error_names_document_length_and_remedy() -> None:
    with pytest.raises(
        InputError, match=r"^record 7: 17 tokens exceed plan.capacity 16; raise it, or set plan.overlong"
    ):
        fit(DOCUMENT, 16, "error")


def test_drop_counts_every_token() -> None:
    result = fit(DOCUMENT, 16, "drop")
    assert result.outcome == "dropped"
    assert not len(result.tokens)
    assert np.bincount(result.lost).tolist() == np.bincount(DOCUMENT).tolist()


def test_trim_removes_the_middle_of_the_trace() -> None:
    result = fit(DOCUMENT, 12, "trim_trace")  # 10 trace tokens, 5 too many: 2 stay before the cut and 3 after it
    assert result.outcome == "trimmed"
    assert result.tokens.tolist() == [0, 1, 2, 3, 4, 5, 11, 12, 13, 14, 15, 16]
    assert result.steps.tolist() == [t // 3 for t in result.tokens.tolist()]
    assert result.cuts.tolist() == [6]
    assert (
        result.kinds.tolist() == [PROMPT] * 3 + [CONTROL] + [DERIVE] * 2 + [0] + [CHECK] * 2 + [CONTROL] + [ANSWER] * 2
    )
    assert np.bincount(result.lost, minlength=8)[[DERIVE, CHECK]].tolist() == [4, 1]


def test_the_whole_trace_may_go_but_no_more() -> None:
    result = fit(DOCUMENT, 7, "trim_trace")
    assert result.tokens.tolist() == [0, 1, 2, 3, 14, 15, 16]
    assert result.kinds.tolist() == [PROMPT] * 3 + [CONTROL, 0] + [ANSWER] * 2
    with pytest.raises(InputError, match=r"record 7: 7 tokens besides the trace exceed plan.capacity 6 alone"):
        fit(DOCUMENT, 6, "trim_trace")


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from([PROMPT, ANSWER, CONTROL, *TRACE.tolist()]), min_size=2, max_size=60), st.data())
def test_trim_keeps_everything_but_trace(kinds: list[int], data: st.DataObject) -> None:
    other = [i for i, kind in enumerate(kinds) if kind not in TRACE]
    if len(other) == len(kinds):
        return
    capacity = data.draw(st.integers(max(1, len(other)), len(kinds) - 1)) if len(other) < len(kinds) - 1 else len(other)
    if capacity == 0:
        return
    result = fit(kinds, capacity, "trim_trace")
    kept = result.tokens.tolist()
    assert len(kept) == capacity == len(result.kinds) == len(result.steps)
    assert set(other) <= set(kept)
    assert kept == sorted(kept)
    gone = sorted(set(range(len(kinds))) - set(kept))
    assert sorted(kinds[i] for i in gone) == sorted(result.lost.tolist())
    trace = [i for i in range(len(kinds)) if i not in other]
    assert trace[trace.index(gone[0]) :][: len(gone)] == gone, "one stretch of the trace goes"
    before, after = trace.index(gone[0]), len(trace) - 1 - trace.index(gone[-1])
    assert after - before in (0, 1), "from its middle"
    cuts = [j for j in range(1, len(kept)) if kept[j] != kept[j - 1] + 1] + ([0] if kept[0] else [])
    assert sorted(result.cuts.tolist()) == sorted(cuts)
    expected = [0 if j in cuts else kinds[i] for j, i in enumerate(kept)]
    assert result.kinds.tolist() == expected
