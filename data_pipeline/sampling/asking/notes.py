"""What teachers need after a restart, kept in the journal under names: batches under way, money drawn."""

from __future__ import annotations

import sqlite3

TABLE = """
CREATE TABLE IF NOT EXISTS notes (
    teacher TEXT NOT NULL,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (teacher, name)
) WITHOUT ROWID
"""


def read(database: sqlite3.Connection) -> dict[str, dict[str, str]]:
    """Teacher -> name -> text."""
    database.execute(TABLE)
    found: dict[str, dict[str, str]] = {}
    for teacher, name, value in database.execute("SELECT teacher, name, value FROM notes"):
        found.setdefault(teacher, {})[name] = value
    return found


def write(database: sqlite3.Connection, teacher: str, name: str, value: str | None) -> None:
    """Durably, even over a loss of power; None: forget it."""
    database.execute("PRAGMA synchronous = FULL")
    try:
        if value is None:
            database.execute("DELETE FROM notes WHERE teacher = ? AND name = ?", (teacher, name))
        else:
            database.execute("INSERT OR REPLACE INTO notes VALUES (?, ?, ?)", (teacher, name, value))
    finally:
        database.execute("PRAGMA synchronous = NORMAL")
