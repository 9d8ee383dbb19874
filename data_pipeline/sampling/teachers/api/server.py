"""One server, through the openai client: a request goes out, and bytes come back, or a trouble with a name."""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import importlib
import os
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.guards.secret import mask
from tracestill.data_pipeline.sampling.teachers.api.options import TeacherOptions

BUSY = {429, 503, 529}
LATER = {408, 409, 425}
HOPELESS = {  # for every sample alike
    401: "the key is not accepted",
    402: "the account has no money left",
    403: "this key may not ask for it",
    404: "it knows no such model, or the address is wrong",
}
ERROR_BYTES = 1 << 16  # of an answer that says what is wrong
LONGEST = 600.0  # seconds that a server is obeyed when it says how long to wait
NO_KEY = "none"  # what a server gets that wants no key
SENT = {  # headers; the client would add others from the environment: OPENAI_ORG_ID, OPENAI_CUSTOM_HEADERS…
    *(b"host", b"connection", b"accept", b"accept-encoding", b"content-type", b"content-length"),
    *(b"transfer-encoding", b"user-agent"),
}


class Trouble(Exception):
    """A request that came to nothing, and may be sent again."""

    def __init__(self, detail: str, *, busy: bool = False, wait: float = 0.0, billed: bool = True) -> None:
        """``busy``: it does not count as an attempt; ``wait``: seconds that the server asks for; ``billed``: whether
        it may cost money all the same."""
        super().__init__(detail)
        self.busy, self.wait, self.billed = busy, wait, billed


class Refused(Exception):
    """This request comes to nothing however often it is sent."""

    def __init__(self, reason: str, detail: str, *, billed: bool) -> None:
        super().__init__(detail)
        self.reason, self.billed = reason, billed


class TooLarge(Exception):
    """More bytes than are read."""


class Elsewhere(Exception):
    """A server sends a request on to another one; the message says where."""


def key_of(options: TeacherOptions) -> str:
    """The key, from the environment variable that the recipe names. Raises InputError that does not say it."""
    name = options.api_key_env
    if name is None:
        return ""
    key = os.environ.get(name, "").strip()
    if not key:
        raise InputError(f"options.api_key_env: the environment variable {name} is not set")
    if not all("!" <= character <= "~" for character in key):
        raise InputError(f"options.api_key_env: what {name} holds is no key: blanks, or not ASCII")
    return key


