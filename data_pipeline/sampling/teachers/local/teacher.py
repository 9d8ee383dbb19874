"""Answers with a model on this machine, many samples at a time, those of like length together.

What a sample says depends on its own seed, and not on the company it is in: each row draws from a generator of its own.
"""

from __future__ import annotations

from typing import Any

from tracestill.data_pipeline.sampling.asking.desk import Desk
from tracestill.data_pipeline.sampling.teachers import Ask, Failed
from tracestill.data_pipeline.sampling.teachers.local.options import TeacherOptions

AHEAD = 16  # batches that are sorted by length together


class Teacher:
    price = 0.0  # it costs no money

    def __init__(self, options: TeacherOptions) -> None:
        self.options = options

    def answer(self, desk: Desk) -> None:
        """Raises InputError for a directory that cannot be loaded, or is not safe to."""
        from tracestill.data_pipeline.sampling.teachers.local.generate import Generator, OutOfMemory, TooLong
        from tracestill.data_pipeline.sampling.teachers.local.load import load

        generator = Generator(*load(self.options), self.options)
        size = self.options.batch
        while asks := desk.take(self.options.batch * AHEAD):
            ready: list[tuple[Ask, Any]] = []
            for ask in asks:
                try:
                    ready.append((ask, generator.prompt(ask)))
                except TooLong as error:
                    desk.give(ask, Failed("refused", f"teacher '{desk.teacher}': {error}"))
            ready.sort(key=lambda pair: len(pair[1]))
            while ready:
                desk.look()
                some = ready[:size]
                try:
                    said = generator.answers(some)
                except OutOfMemory:
                    if size == 1:
                        raise
                    size //= 2
                    continue
                for (ask, _), text in zip(some, said, strict=True):
                    desk.give(ask, text)
                ready = ready[size:]
