"""A student that could never stop is refused, or warned of by the name of what it will not learn."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from encode_cases import record

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.documents.encode import EncodeConfig, load_layout
from tracestill.data_pipeline.tokens.store import TokenStore, TokenStoreWriter
from tracestill.data_pipeline.tokens.tokenizer import train_sentencepiece, write_tokenizer
from tracestill.trainer.preview.effect import warnings
from tracestill.trainer.preview.stops import check_stops, closing, stop_warnings
from tracestill.trainer.weighting import SpanWeighting, TargetWeights, WeightingConfig, make_weighting

KINDS = Kinds()
STEPS = 100
PAGE = Path(__file__).parents[3] / "docs" / "encoding.md"
RECORDS = [record(), record("And 9 + 4?", answer="13", index=1)]


class NoStopAfterAnswers(SpanWeighting):
    """What answers at once never learns to stop."""

    def tokens(self, document, step):
        weights = np.ones(len(document.tokens), np.float32)
        weights[-1] = np.isin(document.kinds, [2, 3, 4, 5]).any()
        return weights


class OpenTrace(SpanWeighting):
    """No token before an answer weighs anything, if it is a delimiter."""

    def tokens(self, document, step):
        weights = np.ones(len(document.tokens), np.float32)
        weights[closing(document.kinds, self.span_kinds)] = 0
        return weights


class OneTask(SpanWeighting):
    """Only documents with a trace teach anything."""

    def tokens(self, document, step):
        return np.full(len(document.tokens), np.isin(document.kinds, [2, 3, 4, 5]).any(), np.float32)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    text = "What is 3 + 4? [rationale] [label] Order 3,4. Let me add. Check 7 - 4 = 3. abcdefghij klmnop"
    write_tokenizer(train_sentencepiece([text] * 9, 330), folder)
    return folder


def store_of(path, tokenizer, records=RECORDS, **config):
    layout = load_layout(EncodeConfig.model_validate(config), tokenizer)
    with TokenStoreWriter(path, KINDS) as writer:
        for made, encoded in zip(records, layout.encode(records, KINDS), strict=True):
            for ending, document in encoded.documents.items():
                writer.add(made.record_id + ending, made.question_id, *document, made.weight)
    return TokenStore(path, KINDS)


FORMS = {
    "plain": {},
    "answers": {"trace": "drop"},
    "two_task": {"two_task": {}},
    "encoder_decoder": {"template": "encoder_decoder"},
    "two for an encoder": {"template": "encoder_decoder", "two_task": {}},
}


@pytest.fixture(scope="module", params=FORMS)
def store(request, tmp_path_factory, tokenizer):
    return store_of(tmp_path_factory.mktemp("store") / "t.arrow", tokenizer, **FORMS[request.param])


@pytest.fixture(scope="module")
def two(tmp_path_factory, tokenizer):
    return store_of(tmp_path_factory.mktemp("store") / "t.arrow", tokenizer, two_task={})


def weighting(weights=None, of=None, **more):
    config = WeightingConfig(weights={"prompt": 0, **(weights or {})}, **more)
    return make_weighting(config, KINDS) if of is None else of(config, KINDS)


def said(store, of):
    return stop_warnings(TargetWeights(store, of), KINDS, STEPS, {3: "</s>", 4: "<think>", 5: "</think>"}.__getitem__)


def test_the_weightings_of_every_day_are_let_pass(store):
    late = {"shape": "piecewise", "points": [[80, 0], [81, 1]]}
    never = [
        weighting({"trace": late, "answer": late, "control": late}),  # before that, nothing is learnt at all
        weighting(),
        weighting({"trace": 0.3, "control": 0.01}),
        weighting({"control": {"from": 0, "to": 1, "steps": 40}}),  # a curriculum that ends with a stop
        weighting(use="trace_only"),
        weighting(use="random_drop", options={"keep": 0.2, "kinds": ["trace", "control"]}),
        weighting(use="steps_last_first", options={"share": 0.1}),
    ]
    for of in never:
        check_stops(TargetWeights(store, of), KINDS, STEPS)
        assert said(store, of) == []


@pytest.mark.parametrize(
    "weights",
    [
        {"control": 0},
        {"control": {"shape": "constant", "from": 0}},
        {"control": {"from": 0, "to": 1, "steps": 9, "start": STEPS}},
    ],
)
def test_a_student_that_could_never_stop_is_refused(store, weights):
    of = weighting(weights)
    with pytest.raises(InputError) as refused:
        check_stops(TargetWeights(store, of), KINDS, STEPS, {3: "</s>", 4: "<think>", 5: "</think>"}.__getitem__)
    assert str(refused.value) == (
        "weighting: the student could never stop, since </s>, which ends its documents, weighs nothing in any step "
        "(its kind is control); give the symbol that ends documents a weight, such as weighting.weights.control: 1, or "
        "set weighting.allow_unstoppable: true"
    )
    check_stops(TargetWeights(store, of), KINDS, STEPS, allowed=True)
    lines = said(store, of)
    assert all("weighs nothing in documents with" in line for line in lines)
    assert any(line.startswith("</s> ") and line.endswith("will not learn to stop there") for line in lines)
    assert any(line.startswith("</think> ") and line.endswith("not learn to end its trace there") for line in lines)


def test_no_weight_at_all_is_refused_too(two):
    with pytest.raises(InputError, match="could never stop"):
        check_stops(TargetWeights(two, weighting({"trace": 0, "answer": 0, "control": 0})), KINDS, STEPS)


def test_records_without_weight_teach_no_stop(tmp_path, tokenizer):
    mute = [record(weight=0.0), record("And 9 + 4?", answer="13", index=1, weight=0.0)]
    store = store_of(tmp_path / "t.arrow", tokenizer, mute)
    with pytest.raises(InputError, match="could never stop"):
        check_stops(TargetWeights(store, weighting()), KINDS, STEPS)
    assert warnings(TargetWeights(store, weighting()), KINDS, STEPS)[0].startswith("no token has any weight")


def test_each_task_has_to_end(two):
    of = weighting(of=NoStopAfterAnswers)
    check_stops(TargetWeights(two, of), KINDS, STEPS)
    assert said(two, of) == [
        "</s> weighs nothing in documents with an answer and no trace: the student will not learn to stop there"
    ]
    assert warnings(TargetWeights(two, of), KINDS, STEPS, str)[-1].startswith("3 weighs nothing")


def test_an_end_of_the_trace_is_named_by_sort(two, tmp_path, tokenizer):
    of = weighting(of=OpenTrace)
    check_stops(TargetWeights(two, of), KINDS, STEPS)
    assert [re.sub(": .*", "", line) for line in said(two, of)] == [
        "</think> weighs nothing in documents with a trace and no answer",
        "</think> weighs nothing in documents with an answer and no trace",
    ]
    plain = store_of(tmp_path / "t.arrow", tokenizer)
    assert said(plain, of) == [
        "</think> weighs nothing in documents with a trace and an answer: the student will not learn to end its trace "
        "there"
    ]


def test_a_task_that_teaches_nothing_needs_no_end(two):
    check_stops(TargetWeights(two, weighting(of=OneTask)), KINDS, STEPS)
    assert said(two, weighting(of=OneTask)) == []


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (
            {"shape": "piecewise", "points": [[80, 0], [81, 1]]},
            "in 82% of the steps: the student may not learn to stop",
        ),
        ({"from": 1, "to": 0, "steps": 70}, "after about step 69: the student may forget to stop there"),
    ],
)
def test_a_weight_for_a_while_is_told(store, schedule, expected):
    of = weighting({"control": schedule})
    check_stops(TargetWeights(store, of), KINDS, STEPS)
    lines = [line for line in said(store, of) if line.startswith("</s>")]
    assert lines
    assert all(expected in line for line in lines)


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ("control prompt control derive control answer control", [4]),
        ("prompt prompt control control derive control control control answer answer control", [5, 6, 7]),
        ("prompt derive control control control", [2, 3]),
        ("prompt control control answer control", [1, 2]),
        ("control control answer control", [1]),  # the first token is no target
        ("prompt answer control", []),  # the prompt has closed the think block
        ("prompt derive control", []),
    ],
)
def test_where_a_trace_is_closed(kinds, expected):
    ids = np.array([KINDS.id(name) for name in kinds.split()], np.uint8)
    assert closing(ids, KINDS).tolist() == expected


def test_the_recipe_of_two_tasks_can_stop(two):
    block = next(b for b in re.findall(r"```yaml\n(.*?)```", PAGE.read_text("utf-8"), re.S) if "two_task" in b)
    of = make_weighting(WeightingConfig.model_validate(yaml.safe_load(block)["weighting"]), KINDS)
    check_stops(TargetWeights(two, of), KINDS, STEPS)
    assert said(two, of) == []
