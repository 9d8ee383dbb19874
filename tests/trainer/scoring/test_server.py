"""A server that tells of a prompt's tokens, made up here, and what of its answers is refused."""

from __future__ import annotations

import gc
import json
import time
from types import SimpleNamespace

import numpy as np
import pytest
from odd_server import OddServer
from odd_server import served as serving

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.channels import BUILT_IN
from tracestill.data_pipeline.channels.channel import topk
from tracestill.data_pipeline.sampling.teachers.api.options import ServerConfig
from tracestill.data_pipeline.tokens.store import TokenStore, TokenStoreWriter
from tracestill.trainer.scoring import server
from tracestill.trainer.scoring.influence import influence
from tracestill.trainer.scoring.server import ServedModel
from tracestill.trainer.scoring.shard import read_shard

KINDS = Kinds()
VOCABULARY = 20
CHANNELS = (BUILT_IN["nll"], BUILT_IN["rank"], BUILT_IN["top1"], *topk(3))
TOKENIZER = SimpleNamespace(decode=lambda ids, skip_special_tokens: f" w{ids[0]}")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "tokens.arrow"
    draw = np.random.default_rng(3)
    with TokenStoreWriter(path, KINDS) as writer:
        for at, n in enumerate((7, 2, 9, 4)):
            kinds = [KINDS.id("prompt"), *[KINDS.id("derive")] * (n - 2), KINDS.id("answer")]
            steps = [0, *np.arange(n - 2), 0]
            writer.add(f"r{at}", "q", draw.integers(0, VOCABULARY, n), kinds, steps)
    return TokenStore(path)


def chances(tokens: list[int]) -> np.ndarray:
    """(n, V) log-probabilities of what follows each beginning, of which each token decides."""
    logits = 3 * np.sin(1.7 * np.arange(VOCABULARY) + 0.3 * np.cumsum(tokens)[:, None])
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def answer(body: dict, spoil=lambda rows: rows) -> bytes:
    """As vLLM answers."""
    tokens, k = body["prompt"], body["prompt_logprobs"]
    rows: list[dict | None] = [None]
    for before, token in zip(chances(tokens), tokens[1:], strict=False):
        ranks = np.argsort(-before)
        shown = dict.fromkeys([*ranks[:k].tolist(), token])
        place = {i: int((before > before[i]).sum()) + 1 for i in shown}
        rows.append({str(i): {"logprob": before[i], "rank": place[i], "decoded_token": f"w{i}"} for i in shown})
    return json.dumps({"choices": [{"text": "x", "prompt_logprobs": spoil(rows)}]}).encode()


def served(url: str, **changes: object) -> ServedModel:
    server = ServerConfig.model_validate({"url": url, "attempts": 2, **changes})
    return ServedModel("m", server, "score.teacher", TOKENIZER, VOCABULARY)


def reading(spoil=lambda rows: rows, first=lambda request: None):
    """A server of which the n-th answer is ``first``'s, if that says something."""

    def other(request, method):
        return first(request) or (200, answer(request.body, spoil))

    return serving(OddServer(other=other))


def test_documents_are_sent_as_they_are_and_what_comes_back_is_kept(store):
    busy = iter([(503, b"{}"), (500, b"{}")])
    with reading(first=lambda request: next(busy, None)) as asked:
        found = read_shard(served(asked.url), store, range(len(store)), CHANNELS, 1000)
        rises = influence(served(asked.url), store, range(len(store)), KINDS, capacity=1000)
    assert all(request.path == "/v1/completions" for request in asked.requests)
    assert {len(request.body["prompt"]) for request in asked.requests} >= {7, 2, 9, 4}
    at = step = 0
    for document in range(len(store)):
        tokens = store.tokens(document).tolist()
        log_p = chances(tokens)
        for i in range(1, len(tokens)):
            row = log_p[i - 1]
            assert found["nll"][at + i] == pytest.approx(-row[tokens[i]], rel=2e-3, abs=1e-3)
            assert found["rank"][at + i] == (row > row[tokens[i]]).sum()
            assert found["topk_ids"][at + i].tolist() == np.argsort(-row)[:3].tolist()
            assert found["topk_logprobs"][at + i] == pytest.approx(np.sort(row)[::-1][:3], rel=2e-3, abs=1e-3)
        assert np.isnan(found["nll"][at])
        for gone in range(1, len(tokens) - 1):
            left = tokens[:gone] + tokens[gone + 1 :]
            rise = log_p[-2][tokens[-1]] - chances(left)[-2][tokens[-1]]
            assert rises[step + gone - 1] == pytest.approx(rise, rel=1e-4, abs=1e-4)
        step += max(1, len(tokens) - 2)
        at += len(tokens)


def shift(rows):
    return [rows[0], *({str((int(i) + 1) % VOCABULARY): one for i, one in row.items()} for row in rows[1:])]


def cut(rows):
    return [rows[0], *(dict(list(row.items())[-1:]) for row in rows[1:])]


def renamed(rows):
    return [rows[0], *({i: {**one, "decoded_token": "other"} for i, one in row.items()} for row in rows[1:])]


