"""The key of a server goes to that server and nowhere else."""

from __future__ import annotations

import logging
import traceback
from pathlib import Path

import odd_server
import pytest
from api_cases import go, teacher
from odd_server import OddServer, Request, served

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.sampling.teachers.api import teacher as api
from tracestill.data_pipeline.sampling.teachers.api.replies import read

CANARY = "plainwordsthatnoshapetellsofasakey"  # what it looks like gives it away to nobody
OTHER = "sk-another-key-000111222333444555666"


@pytest.fixture(autouse=True)
def _task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[3])
    monkeypatch.setattr(api, "FIRST", 0.001)
    monkeypatch.setenv("THEIR_SERVER", CANARY)  # nor does its name
    monkeypatch.setenv("OPENAI_API_KEY", OTHER)
    monkeypatch.setenv("OPENAI_ADMIN_KEY", OTHER)


def bytes_below(where: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(where.rglob("*")) if path.is_file())


@pytest.mark.parametrize("fault", [None, "500", "reset", "torn json", "html", "401", "400"])
def test_no_file_message_log_or_trace_holds_the_key(
    tmp_path: Path, fault: str | None, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Though the server says it back: in texts, in errors, in what is no JSON."""
    caplog.set_level(logging.DEBUG)

    def other(request: Request, method: str) -> tuple[int, bytes] | None:
        told = request.headers["authorization"].encode()
        return (int(fault), b'{"error": {"message": "bad key ' + told + b'"}}') if fault in ("401", "400") else None

    with served(OddServer(act=lambda request, number: fault, other=other, say=said_back)) as server:
        try:
            go(tmp_path, [teacher(server.url, api_key_env="THEIR_SERVER", concurrency=2)], attempts=2)
        except InputError as error:
            told = "".join(traceback.format_exception(error))
            assert fault
            assert CANARY not in told
        else:
            assert not fault
        assert {request.headers["authorization"] for request in server.requests} == {f"Bearer {CANARY}"}
    out, err = capfd.readouterr()
    assert CANARY not in out + err + caplog.text
    found = bytes_below(tmp_path)
    assert CANARY.encode() not in found
    if not fault:
        assert b"my key is ***" in found
        assert b"THEIR_SERVER" in found, "the recipe's name of it is in the manifest"


def said_back(body: dict, index: int) -> str:
    number = body["messages"][-1]["content"].split()[3]
    return f"my key is {CANARY}, {number} + {number} = {2 * int(number)}. The answer is {2 * int(number)}."


def test_a_server_that_wants_no_key_gets_none_from_the_environment(tmp_path: Path) -> None:
    with served(OddServer()) as server:
        go(tmp_path, [teacher(server.url)])
    assert {request.headers["authorization"] for request in server.requests} == {"Bearer none"}
    assert OTHER not in str([request.headers for request in server.requests])


def test_nothing_of_the_environment_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "theirs-org")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "theirs-project")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Gateway: theirs\nAuthorization: Bearer theirs")
    with served(OddServer()) as server:
        go(tmp_path, [teacher(server.url, api_key_env="THEIR_SERVER")], train=1)
    assert "theirs" not in str(server.requests[0].headers)
    assert server.requests[0].headers["authorization"] == f"Bearer {CANARY}"


def test_no_server_sends_requests_on_to_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with served(OddServer()) as other:
        plain = odd_server.response

        def moved(data: bytes, status: int = 200, more: str = "") -> bytes:
            where = f"location: {other.url}/chat/completions\r\n" if status == 307 else ""
            return plain(data, status, more + where)

        monkeypatch.setattr(odd_server, "response", moved)
        away = OddServer(other=lambda request, method: (307, b"{}"))
        with served(away) as server, pytest.raises(InputError, match="it sends requests on to http://127"):
            go(tmp_path, [teacher(server.url, api_key_env="THEIR_SERVER", concurrency=1)], train=1)
    assert other.requests == []


@pytest.mark.parametrize(
    ("key", "text"), [("abcde/fgh+i", r"abcde\/fgh+i"), ("abc&defghi", r"abc\u0026defghi"), ("ab.cdefgh", "ab.cdefgh")]
)
def test_a_key_is_hidden_however_json_writes_it(key: str, text: str) -> None:
    assert read(f'{{"a": "it is {text}, abXcdefgh"}}', key) == {"a": "it is ***, abXcdefgh"}


def test_a_word_in_place_of_a_key_leaves_texts_as_they_are() -> None:
    assert read('{"a": "a test"}', "test") == {"a": "a test"}


def test_a_key_that_is_missing_or_no_key_is_told_without_saying_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="the environment variable NOT_THERE is not set"):
        go(tmp_path, [teacher("http://127.0.0.1:9/v1", api_key_env="NOT_THERE")])
    monkeypatch.setenv("THEIR_SERVER", f"{CANARY}\nX-Injected: 1")
    with pytest.raises(InputError, match="holds is no key") as error:
        go(tmp_path, [teacher("http://127.0.0.1:9/v1", api_key_env="THEIR_SERVER")])
    assert CANARY not in str(error.value)


@pytest.mark.parametrize("url", ["http://user:secret@host/v1", "ftp://host", "host:8000/v1"])
def test_addresses_hold_no_password(tmp_path: Path, url: str) -> None:
    with pytest.raises(InputError, match=r"options\.url"):
        go(tmp_path, [teacher(url)])
