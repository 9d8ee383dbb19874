"""A teacher behind a server: what is asked, what is read, and what a server's moods cost."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from api_cases import go, sql, teacher
from odd_server import FAULTS, OddServer, Request, answer_to, served

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.stage import read_manifest
from tracestill.data_pipeline.sampling.teachers.api import server as api_server
from tracestill.data_pipeline.sampling.teachers.api import teacher as api
from tracestill.data_pipeline.sampling.teachers.api.server import seconds_to_wait

PRICE = {"input": 1.0, "output": 100.0}  # 10 tokens in, 5 out: 0.00051 a sample


@pytest.fixture(autouse=True)
def _task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[3])
    monkeypatch.setattr(api, "FIRST", 0.001)


def counts(where: Path) -> dict[str, Any]:
    manifest = read_manifest(where / "sample")
    assert manifest is not None
    return manifest["counts"]


def test_the_grid_is_asked_once_and_raw_texts_are_kept(tmp_path: Path) -> None:
    with served(OddServer()) as server:
        two = [teacher(server.url, "a"), teacher(server.url, "b", prefill="Well, ", stop=["END"], top_p=0.9, top_k=5)]
        grid = {"styles": ["", "terse"], "temperatures": [0.5, 1.0]}
        rows = go(tmp_path, two, samples=2, **grid)
        assert len(rows) == len(server.requests) == 6 * 2 * 2 * 2 * 2
        assert go(
            tmp_path, [{**each, "options": {**each["options"], "concurrency": 3}} for each in two], samples=2, **grid
        )
        assert len(server.requests) == 96, "how it is asked changes nothing of what is asked"
    bodies = [request.body for request in server.requests]
    systems = {body["messages"][0]["content"] for body in bodies if body["messages"][0]["role"] == "system"}
    assert len(systems) == 1
    assert "few words" in systems.pop()
    assert len({body["seed"] for body in bodies}) == 96
    assert all(0 <= body["seed"] < 2**31 for body in bodies)
    ends = [body["messages"][-1] for body in bodies if body["messages"][-1]["role"] == "assistant"]
    assert ends == [{"role": "assistant", "content": "Well, "}] * 48
    assert {(body.get("top_p"), body.get("top_k"), tuple(body.get("stop", ()))) for body in bodies} == {
        (None, None, ()),
        (0.9, 5, ("END",)),
    }
    for row in rows:
        assert row["raw"].startswith("Well, ") == (row["teacher"] == "b")
        assert row["answer"] == row["gold"]
        assert row["reader"] == "sentence"


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "thinking", "reasoning_details"])
def test_thoughts_are_read_wherever_servers_put_them(tmp_path: Path, field: str) -> None:
    def extra(body: dict[str, Any]) -> dict[str, Any]:
        return {field: [{"text": "2 and 2 make 4"}] if field == "reasoning_details" else "2 and 2 make 4"}

    with served(OddServer(extra=extra)) as server:
        rows = go(tmp_path, [teacher(server.url, thinking_budget=99, thinking_field="thinking.budget_tokens")], train=2)
    assert {row["trace"] for row in rows} == {"2 and 2 make 4"}
    assert server.requests[0].body["thinking"] == {"budget_tokens": 99}


def test_completions_logprobs_and_fields_of_ones_own(tmp_path: Path) -> None:
    def other(request: Request, method: str) -> tuple[int, bytes]:
        logprobs = {"tokens": ["4", "!"], "token_logprobs": [-0.5, None], "top_logprobs": [{"4": -0.5}, None]}
        text = answer_to(request.body, 0)
        return 200, json.dumps({"choices": [{"text": text, "finish_reason": "length", "logprobs": logprobs}]}).encode()

    with served(OddServer(other=other)) as server:
        options = {"mode": "completions", "template": "[{style}] {question} A:", "logprobs": 1, "omit": ["temperature"]}
        one = teacher(server.url, **options, max_tokens_field="max_new", extra_body={"min_p": 0.1})
        with pytest.raises(InputError, match="it ended by 'length'"):
            go(tmp_path, [one], styles=["Be kind."])
        go(tmp_path, [one], styles=["Be kind."], checks={"unfinished": "count"})
    assert server.requests[0].path == "/v1/completions"
    body = server.requests[0].body
    assert body["prompt"].startswith("[Be kind.] How much is ")
    assert (body["max_new"], body["min_p"], body["logprobs"], "temperature" in body) == (4096, 0.1, 1, False)
    details = [json.loads(text) for text in pq.read_table(tmp_path / "sample/details.parquet")["details"].to_pylist()]
    assert details[0]["logprobs"] == [["4", -0.5, [["4", -0.5]]], ["!", None, []]]


def test_logprobs_of_chats_are_kept(tmp_path: Path) -> None:
    def other(request: Request, method: str) -> tuple[int, bytes]:
        reply = OddServer().reply(request.body)
        token = {"token": "4", "logprob": -0.25, "top_logprobs": [{"token": "4", "logprob": -0.25}, {"token": "5"}]}
        reply["choices"][0]["logprobs"] = {"content": [token, {"token": "!", "logprob": -1}]}
        return 200, json.dumps(reply).encode()

    with served(OddServer(other=other)) as server:
        go(tmp_path, [teacher(server.url, logprobs=2)], train=1)
    assert (server.requests[0].body["logprobs"], server.requests[0].body["top_logprobs"]) == (True, 2)
    details = json.loads(pq.read_table(tmp_path / "sample/details.parquet")["details"][0].as_py())
    assert details["logprobs"] == [["4", -0.25, [["4", -0.25], ["5", None]]], ["!", -1, []]]


def faulty(faults: int, met: list[str]) -> Any:
    """Each request of its own kind meets so many faults before it is answered, or fewer if a fault does no harm."""
    seen: dict[str, int] = {}

    def act(request: Request, number: int) -> str | None:
        key = hashlib.sha256(json.dumps(request.body["messages"]).encode()).hexdigest() + str(request.body.get("n"))
        seen[key] = seen.get(key, 0) + 1
        if seen[key] > faults:
            return None
        met.append(FAULTS[(seen[key] * 7 + int(key[:8], 16)) % len(FAULTS)])
        return met[-1]

    return act


def try_faults(where: Path, train: int, n: int, faults: int) -> int:
    """How many faults a run met in which nothing was lost or doubled."""
    met: list[str] = []
    with served(OddServer(act=faulty(faults, met))) as server:
        rows = go(where, [teacher(server.url, n=n, timeout=0.5)], train=train, samples=n, attempts=faults + 8)
    wanted = train * n
    assert len(rows) == wanted
    assert sql(where, "SELECT count(*), count(DISTINCT record_id), count(DISTINCT answer) FROM samples") == [
        (wanted, wanted, wanted)
    ]
    assert sql(where, "SELECT count(*) FROM rejected") == [(0,)]
    return len(met)


@pytest.mark.parametrize("n", [1, 3])
def test_a_misbehaving_server_costs_no_sample_and_doubles_none(tmp_path: Path, n: int) -> None:
    assert try_faults(tmp_path, 24, n, 2) >= 40


@pytest.mark.soak
@pytest.mark.parametrize("transport", ["aiohttp", "httpx"])
@pytest.mark.parametrize("n", [1, 4])
def test_a_thousand_faults(tmp_path: Path, n: int, transport: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if transport == "httpx":
        import openai

        monkeypatch.setattr(openai, "DefaultAioHttpClient", openai.DefaultAsyncHttpxClient)
    assert try_faults(tmp_path, 350, n, 6) >= 1000


def test_what_fails_for_good_is_a_row_with_its_reason_and_stops_nobody(tmp_path: Path) -> None:
    def act(request: Request, number: int) -> str | None:
        asked = request.body["messages"][-1]["content"]
        return {"How much is 1 and 1?": "500", "How much is 2 and 2?": "bad utf-8"}.get(asked)

    with served(OddServer(act=act)) as server:
        with pytest.raises(InputError, match=r"failed 2 times .*2 of 6 samples failed, more than sample.max_failed"):
            go(tmp_path, [teacher(server.url)], attempts=2, max_failed=0.3)
        assert sql(tmp_path, "SELECT count(*) FROM rejected") == [(0,)], "none of them has failed for good"
        rows = go(tmp_path, [teacher(server.url)], attempts=2, max_failed=0.4)
        asked = len(server.requests)
        assert go(tmp_path, [teacher(server.url)], attempts=2, max_failed=0.4) == rows
        assert len(server.requests) == asked
    assert len(rows) == 4
    assert counts(tmp_path)["rejected"] == {"failed": 2}
    assert sorted(sql(tmp_path, "SELECT reason, instr(detail, 'UTF-8') > 0 FROM rejected")) == [
        ("failed", 0),
        ("failed", 1),
    ]


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [(401, "", "the key is not accepted"), (404, "", "no such model"), (429, "insufficient_quota", "no money left")],
)
def test_what_is_wrong_with_every_request_is_said_at_once(tmp_path: Path, status: int, code: str, message: str) -> None:
    body = json.dumps({"error": {"message": "no", "code": code}}).encode()
    with served(OddServer(other=lambda request, method: (status, body))) as server:
        with pytest.raises(InputError, match=message) as error:
            go(tmp_path, [teacher(server.url, concurrency=1)], max_failed=1)
        assert len(server.requests) == 1
    assert "\n" not in str(error.value)


def test_a_refused_request_is_not_sent_again(tmp_path: Path) -> None:
    body = json.dumps({"error": {"message": "too long"}}).encode()
    with served(OddServer(other=lambda request, method: (400, body))) as server:
        with pytest.raises(InputError, match="too long"):
            go(tmp_path, [teacher(server.url)], max_failed=0.5)
        assert 1 <= len(server.requests) <= 6


def test_answers_longer_than_is_read_and_slower_than_is_waited_for_fail(tmp_path: Path) -> None:
    long = json.dumps({"choices": [{"message": {"content": "x" * 4000}}]}).encode()
    with served(OddServer(other=lambda request, method: (200, long))) as server:
        go_on = {"max_failed": 1, "max_rejected": 1, "attempts": 3}
        go(tmp_path / "long", [teacher(server.url, max_bytes=2000)], train=2, **go_on)
        assert len(server.requests) == 2
    assert sql(tmp_path / "long", "SELECT DISTINCT reason FROM rejected") == [("too_large",)]
    with served(OddServer(act=lambda request, number: "drip")) as server:
        begun = time.monotonic()
        go(tmp_path / "slow", [teacher(server.url, timeout=0.3)], train=2, **go_on)
        assert time.monotonic() - begun < 10
        assert len(server.requests) <= 2 * 3
    assert sql(tmp_path / "slow", "SELECT DISTINCT reason FROM rejected") == [("failed",)]


def test_a_busy_server_is_waited_for_and_gets_fewer_requests_at_a_time(tmp_path: Path) -> None:
    most: list[int] = []

    def act(request: Request, number: int) -> str | None:
        return "429 later" if server.under_way >= 3 else None

    server = OddServer(act=act, seconds=0.02)
    with served(server):
        go(tmp_path, [teacher(server.url, concurrency=16)], train=40, attempts=1)
        late = [held for _, held in server.moments[len(server.moments) // 2 :]]
        most.append(max(late))
    assert len(server.requests) > 40, "some were sent away"
    assert most[0] < 10, "and after that fewer came at a time"


def test_retry_after_is_seconds_or_a_date() -> None:
    assert seconds_to_wait({"retry-after": "2.5"}) == 2.5
    assert seconds_to_wait({"retry-after-ms": "1500"}) == 1.5
    later = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 30))
    assert 25 < seconds_to_wait({"retry-after": later}) <= 30
    assert [seconds_to_wait({"retry-after": text}) for text in ("soon", "-3", "nan", "inf", "1e9", "")] == [
        *(0.0, 0.0, 0.0, 0.0),
        *(api_server.LONGEST, 0.0),
    ]


def test_the_budget_is_never_exceeded_and_what_it_does_not_pay_for_is_not_asked(tmp_path: Path) -> None:
    one = {"price": PRICE, "max_tokens": 20}  # at most (26 + 512 + 100 * 20) / 1e6 = 0.0025, in truth 0.00051
    with served(OddServer(seconds=0.01)) as server:
        rows = go(tmp_path, [teacher(server.url, **one)], train=40, budget=0.012)
        paid = len(server.requests)
        assert 0.012 - 0.0026 < paid * 0.00051 <= 0.012
        assert len(rows) == paid
        assert counts(tmp_path)["rejected"] == {"budget": 40 - paid}
        assert counts(tmp_path)["cost"] == pytest.approx(paid * 0.00051)
        go(tmp_path, [teacher(server.url, **one)], train=40, budget=0.0121)
        assert len(server.requests) == paid, "what was spent before counts"
        rows = go(tmp_path, [teacher(server.url, **one)], train=40, budget=1.0)
        assert len(rows) == len(server.requests) == 40
    with pytest.raises(InputError, match="does not pay for one sample"):
        go(tmp_path / "poor", [teacher("http://127.0.0.1:9/v1", **one)], budget=0.001)
    with pytest.raises(InputError, match="what this teacher costs has to be known"):
        go(tmp_path / "poor", [teacher("http://127.0.0.1:9/v1")], budget=0.001)


def test_attempts_that_may_have_cost_something_count_as_spent(tmp_path: Path) -> None:
    def act(request: Request, number: int) -> str | None:
        return ("torn json", "500")[number % 2]

    with served(OddServer(act=act)) as server:
        one = teacher(server.url, price=PRICE, max_tokens=20, concurrency=1)
        with pytest.raises(InputError, match="failed 4 times"):
            go(tmp_path, [one], train=1, attempts=4, budget=1.0)
    (spent,) = sql(tmp_path, "SELECT value FROM notes WHERE name = 'budget'")[0]
    most = (len("How much is 0 and 0?") + 512 + 100 * 20) / 1e6
    assert float(spent) == pytest.approx(2 * most), "a torn answer is paid for, an error is not"
