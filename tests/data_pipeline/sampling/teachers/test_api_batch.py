"""The batch interface: a file goes up, answers come down, and whoever is killed between asks nothing twice."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from api_cases import go, sql, teacher
from odd_server import OddServer, Request, served

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.sampling.journal import Journal
from tracestill.data_pipeline.sampling.teachers.api import batch

PRICE = {"input": 1.0, "output": 100.0}


class Killed(BaseException):
    """As a kill: nobody catches it."""


@dataclass
class BatchServer:
    """Files and batches of one account. ``spoil(row, batch)`` changes a line of an answer, or drops it by None."""

    spoil: Any = lambda row, number: json.dumps(row)
    polls: int = 2  # looks before a batch has ended
    files: dict[str, bytes] = field(default_factory=dict)
    batches: dict[str, dict[str, Any]] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    ends: str = "completed"
    moody: list[int] = field(default_factory=list)  # statuses of the first answers; 0: as it should be

    def __call__(self, request: Request, method: str) -> tuple[int, bytes]:
        if (fault := self.moody.pop(0) if self.moody else 0) and fault != 599:
            return fault, b"{}"
        status, said = self.answer(request, method)
        return (500, b"{}") if fault == 599 else (status, said)  # 599: it is done, and the answer gets lost

    def answer(self, request: Request, method: str) -> tuple[int, bytes]:
        path = request.path.partition("?")[0].removeprefix("/v1")
        if path == "/files":
            name = f"file-{len(self.files)}"
            start = request.body.index(b'{"custom_id"')
            self.files[name] = request.body[start : request.body.rindex(b"\n--")]
            return 200, json.dumps(self.file(name)).encode()
        if path.startswith("/files/"):
            return 200, self.files[path.split("/")[2]]
        if path == "/batches" and method == "POST":
            name = f"batch-{len(self.batches)}"
            self.batches[name] = self.work(name, request.body)
            return 200, json.dumps(self.batches[name]).encode()
        if path == "/batches":
            return 200, json.dumps({"object": "list", "data": list(self.batches.values()), "has_more": False}).encode()
        found = self.batches[path.split("/")[2]]
        found["looks"] += 1
        found["status"] = self.ends if found["looks"] >= self.polls else "in_progress"
        return 200, json.dumps(found).encode()

    def file(self, name: str) -> dict[str, Any]:
        about = {"object": "file", "bytes": 1, "created_at": 1, "filename": "x", "purpose": "batch"}
        return {"id": name, "status": "processed", **about}

    def work(self, name: str, made: dict[str, Any]) -> dict[str, Any]:
        lines = []
        for text in self.files[made["input_file_id"]].strip().splitlines():
            row = json.loads(text)
            self.asked[row["custom_id"]] += 1
            answer = OddServer().reply(row["body"])
            said = self.spoil({"custom_id": row["custom_id"], "response": {"status_code": 200, "body": answer}}, name)
            lines += [] if said is None else [said]
        self.files[f"out-{name}"] = ("\n".join(lines) + "\n").encode()
        return {
            **{"id": name, "object": "batch", "endpoint": made["endpoint"], "completion_window": "24h"},
            **{"created_at": 1, "input_file_id": made["input_file_id"], "status": "validating", "looks": 0},
            **{"metadata": made["metadata"], "output_file_id": f"out-{name}", "error_file_id": None},
        }


@pytest.fixture(autouse=True)
def _task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[3])


def one(url: str, **options: Any) -> list[dict[str, Any]]:
    return [teacher(url, batch=True, poll=0.01, price=PRICE, max_tokens=20, **options)]


def test_batches_are_sent_looked_at_and_fetched(tmp_path: Path) -> None:
    made = BatchServer()
    with served(OddServer(other=made)) as server:
        rows = go(tmp_path, one(server.url, batch_requests=8), samples=2)
        assert go(tmp_path, one(server.url, batch_requests=8), samples=2) == rows
    assert len(rows) == len({row["raw"] for row in rows}) == 12
    assert set(made.asked.values()) == {1}
    assert len(made.batches) == 2
    assert {row["answer"] == row["gold"] for row in rows} == {True}
    (spent,) = sql(tmp_path, "SELECT value FROM notes WHERE name = 'budget'")[0]
    assert float(spent) == pytest.approx(12 * 0.00051)
    assert sql(tmp_path, "SELECT count(*) FROM notes WHERE name LIKE 'batch%'") == [(0,)]


def test_lines_that_are_missing_torn_doubled_or_errors_are_asked_again(tmp_path: Path) -> None:
    def spoil(row: dict[str, Any], name: str) -> str | None:
        at = int(row["custom_id"][:2], 16) % 5
        if name != "batch-0" or at > 3:
            return json.dumps(row)
        line = json.dumps(row)
        error = {**row, "response": {"status_code": 500, "body": {}}}
        return [None, line[:30], f"{line}\n{line.replace('answer is', 'answer is not')}", json.dumps(error)][at]

    made = BatchServer(spoil=spoil)
    with served(OddServer(other=made)) as server:
        rows = go(tmp_path, one(server.url), train=20)
    assert len(rows) == 20
    assert not [row for row in rows if "is not" in row["raw"]]
    assert len(made.batches) == 2
    assert max(made.asked.values()) == 2


@pytest.mark.parametrize("where", ["begin", "begun", "ended", "fetch"])
def test_a_kill_at_any_step_asks_nothing_twice(tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = BatchServer()
    real = getattr(batch, where)

    async def killed(*arguments: Any) -> Any:
        if where == "begin":
            await real(*arguments)  # the server has it, and nobody was told
        raise Killed

    with served(OddServer(other=made)) as server:
        with monkeypatch.context() as now:
            now.setattr(batch, where, killed)
            with pytest.raises(Killed):
                go(tmp_path, one(server.url))
        rows = go(tmp_path, one(server.url))
    assert len(rows) == 6
    assert set(made.asked.values()) == {1}
    assert len(made.batches) == 1


def test_a_batch_is_forgotten_only_when_its_answers_are_journaled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[tuple[Any, ...]] = []
    note = Journal.note

    def look(self: Journal, who: str, name: str, value: str | None) -> None:
        if value is None:
            held.extend(sql(tmp_path, "SELECT count(*) FROM samples"))
        note(self, who, name, value)

    monkeypatch.setattr(Journal, "note", look)
    with served(OddServer(other=BatchServer())) as server:
        go(tmp_path, one(server.url))
    assert held == [(6,)]


def test_a_batch_that_the_server_refuses_ends_sampling_and_is_forgotten(tmp_path: Path) -> None:
    made = BatchServer(ends="failed")
    with served(OddServer(other=made)) as server:
        with pytest.raises(InputError, match="the server refuses batch batch-0"):
            go(tmp_path, one(server.url))
        made.ends = "completed"
        assert len(go(tmp_path, one(server.url))) == 6
    assert len(made.batches) == 2


@pytest.mark.parametrize("moody", [[500, 503, 429], [0, 599], [0, 0, 500, 0, 500], [0, 500, 500]])
def test_calls_in_vain_are_made_again_and_no_batch_twice(tmp_path: Path, moody: list[int]) -> None:
    made = BatchServer(moody=moody)
    with served(OddServer(other=made)) as server:
        assert len(go(tmp_path, one(server.url))) == 6
    assert set(made.asked.values()) == {1}
    assert len(made.batches) == 1


def test_a_server_that_is_gone_is_told_in_one_line(tmp_path: Path) -> None:
    with served(OddServer(other=BatchServer(moody=[500] * 99))) as server, pytest.raises(InputError, match="run again"):
        go(tmp_path, one(server.url))


def test_batches_cost_no_more_than_the_budget(tmp_path: Path) -> None:
    made = BatchServer()
    with served(OddServer(other=made)) as server:
        rows = go(tmp_path, one(server.url), train=10, budget=0.0051)  # at most 0.00253 each, in truth 0.00051
    assert len(rows) == len(made.asked)
    assert 5 <= len(rows) <= 10
    assert len(made.batches) > 1, "what the first did not cost pays for more"
    (spent,) = sql(tmp_path, "SELECT value FROM notes WHERE name = 'budget'")[0]
    assert float(spent) == pytest.approx(len(rows) * 0.00051)


def test_a_batch_that_ends_without_an_answer_is_asked_for_anew(tmp_path: Path) -> None:
    made = BatchServer(spoil=lambda row, name: None if name == "batch-0" else json.dumps(row))
    with served(OddServer(other=made)) as server:
        assert len(go(tmp_path, one(server.url))) == 6
    assert len(made.batches) == 2


def test_a_refused_batch_costs_nothing_of_the_budget(tmp_path: Path) -> None:
    made = BatchServer(ends="failed")
    with served(OddServer(other=made)) as server, pytest.raises(InputError, match="the server refuses batch batch-0"):
        go(tmp_path, one(server.url), budget=1.0)
    assert sql(tmp_path, "SELECT value FROM notes WHERE name = 'budget'") == [("0.0",)]
    assert sql(tmp_path, "SELECT count(*) FROM notes WHERE name LIKE 'batch%'") == [(0,)]


def test_answers_of_batches_that_do_not_tell_their_tokens_cost_the_most_they_can(tmp_path: Path) -> None:
    def spoil(row: dict[str, Any], name: str) -> str:
        if name == "batch-0":
            row["response"]["body"]["choices"] = []
        else:
            del row["response"]["body"]["usage"]["completion_tokens"]
        return json.dumps(row)

    made = BatchServer(spoil=spoil)
    with served(OddServer(other=made)) as server:
        go(tmp_path, one(server.url), train=1, budget=1.0)
    (spent,) = sql(tmp_path, "SELECT value FROM notes WHERE name = 'budget'")[0]
    most = (len("How much is 0 and 0?") + 512 + 100 * 20) / 1e6
    assert float(spent) == pytest.approx(2 * most)
