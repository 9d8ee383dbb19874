"""The journal of sampling: SQLite in WAL mode, one row a sample, written the moment a teacher has answered.

A row's key is the record id (question, teacher, style, temperature, index) with a binding: a digest of everything
that decides what the teacher would say (its module and options, the recipe's seed, the question's text, gold and
metadata). A teacher with other options therefore asks anew and its old rows stay; so does one whose own module, or a
file that its options name, holds something else than when it was first asked. Every row is its own transaction:
a killed process loses the sample in work and nothing else. (After a loss of power the last few rows may be missing;
they are asked again.)
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from tracestill.data_pipeline.errors import InputError
from tracestill.data_pipeline.heard import Unusable
from tracestill.data_pipeline.schema import Question, Span
from tracestill.data_pipeline.stage import digest_of
from tracestill.data_pipeline.teachers.protocol import Solution

MODULE = "module/"  # names of a teacher's own code begin with it: those always count
VERSION = 1  # of the table; stored as the file's user_version
TABLE = """
CREATE TABLE samples (
    record_id TEXT NOT NULL,
    binding TEXT NOT NULL,
    question_id TEXT NOT NULL,
    teacher TEXT NOT NULL,
    style TEXT NOT NULL,
    temperature REAL NOT NULL,
    position INTEGER NOT NULL,
    trace TEXT NOT NULL,
    answer TEXT NOT NULL,
    spans TEXT NOT NULL,
    PRIMARY KEY (record_id, binding),
    UNIQUE (question_id, teacher, style, temperature, position, binding)
) WITHOUT ROWID
"""
REJECTED = """
CREATE TABLE IF NOT EXISTS rejected (
    record_id TEXT NOT NULL,
    binding TEXT NOT NULL,
    reason TEXT NOT NULL,
    detail TEXT NOT NULL,
    said TEXT NOT NULL,
    PRIMARY KEY (record_id, binding)
) WITHOUT ROWID
"""
FIRST_SEEN = """
CREATE TABLE IF NOT EXISTS inputs (
    teacher TEXT NOT NULL PRIMARY KEY,  -- a digest of its module and options
    files TEXT NOT NULL  -- name -> sha256 of those that were there when it was first asked, as JSON
) WITHOUT ROWID
"""


@dataclass(frozen=True)
class Key:
    """One sample: what is asked of whom."""

    question_id: str
    teacher: str
    style: str
    temperature: float
    index: int

    @property
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
    """An open journal; closes as a context manager. Raises InputError for a file that is no journal of ours."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.database = sqlite3.connect(path, timeout=30, isolation_level=None)
            self.database.execute("PRAGMA journal_mode = WAL")
            self.database.execute("PRAGMA synchronous = NORMAL")
            self.prepare()
        except (OSError, sqlite3.Error) as error:
            raise InputError(f"{path}: not usable as a journal ({error}); move it away to sample anew") from error

    def prepare(self) -> None:
        self.database.execute("BEGIN IMMEDIATE")  # two processes may open a new file at the same time
        version = self.database.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            self.database.execute(TABLE)
            self.database.execute(f"PRAGMA user_version = {VERSION}")
        self.database.execute(REJECTED)
        self.database.execute(FIRST_SEEN)
        self.database.execute("COMMIT")
        if version not in (0, VERSION):
            raise InputError(f"{self.path}: a journal of version {version}, expected {VERSION}; move it away")

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.database.close()

    def done(self) -> set[tuple[str, str]]:
        """(record id, binding) of every row, rejected ones included: who has answered is not asked again."""
        both = "SELECT record_id, binding FROM samples UNION SELECT record_id, binding FROM rejected"
        return set(self.database.execute(both))

    def changed(self, module: str, options: dict[str, Any], files: dict[str, str]) -> str:
        """A digest of what a teacher's files (name -> sha256) hold; "" while it is what they held at first.

        Files that were not there when it was first asked do not count, as the teacher may write them; but those of its
        module do (``MODULE``).
        """
        teacher = digest_of([module, options])
        self.database.execute("INSERT OR IGNORE INTO inputs VALUES (?, ?)", (teacher, json.dumps(files)))
        first = self.first_seen(module, options)
        now = {name: digest for name, digest in files.items() if name in first or name.startswith(MODULE)}
        return "" if now == first else digest_of(now)

    def written(self, module: str, options: dict[str, Any], names: Iterable[str]) -> None:
        """Forget files that have changed while a teacher was asked: it writes them itself."""
        left = {name: held for name, held in self.first_seen(module, options).items() if name not in set(names)}
        update = "UPDATE inputs SET files = ? WHERE teacher = ?"
        self.database.execute(update, (json.dumps(left), digest_of([module, options])))

    def first_seen(self, module: str, options: dict[str, Any]) -> dict[str, str]:
        """Name -> sha256 of the files of a teacher that count, as they were when it was first asked."""
        query = "SELECT files FROM inputs WHERE teacher = ?"
        (files,) = self.database.execute(query, (digest_of([module, options]),)).fetchone()
        return dict(json.loads(files))

    def add(self, key: Key, binding: str, heard: Solution | Unusable) -> None:
        """Write one row, durably; a row that another process has written meanwhile stays as it is."""
        if isinstance(heard, Unusable):
            row = (key.record_id, binding, heard.reason, heard.detail, heard.said)
            self.database.execute("INSERT OR IGNORE INTO rejected VALUES (?, ?, ?, ?, ?)", row)
            return
        spans = json.dumps([[s.start, s.end, s.kind] for s in heard.spans or ()])
        asked = (key.record_id, binding, key.question_id, key.teacher, key.style, key.temperature, key.index)
        self.database.execute(
            "INSERT OR IGNORE INTO samples VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*asked, heard.trace, heard.answer, spans),
        )

    def rows(self, wanted: Iterable[tuple[Key, str]]) -> Iterator[tuple[Key, Solution]]:
        """Key and solution (with spans) of each wanted (key, binding) that gave one, in the order wanted."""
        query = "SELECT trace, answer, spans FROM samples WHERE record_id = ? AND binding = ?"
        for key, (trace, answer, spans) in self.found(query, wanted):
            yield key, Solution(trace, answer, tuple(Span(*span) for span in json.loads(spans)))

    def unusable(self, wanted: Iterable[tuple[Key, str]]) -> Iterator[tuple[Key, Unusable]]:
        """Key and what was said of each wanted (key, binding) that gave no record, in the order wanted."""
        if self.database.execute("SELECT 1 FROM rejected LIMIT 1").fetchone() is None:
            return
        query = "SELECT reason, detail, said FROM rejected WHERE record_id = ? AND binding = ?"
        for key, row in self.found(query, wanted):
            yield key, Unusable(*row)

    def found(self, query: str, wanted: Iterable[tuple[Key, str]]) -> Iterator[tuple[Key, Any]]:
        for key, binding in wanted:
            if row := self.database.execute(query, (key.record_id, binding)).fetchone():
                yield key, row
