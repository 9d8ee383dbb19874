"""The sampler is killed while a server answers it badly: nothing journaled is lost, doubled or asked for again."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sqlite3
import sys
import time
from pathlib import Path

import pytest
from api_cases import sql, teacher
from odd_server import OddServer, Request, served

ROOT = Path(__file__).parents[3]
PATHS = [str(ROOT), str(ROOT / "support")]


def sampler(where: str, url: str, train: int) -> None:
    """A process of its own."""
    os.setsid()
    sys.path[:0] = PATHS
    from api_cases import go

    from tracestill.data_pipeline.sampling.teachers.api import teacher as api

    api.FIRST = 0.001
    go(Path(where), [teacher(url, concurrency=16, n=2)], train=train, samples=2, attempts=20)


def held(where: Path) -> dict[str, str]:
    """Raw text -> record id of what is in the journal."""
    with sqlite3.connect(where / "journal.sqlite", timeout=30) as database:
        try:
            return dict(database.execute("SELECT answer, record_id FROM samples"))
        except sqlite3.OperationalError:
            return {}


def act(request: Request, number: int) -> str | None:
    """By lot: requests that go round in step would meet the same fault each time."""
    return random.Random(number).choice([None, None, "500", "reset", None, "torn json", "too few", "429"])


def try_kills(where: Path, kills: int, train: int) -> None:
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["tracestill.data_pipeline.sampling.sample", "openai", "tenacity"])
    where.mkdir(exist_ok=True)
    server = OddServer(act=act, seconds=0.02)
    asked_in_vain: list[str] = []
    with served(server):
        for kill in range(1, kills + 1):
            before = held(where)
            questions = {raw.partition(" ")[0]: 0 for raw in before}
            for raw in before:
                questions[raw.partition(" ")[0]] += 1
            begun = len(server.requests)
            child = processes.Process(target=sampler, args=(str(where), server.url, train))
            child.start()
            deadline = time.monotonic() + 60
            while (
                len(held(where)) < 2 * train * kill // (kills + 1) and child.is_alive() and time.monotonic() < deadline
            ):
                time.sleep(0.005)
            assert child.is_alive(), "it is killed in its work"
            os.kill(child.pid or 0, signal.SIGKILL)
            child.join()
            asked_in_vain += again(server.requests[begun:], questions)
            after = held(where)
            assert before.items() <= after.items(), "what was journaled stays as it was"
        last = processes.Process(target=sampler, args=(str(where), server.url, train))
        last.start()
        last.join(120)
        assert last.exitcode == 0
    assert asked_in_vain == []
    assert sql(where, "SELECT detail FROM rejected") == []
    wanted = 2 * train
    assert sql(where, "SELECT count(*), count(DISTINCT record_id), count(DISTINCT answer) FROM samples") == [
        (wanted, wanted, wanted)
    ]
    per_key = "SELECT count(*) FROM samples GROUP BY question_id, teacher, style, temperature, position"
    assert set(sql(where, per_key)) == {(1,)}


def again(requests: list[Request], questions: dict[str, int]) -> list[str]:
    """Requests about questions whose two samples were journaled before."""
    asked = (request.body["messages"][-1]["content"].split()[3] for request in requests)
    return [number for number in asked if questions.get(number) == 2]


def test_a_killed_sampler_asks_only_for_what_is_not_journaled(tmp_path: Path) -> None:
    try_kills(tmp_path / "run", 2, 60)


@pytest.mark.soak
def test_fifty_kills(tmp_path: Path) -> None:
    try_kills(tmp_path / "run", 50, 1500)
