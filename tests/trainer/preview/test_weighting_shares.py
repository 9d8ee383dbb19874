"""What is said of the first step's shares: weights that end up meaning something else."""

import numpy as np
import pytest

from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.tokens.store import TokenStore, TokenStoreWriter
from tracestill.trainer.preview.preview import weight_shares
from tracestill.trainer.preview.shares import entries_of, share_warnings
from tracestill.trainer.weighting import TargetWeights, WeightingConfig, make_weighting

KINDS = Kinds.with_extra({"quote": "trace", "aside": None})
STEPS = 100
CHAT = {"prompt": 30, "derive": 45, "prose": 15, "answer": 2, "control": 12}  # think tags of several tokens
DEMO = {"prompt": 22, "plan": 12, "derive": 44, "check": 10, "prose": 3, "answer": 1, "control": 3}


def store_of(path, *documents):
    with TokenStoreWriter(path, KINDS) as writer:
        for index, counts in enumerate(documents):
            kinds = np.repeat([KINDS.id(name) for name in counts], list(counts.values()))
            kinds = np.concatenate([[KINDS.id("prompt")], kinds]).astype(np.uint8)  # the first token is no target
            writer.add(str(index), "q", np.arange(len(kinds)), kinds, np.zeros(len(kinds)))
    return TokenStore(path, KINDS)


def said(path, weights, *documents, nll=None, normaliser="weights", **more):
    """The warnings where a kind's targets cost ``nll`` (1): the share of the gradient is taken to be the loss's."""
    store = store_of(path, *documents)
    weighting = make_weighting(WeightingConfig(weights=weights, **more), KINDS)
    weighs = TargetWeights(store, weighting, normaliser)
    tables = np.stack([weighs.table(step) for step in (0, STEPS - 1)])
    everything = np.arange(len(store))
    _, shares = weight_shares(weighs, everything, tables[0])
    loss = shares * [(nll or {}).get(name, 1.0) for name in KINDS.names]
    loss = loss / loss.sum()
    counts = store.counts.sum(axis=0)
    rows = [
        {
            "kind": name, "weight": float(tables[0][k]), "tokens": int(counts[k]), "weight_share": float(shares[k]),
            "loss_share": float(loss[k]), "gradient_share": float(loss[k]),
        }
        for k, name in enumerate(KINDS.names) if k and counts[k]
    ]  # fmt: skip
    equal = tables[0].copy()
    equal[[KINDS.id(name) for name in (*KINDS.members("trace"), "answer")]] = 1
    _, same = weight_shares(weighs, everything, equal)
    return share_warnings([*weights], KINDS, rows, same, counts, tables)


def test_a_group_whose_kinds_are_all_named_decides_none(path):
    named = {"plan": 1, "derive": 2, "check": 1, "prose": 0.5, "quote": 1}
    assert "trace" not in entries_of(["trace", *named], KINDS)
    assert said(path, {"prompt": 0, "trace": 0.3, **named, "answer": 9, "control": 0.3}, DEMO) == []


def test_a_step_without_any_weight_is_not_compared():
    """Records of weight 0, say, may be all that a step holds."""
    names = ("derive", "answer", "control")
    rows = [
        {"kind": name, "weight": 1.0, "tokens": 9, "weight_share": 0.0, "loss_share": 0.0, "gradient_share": 0.0}
        for name in names
    ]
    tables = KINDS.table({"prompt": 0.0, "trace": 0.5}, default=1.0)[None]
    found = share_warnings(["trace"], KINDS, rows, np.zeros(len(KINDS)), np.full(len(KINDS), 9), tables)
    assert [line for line in found if "difference" in line or "nan" in line] == []


@pytest.fixture
def path(tmp_path):
    return tmp_path / "t.arrow"


@pytest.mark.parametrize(
    ("weights", "counts"),
    [
        ({"prompt": 0}, CHAT),  # nothing is asked of any kind but the prompt
        ({"prompt": 0}, DEMO),
        ({"prompt": 0.1}, DEMO),
        ({}, DEMO),
        ({"prompt": 0.1, "trace": 1, "answer": 3, "control": 1}, CHAT),
        ({"prompt": 0, "trace": 0, "answer": 0}, CHAT),  # said elsewhere
        ({"prompt": 0, "trace": 0.3, "answer": 6, "control": 0.3}, CHAT),
        ({"prompt": 0, "trace": 1, "answer": {"from": 1, "to": 9, "steps": 50}}, {**CHAT, "answer": 8}),
    ],
)
def test_nothing_is_said_of_weights_that_do_what_they_say(path, weights, counts):
    assert said(path, weights, counts) == []


