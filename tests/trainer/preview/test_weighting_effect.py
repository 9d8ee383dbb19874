"""What is said before training starts: weightings without effect, kinds that do not occur, and the preview's shares."""

import io

import numpy as np
import pytest
from normaliser_cases import KINDS, NORMALISERS, by_hand, weighting, write_store
from rich.console import Console
from tokenizers import Tokenizer, models

from tracestill.data_pipeline.tokens.store import TokenStore, TokenStoreWriter
from tracestill.trainer.preview.effect import warnings
from tracestill.trainer.preview.preview import preview, show
from tracestill.trainer.weighting import TargetWeights, WeightingConfig, make_weighting


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Every kind but pad and check, and records of different weight."""
    return write_store(tmp_path_factory.mktemp("store") / "tokens.arrow")


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Prompt, answer and control only; all records weigh the same."""
    path = tmp_path_factory.mktemp("store") / "answers.arrow"
    with TokenStoreWriter(path, KINDS) as writer:
        for index in range(5):
            writer.add(str(index), "q", np.arange(6), np.array([7, 1, 1, 7, 6, 7]), np.zeros(6))
    return TokenStore(path, KINDS)


def said(store, normaliser="weights", steps=100, **config):
    return warnings(TargetWeights(store, make_weighting(WeightingConfig(**config), KINDS), normaliser), KINDS, steps)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"weights": {"prompt": 0, "trace": 1, "answer": 5}},
        {"weights": {"trace": {"from": 1, "to": 0.5, "steps": 90}}},  # one weight at first, not later
        {"use": "answer_only"},
        {"use": "prompt_loss"},
        {"use": "dft", "weights": {}},
        {"use": "random_drop", "options": {"keep": 0.5}, "weights": {}},
    ],
)
def test_nothing_is_said_where_there_is_nothing_to_say(store, config):
    assert said(store, **config) == []


@pytest.mark.parametrize(
    "config",
    [
        {"weights": {}},
        {"weights": {"prompt": 1, "trace": 1.0}},
        {"use": "prompt_loss", "options": {"prompt": 1}, "weights": {}},
        {"use": "random_drop", "options": {"keep": 1}, "weights": {}},
        {"weights": {"trace": {"from": 1, "to": 0.5, "steps": 90, "start": 200}}},  # begins after the last step
    ],
)
def test_one_weight_for_all_kinds_is_reported(answers, config):
    (line,) = [line for line in said(answers, **config) if "names 'trace'" not in line]
    assert line == "the weighting has no effect: every kind in the data (prompt, answer, control) has the weight 1"


def test_a_schedule_that_moves_all_kinds_together_is_reported(answers):
    together = {"from": 1, "to": 0.5, "steps": 90}
    (line,) = said(answers, weights={"prompt": together, "answer": together, "control": together})
    assert "no effect" in line
    assert "whatever its schedule" in line


def test_what_still_tells_tokens_apart_is_named(store, answers):
    assert said(store, weights={})[0].endswith("what is left: record weights")
    assert said(store, "examples", weights={})[0].endswith("what is left: record weights, the normaliser examples")
    assert said(answers, "spans", weights={})[0].endswith("what is left: the normaliser spans")


def test_a_named_kind_that_does_not_occur_is_reported(answers):
    lines = said(answers, weights={"prompt": 0, "trace": 2, "check": 3, "answer": 2})
    assert [line.split(",")[0] for line in lines] == [f"the weighting names '{name}'" for name in ("trace", "check")]
    assert all(line.endswith("(in the data: prompt, answer, control)") for line in lines)
    (line,) = said(answers, use="random_drop", options={"keep": 0.5, "kinds": ["derive"]})
    assert "names 'derive'" in line
    (line,) = said(answers, weights={"prompt": 0, "pad": 1})
    assert "names 'pad'" in line


def test_no_weight_at_all_is_reported(answers):
    lines = said(answers, use="answer_only", weights={"answer": 0, "control": 0})
    assert lines == ["no token has any weight (kinds in the data: prompt, answer, control): nothing will be learnt"]


@pytest.mark.parametrize("normaliser", NORMALISERS)
@pytest.mark.parametrize("by_token", [False, True])
def test_the_preview_shows_shares_of_w_times_c(store, normaliser, by_token):
    tokenizer = Tokenizer(models.WordLevel({str(i): i for i in range(43)}, unk_token="0"))
    documents = np.arange(len(store))
    of = weighting(by_token=by_token)
    found = preview(KINDS, TargetWeights(store, of, normaliser), documents, {}, tokenizer)
    factors, _ = by_hand(store, normaliser, by_token=by_token)
    sums = np.zeros(8)
    for document, values in factors.items():
        np.add.at(sums, store.kinds(document)[1:], values)
    for row in found["kinds"]:
        assert row["weight_share"] == pytest.approx(sums[KINDS.id(row["kind"])] / sums.sum(), rel=1e-6, abs=1e-12)
    raw, _ = by_hand(store, "weights", by_token=by_token)
    total = sum(row["weight_sum"] for row in found["kinds"])
    answer = next(row for row in found["kinds"] if row["kind"] == "answer")
    share = sum(values[store.kinds(d)[1:] == KINDS.id("answer")].sum() for d, values in raw.items())
    assert answer["weight_sum"] / total == pytest.approx(share, rel=1e-6)
    shown = [token["weight"] != 0 for token in found["document"]["tokens"]]
    assert shown == [False, *(raw[0] != 0)]
    console = Console(file=io.StringIO(), width=200)
    show({**found, "warnings": ["look here"]}, KINDS, console)
    assert "warning: look here" in console.file.getvalue()