class Server:
    """An asynchronous context manager. Nothing that it returns or raises holds the key."""

    def __init__(self, options: TeacherOptions, teacher: str) -> None:
        """Raises InputError without the openai client, or without the key."""
        self.options, self.teacher = options, teacher
        self.key = key_of(options)
        try:
            self.openai = importlib.import_module("openai")
            importlib.import_module("tenacity")
        except ImportError as error:
            raise InputError(
                f"teacher '{teacher}': use: api needs the openai client ({error}); pip install 'tracestill[api]'"
            ) from error
        base = next(c for c in self.openai.DefaultAsyncHttpxClient.__mro__ if c.__name__ == "AsyncClient")
        self.http = importlib.import_module(base.__module__.partition(".")[0])  # httpx, or what newer clients stand on
        self.host = place_of(self.http.URL(options.url))
        self.answered = False  # whether it has ever

    async def __aenter__(self) -> Server:
        timeout = self.openai.Timeout(self.options.timeout, connect=min(30.0, self.options.timeout), pool=None)
        self.client = self.openai.AsyncOpenAI(
            api_key=self.key or NO_KEY,
            base_url=self.options.url,
            max_retries=0,
            timeout=timeout,
            default_headers={"Accept-Encoding": "identity"},  # a small answer could unfold to a huge one
            http_client=self.http_client(timeout),
        )
        return self

    def http_client(self, timeout: Any) -> Any:
        """On aiohttp, which takes less than half as much of the processor, if it is there."""
        hooks = {"request": [self.only_ours], "response": [self.cap]}
        with contextlib.suppress(AttributeError, RuntimeError):
            return self.openai.DefaultAioHttpClient(timeout=timeout, event_hooks=hooks)
        return self.openai.DefaultAsyncHttpxClient(timeout=timeout, event_hooks=hooks)

    async def __aexit__(self, *_: object) -> None:
        await self.client.close()

    async def only_ours(self, request: Any) -> None:
        """Send nothing but what the recipe says, and that to its address alone. Raises Elsewhere."""
        if place_of(request.url) != self.host:
            raise Elsewhere(f"{request.url.scheme}://{request.url.netloc.decode('ascii')}{request.url.path}")
        kept = [(name, value) for name, value in request.headers.raw if name.lower() in SENT]
        key = f"Bearer {self.key or NO_KEY}".encode("ascii")
        request.headers = self.http.Headers([*kept, (b"Authorization", key)])

    async def cap(self, response: Any) -> None:
        """Let no more of an answer be read than is allowed; of what says what is wrong, the beginning is enough."""
        packed = response.headers.get("content-encoding", "identity").lower() not in ("", "identity")
        if response.status_code >= 400:
            response.stream = capped(self.http, response.stream, 0 if packed else ERROR_BYTES, cut=True)
        elif packed:
            response.stream = capped(self.http, response.stream, 0, "it is compressed, though it was asked not to be")
        elif not (
            self.options.batch and response.request.url.path.endswith("/content")
        ):  # files of batches are as long as they are
            response.stream = capped(self.http, response.stream, self.options.max_bytes)

    async def post(self, path: str, body: Mapping[str, Any]) -> bytes:
        """Raises Trouble, Refused, or InputError for what is wrong with every request."""
        try:
            work = self.client.post(path, cast_to=self.http.Response, body=body)
            response = await asyncio.wait_for(work, self.options.timeout)
        except Exception as error:
            raise self.told(error) from None  # what it came from holds the request's headers
        self.answered = True
        return bytes(response.content)

    def told(self, error: Exception) -> Exception:
        """What an exception of the client comes to."""
        who = f"teacher '{self.teacher}': {self.options.url}"
        cause, names = error.__cause__ or error, list[str]()
        while cause.__cause__ is not None and not isinstance(cause, TooLarge | Elsewhere):
            names.append(type(cause).__name__)
            cause = cause.__cause__
        if isinstance(cause, TooLarge):
            return Refused("too_large", f"{who}: {cause}", billed=True)
        if isinstance(cause, Elsewhere):
            return InputError(self.clean(f"{who}: it sends requests on to {cause}; if you trust that, make it the url"))
        if isinstance(error, self.openai.APIStatusError):
            return self.of_status(error, who)
        names.append(type(cause).__name__)
        connecting = is_connecting(names)
        if isinstance(cause, asyncio.TimeoutError | TimeoutError) and not connecting:
            return Trouble(f"no whole answer within {self.options.timeout:g} s")
        if isinstance(error, self.openai.APIConnectionError):
            detail = self.clean(f"{type(cause).__name__}: {cause}")
            return Trouble(detail, busy=connecting and self.answered, billed=not connecting)
        return Trouble(self.clean(f"{type(error).__name__}: {error}"))

    def of_status(self, error: Any, who: str) -> Exception:
        status = error.status_code
        said = self.clean(" ".join(str(error).split()))[:300]
        if status in HOPELESS or getattr(error, "code", None) == "insufficient_quota":
            why = HOPELESS.get(status, HOPELESS[402])
            return InputError(f"{who}: {why} ({said}); samples are kept, mend it and run again")
        self.answered = True
        if status in BUSY:
            return Trouble(said, busy=True, wait=seconds_to_wait(error.response.headers), billed=False)
        if status >= 500 or status in LATER:
            return Trouble(said, wait=seconds_to_wait(error.response.headers), billed=False)
        return Refused("refused", f"{who}: {said}", billed=False)

    def clean(self, text: str) -> str:
        """A text without the key."""
        return mask(text.replace(self.key, "***") if self.key else text)


def place_of(url: Any) -> tuple[str, str, int | None]:
    """Scheme, host and port; a port that goes without saying is None."""
    return url.scheme, url.host, url.port


def is_connecting(names: list[str]) -> bool:
    """Whether a request never got through, by the names of the exceptions that led to each other. A connection that is
    lost later is a ConnectTimeout too, where the client stands on aiohttp: there aiohttp's own name tells."""
    of_aiohttp = [name for name in names if name.startswith(("Client", "Server", "ConnectionTimeout"))]
    if of_aiohttp:
        return any(name.startswith(("ClientConnector", "ClientProxy", "ConnectionTimeout")) for name in of_aiohttp)
    return "ConnectError" in names or "ConnectTimeout" in names


def seconds_to_wait(headers: Mapping[str, str]) -> float:
    """What ``Retry-After`` asks for, in seconds or as a date; 0 if it does not, or makes no sense."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        text = headers.get(name, "").strip()
        try:
            wait = float(text) * unit
        except ValueError:
            try:
                wait = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
            except (TypeError, ValueError, OverflowError):
                continue
        if 0 <= wait < float("inf"):
            return min(wait, LONGEST)
    return 0.0


def capped(http: Any, stream: Any, most: int, why: str = "", *, cut: bool = False) -> Any:
    """The stream of a response, of which ``most`` bytes are read; more raise TooLarge, or are ``cut`` off."""

    class Capped(http.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            left = most
            async for chunk in stream:
                left -= len(chunk)
                if left < 0 and cut:
                    if left + len(chunk) > 0:
                        yield chunk[: left + len(chunk)]
                    return
                if left < 0:
                    raise TooLarge(why or f"its answer is longer than max_bytes = {most:,}")
                yield chunk

        async def aclose(self) -> None:
            await stream.aclose()

    return Capped()
