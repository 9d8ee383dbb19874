"""Traces of a source on their way into the journal: on disk once they are many, found again by their question."""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tracestill.data_pipeline.base.room import needs_room
from tracestill.data_pipeline.sampling.teachers import Said, Span

IN_MEMORY = 1 << 25  # bytes; beyond these a temporary file holds them


class Place(NamedTuple):
    """One trace: who wrote it, under which system prompt, a digest of what, and where it stands."""

    offset: int
    teacher: str
    system: str
    digest: str  # 16 hex digits
    file: str
    row: int


class TraceStore:
    """Traces by question, in the order in which they were added. Closes as a context manager, and is then gone."""

    def __init__(self) -> None:
        self.file = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115 (it lives as long as this)
        self.places: dict[str, list[Place]] = {}
        self.end = 0

    def __enter__(self) -> TraceStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def __len__(self) -> int:
        return sum(map(len, self.places.values()))

    def add(self, question_id: str, said: Said, teacher: str, system: str, file: str, row: int) -> None:
        spans = [[[span.start, span.end, span.kind] for span in said.spans]] if said.spans else []
        payload = json.dumps([said.raw, said.reasoning, said.answer, said.finish, said.weight, *spans]).encode()
        digest = hashlib.sha256(payload).hexdigest()[:16]
        place = Place(self.end, sys.intern(teacher), sys.intern(system), digest, file, row)
        with needs_room(Path(tempfile.gettempdir()), "nothing was begun"):
            self.file.seek(self.end)
            self.file.write(len(payload).to_bytes(4, "little") + payload)
        self.end += 4 + len(payload)
        self.places.setdefault(question_id, []).append(place)

    def teachers(self) -> list[str]:
        """Who wrote them, as files say."""
        return sorted({place.teacher for places in self.places.values() for place in places if place.teacher})

    def questions(self) -> set[str]:
        return set(self.places)

    def of(self, question_id: str) -> list[Place]:
        return self.places.get(question_id, [])

    def read(self, place: Place) -> Said:
        self.file.seek(place.offset)
        size = int.from_bytes(self.file.read(4), "little")
        raw, reasoning, answer, finish, weight, *spans = json.loads(self.file.read(size))
        return Said(raw, reasoning, answer, finish, weight, tuple(Span(*s) for s in spans[0]) if spans else None)

    def texts(self, question_id: str) -> Iterator[str]:
        """What was written to a question, thoughts too."""
        for place in self.of(question_id):
            said = self.read(place)
            yield f"{said.reasoning}\n{said.raw}"

    def forget(self, question_id: str) -> int:
        """Drop the traces of a question; how many there were."""
        return len(self.places.pop(question_id, []))
