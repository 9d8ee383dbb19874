"""The journal of sampling: SQLite in WAL mode, one row a sample, written the moment a teacher has answered.

A row's key is the record id (question, teacher, style, temperature, index) with a binding: a digest of everything
that decides what the teacher would say (its module and options, the recipe's seed, the question's text, gold and
metadata). A teacher with other options therefore asks anew and its old rows stay; so does one whose own module, or a
file that its options name, holds something else than when it was first asked. Every row is its own transaction:
a killed process loses the sample in work and nothing else. (After a loss of power the last few rows may be missing;
they are asked again.) A file that is damaged is said to be, with what can still be read: see ``journal_pages``.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import sqlite3
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.room import cause_of, needs_room
from tracestill.data_pipeline.base.schema import Question
from tracestill.data_pipeline.base.stage import digest_of
from tracestill.data_pipeline.sampling.asking import notes
from tracestill.data_pipeline.sampling.heard import Unusable
from tracestill.data_pipeline.sampling.journal_files import has_bytes, refuse_half_recovered, sides
from tracestill.data_pipeline.sampling.journal_log import broken
from tracestill.data_pipeline.sampling.journal_pages import digest_of_row, key_of, readable
from tracestill.data_pipeline.sampling.journal_rows import DIGESTS, FIRST_SEEN, REJECTED, TABLE, columns_of, said_of
from tracestill.data_pipeline.sampling.teachers import Said, Solution

MODULE = "module/"  # names of a teacher's own code begin with it: those always count
VERSION = 1  # of the table; stored as the file's user_version
LAST = {"samples": "trace, answer, spans", "rejected": "reason, detail, said"}  # columns: what was said
PATIENCE = 30.0  # seconds with another process that is writing into the file
UNKNOWN = "unknown"  # instead of a file's sha256: it equals none
LOST = ""  # instead of a teacher in `inputs`: rows of it may be lost, so what is not there is not seen first
NOT_PERMITTED = ("readonly database", "unable to open database file", "disk I/O error")
INPUTS = "SELECT teacher, files, digest FROM inputs LEFT JOIN digests ON record_id = teacher AND binding = 'inputs'"
OF_KEY = "WHERE record_id = ? AND binding = ?"


@dataclass(frozen=True)
class Key:
    """One sample: what is asked of whom."""

    question_id: str
    teacher: str
    style: str
    temperature: float
    index: int

    @functools.cached_property
    def record_id(self) -> str:
        """16 hex digits, equal on every machine."""
        return digest_of([self.question_id, self.teacher, self.style, float(self.temperature), self.index])[:16]

    def seed(self, seed: int) -> int:
        """63 bits from the recipe's seed and this key: no sample's randomness depends on the order of asking."""
        digest = hashlib.sha256(f"{seed} {self.record_id}".encode()).digest()
        return int.from_bytes(digest[:8], "big") >> 1


def binding_of(module: str, options: dict[str, Any], seed: int, question: Question, contents: str = "") -> str:
    """Digest of everything beside the key that decides what a teacher says; ``contents``: see ``Journal.changed``."""
    asked = [question.question, question.gold, question.metadata]
    more = {"contents": contents} if contents else {}
    return digest_of({"module": module, "options": options, "seed": seed, "question": asked, **more})[:16]


class Journal:
    """An open journal; closes as a context manager.

    Raises InputError for a file that is no journal of ours, or a damaged one, and says what can be read from it; and
    NoRoomError where its disk is full. So do its methods.
    """

    def __init__(self, path: Path, log: bool = True) -> None:
        """``log``: whether the newest rows go into a file beside it; without one, an error is told at once."""
        self.path = path
        with needs_room(path, "it has not been begun"), plainly(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            refuse_half_recovered(path)
        with self.told():
            # the log first: where another process is making both at this moment, the database has bytes before it
            if has_bytes(sides(path)[0]) and not has_bytes(path):  # SQLite would delete the log
                raise Damaged("it is empty, and its rows lie in the log beside it")
            with plainly(path):
                if has_bytes(path) and broken(path):  # SQLite would drop what follows, and delete the log
                    raise Damaged("the log beside it is broken")
            self.database = sqlite3.connect(path, timeout=PATIENCE, isolation_level=None)
            try:
                self.keep_log(log)
                self.database.execute(f"PRAGMA synchronous = {'NORMAL' if log else 'FULL'}")
                self.database.execute("PRAGMA secure_delete = ON")  # what is deleted is not found in the pages again
                self.prepare()
            except BaseException:
                self.database.close()
                raise

    def keep_log(self, log: bool) -> None:
        """Whether the newest rows go into a file beside it. SQLite gives up at once where it meets another process that
        changes this, too, or closes the file: so it is asked again, as long as for any other writing."""
        until = time.monotonic() + PATIENCE
        while True:
            try:
                self.database.execute(f"PRAGMA journal_mode = {'WAL' if log else 'DELETE'}")
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > until:
                    raise
            time.sleep(0.01)

    def prepare(self) -> None:
        self.database.execute("BEGIN IMMEDIATE")  # two processes may open a new file at the same time
        version = self.database.execute("PRAGMA user_version").fetchone()[0]
        tables = dict(self.database.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'"))
        ours = tables.get("samples", "").strip() == TABLE.strip()  # another release would have another table
        if version != VERSION and ours:
            raise Damaged(f"its version is {version}, expected {VERSION}")
        if version not in (0, VERSION):
            raise InputError(
                f"{self.path}: a journal of version {version}, expected {VERSION}: another release of tracestill wrote "
                "it; use that one, or move the file away to sample anew"
            )
        if version == 0 and tables:
            raise InputError(f"{self.path}: a database of something else, not a journal; choose another --run-dir")
        for name in ("samples", "inputs"):
            if version == VERSION and name not in tables:
                raise Damaged(f"its table '{name}' is missing")
        if version == 0:
            self.database.execute(TABLE)
            self.database.execute(f"PRAGMA user_version = {VERSION}")
        self.database.execute(REJECTED)
        self.database.execute(FIRST_SEEN)
        self.database.execute(DIGESTS)
        self.database.execute("COMMIT")

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """Turn what SQLite raises in the block into words for the user."""
        with needs_room(self.path, self.kept):
            try:
                yield
            except (sqlite3.Error, Damaged) as error:
                if cause_of(error, self.path) is not None:
                    raise  # the disk is full
                raise explained(error, self.path) from error

    def kept(self) -> str:
        with contextlib.suppress(sqlite3.Error, AttributeError):  # it could not even be opened
            return f"{self.count():,} samples are kept in it"
        return "what it holds is kept"

    def count(self) -> int:
        """Samples, whether they can be used or not."""
        return sum(int(self.database.execute(f"SELECT count(*) FROM {table}").fetchone()[0]) for table in LAST)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.database.close()

    def done(self) -> set[tuple[str, str]]:
        """(record id, binding) of every row, rejected ones included: who has answered is not asked again."""
        found: set[tuple[str, str]] = set()
        with self.told():
            for table in LAST:  # no UNION: SQLite would make a temporary file, on another disk
                found.update(self.database.execute(f"SELECT record_id, binding FROM {table}"))
        return found

    def changed(self, module: str, options: dict[str, Any], files: dict[str, str]) -> str:
        """A digest of what a teacher's files (name -> sha256) hold; "" while it is what they held at first.

        Files that were not there when it was first asked do not count, as the teacher may write them; but those of its
        module do (``MODULE``). Where it is not known any more what they held at first, they count as changed.
        """
        teacher = digest_of([module, options])
        with self.told():
            lost = self.database.execute("SELECT 1 FROM inputs WHERE teacher = ?", (LOST,)).fetchone()
            held = dict.fromkeys(files, UNKNOWN) if lost else files
            self.put("inputs", [(teacher, json.dumps(held))])
        first = self.first_seen(module, options)
        now = {name: digest for name, digest in files.items() if name in first or name.startswith(MODULE)}
        return "" if now == first else digest_of(now)

    def written(self, module: str, options: dict[str, Any], names: Iterable[str]) -> None:
        """Forget files that have changed while a teacher was asked: it writes them itself."""
        left = {name: held for name, held in self.first_seen(module, options).items() if name not in set(names)}
        row = (digest_of([module, options]), json.dumps(left))
        with self.told(), whole_transaction(self.database):
            self.database.execute("INSERT OR REPLACE INTO inputs VALUES (?, ?)", row)
            self.seal("inputs", row)

    def first_seen(self, module: str, options: dict[str, Any]) -> dict[str, str]:
        """Name -> sha256 of the files of a teacher that count, as they were when it was first asked."""
        teacher = digest_of([module, options])
        with self.told(), sound("a row of 'inputs'"):
            files, digest = self.database.execute(f"{INPUTS} WHERE teacher = ?", (teacher,)).fetchone()[1:]
            if digest not in (None, digest_of_row((teacher, files))):
                raise ValueError("its digest is another")
            return dict(json.loads(files))

    def add(self, key: Key, binding: str, heard: Solution | Said | Unusable) -> None:
        """Write one row, durably; a row that another process has written meanwhile stays as it is."""
        self.add_all([(key, binding, heard)])

    def add_all(self, answers: Iterable[tuple[Key, str, Solution | Said | Unusable]]) -> None:
        """As ``add``, of several in one transaction: for what costs nothing to ask again."""
        rows: dict[str, list[tuple[Any, ...]]] = {table: [] for table in LAST}
        for key, binding, heard in answers:
            if isinstance(heard, Unusable):
                rows["rejected"].append((key.record_id, binding, heard.reason, heard.detail, heard.said))
            else:
                asked = (key.record_id, binding, key.question_id, key.teacher, key.style, key.temperature, key.index)
                rows["samples"].append((*asked, *columns_of(heard)))
        with self.told():
            for table, of_table in rows.items():
                if of_table:
                    self.put(table, of_table)

    def forget(self, pairs: Iterable[tuple[Key, str]]) -> None:
        """Delete rows of samples that gave no record: they are asked again."""
        with self.told(), whole_transaction(self.database):
            for key, binding in pairs:
                for table in ("rejected", "digests"):
                    self.database.execute(f"DELETE FROM {table} {OF_KEY}", (key.record_id, binding))

    def notes(self) -> dict[str, dict[str, str]]:
        """Teacher -> name -> text of what ``note`` has kept."""
        with self.told():
            return notes.read(self.database)

    def note(self, teacher: str, name: str, value: str | None) -> None:
        """Keep a text for a teacher, durably; None: forget it."""
        with self.told():
            notes.write(self.database, teacher, name, value)

    def put(self, table: str, rows: Iterable[tuple[Any, ...]]) -> None:
        """Write rows of a table in one transaction, each with its digest. What is in it, or a key that another of
        ``LAST`` has, stays: nobody answers twice."""
        others = [name for name in LAST if table in LAST and name != table]
        with whole_transaction(self.database):
            for row in rows:
                if any(self.database.execute(f"SELECT 1 FROM {o} {OF_KEY}", row[:2]).fetchone() for o in others):
                    continue
                into = f"INSERT OR IGNORE INTO {table} VALUES ({','.join('?' * len(row))})"
                if self.database.execute(into, row).rowcount == 1:
                    self.seal(table, row)

    def seal(self, table: str, row: tuple[Any, ...]) -> None:
        of_row = (*key_of(table, row), digest_of_row(row))
        self.database.execute("INSERT OR REPLACE INTO digests VALUES (?, ?, ?)", of_row)

    def check(self) -> int:
        """Read all of it; how many samples there are. Raises InputError, as all methods do, if it is damaged."""
        with self.told():
            (said,) = self.database.execute("PRAGMA quick_check(1)").fetchone()
            if said != "ok":
                raise Damaged(said)
            for table, columns in LAST.items():
                query = f"SELECT record_id, {columns}, digest FROM {table} LEFT JOIN digests USING (record_id, binding)"
                for record_id, *row, digest in self.database.execute(query):
                    if digest not in (None, digest_of_row(tuple(row))):
                        raise Damaged(f"the sample {record_id} is not as it was written")
            for teacher, files, digest in self.database.execute(INPUTS):
                if digest not in (None, digest_of_row((teacher, files))):
                    raise Damaged("a row of 'inputs' is not as it was written")
            return self.count()

    def rows(self, wanted: Iterable[tuple[Key, str]]) -> Iterator[tuple[Key, Solution | Said]]:
        """Key and solution (with spans), or text, of each wanted (key, binding) that gave one, in the order wanted."""
        for key, binding in wanted:
            with self.told(), sound(f"the sample {key.record_id}"):
                if (said := self.said(key, binding)) is None:
                    raise ValueError("it is not there any more")
            if not isinstance(said, Unusable):
                yield key, said

    def said(self, key: Key, binding: str) -> Solution | Said | Unusable | None:
        """What one row holds; None if there is none."""
        with self.told(), sound(f"the sample {key.record_id}"):
            if row := self.found("samples", key, binding):
                return said_of(*row)
            return Unusable(*row) if (row := self.found("rejected", key, binding)) else None

    @property
    def has_rejected(self) -> bool:
        with self.told():
            return bool(self.database.execute("SELECT 1 FROM rejected LIMIT 1").fetchall())

    def unusable(self, wanted: Iterable[tuple[Key, str]]) -> Iterator[tuple[Key, Unusable]]:
        """Key and what was said of each wanted (key, binding) that gave no record, in the order wanted."""
        if self.has_rejected:
            for key, binding in wanted:
                if isinstance(said := self.said(key, binding), Unusable):
                    yield key, said

    def found(self, table: str, key: Key, binding: str) -> list[Any] | None:
        """The last three columns of a row; None if there is none. Raises ValueError if they fail their digest."""
        query = f"SELECT {LAST[table]}, digest FROM {table} LEFT JOIN digests USING (record_id, binding) "
        query += OF_KEY
        held = self.database.execute(query, (key.record_id, binding)).fetchone()
        if held is None:
            return None
        *row, digest = held
        if digest not in (None, digest_of_row(tuple(row))):  # None: it was written before there were digests
            raise ValueError("its digest is another")
        return row


class Damaged(Exception):
    """What is read is not what was written."""


class JournalDamaged(InputError):
    """The file is no journal, or not as it was written; the message says what can be read from it."""


@contextlib.contextmanager
def sound(what: str) -> Iterator[None]:
    """Raise Damaged, naming what was read in the block, if it makes no sense."""
    try:
        yield
    except (LookupError, TypeError, ValueError) as error:
        raise Damaged(f"{what} cannot be read: {error}") from error


@contextlib.contextmanager
def whole_transaction(database: sqlite3.Connection) -> Iterator[None]:
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            database.execute("ROLLBACK")
        raise


@contextlib.contextmanager
def plainly(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); choose another --run-dir") from error


def explained(error: Exception, path: Path) -> InputError:
    """What SQLite's error comes to, and what to do."""
    text = str(error)
    if "locked" in text:
        return InputError(f"{path}: another process has been writing into it for {PATIENCE:g} s; wait for its end")
    if any(words in text for words in NOT_PERMITTED):
        return InputError(f"{path}: cannot be used ({text}); let this user read and write it, or look after the disk")
    try:
        count = readable(path).count
    except OSError as failure:
        return InputError(f"{path}: cannot be read ({failure.strerror}); look after the disk")
    if not count:
        return JournalDamaged(
            f"{path}: no journal, or a damaged one ({text}), and no sample can be read from it; move it away to sample "
            "anew"
        )
    return JournalDamaged(
        f"{path}: the journal is damaged ({text}); {count:,} samples can be read from it: `tracestill sample "
        f"{path.parent} --recover` takes them over into a new one, keeps this one beside it, and asks for the rest"
    )
