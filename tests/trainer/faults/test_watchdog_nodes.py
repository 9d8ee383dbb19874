"""Signs of life between nodes over a way to the store that is cut, or ends: one node's thread, and a store."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from torch.distributed import PrefixStore, TCPStore

from tracestill.trainer.faults import nodes as watchdog_nodes
from tracestill.trainer.faults.nodes import Nodes
from tracestill.trainer.ranks import heartbeat

SILENCE = 60.0  # longer than the tests wait


class Way:
    """A port that leads to another one, for the connections that are made before it is cut, or after it is mended."""

    def __init__(self, port: int) -> None:
        self.store, self.cut, self.ends = port, threading.Event(), []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self.listener.accept()
                far = socket.create_connection(("127.0.0.1", self.store))
                self.ends += [near, far]
                for source, target in ((near, far), (far, near)):
                    threading.Thread(target=self.carry, args=(source, target, self.cut), daemon=True).start()

    def carry(self, source: socket.socket, target: socket.socket, cut: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while (data := source.recv(1 << 16)) and not cut.is_set():
                target.sendall(data)
            if not cut.is_set():
                target.shutdown(socket.SHUT_WR)

    def lose_what_is_there(self) -> None:
        """From now on nothing arrives over the connections that there are; new ones are carried."""
        self.cut.set()
        self.cut = threading.Event()

    def close(self) -> None:
        for end in [self.listener, *self.ends]:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self.listener.close()


@pytest.fixture
def way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Way]:
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    made = Way(store.port)
    monkeypatch.setattr(heartbeat, "shared_memory", lambda: tmp_path)
    for name, seconds in (("TICK", 0.1), ("AGAIN", 0.5), ("REFUSED", 1.0)):
        monkeypatch.setattr(watchdog_nodes, name, seconds)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(made.port))
    yield made
    made.close()


@pytest.fixture
def nodes(way: Way) -> Iterator[Nodes]:
    """The second of two nodes."""
    made = Nodes(heartbeat.Board("token", 1, [1]), 1, [[0], [1]], ["here", "there"], "token", SILENCE)
    begun = time.monotonic()
    made.start()
    soon(lambda: made.heard > begun)
    yield made
    made.close()


def soon(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_way_that_was_cut_is_tried_anew(way: Way, nodes: Nodes) -> None:
    way.lose_what_is_there()
    time.sleep(0.3)
    cut = time.monotonic()
    soon(lambda: nodes.heard > cut)
    assert nodes.alarm is None


def test_a_store_that_is_closed_has_gone(way: Way, nodes: Nodes) -> None:
    way.close()
    soon(lambda: nodes.alarm)
    assert nodes.alarm is not None
    assert (nodes.alarm["rank"], nodes.alarm["by"]) == (0, 1)
    assert "has gone" in nodes.alarm["reason"]


def test_a_way_that_is_cut_tells_of_silence_only(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as the silence allows; connections that are made anew fail for another reason than a refusal."""

    def unreachable(*arguments: object, **more: object) -> socket.socket:
        raise OSError(113, "No route to host")

    monkeypatch.setattr(watchdog_nodes.socket, "create_connection", unreachable)
    nodes.talker = None  # the one that is connected is left behind
    time.sleep(1.5)
    assert nodes.alarm is None
    nodes.silence = 1.0
    soon(lambda: nodes.alarm)
    assert nodes.alarm is not None
    assert nodes.alarm["reason"].endswith("(here) does not answer")


def test_a_node_that_leaves_in_order_says_so(way: Way, nodes: Nodes) -> None:
    """Nobody talks for it any more, so nobody may wait for it."""
    store = PrefixStore("watch-token", TCPStore("127.0.0.1", way.store, is_master=False))
    assert store.get("node-1") != b"ended"
    nodes.close()
    assert store.get("node-1") == b"ended"


def test_the_node_that_is_silent_for_longest_was_lost(nodes: Nodes) -> None:
    now, members = time.monotonic(), [[0, 1], [2, 3], [4, 5], [6, 7]]
    nodes.members = members
    nodes.seen = {1: ("5", now - 10), 2: ("9", now - 20), 3: ("ended", now - 60)}
    assert nodes.quiet(9.0) == 4
    assert nodes.quiet(30.0) is None
    assert watchdog_nodes.LOST > 5.0 + watchdog_nodes.CONNECT, "a node that is being connected anew was not lost"
