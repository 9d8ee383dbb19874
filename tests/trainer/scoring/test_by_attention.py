"""Influence by attention, against transformers' own model with a mask of its own for each step, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_export import tiny_config

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.tokens.store import TokenStore, TokenStoreWriter
from tracestill.trainer.batches.rectangles import layout_for
from tracestill.trainer.recipe.settings import StudentConfig
from tracestill.trainer.scoring import by_attention
from tracestill.trainer.scoring.by_attention import influence_by_attention, tokens_read
from tracestill.trainer.scoring.reading import LocalModel
from tracestill.trainer.student.student import build_student

KINDS = Kinds()
VOCABULARY = 32
MARKED = [("prompt", 0), ("plan", 0), ("derive", 1), ("prose", 2), ("control", 0), ("answer", 0), ("control", 0)]
BARE = [("prompt", 0), ("plan", 0), ("derive", 1), ("derive", 3), ("answer", 0)]  # no mark, and no step 2
FIRST = [("prompt", 0), ("answer", 0), ("plan", 0), ("derive", 1), ("answer", 0)]  # the answer is said twice
NONE = [("prompt", 0), ("plan", 0), ("control", 0)]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    draw = np.random.default_rng(5)
    path = tmp_path_factory.mktemp("store") / "tokens.arrow"
    with TokenStoreWriter(path, KINDS) as writer:
        for at, layout in enumerate([MARKED, BARE, MARKED, NONE, FIRST, BARE]):
            sizes = draw.integers(1, 6, len(layout))
            kinds = np.repeat([KINDS.id(name) for name, _ in layout], sizes)
            steps = np.repeat([step for _, step in layout], sizes)
            writer.add(f"r{at}", "q", draw.integers(3, VOCABULARY, len(kinds)), kinds, steps)
    return TokenStore(path)


def student_of(**config: object):
    found = {**tiny_config(initializer_range=0.6), **config}
    del found["vocab_size"]
    ids = {"bos_id": 1, "eos_id": 2, "pad_id": 0}
    return build_student(StudentConfig(config=found), vocab_size=VOCABULARY, num_kinds=len(KINDS), seed=2, **ids).eval()


def reader_of(student) -> LocalModel:
    return LocalModel(student, layout_for(student.model.config).make_row, 0, torch.device("cpu"))


@pytest.mark.parametrize("config", [{}, {"model_type": "mistral", "sliding_window": 5}], ids=["llama", "window"])
def test_the_answer_does_not_see_a_step_and_all_else_is_as_it_was(store, config, monkeypatch):
    monkeypatch.setattr(by_attention, "AT_ONCE", 12)  # of some documents all steps, of others some at a time
    student = student_of(**config)
    found = {
        c: influence_by_attention(reader_of(student), store, range(len(store)), KINDS, capacity=c) for c in (999, 50, 1)
    }
    window = config.get("sliding_window", 999)
    model = student.model.double()
    model.config._attn_implementation = model.model.config._attn_implementation = "eager"
    at, trace = 0, KINDS.mask(["trace"])
    for document in range(len(store)):
        tokens, kinds, steps = store.tokens(document), store.kinds(document), store.steps(document)
        inside, targets = trace[kinds], np.flatnonzero(kinds == KINDS.id("answer"))
        back = np.arange(len(tokens))[:, None] - np.arange(len(tokens))

        def nll(step: int, tokens=tokens, steps=steps, inside=inside, targets=targets, back=back) -> float:
            behind = min(int(np.flatnonzero(inside)[-1]) + 1, int(targets[0]) - 1)
            hides = (np.arange(len(tokens)) >= behind)[:, None] & (inside & (steps == step)) & (back != 0)
            mask = torch.from_numpy(np.where((back >= 0) & (back < window) & ~hides, 0.0, -1e300))[None, None]
            with torch.no_grad():
                ids = torch.as_tensor(np.array(tokens)).long()[None]
                log_p = model(ids, attention_mask=mask, use_cache=False).logits[0].log_softmax(-1)
            return -sum(float(log_p[place - 1, int(tokens[place])]) for place in targets.tolist())

        for step in range(int(steps.max()) + 1):
            known = len(targets) and (inside & (steps == step)).any()
            expected = nll(step) - nll(-1) if known else np.nan
            for values in found.values():
                np.testing.assert_allclose(values[at + step], expected, rtol=1e-4, atol=3e-5)
        at += int(steps.max()) + 1
    assert at == len(found[999])
    assert np.abs(found[999][~np.isnan(found[999])]).max() > 0.1, "steps are seen at all"


def test_each_document_is_read_once(store, monkeypatch):
    reader, read = reader_of(student_of()), []
    influence_by_attention(reader, store, range(len(store)), KINDS, capacity=999, tick=read.append)
    assert sum(read) == tokens_read(store, range(len(store)), KINDS)
    assert sum(read) < 2.5 * store.lengths.sum()


def test_a_model_that_says_no_number_names_the_document(store):
    student = student_of()
    student.head[0].weight.data[int(store.tokens(2)[-3])] = torch.inf
    with pytest.raises(InputError, match=r"document r\d: the model's probability of it is no number"):
        influence_by_attention(reader_of(student), store, range(2, 3), KINDS, capacity=999)
