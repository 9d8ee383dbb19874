"""One command at a time writes into a run directory: its lock, ``.lock``, says who, where, and since when.

Whoever comes second ends with a line that names the first. A lock whose owner is dead is taken over:

- On the owner's host its process is asked for, by its id and the time when it began, so an id that was given again
  deceives nobody. A dead owner's lock is taken over at once, and what it started here is ended.
- From another host, or another container, an owner is dead if it gives no sign of life for ``SILENCE`` seconds: it
  touches the lock every ``BEAT`` seconds, and whoever waits looks whether the time that the file system keeps of it
  changes. Clocks of two hosts are never compared.

The lock is made by linking a file that is complete, which succeeds once, on NFS too; where there are no links it is
created exclusively. Nobody deletes a dead owner's lock in order to take it: a successor links one more file, named
after the lock that it follows, so of several successors exactly one wins, and a slow one cannot take the winner's lock
for the dead one's. The owner of the end of that chain ends what the others have left and then makes it one file again.

Only another one's lock, read twice, ends an owner. One that is deleted, damaged, or cannot be reached does not: it is
put back.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shlex
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.room import needs_room
from tracestill.data_pipeline.guards.secret import mask
from tracestill.trainer.faults.failure import EXIT_FAILED
from tracestill.trainer.lock.end_marked import AT_ONCE, end_marked
from tracestill.trainer.ranks import console
from tracestill.trainer.ranks.heartbeat import born, lives, node_identity
from tracestill.trainer.ranks.join_ranks import OWNER

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
        """``root`` is the directory itself, not a link that may come to lead elsewhere."""
        self.root, self.owner = root, owner
        self.touched = time.monotonic()
        self.warned = False
        self.stood_still = False  # for so long that another one may have taken over, worked, and given back
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.beat, name="run-lock", daemon=True)
        self.thread.start()

    def beat(self) -> None:
        """Give a sign of life now and then; end this process if another one has taken the lock over meanwhile."""
        read_before, pause, slept = "", BEAT, time.monotonic()
        while not self.over.wait(pause):
            self.stood_still |= time.monotonic() - slept > SILENCE
            token, pause, trouble = "", BEAT, ""
            try:
                last = last_of(self.root)
                if last is None and self.stood_still and self.root.is_dir():
                    end_robbed(self, f"stood still for over {SILENCE:.0f} s, and its lock was deleted meanwhile")
                    return
                if last is None:
                    self.put_back()
                elif last.owner is None or last.token == self.owner.token:  # a damaged one may be ours: keep it alive
                    touch(self.root / LOCK)
                    self.touched, self.warned, self.stood_still = time.monotonic(), False, False
                elif last.token == read_before:
                    end_robbed(self, f"was taken over by {last.owner}")
                    return
                else:
                    token, pause = last.token, LOOK
            except OSError as error:  # a file system that hangs or is gone: whoever waits sees no sign of life either
                trouble = str(error)
            read_before = token
            if trouble and not self.warned and time.monotonic() - self.touched > SILENCE / 2:
                self.warned = True
                warn(
                    f"{self.root}: no sign of life can be given in {LOCK} ({trouble}): a command on another host may "
                    "take this run over; start none"
                )
            slept = time.monotonic()

    def put_back(self) -> None:
        """Place the lock again that somebody has deleted. Raises OSError if the directory is not there."""
        if place(self.root / LOCK, self.owner):
            self.touched = time.monotonic()
            warn(f"{self.root}: somebody has deleted {LOCK}; it is there again")

    def gather(self) -> None:
        """Make a chain one file again, unless it goes on behind this lock."""
        found = chain(self.root)
        if len(found) > 1 and found[-1].token == self.owner.token:
            with contextlib.suppress(FileNotFoundError):  # it was silent for long, and is not the owner any more
                found[-1].file.replace(self.root / LOCK)  # needs no room
                for left in found[1:-1]:
                    drop(left)

    def release(self) -> None:
        self.over.set()
        self.thread.join()
        with contextlib.suppress(OSError):
            if (last := chain(self.root)) and last[-1].token == self.owner.token:
                for found in last:  # the first one first: without it the others mean nothing
                    drop(found)


@contextlib.contextmanager
def held(root: Path, say: Callable[[str], None] = lambda text: None, patience: float = 0.0) -> Iterator[None]:
    """Meanwhile this process alone writes into ``root``, which is made if it is not there.

    What a dead owner of this host has started is ended first. ``say`` is told what is being waited for. Raises
    InputError naming the owner if there is one that still lives after ``patience`` seconds, and if ``root`` cannot be
    written to; NoRoomError if its disk is full.
    """
    made = None
    try:
        with needs_room(root, "nothing in it has changed"):
            made = None if root.exists() else root
            root.mkdir(parents=True, exist_ok=True)
            mine, dead = take(root, say, patience)
            itself = root.resolve()
            lock = Lock(itself, mine)
    except OSError as error:
        remove_if_empty(made)
        raise InputError(refusal(root, error)) from error
    except BaseException:
        remove_if_empty(made)
        raise
    _held[itself] = lock
    try:
        if dead:
            say(f"{root}: taken over from {dead[-1].owner or 'somebody'}, which has ended without giving it back")
            for owner in (found.owner for found in dead):
                if owner is not None and (owner.node, owner.path) == (mine.node, mine.path):
                    end_marked(owner.token, OWNER)
            with contextlib.suppress(OSError):  # a chain is as good a lock
                lock.gather()
        yield
    finally:
        _held.pop(itself, None)
        lock.release()
        remove_if_empty(made)


def refusal(root: Path, error: OSError) -> str:
    """Why a directory cannot be locked, in a line."""
    file = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else root
    if file.parent == root and (file.name == LOCK or file.name.startswith(AFTER)):
        return (
            f"{file}: cannot be read as the lock of {root} ({error.strerror}); if no command uses this run, delete it, "
            "or choose another --run-dir"
        )
    return f"{root}: cannot be written to ({error.strerror}); choose another --run-dir"


def warn(text: str) -> None:
    with contextlib.suppress(Exception):  # a terminal that has gone must not end the signs of life
        console.say(f"warning: {text}", err=True)


def end_robbed(lock: Lock, why: str) -> None:
    """End this process and what it has started here at once: nothing in the directory is ours to write any more."""
    with contextlib.suppress(Exception):  # nobody may read it
        console.say(f"error: {lock.root}: {why}; this process ends", err=True)
    with contextlib.suppress(Exception):
        end_marked(lock.owner.token, OWNER, AT_ONCE)
    os._exit(EXIT_FAILED)


def token_of(root: Path) -> str | None:
    """The token of the lock of ``root`` that this process holds, for the environment of what it starts; else None."""
    lock = _held.get(root.resolve())
    return lock.owner.token if lock else None


def remove_if_empty(made: Path | None) -> None:
    """A directory that was made for the lock alone goes with it."""
    with contextlib.suppress(OSError):
        if made is not None:
            made.rmdir()


def take(root: Path, say: Callable[[str], None], patience: float) -> tuple[Owner, Sequence[Found]]:
    """Make this process the owner: itself, and the dead owners' locks that it took over, the last one last.

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
        found = chain(root)
        if not found or found[-1].token != mine.token:
            drop(Found(name, mine, mine.token))  # what it follows was over by then
            continue
        return mine, found[:-1]


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


