"""Which samples a recipe asks for: of each question, teacher, style and temperature so many; of recorded traces all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import NamedTuple, Protocol

from tracestill.data_pipeline.base.schema import Question
from tracestill.data_pipeline.sampling.files.trace_store import Place, TraceStore
from tracestill.data_pipeline.sampling.journal import Key, binding_of
from tracestill.data_pipeline.sampling.teachers import Teacher, recorded


class AskedOf(Protocol):
    @property
    def teacher(self) -> Teacher: ...
    @property
    def module(self) -> str: ...
    @property
    def options(self) -> dict[str, object]: ...
    @property
    def changed(self) -> str: ...


class Grid(Protocol):
    """What of a recipe says how many samples there are."""

    @property
    def styles(self) -> tuple[str, ...]: ...
    @property
    def temperatures(self) -> tuple[float, ...]: ...
    @property
    def samples(self) -> int: ...
    @property
    def test_samples(self) -> int: ...


class Wanted(NamedTuple):
    """One sample: its key, its binding in the journal and, of a recorded trace, where that stands."""

    key: Key
    binding: str
    place: Place | None = None


def wanted_samples(
    by_id: Mapping[str, Question], teachers: Mapping[str, AskedOf], grid: Grid, seed: int, traces: TraceStore
) -> Iterator[Wanted]:
    """Each sample, question by question."""
    for question_id, question in by_id.items():
        held_out = question.split != "train"
        for name, asked in teachers.items():
            if isinstance(asked.teacher, recorded.Teacher):
                found = replayed(question_id, name, asked.teacher.options.teacher, grid, traces)
                yield from (each for at, each in enumerate(found) if not held_out or at < grid.test_samples)
                continue
            binding = binding_of(asked.module, asked.options, seed, question, asked.changed)
            for style in grid.styles[:1] if held_out else grid.styles:
                for temperature in grid.temperatures[:1] if held_out else grid.temperatures:
                    for index in range(grid.test_samples if held_out else grid.samples):
                        yield Wanted(Key(question_id, name, style, temperature, index), binding)


def replayed(question_id: str, name: str, only: str | None, grid: Grid, traces: TraceStore) -> Iterator[Wanted]:
    """The recorded traces of a question. What a trace holds is its binding: a changed one is another sample."""
    counts: Counter[tuple[str, str]] = Counter()
    for place in traces.of(question_id):
        if only is not None and place.teacher != only:
            continue
        who = place.teacher or name, place.system or grid.styles[0]
        yield Wanted(Key(question_id, who[0], who[1], grid.temperatures[0], counts[who]), place.digest, place)
        counts[who] += 1
