"""Which files decide what teachers say, and which of those a teacher writes itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tracestill.data_pipeline.base.content import contents
from tracestill.data_pipeline.sampling.journal import MODULE, Journal
from tracestill.data_pipeline.sampling.questions import QuestionsConfig
from tracestill.data_pipeline.sampling.sample_config import Asked, SampleConfig, files_of


class Watch:
    """Knows what each teacher's files held before it was asked, and finds out which of them it writes itself."""

    def __init__(
        self,
        questions: QuestionsConfig,
        sample: SampleConfig,
        teachers: dict[str, Asked],
        book: Journal,
        memory: Path | None,
    ) -> None:
        """``teachers`` of the journal know afterwards whether their files hold something else than at first."""
        self.book, self.memory, self.questions = book, memory, questions
        self.configs = {config.name: (position, config) for position, config in enumerate(sample.teachers)}
        self.before = {name: self.files(name) for name in teachers}
        self.asked: set[str] = set()
        self.teachers = {
            name: replace(asked, changed=book.changed(asked.module, asked.options, self.before[name]))
            for name, asked in teachers.items()
        }

    def files(self, name: str) -> dict[str, str]:
        """Field/name -> sha256 of a teacher's files."""
        found = contents(files_of(self.configs[name][1], self.questions), self.memory)
        return {f"{field}/{file}": digest for field, held in found.items() for file, digest in held.items()}

    def look(self, name: str) -> None:
        """Called after an answer: the first of each teacher tells already, so that an interrupt costs no other."""
        if name not in self.asked:
            self.asked.add(name)
            self.note(name)

    def note(self, name: str) -> None:
        """Let the journal forget the files that have changed since the teacher was asked.

        Not those of its module: somebody has mended that meanwhile, and is to have it asked anew.
        """
        now, asked = self.files(name), self.teachers[name]
        before = {file: digest for file, digest in self.before[name].items() if not file.startswith(MODULE)}
        changed = [file for file, digest in before.items() if now.get(file) != digest]
        if changed:
            self.book.written(asked.module, asked.options, changed)

    def end(self) -> set[str]:
        """Full names of the options whose files do not count, as teachers write them."""
        found = set()
        for name, (position, _) in self.configs.items():
            if name in self.asked:
                self.note(name)
            known = self.book.first_seen(self.teachers[name].module, self.teachers[name].options)
            fields = {file.partition("/")[0] for file in self.before[name].keys() - known.keys()}
            found |= {f"sample.teachers.{position}.{field}" for field in fields if field.startswith("options")}
        return found
