"""How many requests may be under way: as many as the recipe says, fewer while the server says that it is busy.

Additive increase, multiplicative decrease (Chiu and Jain 1989, "Analysis of the increase and decrease algorithms"): a
busy server halves it, at most once for those that were sent together; each answer raises it a little.
"""

from __future__ import annotations

import asyncio
from collections import deque

LESS = 0.5


class Limit:
    """As an asynchronous context manager around one request; of one event loop."""

    def __init__(self, most: int) -> None:
        self.most, self.now, self.under_way = most, float(most), 0
        self.lowered = float("-inf")  # when it was lowered last, on the loop's clock
        self.until = 0.0  # nobody sends before
        self.waiting: deque[asyncio.Future[None]] = deque()

    async def __aenter__(self) -> float:
        """When the request was let through, on the loop's clock."""
        loop = asyncio.get_running_loop()
        while True:
            if (wait := self.until - loop.time()) > 0:
                await asyncio.sleep(wait)
            elif self.under_way < max(1, int(self.now)):
                self.under_way += 1
                return loop.time()
            else:
                self.waiting.append(loop.create_future())
                await self.waiting[-1]

    async def __aexit__(self, *_: object) -> None:
        self.under_way -= 1
        self.wake()

    def wake(self) -> None:
        free = max(1, int(self.now)) - self.under_way
        while self.waiting and free > 0:
            if not (next_ := self.waiting.popleft()).done():
                next_.set_result(None)
                free -= 1

    def answered(self) -> None:
        if self.now < self.most:
            self.now = min(float(self.most), self.now + 1 / max(1.0, self.now))

    def busy(self, sent: float, wait: float) -> None:
        """The server was busy for a request of the time ``sent``, and asks everybody to wait so many seconds."""
        now = asyncio.get_running_loop().time()
        self.until = max(self.until, now + wait)
        if sent > self.lowered:
            self.now, self.lowered = max(1.0, min(self.now, self.under_way) * LESS), now
