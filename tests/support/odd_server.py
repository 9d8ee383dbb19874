"""A server with OpenAI's API on loopback, in a thread of this process, that does as a test tells it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

FAULTS = (
    *("429", "429 later", "500", "503", "reset", "drip", "cut", "torn json", "bad utf-8", "html", "nested"),
    *("duplicate ids", "no choices", "no text", "too many", "too few"),
)


@dataclass
class Request:
    path: str
    headers: dict[str, str]
    body: Any
    at: float


@dataclass
class OddServer:
    """``act(request, number)`` names a fault, or None; ``say(body, index)`` gives the text of one choice."""

    act: Callable[[Request, int], str | None] = lambda request, number: None
    say: Callable[[dict[str, Any], int], str] = lambda body, index: answer_to(body, index)
    seconds: float = 0.0  # an answer takes
    extra: Callable[[dict[str, Any]], dict[str, Any]] = lambda body: {}  # fields of each message
    requests: list[Request] = field(default_factory=list)
    under_way: int = 0
    moments: list[tuple[float, int]] = field(default_factory=list)  # when that changed, and to what
    url: str = ""
    other: Callable[[Request, str], tuple[int, bytes] | None] | None = None  # answers for other paths

    def count(self, by: int) -> None:
        self.under_way += by
        self.moments.append((time.monotonic(), self.under_way))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = head.decode("latin-1").split("\r\n")
                method, path, _ = lines[0].split(" ", 2)
                headers = {n.lower(): v for n, _, v in (line.partition(": ") for line in lines[1:] if line)}
                if "chunked" in headers.get("transfer-encoding", ""):
                    data = b""
                    while size := int(await reader.readline(), 16):
                        data += (await reader.readexactly(size + 2))[:-2]
                    await reader.readline()
                else:
                    data = await reader.readexactly(int(headers.get("content-length", 0)))
                await self.respond(method, path, headers, data, writer)
                if writer.is_closing():
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def respond(
        self, method: str, path: str, headers: dict[str, str], data: bytes, writer: asyncio.StreamWriter
    ) -> None:
        body = json.loads(data) if headers.get("content-type", "").startswith("application/json") and data else data
        request = Request(path, headers, body, time.monotonic())
        self.requests.append(request)
        if self.other is not None and (found := self.other(request, method)) is not None:
            status, said = found
            writer.write(response(said, status))
            await writer.drain()
            return
        self.count(1)
        try:
            if self.seconds:
                await asyncio.sleep(self.seconds)
        finally:
            self.count(-1)
        await misbehave(self.act(request, len(self.requests) - 1), self.reply(body), writer)

    def reply(self, body: dict[str, Any]) -> dict[str, Any]:
        chat = "messages" in body
        choices = []
        for index in range(body.get("n", 1)):
            text = self.say(body, index)
            held = {"message": {"role": "assistant", "content": text, **self.extra(body)}} if chat else {"text": text}
            choices.append({"index": index, "finish_reason": "stop", **held})
        usage = {"prompt_tokens": 10, "completion_tokens": 5 * len(choices), "total_tokens": 0}
        id_ = hashlib.sha256(json.dumps(body).encode()).hexdigest()[:12]
        return {"id": id_, "object": "chat.completion", "model": body["model"], "choices": choices, "usage": usage}


def answer_to(body: dict[str, Any], index: int) -> str:
    """Right, for questions of their_tasks.noted; different for each seed and index."""
    users = [message["content"] for message in body.get("messages", ()) if message["role"] == "user"]
    asked = users[-1] if users else body["prompt"]
    number = asked.partition("How much is ")[2].partition(" ")[0]
    return f"{number} + {number} = {2 * int(number)} {body.get('seed')}.{index}\nThe answer is {2 * int(number)}."


def response(data: bytes, status: int = 200, more: str = "") -> bytes:
    head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n{more}\r\n"
    return head.encode() + data


async def misbehave(fault: str | None, reply: dict[str, Any], writer: asyncio.StreamWriter) -> None:
    good = json.dumps(reply).encode()
    if fault in ("429", "429 later", "500", "503"):
        more = "retry-after: 0.05\r\n" if fault == "429 later" else ""
        writer.write(response(b'{"error": {"message": "not now"}}', int(fault[:3]), more))
    elif fault == "reset":
        writer.transport.abort()
        return
    elif fault == "drip":
        data = response(good)
        for at in range(len(data)):
            writer.write(data[at : at + 1])
            await writer.drain()
            await asyncio.sleep(0.1)
    elif fault == "cut":
        writer.write(response(good)[:-20])
        await writer.drain()
        writer.close()
        return
    else:
        choices = reply["choices"]
        if fault == "duplicate ids":
            reply["id"] = "the same"
            reply["choices"] = [{**choice, "index": 0} for choice in choices]
        elif fault == "no choices":
            reply["choices"] = []
        elif fault == "no text":
            reply["choices"] = [{"index": 0, "message": {"role": "assistant", "content": None}, "text": None}]
        elif fault == "too many":
            reply["choices"] = [*choices, *choices]
        elif fault == "too few":
            reply["choices"] = choices[:-1] or choices
        texts = {
            "torn json": good[: len(good) // 2],
            "bad utf-8": good.replace(b"answer", b"\xff\xfe"),
            "html": b"<html>Bad Gateway</html>",
            "nested": b"[" * 100_000,
        }
        writer.write(response(texts.get(fault or "", json.dumps(reply).encode())))
    await writer.drain()


@contextmanager
def served(server: OddServer) -> Iterator[OddServer]:
    """The server in work, at ``server.url``."""
    loop = asyncio.new_event_loop()
    ready = threading.Event()

    async def begin() -> asyncio.Server:
        listening = await asyncio.start_server(server.serve, "127.0.0.1", 0, limit=1 << 20, backlog=1024)
        server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1"
        ready.set()
        return listening

    def run() -> None:
        loop.run_until_complete(begin())
        loop.run_forever()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
