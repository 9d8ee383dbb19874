"""What a model says of packed documents, against transformers' own model on each document alone, in float64."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import tiny_pairs
import torch
from tiny_export import tiny_config

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.channels import BUILT_IN
from tracestill.data_pipeline.channels.channel import topk
from tracestill.data_pipeline.tokens.store import TokenStore, TokenStoreWriter
from tracestill.trainer.batches.rectangles import layout_for
from tracestill.trainer.recipe.settings import StudentConfig
from tracestill.trainer.scoring.influence import influence
from tracestill.trainer.scoring.reading import LocalModel
from tracestill.trainer.scoring.shard import read_shard
from tracestill.trainer.student import student as students
from tracestill.trainer.student.student import build_student

KINDS = Kinds()
VOCABULARY = 32
CPU = torch.device("cpu")
OF_TOKENS = (*(BUILT_IN[name] for name in ("nll", "entropy", "rank", "top1")), *topk(5, ("derive", "answer")))
LAYOUT = [("prompt", 0), ("plan", 0), ("derive", 1), ("prose", 2), ("control", 0), ("answer", 0)]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Documents of a prompt, three steps and an answer; one without an answer, one of a single token."""
    draw = np.random.default_rng(5)
    path = tmp_path_factory.mktemp("store") / "tokens.arrow"
    with TokenStoreWriter(path, KINDS) as writer:
        for at in range(9):
            sizes = draw.integers(1, 7, len(LAYOUT))
            if at == 3:
                sizes[-1] = 0
            kinds = np.repeat([KINDS.id(name) for name, _ in LAYOUT], sizes)
            steps = np.repeat([step for _, step in LAYOUT], sizes)
            if at == 6:
                kinds, steps = kinds[:1], steps[:1]
            writer.add(f"r{at}", "q", draw.integers(3, VOCABULARY, len(kinds)), kinds, steps)
    return TokenStore(path)


@pytest.fixture(scope="module")
def student():
    config = tiny_config(initializer_range=0.6)
    del config["vocab_size"]
    ids = {"bos_id": 1, "eos_id": 2, "pad_id": 0}
    return build_student(
        StudentConfig(config=config), vocab_size=VOCABULARY, num_kinds=len(KINDS), seed=2, **ids
    ).eval()


@pytest.fixture(scope="module")
def reader(student):
    return LocalModel(student, layout_for(student.model.config).make_row, 0, CPU)


@pytest.fixture(scope="module")
def plain(student):
    """(n,) tokens -> (n - 1, V) float64 log-probabilities of a document's targets, by transformers alone."""
    model = copy.deepcopy(student.model).double()
    model.config._attn_implementation = model.model.config._attn_implementation = "eager"

    def log_p(tokens) -> torch.Tensor:
        with torch.no_grad():
            return model(torch.as_tensor(np.array(tokens))[None].long()).logits[0, :-1].log_softmax(-1)

    return log_p


def of_document(store, values, document):
    first = int(store.lengths[:document].sum())
    return values[first : first + int(store.lengths[document])]


@pytest.mark.parametrize("capacity", [1000, 40, 1])
def test_every_channel_of_every_document_in_a_pack_is_that_of_it_alone(store, plain, reader, capacity):
    found = read_shard(reader, store, range(len(store)), OF_TOKENS, capacity)
    kept = KINDS.mask(["derive", "answer"])
    for document in range(len(store)):
        tokens, log_p = store.tokens(document), plain(store.tokens(document))
        own = {name: of_document(store, values, document) for name, values in found.items()}
        assert all(np.isnan(own[name][0]) for name in ("nll", "entropy", "top1")), "the first token is not predicted"
        assert own["rank"][0] == 2**32 - 1
        for at in range(1, len(tokens)):
            row = log_p[at - 1]
            target = int(tokens[at])
            assert own["nll"][at] == pytest.approx(-float(row[target]), rel=2e-3, abs=2e-3)
            assert own["entropy"][at] == pytest.approx(-float((row.exp() * row).sum()), rel=2e-3, abs=2e-3)
            assert own["top1"][at] == pytest.approx(float(row.max()), rel=2e-3, abs=2e-3)
            assert own["rank"][at] == int((row > row[target]).sum())
            best = row.topk(5)
            if kept[store.kinds(document)[at]]:
                assert own["topk_ids"][at].tolist() == best.indices.tolist()
                np.testing.assert_allclose(own["topk_logprobs"][at], best.values.numpy(), rtol=2e-3, atol=2e-3)