def foreign(rows):
    return [rows[0], *({**row, "99": {"logprob": -0.5, "rank": 1}} for row in rows[1:])]


def nonsense(rows):
    return [rows[0], *({i: {**one, "logprob": 2.0} for i, one in row.items()} for row in rows[1:])]


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (shift, r"document r\d, token 1: token id \d+ was sent, and the answer is of others"),
        (cut, r"document r\d, token 1: 3 log-probabilities were asked for, [12] came; lower k.*max-logprobs"),
        (renamed, r"token id \d+ is 'w\d+' to the student, and 'other' to the server"),
        (foreign, r"names token 99, and the store's vocabulary has 20"),
        (nonsense, "is no log-probability"),
        (lambda rows: [None, *rows], r"\d+ tokens were sent, and \d+ came back"),
        (lambda rows: None, "tells nothing of the prompt's tokens"),
        (lambda rows: [3, *rows[1:]], "the answer makes no sense"),
    ],
)
def test_an_answer_of_other_tokens_or_of_too_little_is_refused_by_document(store, spoil, told):
    with reading(spoil) as asked, pytest.raises(InputError, match=told) as error:
        read_shard(served(asked.url), store, range(len(store)), CHANNELS, 1000)
    assert "score.teacher: http://" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_server_that_refuses_or_does_not_answer_is_named(store):
    said = 400, b'{"error": {"message": "Requested prompt logprobs of 3"}}'
    told = r"score.teacher: document r\d: .*prompt logprobs of 3.*--max-logprobs"
    with reading(first=lambda request: said) as asked, pytest.raises(InputError, match=told):
        read_shard(served(asked.url), store, range(1), CHANNELS, 1000)
    told = r"no answer on document r0 \(its answer makes no sense"
    with reading(first=lambda request: (200, b"[]")) as asked, pytest.raises(InputError, match=told):
        read_shard(served(asked.url), store, range(1), CHANNELS, 1000)


def test_echo_tells_the_same_where_tokens_are_named_by_id(store):
    def other(request, method):
        body = request.body
        tokens, rows = body["prompt"], [None]
        plain = json.loads(answer({**body, "prompt_logprobs": body["logprobs"]}))["choices"][0]
        for row in plain["prompt_logprobs"][1:]:
            rows.append({f"token_id:{i}": one["logprob"] for i, one in row.items()})
        names = [f"token_id:{i}" for i in tokens]
        own = [None, *(row[name] for row, name in zip(rows[1:], names[1:], strict=True))]
        told = {"tokens": [*names, "token_id:1"], "token_logprobs": [*own, -1.0], "top_logprobs": [*rows, {}]}
        return 200, json.dumps({"choices": [{"text": "", "logprobs": told}]}).encode()

    channels = [channel for channel in CHANNELS if channel.name != "rank"]
    with serving(OddServer(other=other)) as asked:
        echoed = read_shard(served(asked.url, form="echo"), store, range(len(store)), channels, 1000)
        with pytest.raises(InputError, match=r"score\.teacher\.channels: .* tells no ranks"):
            read_shard(served(asked.url, form="echo"), store, range(len(store)), CHANNELS, 1000)
    with reading() as asked:
        plain = read_shard(served(asked.url), store, range(len(store)), channels, 1000)
    for name, values in echoed.items():
        np.testing.assert_array_equal(values, plain[name])


def test_who_waits_for_answers_is_asked_what_else_there_is_to_do_and_may_leave(store, monkeypatch, caplog):
    monkeypatch.setattr(server, "IDLE_SECONDS", 0.01)
    waited = []

    class Enough(Exception):
        pass

    def idle():
        waited.append(time.monotonic())
        if len(waited) == 3:
            raise Enough

    with serving(OddServer(seconds=60)) as slow:
        reader = served(slow.url)
        reader.idle = idle
        begun = time.monotonic()
        with pytest.raises(Enough):
            read_shard(reader, store, range(len(store)), CHANNELS, 1000)
        assert time.monotonic() - begun < 30
    gc.collect()
    assert "never retrieved" not in caplog.text


def test_the_key_goes_into_the_header_alone(store, monkeypatch):
    monkeypatch.setenv("TEACHERS_KEY", "abcdefgh12345678")
    with reading() as asked:
        read_shard(served(asked.url, api_key_env="TEACHERS_KEY"), store, range(1), CHANNELS, 1000)
    assert {request.headers["authorization"] for request in asked.requests} == {"Bearer abcdefgh12345678"}
    said = 400, b'{"error": {"message": "no use for abcdefgh12345678"}}'
    with reading(first=lambda request: said) as asked, pytest.raises(InputError, match="no use for") as error:
        read_shard(served(asked.url, api_key_env="TEACHERS_KEY"), store, range(1), CHANNELS, 1000)
    assert "abcdefgh" not in str(error.value)
    monkeypatch.delenv("TEACHERS_KEY")
    with pytest.raises(InputError, match="TEACHERS_KEY is not set"):
        served("http://localhost:1/v1", api_key_env="TEACHERS_KEY")
