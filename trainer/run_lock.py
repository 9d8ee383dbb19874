"""One command at a time writes into a run directory: its lock, ``.lock``, says who, where, and since when.

Whoever comes second ends with a line that names the first. A lock whose owner is dead is taken over:

- On the owner's host its process is asked for, by its id and the time when it began, so an id that was given again
  deceives nobody. A dead owner's lock is taken over at once.
- From another host, or another container, an owner is dead if it gives no sign of life for ``SILENCE`` seconds: it
  touches the lock every ``BEAT`` seconds, and whoever waits looks whether the time that the file system keeps of it
  changes. Clocks of two hosts are never compared.

The lock is made by linking a file that is complete, which succeeds once, on NFS too; where there are no links it is
created exclusively. Nobody deletes a dead owner's lock in order to take it: a successor links one more file, named
after the lock that it follows, so of several successors exactly one wins, and a slow one cannot take the winner's lock
for the dead one's. The owner of the end of that chain then makes it one file again.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shlex
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from tracestill.data_pipeline.errors import InputError
from tracestill.data_pipeline.room import needs_room
from tracestill.data_pipeline.secret import mask
from tracestill.trainer import console
from tracestill.trainer.heartbeat import born, lives, node_identity

LOCK, AFTER = ".lock", ".lock-after-"
BEAT = 5.0  # seconds between two signs of life
SILENCE = 60.0  # seconds without one, after which an owner on another host is dead
LOOK = 1.0  # seconds between two looks at it
TOKEN = re.compile(r"[0-9a-f]{32}")
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)

_held: dict[Path, Lock] = {}  # by this process


@dataclass(frozen=True)
class Owner:
    """Who holds a run directory."""

    token: str
    host: str
    node: str  # equal for two processes exactly if they see each other's ids
    pid: int
    born: int  # in the kernel's ticks
    since: str
    command: str
    path: str  # of the run directory, as the owner sees it: a copy of a run has a copy of its lock

    def __str__(self) -> str:
        return f"`{self.command}`, process {self.pid} on {self.host}, since {self.since}"


@dataclass(frozen=True)
class Found:
    """A lock as it lies there."""

    file: Path
    owner: Owner | None  # None: it cannot be read
    token: str


class Lock:
    """A lock that this process holds."""

    def __init__(self, root: Path, owner: Owner) -> None:
        self.root, self.owner = root, owner
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.beat, name="run-lock", daemon=True)
        self.thread.start()

    def beat(self) -> None:
        """Give a sign of life now and then; end this process if another one has taken the lock over meanwhile."""
        while not self.over.wait(BEAT):
            try:
                last = last_of(self.root)
                if last is not None and last.token == self.owner.token:
                    os.utime(self.root / LOCK)
                    continue
            except OSError:  # a file system that hangs or is gone: whoever waits sees no sign of life either
                continue
            by = f"was taken over by {last.owner}" if last is not None else "its lock was deleted"
            console.say(f"error: {self.root}: {by}; this process ends", err=True)
            os.kill(os.getpid(), signal.SIGTERM)
            if not self.over.wait(LOOK):
                os.kill(os.getpid(), signal.SIGTERM)  # the first one asks a training to save
            return

    def release(self) -> None:
        self.over.set()
        self.thread.join()
        with contextlib.suppress(OSError):
            if (last := chain(self.root)) and last[-1].token == self.owner.token:
                for found in last:  # the first one first: without it the others mean nothing
                    found.file.unlink(missing_ok=True)


@contextlib.contextmanager
def held(
    root: Path,
    end_left: Callable[[str], object] = lambda token: None,
    say: Callable[[str], None] = lambda text: None,
    patience: float = 0.0,
) -> Iterator[None]:
    """Meanwhile this process alone writes into ``root``, which is made if it is not there.

    ``end_left`` is called with the token of a dead owner of this host, to end what it has started; ``say`` with what
    is being waited for. Raises InputError naming the owner if there is one that still lives after ``patience`` seconds,
    and if ``root`` cannot be written to; NoRoomError if its disk is full.
    """
    made = None
    try:
        with needs_room(root, "nothing in it has changed"):
            made = None if root.exists() else root
            root.mkdir(parents=True, exist_ok=True)
            mine, dead = take(root, say, patience)
            lock = Lock(root, mine)
    except OSError as error:
        remove_if_empty(made)
        raise InputError(f"{root}: cannot be written to ({error.strerror}); choose another --run-dir") from error
    except BaseException:
        remove_if_empty(made)
        raise
    _held[root.resolve()] = lock
    try:
        if dead is not None:
            say(f"{root}: taken over from {dead.owner or 'somebody'}, which has ended without giving it back")
            if dead.owner is not None and (dead.owner.node, dead.owner.path) == (mine.node, mine.path):
                end_left(dead.owner.token)
        yield
    finally:
        del _held[root.resolve()]
        lock.release()
        remove_if_empty(made)


def token_of(root: Path) -> str | None:
    """The token of the lock of ``root`` that this process holds, for the environment of what it starts; else None."""
    lock = _held.get(root.resolve())
    return lock.owner.token if lock else None


def remove_if_empty(made: Path | None) -> None:
    """A directory that was made for the lock alone goes with it."""
    with contextlib.suppress(OSError):
        if made is not None:
            made.rmdir()


def take(root: Path, say: Callable[[str], None], patience: float) -> tuple[Owner, Found | None]:
    """Make this process the owner: itself, and the dead owner's lock that it took over.

    Raises InputError naming the owner if there is one that lives.
    """
    mine = Owner(
        token=uuid.uuid4().hex,
        host=socket.gethostname(),
        node=node_identity().hex()[:16],
        pid=os.getpid(),
        born=born(os.getpid()) or 0,
        since=datetime.now().astimezone().isoformat(sep=" ", timespec="seconds"),
        command=command(sys.argv),
        path=str(root.resolve()),
    )
    deadline = time.monotonic() + patience
    while True:
        dead = last_of(root)
        if dead is not None and lives_on(dead, mine, say):
            if time.monotonic() < deadline:
                time.sleep(LOOK)
                continue
            who = dead.owner or f"somebody whose lock {dead.file} cannot be read"
            raise InputError(f"{root}: in use by {who}; wait for its end, or stop it there")
        if dead is not None and dead != last_of(root):
            continue  # its lock has gone meanwhile, or another one's lies there
        name = root / (LOCK if dead is None else AFTER + dead.token)
        try:
            if not place(name, mine):
                continue  # another one was faster: it lives
        except FileNotFoundError:  # the directory was made for a lock alone, and went with it
            root.mkdir(parents=True, exist_ok=True)
            continue
        now = last_of(root)
        if now is None or now.token != mine.token:
            name.unlink(missing_ok=True)  # what it follows was over by then
            continue
        if dead is not None:
            name.replace(root / LOCK)  # needs no room
            for left in root.glob(f"{AFTER}*"):
                with contextlib.suppress(OSError):  # it may be anything that somebody put there
                    left.unlink()
        return mine, dead


def last_of(root: Path) -> Found | None:
    """The lock that counts; None if there is none."""
    return next(reversed(chain(root)), None)


def chain(root: Path) -> list[Found]:
    """The lock, and those that took it over one after the other; the last one counts."""
    found: list[Found] = []
    name = root / LOCK
    while (now := read(name)) is not None and now.token not in [other.token for other in found]:
        found.append(now)
        name = root / f"{AFTER}{now.token}"
    return found


def read(file: Path) -> Found | None:
    """A lock; None if there is none."""
    try:
        text = file.read_bytes()
        number = file.stat().st_ino
    except FileNotFoundError:
        return None
    try:
        owner = Owner(**json.loads(text))
        if not TOKEN.fullmatch(owner.token) or not all(isinstance(n, int) for n in (owner.pid, owner.born)):
            raise ValueError("no lock of ours")
        return Found(file, owner, owner.token)
    except (ValueError, TypeError):  # cut off by a crash, damaged, or made by somebody: a token becomes a file's name
        return Found(file, None, hashlib.sha256(b"%d" % number + text).hexdigest()[:32])


def lives_on(found: Found, mine: Owner, say: Callable[[str], None]) -> bool:
    """Whether a lock's owner lives; of one that cannot be seen from here it takes up to ``SILENCE`` seconds to know."""
    owner = found.owner
    if owner is not None and owner.node == mine.node and owner.born:  # 0: a system that does not tell
        if not lives(owner.pid, owner.born):
            return False
        if owner.path == mine.path:
            return True
    who = owner or found.file
    say(f"{found.file.parent}: looking for signs of life of {who}, for up to {SILENCE:.0f} s")
    first, deadline = sign_of_life(found), time.monotonic() + SILENCE
    while time.monotonic() < deadline:
        time.sleep(LOOK)
        now = sign_of_life(found)
        if now != first:
            return now is not None
    return False