def test_influence_of_a_step_is_what_the_answer_loses_without_it(store, plain, reader):
    found = influence(reader, store, range(len(store)), KINDS, capacity=60)
    at = 0
    trace, answer = KINDS.mask(["trace"]), KINDS.id("answer")
    for document in range(len(store)):
        tokens, kinds, steps = store.tokens(document), store.kinds(document), store.steps(document)

        def nll(left, tokens=tokens, kinds=kinds) -> float:
            log_p, of_kind, chosen = plain(tokens[left]), kinds[left][1:], tokens[left][1:]
            return -sum(float(log_p[i, int(t)]) for i, t in enumerate(chosen) if of_kind[i] == answer)

        count = int(steps.max()) + 1
        for step in range(count):
            gone = trace[kinds] & (steps == step)
            expected = nll(~gone) - nll(np.ones(len(tokens), bool)) if (kinds[1:] == answer).any() else np.nan
            np.testing.assert_allclose(found[at + step], expected, rtol=1e-4, atol=2e-5)
        at += count
    assert at == len(found)
    assert np.isnan(found).sum() == 4, "no answer, and no trace"
    again = influence(reader, store, range(len(store)), KINDS, capacity=1)
    np.testing.assert_allclose(again, found, rtol=1e-4, atol=2e-5)


def test_the_head_looks_at_no_other_token_than_is_asked_for(store, reader, monkeypatch):
    rows, real = [], students.token_scores

    def counting(*given, active, **more):
        rows.append(len(active))
        return real(*given, active=active, **more)

    monkeypatch.setattr(students, "token_scores", counting)
    read_shard(reader, store, range(len(store)), topk(3, ("answer",)), 1000)
    assert sum(rows) == store.counts[:, KINDS.id("answer")].sum()


def test_a_model_that_says_no_number_names_the_document(store, student, reader):
    head = student.head[0].weight
    kept = head.detach().clone()
    try:
        head.data[int(store.tokens(4)[3])] = torch.inf
        with pytest.raises(InputError, match=r"document r\d, token \d+: the model's probability of it is no number"):
            read_shard(reader, store, range(len(store)), OF_TOKENS[:1], 1000)
    finally:
        head.data.copy_(kept)


def test_an_encoder_decoder_is_scored_as_it_is_trained(tmp_path):
    documents = [pair for pair in tiny_pairs.pairs(0) if pair.weight]
    with TokenStoreWriter(tmp_path / "tokens.arrow", KINDS) as writer:
        for at, pair in enumerate(documents):
            kinds = np.concatenate([np.zeros(len(pair.question)), np.full(len(pair.text), KINDS.id("answer"))])
            writer.add(f"r{at}", "q", np.concatenate([pair.question, pair.text]), kinds, np.zeros(len(kinds)))
    store = TokenStore(tmp_path / "tokens.arrow")
    student = tiny_pairs.student("t5", seed=3).eval()
    reader = LocalModel(student, layout_for(student.model.config, store).make_row, tiny_pairs.PAD, CPU)
    found = read_shard(reader, store, range(len(store)), OF_TOKENS[:2], 100)
    model = tiny_pairs.plain_model(student.model, torch.float64).eval()
    for at, pair in enumerate(documents):
        question, text = (torch.as_tensor(part).long()[None] for part in (pair.question, pair.text))
        with torch.no_grad():
            log_p = model(input_ids=question, labels=text).logits[0].log_softmax(-1)
        own = of_document(store, found["nll"], at)
        assert np.isnan(own[: len(pair.question)]).all()
        expected = -log_p.gather(1, text[0][:, None])[:, 0].numpy()
        np.testing.assert_allclose(own[len(pair.question) :], expected, rtol=2e-3, atol=2e-3)
