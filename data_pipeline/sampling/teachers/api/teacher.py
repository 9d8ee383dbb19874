"""Asks a server for many samples at a time, each again until it comes or is known not to."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import random
import time
from typing import TYPE_CHECKING, Any

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.sampling.asking.desk import Desk, NotAsked
from tracestill.data_pipeline.sampling.teachers import Ask, Failed
from tracestill.data_pipeline.sampling.teachers.api import batch
from tracestill.data_pipeline.sampling.teachers.api.bodies import PATHS, body_of, most_tokens, prefill_of
from tracestill.data_pipeline.sampling.teachers.api.limit import Limit
from tracestill.data_pipeline.sampling.teachers.api.options import TeacherOptions
from tracestill.data_pipeline.sampling.teachers.api.replies import Malformed, Reply, reply_of
from tracestill.data_pipeline.sampling.teachers.api.server import Refused, Server, Trouble

if TYPE_CHECKING:
    from tenacity import RetryCallState

FIRST, LAST = 0.5, 30.0  # seconds before the second attempt, about, and before any later one at most
BUDGET = "budget"
MONEY = 0.05  # seconds between two looks whether money has come back


class OutOfMoney(Exception):
    """The budget does not pay for this request."""


class Teacher:
    def __init__(self, options: TeacherOptions) -> None:
        self.options, self.price = options, options.price

    def answer(self, desk: Desk) -> None:
        """Raises InputError for what is wrong with every request: the key, the model, the address."""
        asyncio.run(self.work(desk))

    async def work(self, desk: Desk) -> None:
        async with Server(self.options, desk.teacher) as server:
            asking = Asking(self.options, desk, server)
            await (batch.work(asking) if self.options.batch else asking.work())


class Asking:
    """One teacher's work in one run."""

    def __init__(self, options: TeacherOptions, desk: Desk, server: Server) -> None:
        self.options, self.desk, self.server = options, desk, server
        self.limit = Limit(options.concurrency)
        self.more = asyncio.Event()
        self.put_aside: dict[str, float] = {}  # ask id -> money, of requests in batches
        self.loop = asyncio.get_running_loop()
        desk.bell = self.ring
        self.tenacity = importlib.import_module("tenacity")
        self.again = self.tenacity.retry_if_exception_type(Trouble)
        self.pause = self.tenacity.wait_random_exponential(multiplier=FIRST, max=LAST)

    def ring(self) -> None:
        """Called by the sampler's thread."""
        with contextlib.suppress(RuntimeError):  # the loop has ended, and so has what is to be rung for
            self.loop.call_soon_threadsafe(self.more.set)

    async def work(self) -> None:
        """Keep as many requests under way as may be, until there is nothing left to ask."""
        running: set[asyncio.Task[None]] = set()
        room = asyncio.Semaphore(self.options.concurrency)
        broken: list[BaseException] = []

        def end(task: asyncio.Task[None]) -> None:
            running.discard(task)
            room.release()
            if not task.cancelled() and (error := task.exception()) is not None:
                broken.append(error)
                self.more.set()

        try:
            while not broken:
                await room.acquire()
                group = await self.group(broken)
                if not group:
                    break
                task = asyncio.create_task(self.ask(group))
                running.add(task)
                task.add_done_callback(end)
            while running and not broken:
                await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        if broken:
            raise broken[0]

    async def group(self, broken: list[BaseException]) -> list[Ask]:
        """The next samples that one request can ask for; none at the end."""
        while not broken:
            self.more.clear()
            if (found := self.desk.taken(self.options.n, alike)) is None:
                break
            if found:
                return found
            await self.more.wait()
        return []

    async def ask(self, group: list[Ask]) -> None:
        """Give an answer to each of a group."""
        left, short = list(group), 0
        while left:
            try:
                reply = await self.reply(left)
            except OutOfMoney:
                for ask in left:
                    self.desk.give(ask, NotAsked())
                return
            except Refused as error:
                for ask in left:
                    self.desk.give(ask, Failed(error.reason, str(error)))
                return
            except Trouble as error:
                for ask in left:
                    self.desk.give(ask, self.failed(ask, error))
                return
            for said in reply.choices:
                self.desk.give(left.pop(0), said)
            short += 1
            if left and short >= max(self.desk.attempts, len(group)):
                for ask in left:
                    self.desk.give(ask, self.failed(ask, Trouble("it gives fewer choices than it is asked for")))
                return

    def failed(self, ask: Ask, error: Trouble) -> Failed:
        times = f"{self.desk.attempts} times"
        if error.busy:
            times = f"for {self.options.patience:g} s"
        return Failed(
            "failed", f"teacher '{self.desk.teacher}' failed {times} on question {ask.question.question_id} ({error})"
        )

    async def reply(self, group: list[Ask]) -> Reply:
        """Raises OutOfMoney, Refused, Trouble if it has been asked as often as may be, or InputError.

        Pauses between attempts grow and differ. A server that says it is busy costs no attempt, but patience.
        """
        body = body_of(self.options, group[0], len(group))
        faults, since = 0, 0.0

        async def attempt() -> Reply:
            nonlocal faults, since
            try:
                return await self.once(body, group)
            except Trouble as error:
                faults += not error.busy
                since = since or time.monotonic()
                raise

        def stop(state: RetryCallState) -> bool:
            late = raised(state).busy and time.monotonic() - since > self.options.patience
            return late or faults >= self.desk.attempts

        def wait(state: RetryCallState) -> float:
            return self.pause(state) + raised(state).wait

        try:
            return await attempt()
        except Trouble as error:  # tenacity costs more than all else here, so that only what fails pays for it
            if faults >= self.desk.attempts:
                raise
            await asyncio.sleep(random.uniform(0, FIRST) + error.wait)
        retrying = self.tenacity.AsyncRetrying(retry=self.again, stop=stop, wait=wait, reraise=True)
        found: Reply = await retrying(attempt)
        return found

    async def once(self, body: dict[str, Any], group: list[Ask]) -> Reply:
        """One attempt, paid for. Raises Stopped."""
        self.desk.look()
        most = await self.reserve(body)
        cost = most
        async with self.limit as sent:
            try:
                data = await self.server.post(PATHS[self.options.mode], body)
                reply = reply_of(data, len(group), prefill_of(self.options, group[0]), self.server.key)
                cost = self.cost(reply, most)
                self.limit.answered()
                return reply
            except Malformed as error:
                raise Trouble(str(error)) from None
            except Trouble as error:
                cost = most if error.billed else 0.0
                if error.busy:
                    self.limit.busy(sent, error.wait)
                raise
            except Refused as error:
                cost = most if error.billed else 0.0
                raise
            except InputError:
                cost = 0.0
                raise
            finally:
                self.desk.ledger.settle(most, cost)

    def cost(self, reply: Reply, most: float) -> float:
        """What an answer has cost; where the server does not say how many tokens it was, the most it can have."""
        if self.options.price is None:
            return 0.0
        if reply.read is None or reply.written is None:
            return most
        cost = self.options.price.of(reply.read, reply.written)
        for said in reply.choices:
            if not isinstance(said, Failed) and said.details is not None:
                said.details["cost"] = cost / len(reply.choices)
        return cost

    async def reserve(self, body: dict[str, Any]) -> float:
        """Put aside what a request may cost at most, waiting for what others give back. Raises OutOfMoney."""
        if self.options.price is None:
            return 0.0
        most = self.options.price.of(*most_tokens(self.options, body))
        ledger = self.desk.ledger
        while not ledger.reserve(most, lambda drawn: self.desk.note(BUDGET, repr(drawn))):
            if not ledger.under_way:
                raise OutOfMoney
            await asyncio.sleep(MONEY)
            self.desk.look()
        return most


def raised(state: RetryCallState) -> Trouble:
    """By the attempt before."""
    error = state.outcome.exception() if state.outcome is not None else None
    return error if isinstance(error, Trouble) else Trouble("")


def alike(ask: Ask, other: Ask) -> bool:
    """Whether one request can ask for both."""

    def what(ask: Ask) -> tuple[Any, ...]:
        return ask.question.question_id, ask.style, ask.temperature, ask.begun, ask.body

    return what(ask) == what(other) and not (ask.as_is or other.as_is)