def sign_of_life(found: Found) -> tuple[int, int] | None:
    """What changes while an owner lives. The file is opened, so that NFS asks its server; None if it has gone."""
    root = found.file.parent
    try:
        with (root / LOCK).open("rb") as handle:
            about = os.fstat(handle.fileno())
    except OSError:
        return None
    return about.st_ino, about.st_mtime_ns


def place(name: Path, mine: Owner) -> bool:
    """Make a lock under a name, whole and at once; whether there was none."""
    draft = name.with_name(f"{LOCK}.{mine.token}")
    try:
        write_new(draft, mine)
        try:
            os.link(draft, name)
        except FileExistsError:
            return False
        except OSError as error:
            if os.stat(draft).st_nlink == 2:  # NFS has done it, and its answer was lost
                return True
            if error.errno not in NO_LINKS:
                raise
            try:
                write_new(name, mine)
            except FileExistsError:
                return False
        return True
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)


def write_new(path: Path, mine: Owner) -> None:
    """A file that was not there before; none if it cannot be written whole."""
    with path.open("x", encoding="utf-8") as handle:
        try:
            json.dump(asdict(mine), handle)
            handle.flush()
            os.fsync(handle.fileno())
        except BaseException:
            path.unlink(missing_ok=True)
            raise


def command(words: list[str]) -> str:
    """A command line in short, without the path of its program, secrets masked."""
    said = mask(shlex.join([Path(words[0]).name, *words[1:]]) if words else "?")
    return said if len(said) <= 200 else f"{said[:197]}..."
