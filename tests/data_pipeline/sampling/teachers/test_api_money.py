"""What is paid for is kept and counted, whatever else goes wrong."""

from __future__ import annotations

import json
import queue
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from api_cases import go, sql, teacher
from odd_server import OddServer, Request, served

from tracestill.data_pipeline.sampling.ask_all import Asking
from tracestill.data_pipeline.sampling.asking.desk import Answer, Desk
from tracestill.data_pipeline.sampling.asking.money import Ledger
from tracestill.data_pipeline.sampling.journal import Journal
from tracestill.data_pipeline.sampling.journal_recovery import recover
from tracestill.data_pipeline.sampling.teachers.api import teacher as api
from tracestill.data_pipeline.sampling.teachers.api.bodies import most_tokens
from tracestill.data_pipeline.sampling.teachers.api.options import TeacherOptions

PRICE = {"input": 1.0, "output": 100.0}


@pytest.fixture(autouse=True)
def _task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[3])
    monkeypatch.setattr(api, "FIRST", 0.001)


def test_nothing_is_reserved_after_the_end() -> None:
    for budget in (None, 10.0):
        ledger = Ledger(budget, 1.0)
        assert ledger.reserve(2.0, lambda drawn: None)
        assert ledger.close() == (3.0 if budget else 1.0)
        assert not ledger.reserve(2.0, lambda drawn: None)


def test_a_ledger_can_be_closed_while_a_teacher_waits_for_its_note() -> None:
    ledger, inbox, ended = Ledger(1.0), queue.SimpleQueue[Any](), list[str]()
    desk = Desk("t", 1, ledger, {}, inbox)

    def work() -> None:
        try:
            ledger.reserve(0.5, lambda drawn: desk.note("budget", repr(drawn)))
        except BaseException as error:
            ended.append(type(error).__name__)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    inbox.get(timeout=60)
    desk.close(now=True)
    assert ledger.close() == 0.0
    thread.join(60)
    assert ended == ["Stopped"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"extra_body": {"max_tokens": 9}}, "extra_body may not set 'max_tokens'"),
        ({"extra_body": {"limit": 9}, "max_tokens_field": "limit"}, "extra_body may not set 'limit'"),
        ({"extra_body": {"best_of": 9}}, "extra_body may not set 'best_of'"),
        ({"omit": ["max_tokens"], "price": PRICE}, "nobody knows what an answer may cost"),
    ],
)
def test_no_option_lets_an_answer_cost_more_than_is_reserved(more: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TeacherOptions.model_validate({"url": "http://h", "model": "m", **more})


def test_what_else_is_sent_is_paid_for() -> None:
    plain = TeacherOptions(url="http://h", model="m")
    more = TeacherOptions(url="http://h", model="m", extra_body={"documents": ["x" * 5000]})
    assert most_tokens(more, {})[0] > most_tokens(plain, {})[0] + 5000


def test_what_was_said_is_journaled_before_anything_is_made_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Asking, *_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Asking, "fault", broken)
    monkeypatch.setattr(Asking, "save", broken)  # which comes later
    with served(OddServer()) as server, pytest.raises(ZeroDivisionError):
        go(tmp_path, [teacher(server.url)])
    assert sql(tmp_path, "SELECT count(*) FROM samples")[0][0] >= 1


def test_what_came_while_sampling_ended_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    come: list[Any] = []

    def late(self: Asking, some: list[Any], waiting: Any, done: Any, crew: Any) -> None:
        come.extend(each for each in some if isinstance(each, Answer))
        if len(come) == 6:
            for each in come:
                crew.inbox.put(each)  # as if it came now
            raise ZeroDivisionError

    monkeypatch.setattr(Asking, "keep", late)
    with served(OddServer()) as server, pytest.raises(ZeroDivisionError):
        go(tmp_path, [teacher(server.url)])
    assert sql(tmp_path, "SELECT count(*) FROM samples") == [(6,)]


def test_a_recovered_journal_knows_what_was_spent_and_sent(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    with served(OddServer()) as server:
        go(tmp_path, [teacher(server.url, price=PRICE, max_tokens=20)], budget=1.0)
    with Journal(path) as book:
        book.note("t", "batch abc", json.dumps({"asks": ["x"], "id": "batch-0"}))
        before = book.notes()
    assert float(before[""]["budget"]) > 0
    with sqlite3.connect(path) as database:
        database.execute("DROP TABLE inputs")
    assert recover(path)[1] is not None
    with Journal(path) as book:
        assert book.notes() == before


def test_numbers_that_json_lacks_cost_no_sample(tmp_path: Path) -> None:
    def other(request: Request, method: str) -> tuple[int, bytes]:
        reply = OddServer().reply(request.body)
        reply["choices"][0]["logprobs"] = {"content": [{"token": "4", "logprob": float("-inf"), "top_logprobs": []}]}
        return 200, json.dumps(reply).encode()

    with served(OddServer(other=other)) as server:
        assert len(go(tmp_path, [teacher(server.url, logprobs=1)], train=1)) == 1
    details = json.loads(pq.read_table(tmp_path / "sample/details.parquet")["details"][0].as_py())
    assert details["logprobs"] == [["4", None, []]]


def test_a_long_page_about_an_error_is_an_error_like_others(tmp_path: Path) -> None:
    seen: list[Request] = []

    def other(request: Request, method: str) -> tuple[int, bytes] | None:
        seen.append(request)
        return (502, b"<html>" + b"x" * 200_000) if len(seen) == 1 else None

    with served(OddServer(other=other)) as server:
        assert len(go(tmp_path, [teacher(server.url)], train=1)) == 1
    assert len(seen) == 2
