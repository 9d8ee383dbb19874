"""Signs of life between nodes: the first rank of each writes into the store through which the ranks met.

Everybody talks to the store only, which lives in rank 0's process (or its launcher's): one write and one question a
second and node. The node of rank 0 looks at all the others; the others take an answer of the store for its sign.

A network that was cut and comes back carries a new connection at once, but an old one only when TCP tries again, which
may be as long after as the cut lasted. So who waits for an answer too long is left behind, and another one asks.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from torch.distributed import PrefixStore, TCPStore

from tracestill.trainer.faults.failure import EXIT_FAILED, NO_ANSWER
from tracestill.trainer.ranks.heartbeat import Board

TICK = 1.0
REFUSED = 5.0  # seconds for which a store may refuse to be talked to: then its process has ended
AGAIN = 5.0  # seconds without an answer after which a new connection is tried
CONNECT = 3.0  # seconds that it may take
LOST = AGAIN + CONNECT + TICK  # seconds without a sign of life after which a node is not just being connected anew
FAREWELL = 2.0  # seconds that the last exchange may take


class Nodes(threading.Thread):
    """A thread of each node's first rank. ``alarm`` becomes the first one of another node."""

    def __init__(
        self,
        board: Board,
        node: int,
        members: Sequence[Sequence[int]],
        hosts: Sequence[str],
        token: str,
        silence: float,
    ) -> None:
        """``members`` are the ranks of each node, ``hosts`` its name; ``node`` is this one."""
        super().__init__(name="watchdog between nodes", daemon=True)
        self.board, self.node, self.members, self.token, self.silence = board, node, members, token, silence
        self.mute = [f"gave no sign of life for {silence:g} s: its node ({host}) {NO_ANSWER}" for host in hosts]
        self.found: dict[str, Any] | None = None
        self.heard = self.tried = time.monotonic()
        self.talker: threading.Thread | None = None
        self.broken: float | None = None  # since when the store refuses
        self.closed = threading.Event()
        self.seen: dict[int, tuple[str, float]] = {}

    @property
    def alarm(self) -> dict[str, Any] | None:
        """The alarm of another node, or one about the silence of rank 0's."""
        now = time.monotonic()
        if self.found is None and now - self.heard > self.silence:
            return self.about(0, self.mute[0])
        if self.found is None and self.broken is not None and now - self.broken > REFUSED:
            return self.about(0, "has gone: the store in its process is closed")
        return self.found

    def about(self, node: int, reason: str) -> dict[str, Any]:
        rank = self.members[node][0]
        own = {"rank": self.members[self.node][0], "phase": "?", "step": 0, "ended": False}
        for row in self.board.read()[:1]:
            own = {"rank": row.rank, "phase": row.phase, "step": row.step, "ended": row.ended}
        by = {"by": own["rank"], "host": socket.gethostname()}
        return {"rank": rank, "reason": reason, "code": EXIT_FAILED, "time": "", **by, "ranks": [own], "traceback": ""}

    def run(self) -> None:
        """Keep somebody talking to the store."""
        while not self.closed.wait(TICK):
            now = time.monotonic()
            if self.talker is None or now - max(self.heard, self.tried) > AGAIN:
                self.tried = now
                self.talker = threading.Thread(target=self.talk, name="watchdog's talk to the store", daemon=True)
                self.talker.start()

    def talk(self) -> None:
        store = None
        while self.talker is threading.current_thread():
            last = self.closed.wait(TICK)
            if last and store is None:
                return
            try:
                store = store or self.connect()
                self.exchange(store)
                self.heard, self.broken = time.monotonic(), None
            except ConnectionRefusedError:
                store = None
                self.broken = self.broken or time.monotonic()
            except (OSError, RuntimeError):  # torch's DistNetworkError is one
                store = None
            if last:
                return

    def connect(self) -> PrefixStore:
        """Raises ConnectionRefusedError if nobody listens there any more, OSError if the way there is cut."""
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        socket.create_connection((address, port), timeout=CONNECT).close()  # torch's would not tell one from the other
        store = TCPStore(address, port, is_master=False, timeout=timedelta(seconds=self.silence))
        return PrefixStore(f"watch-{self.token}", store)

    def exchange(self, store: PrefixStore) -> None:
        """Say that this node lives, and hear of the others."""
        beats = sum(row.beats for row in self.board.read())
        store.set(f"node-{self.node}", "ended" if self.closed.is_set() else str(beats))
        own = self.board.alarm
        if own is not None:
            store.compare_set("alarm", "", json.dumps(own))
        if store.check(["alarm"]):
            self.found = json.loads(store.get("alarm"))
        if self.node == 0:
            self.look(store)

    def look(self, store: PrefixStore) -> None:
        """On the node of rank 0: an alarm if another node's number stands still."""
        now = time.monotonic()
        for node in range(1, len(self.members)):
            key = f"node-{node}"
            value = store.get(key).decode() if store.check([key]) else ""
            before, since = self.seen.setdefault(node, (value, now))
            if before != value:
                self.seen[node] = (value, now)
            elif value != "ended" and now - since > self.silence:
                self.found = self.about(node, self.mute[node])

    def quiet(self, seconds: float) -> int | None:
        """The first rank of the node that was silent for longest, if for so many seconds; only rank 0's node knows."""
        now = time.monotonic()
        still = [(now - since, node) for node, (value, since) in list(self.seen.items()) if value != "ended"]
        longest, node = max(still, default=(0.0, 0))
        return self.members[node][0] if longest > seconds else None

    def close(self) -> None:
        """Nobody need expect a sign of life any more: the talker says so, if it can at once."""
        self.closed.set()
        if self.talker is not None and self.talker.ident is not None:  # made, and not started yet: it will not speak
            self.talker.join(FAREWELL)