def drop(found: Found) -> None:
    """Delete a lock if it is still the one that was read, and can be deleted."""
    with contextlib.suppress(OSError):  # it may be anything that somebody put there
        if (now := read(found.file)) is not None and now.token == found.token:
            found.file.unlink(missing_ok=True)


def touch(file: Path) -> None:
    """Let the file system give a file a new time."""
    try:
        os.utime(file)
    except FileNotFoundError:
        raise
    except OSError:  # some file systems know no other way than to write: the byte that is there
        with file.open("r+b") as handle:
            first = handle.read(1)
            handle.seek(0)
            handle.write(first)


def lives_on(found: Found, mine: Owner, say: Callable[[str], None]) -> bool:
    """Whether a lock's owner lives; of one that cannot be seen from here it takes up to ``SILENCE`` seconds to know."""
    owner = found.owner
    if owner is not None and owner.node == mine.node and owner.born:  # 0: a system that does not tell
        alive = lives(owner.pid, owner.born)
        if alive is False:
            return False
        if alive and owner.path == mine.path:
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
        draft.unlink(missing_ok=True)  # our own, of a try that could not clean up
        write_new(draft, mine)
        try:
            os.link(draft, name)
        except OSError as error:
            if os.stat(draft).st_nlink == 2:  # NFS has done it, and its answer was lost, or the question asked twice
                return True
            if isinstance(error, FileExistsError):
                return False
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
