"""A watchdog in every rank: when one rank dies, falls silent or hangs, all end soon, and say which one it was.

A thread beats once a second (see ``heartbeat``) and looks at the other ranks of its node; the first rank of each node
also exchanges signs of life with the other nodes (see ``faults.nodes``). The loop only notes which phase it is in:
a few writes to memory. The first that notices something raises the alarm; then every rank writes the stacks of its
threads into ``failures/`` and ends, and ranks that cannot are killed by their neighbours.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import re
import signal
import socket
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NoReturn

import torch.distributed as dist

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.room import told_of
from tracestill.data_pipeline.guards.secret import mask
from tracestill.data_pipeline.models import own_code
from tracestill.trainer.faults.failure import EXIT_FAILED, FAILURE, FAILURES, NO_ANSWER, code_of, read_failure, told
from tracestill.trainer.faults.nodes import LOST, Nodes
from tracestill.trainer.faults.stopping import EXIT_STOPPED
from tracestill.trainer.ranks import heartbeat
from tracestill.trainer.ranks.collectives import share_text
from tracestill.trainer.ranks.console import say
from tracestill.trainer.ranks.heartbeat import Board, Row
from tracestill.trainer.ranks.phases import Phase
from tracestill.trainer.ranks.placement import find_placement
from tracestill.trainer.recipe.settings import WatchdogConfig

TICK = 1.0  # seconds between two beats
GRACE = 3.0  # seconds between the alarm and the end: the other ranks write their stacks
PATIENCE = 3 * GRACE  # seconds after which the end comes even if they cannot be written
LIMITS = {"start": "start", "load": "save", "measure": "save", "save": "save", "finish": "save"}  # else: step
OF_OTHERS = re.compile(r"gloo|NCCL|ProcessGroup|TCPStore|[Cc]onnection|[Ss]ocket|Broken pipe|DistBackend")


class Watchdog:
    """Watches over the ranks of one training while its ``with`` block lasts; made on every rank, once they have met."""

    def __init__(self, directory: Path, settings: WatchdogConfig) -> None:
        """``directory`` is the train directory; failure.json and the folder failures/ appear there."""
        self.directory, self.settings = directory, settings
        self.rank, self.host = dist.get_rank(), socket.gethostname()
        placement = find_placement()
        members, here = placement.ranks, placement.here
        token = share_text(uuid.uuid4().hex)
        if self.rank == placement.first:
            heartbeat.sweep()
            with contextlib.suppress(OSError):  # an error here would leave the others in the barrier below
                (directory / FAILURE).unlink(missing_ok=True)
        self.board = Board(token, self.rank, members[here])
        self.current: Phase = "start"
        self.first_step: int | None = None
        self.phase("start", 0)
        dist.barrier()  # every board is mapped, and has a first row
        self.apart = len(members) > 1
        leads = self.apart and self.rank == placement.first
        own = (here, members, placement.hosts)
        self.nodes = Nodes(self.board, *own, token, settings.silence) if leads else None
        self.parent = os.getppid() if "LOCAL_SIZE" in os.environ else None  # DeepSpeed's launcher sets it
        self.terminated: float | None = None  # since when
        self.lossless = False  # whether nothing was lost by an end when that came
        self.failing = False  # this rank has raised something, whose cause counts for more than a SIGTERM
        self.closed = threading.Event()
        self.seen: dict[tuple[int, str], tuple[int, float]] = {}
        self.thread = threading.Thread(target=self.watch, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        signal.signal(signal.SIGTERM, self.on_sigterm)
        self.thread.start()
        if self.nodes:
            self.nodes.start()
        return self

    def __exit__(self, raised: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        """This rank leaves the others in an orderly way; they no longer expect signs of life from it."""
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self.board.end()
        self.closed.set()
        self.thread.join()
        if self.nodes:
            self.nodes.close()
        if raised is None and not any(
            heartbeat.lives(row.pid, row.born) and not row.ended for row in self.board.read()
        ):
            self.board.remove()  # the last one

    def on_sigterm(self, number: int, frame: FrameType | None) -> None:
        """Outside the loop, which saves and stops on it. The launcher sends it when a rank has died, so look first."""
        if self.terminated is None:
            self.lossless = self.first_step is None or self.current == "finish"  # all steps are saved then
            self.terminated = time.monotonic()

    def hand_over(self) -> bool:
        """Whether SIGTERM has come and waits for ``look``: from now on that is for the caller to act upon."""
        came, self.terminated = self.terminated is not None, None
        return came

    def phase(self, name: Phase, step: int) -> None:
        """Hears of phases (``Phases.subscribe``). The first step may take as long as a start: it compiles."""
        if self.first_step is None and name == "forward":
            self.first_step = step
        limit = LIMITS.get(name, "start" if step == self.first_step else "step")
        self.board.enter(name, step, getattr(self.settings, limit))
        self.current = name

    def fail(self, error: BaseException) -> bool:
        """Raise the alarm for an exception of this rank. Whether it is the first: only that one need be printed.

        An exception that tells of a broken connection waits a moment for the rank that broke it to be found. The alarm
        goes through memory, and before anything is written: the disk may be what does not answer.
        """
        self.failing = True
        text = mask("".join(traceback.format_exception(error)))
        rank, reason = self.rank, mask(f"raised {type(error).__name__}: {error}".splitlines()[0])
        if not isinstance(error, InputError) and OF_OTHERS.search(text):
            # the watchdog ends this process meanwhile if it finds the cause
            time.sleep((LOST if self.apart else GRACE) + 2 * TICK)
            quiet = self.nodes.quiet(LOST) if self.nodes else None
            if quiet is not None:
                rank, reason = quiet, f"was lost: its node gives no sign of life, and rank {self.rank} {reason}"
        first = self.raise_alarm(self.alarm(rank, reason, code=code_of(error), text=text))
        leave_word(self.directory / FAILURES / f"rank-{self.rank:05d}.txt", text)
        if self.nodes:
            time.sleep(2 * TICK)  # let the other nodes read it
        return first

    def over(self, work: Callable[[], int]) -> int:
        """Do a rank's work, and return its exit code; an exception becomes an alarm, printed if it is the first."""
        try:
            return work()
        except Exception as found:
            error = told_of(found, self.directory, "checkpoints committed before are kept") or found
            code = code_of(error)
            if self.fail(error):
                text = traceback.format_exc() if code == EXIT_FAILED else f"error: {error}"
                say(mask(text.rstrip("\n")), err=True)
            return code

    def alarm(self, rank: int, reason: str, *, code: int = EXIT_FAILED, text: str = "") -> dict[str, Any]:
        rows = [
            {"rank": row.rank, "phase": row.phase, "step": row.step, "ended": row.ended} for row in self.board.read()
        ]
        when = datetime.now(timezone.utc).isoformat(timespec="seconds")
        return {
            **{"rank": rank, "reason": reason, "code": code, "by": self.rank, "host": self.host, "time": when},
            **{"ranks": rows, "traceback": text},
        }

    def raise_alarm(self, alarm: dict[str, Any]) -> bool:
        if not self.board.raise_alarm(alarm):
            return False
        if alarm["code"] == EXIT_STOPPED:
            return True  # no failure
        before = read_failure(self.directory)
        if before is None or (0 in self.board.neighbours and before["reason"].endswith(NO_ANSWER)):
            # the network was cut, so both sides say that the other is silent: what the side of rank 0 says counts
            leave_word(self.directory / FAILURE, json.dumps(alarm, indent=1) + "\n")
        return True

    def watch(self) -> None:
        """The thread: beat, look, and end the process on the first alarm."""
        last = time.monotonic()
        while not self.closed.wait(TICK):
            self.board.beat()
            now = time.monotonic()
            if now - last > 5 * TICK:
                self.seen.clear()  # this process stood still itself, so it cannot tell for how long others did
            last = now
            alarm = self.board.alarm or (self.nodes.alarm if self.nodes else None) or self.look(now)
            if alarm:
                if alarm["code"] == EXIT_STOPPED:
                    self.stop(alarm)
                if alarm["code"] != EXIT_FAILED and self.closed.wait(GRACE):
                    return  # what the user can mend, all ranks find out for themselves
                self.go_down(alarm)

    def stop(self, alarm: dict[str, Any]) -> NoReturn:
        """End as a rank was asked to while there was nothing to save; the others read the alarm and follow."""
        self.raise_alarm(alarm)
        if alarm["by"] == self.rank:
            with contextlib.suppress(OSError):
                say(f"stopped: rank {self.rank} {alarm['reason']}; nothing is lost", err=True)
        if self.nodes:
            time.sleep(2 * TICK)  # let the other nodes read it
        own_code.leave(EXIT_STOPPED)

    def look(self, now: float) -> dict[str, Any] | None:
        """An alarm if something is wrong on this node."""
        rows = self.board.read()
        for row in rows:
            if row.pid == 0 or row.ended:
                continue
            if row.rank != self.rank and not heartbeat.lives(row.pid, row.born):
                if not self.row(row.rank).ended:
                    return self.alarm(row.rank, f"has gone: its process ended in phase {row.phase}")
            elif self.unchanged(row.rank, "beats", row.beats, now) > self.settings.silence:
                return self.alarm(
                    row.rank, f"gave no sign of life for {self.settings.silence:g} s, in phase {row.phase}"
                )
            elif self.unchanged(row.rank, "turns", row.turns, now) > row.limit:
                late = min((other for other in rows if not other.ended), key=lambda other: other.turns)
                return self.alarm(
                    late.rank, f"holds the others up: no progress for {row.limit} s, in phase {late.phase}"
                )
        if self.parent not in (None, os.getppid()):
            return self.alarm(self.rank, "lost its launcher, which has ended")
        since = self.terminated  # the loop may take it away at any time
        if since is not None and now - since > 2 * TICK:
            if self.lossless and not self.failing:
                when = "before its first step" if self.first_step is None else "after its last step"
                return self.alarm(self.rank, f"was told to end (SIGTERM) {when}", code=EXIT_STOPPED)
            return self.alarm(self.rank, "was told to end (SIGTERM)")
        return None

    def row(self, rank: int) -> Row:
        return self.board.read()[self.board.neighbours.index(rank)]

    def unchanged(self, rank: int, name: str, value: int, now: float) -> float:
        """Seconds for which a rank's number has been the same."""
        before, since = self.seen.setdefault((rank, name), (value, now))
        if before != value:
            self.seen[rank, name] = (value, since := now)
        return now - since

    def go_down(self, alarm: dict[str, Any]) -> None:
        """Write this rank's stacks, let the others write theirs, kill those that cannot end, and end.

        In any case: a file system or a pipe beyond a cut network may never return.
        """
        last = threading.Timer(PATIENCE, self.end, [alarm["code"], self.beats()])
        last.daemon = True
        last.start()
        self.raise_alarm(alarm)
        folder = self.directory / FAILURES
        stacks = folder / f"stacks-rank-{self.rank:05d}.txt"
        leave_word(stacks, f"rank {self.rank} on {self.host}; alarm: rank {alarm['rank']} {alarm['reason']}\n")
        with contextlib.suppress(OSError), stacks.open("a", encoding="utf-8") as handle:
            faulthandler.dump_traceback(handle, all_threads=True)
        if alarm["by"] == self.rank:
            with contextlib.suppress(OSError):  # a launcher that is gone does not listen
                say(told(alarm, folder), err=True)
        before = self.beats()
        time.sleep(GRACE)
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        self.end(alarm["code"], before)

    def beats(self) -> dict[int, int]:
        return {row.rank: row.beats for row in self.board.read()}

    def end(self, code: int, before: dict[int, int]) -> NoReturn:
        """Kill the neighbours whose beats have stood still since ``before``, and end."""
        for row in self.board.read():
            if row.rank != self.rank and row.beats == before[row.rank] and heartbeat.lives(row.pid, row.born):
                with contextlib.suppress(OSError):  # it has just ended
                    os.kill(row.pid, signal.SIGKILL)
        own_code.leave(code)


def leave_word(path: Path, text: str) -> None:
    """Leave word of a failure in a file, if the disk takes it: it may be what failed."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