def test_the_largest_share_of_a_kind_that_nobody_named(path):
    """Shares by hand: 18 of trace, 2 of answer and 12 of delimiters, which cost three times as much."""
    (line,) = said(path, {"prompt": 0, "trace": 0.3, "answer": 1}, CHAT, nll={"control": 3, "answer": 2})
    assert line == (
        "'control' has the largest share of the first step's loss (62%) and gradient (62%), and weighting.weights does "
        "not name it: it weighs 1"
    )
    named = {"prompt": 0, "trace": 0.3, "answer": 1, "control": 1}
    assert said(path, named, CHAT, nll={"control": 3, "answer": 2}) == [], "it is what the recipe says"
    (line,) = said(path, {"check": 2, "prompt": 0}, {**DEMO, "answer": 9})
    assert line.startswith("'derive' has the largest share of the first step's weights (48%), loss (48%) and gradient")


def test_a_named_group_counts_whole(path):
    """Each kind of the trace has less than control, all of them together more."""
    counts = {"derive": 9, "prose": 9, "check": 9, "answer": 9, "control": 10}
    assert said(path, {"trace": 0.9}, counts) == []
    (line,) = said(path, {"derive": 0.9}, counts)
    assert line.startswith("'control' has the largest share")


def test_an_answer_that_is_hardly_learnt(path):
    (line,) = said(path, {"prompt": 0, "trace": 1, "answer": 2, "control": 1}, {**DEMO, "answer": 1})
    assert line == (
        "the answer has little of the first step: 2.7% of weights, 2.7% of loss, 2.7% of gradient; raise its weight, "
        "or take normaliser: spans"
    )
    assert said(path, {"prompt": 0, "trace": 1, "answer": 2}, DEMO, normaliser="spans") == []
    assert said(path, {"prompt": 0, "trace": 1, "answer": 0}, DEMO) == [], "it is not meant to be"
    loud = said(path, {"prompt": 0, "trace": 1, "answer": 2, "control": 1}, DEMO, nll={"answer": 3})
    assert loud == [], "what it costs makes up for its length"


def test_a_kind_that_is_weighed_up_and_hardly_occurs(path):
    rare = {"derive": 600, "check": 5, "answer": 60, "control": 60}
    (line,) = said(path, {"prompt": 0, "check": 3, "derive": 1}, rare)
    assert line == (
        "'check' is weighed up (3; the rest 1 on average), but only 0.69% of the weighted targets have it: 2.0% of the "
        "sum of weights"
    )
    (line,) = said(path, {"prompt": 0, "check": 0.5, "derive": 1}, rare)
    assert "make no difference" in line, "weighed down: of few, that is little too"
    assert said(path, {"prompt": 0, "check": 3, "derive": 1}, {**rare, "check": 8}) == [], "1.1 % of the targets"
    assert len(said(path, {"derive": 1, "check": {"from": 0, "to": 3, "steps": 50}}, rare)) == 1, "later on"
    assert said(path, {"derive": 1, "aside": 5}, rare) == [], "one that does not occur is told elsewhere"


@pytest.mark.parametrize("answer", [1.04, 0.97])
def test_weights_of_trace_and_answer_that_make_no_difference(path, answer):
    (line,) = said(path, {"prompt": 0, "trace": 1, "answer": answer, "control": 1}, {**CHAT, "answer": 12})
    share = 12 * answer / (60 + 12 * answer)
    assert line == (
        "the weights of trace and answer make no difference: of both, the answer has "
        f"{share:.2%} of the first step's weights, and 16.67% if all weigh the same"
    )


def test_a_normaliser_that_undoes_the_weights_is_found_out(path):
    """Two tasks: a document of one kind divides by its own weight."""
    weights = {"prompt": 0, "trace": 0.2, "answer": 1, "control": 0}
    documents = {"prompt": 5, "derive": 30}, {"prompt": 5, "answer": 2}
    (line,) = said(path, weights, *documents, normaliser="examples")
    assert "make no difference: of both, the answer has 50.00%" in line
    assert said(path, weights, *documents) == []
    assert said(path, weights, *documents, normaliser="spans") == []


def test_a_schedule_is_given_time(path):
    more = {**CHAT, "answer": 12}
    assert said(path, {"trace": {"from": 1, "to": 0.2, "steps": 50}, "answer": 1.01, "control": 1}, more) == []


def test_names_decide_kinds_as_the_table_does():
    found = entries_of(["trace", "check", "answer"], KINDS)
    assert {name: [KINDS.names[k] for k in ids] for name, ids in found.items()} == {
        "trace": ["plan", "derive", "prose", "expression", "result", "statement", "quote"],
        "check": ["check"],
        "answer": ["answer"],
    }
