"""Which samples a recipe asks for: of each question, teacher, style and temperature so many; of recorded traces all;
and those that follow from what was said: further rounds, criticism and rewriting.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

from tracestill.data_pipeline.answers.verifier import AUTO, COLUMN, verify
from tracestill.data_pipeline.answers.verify import BUILT_IN
from tracestill.data_pipeline.base.schema import GENERAL, Question
from tracestill.data_pipeline.sampling.asking import revise
from tracestill.data_pipeline.sampling.asking.until import Tally
from tracestill.data_pipeline.sampling.files.trace_store import Place, TraceStore
from tracestill.data_pipeline.sampling.journal import Key, binding_of
from tracestill.data_pipeline.sampling.sample_config import Asked, SampleConfig
from tracestill.data_pipeline.sampling.teachers import Ask, Said, Solution, recorded
from tracestill.data_pipeline.selection.config import SelectConfig
from tracestill.data_pipeline.selection.judging import accepted_path

TRACE, CRITIQUE, REVISION = "trace", "critique", "revision"
ACCEPTED = SelectConfig()

Heard = Solution | Said | None
ReadAs = Callable[[Question, Solution | Said], "tuple[str, str] | None"]


class Wanted(NamedTuple):
    """One sample: its key, its binding in the journal and, of a recorded trace, where that stands."""

    key: Key
    binding: str
    place: Place | None = None
    part: str = TRACE
    text: str = ""  # what is asked instead of the question, of a critique or a revision
    of: str = ""  # record id of the trace that a critique or a revision belongs to
    about: tuple[str, str] = ("", "")  # that trace, and its answer

    def ask(self, question: Question, seed: int) -> Ask:
        """As a teacher gets it."""
        own = self.key.seed(seed)
        id_ = f"{self.key.record_id}-{self.binding}"
        if self.part == TRACE:
            return Ask(id_, question, self.key.style, self.key.temperature, self.key.index, own)
        asked = replace(question, question=self.text)
        return Ask(id_, asked, "", self.key.temperature, self.key.index, own, as_is=True)


class Course:
    """All samples of a run. What comes next depends on what was said alone, so that a run that was cut off goes on as
    if it had not been."""

    def __init__(
        self,
        by_id: Mapping[str, Question],
        teachers: Mapping[str, Asked],
        sample: SampleConfig,
        seed: int,
        traces: TraceStore,
        read: ReadAs,
    ) -> None:
        """``read``: trace and answer of what was said, None if there are none."""
        self.by_id, self.teachers, self.sample, self.seed, self.traces = by_id, teachers, sample, seed, traces
        self.read = read
        self.of: dict[str, list[Wanted]] = {}
        self.revised: dict[str, Wanted] = {}  # record id of a trace -> its newest critique or revision
        self.critiques: dict[str, str] = {}  # record id of a revision -> the criticism
        self.tallies: dict[str, Tally] = {}
        self.grid = [
            (name, style, temperature)
            for name, asked in teachers.items()
            if not isinstance(asked.teacher, recorded.Teacher) and not asked.only_revises
            for style in sample.prompts
            for temperature in sample.temperatures
        ]
        self.goes_on = sample.revise is not None or (sample.until is not None and bool(self.grid))
        self.count = 0

    def first(self) -> Iterator[Wanted]:
        """What is asked for whatever is said, question by question."""
        for question_id, question in self.by_id.items():
            found = list(self.first_of(question))
            self.of[question_id] = list(found)  # which grows while these are asked
            self.count += len(found)
            yield from found

    def first_of(self, question: Question) -> Iterator[Wanted]:
        held_out, sample = question.split != "train", self.sample
        replays = 0
        if question.is_general:
            yield from self.replayed(question.question_id, GENERAL, None, "")
            return
        for name, asked in self.teachers.items():
            if isinstance(asked.teacher, recorded.Teacher):
                for at, each in enumerate(self.replayed(question.question_id, name, asked.teacher.options.teacher)):
                    if not held_out or at < sample.test_samples:
                        replays += 1
                        yield each
            elif not asked.only_revises and (held_out or sample.until is None):
                binding = self.binding(name, question)
                for style in sample.prompts[:1] if held_out else sample.prompts:
                    for temperature in sample.temperatures[:1] if held_out else sample.temperatures:
                        for index in range(sample.test_samples if held_out else sample.samples):
                            yield Wanted(Key(question.question_id, name, style, temperature, index), binding)
        if sample.until is not None and not held_out and self.grid:
            self.tallies[question.question_id] = tally = Tally(sample.until, out=replays)
            yield from self.round(question, tally)

    def replayed(self, question_id: str, name: str, only: str | None, system: str | None = None) -> Iterator[Wanted]:
        """The recorded traces of a question. What a trace holds is its binding: a changed one is another sample.
        ``system``: the style of those that name none; None: the recipe's first."""
        counts: Counter[tuple[str, str]] = Counter()
        for place in self.traces.of(question_id):
            if only is not None and place.teacher != only:
                continue
            who = place.teacher or name, place.system or (self.sample.prompts[0] if system is None else system)
            key = Key(question_id, who[0], who[1], self.sample.temperatures[0], counts[who])
            yield Wanted(key, place.digest, place)
            counts[who] += 1

    def round(self, question: Question, tally: Tally) -> list[Wanted]:
        """The next samples of a question: the grid's places in turns, each with its next index."""
        before = tally.asked
        found = []
        for at in range(before, before + tally.next_round()):
            index, place = divmod(at, len(self.grid))
            name, style, temperature = self.grid[place]
            key = Key(question.question_id, name, style, temperature, index)
            found.append(Wanted(key, self.binding(name, question)))
        return found

    def after(self, each: Wanted, said: Heard) -> list[Wanted]:
        """What follows from a sample; ``said``: None if it gave nothing that can be kept."""
        question = self.by_id[each.key.question_id]
        if not self.goes_on or question.split != "train" or question.is_general or each.part == REVISION:
            return []
        if each.part == CRITIQUE:
            return [] if said is None else [self.revision(question, each, said)]
        read = self.read(question, said) if said is not None else None
        more = []
        if (tally := self.tallies.get(question.question_id)) is not None:
            tally.heard(right_path(question, *read) if read else None)
            more = self.round(question, tally)
            self.of[question.question_id] += more
            self.count += len(more)
        who = self.sample.revise
        if read and who is not None and (not who.of or each.key.teacher in who.of):
            text = revise.criticise(who, question.question, *read)
            more.append(self.revising(CRITIQUE, question, each.key.record_id, read, text))
        return more

    def revision(self, question: Question, critique: Wanted, said: Solution | Said) -> Wanted:
        told = said.raw if isinstance(said, Said) else f"{said.trace}\n{said.answer}"
        text = revise.rewrite(question.question, *critique.about, told)
        wanted = self.revising(REVISION, question, critique.of, critique.about, text)
        self.critiques[wanted.key.record_id] = told
        return wanted

    def revising(self, part: str, question: Question, of: str, about: tuple[str, str], text: str) -> Wanted:
        who = self.sample.revise
        assert who is not None
        key = Key(question.question_id, who.teacher, f"{part} of {of}", who.temperature, 0)
        binding = self.binding(who.teacher, replace(question, question=text))
        self.revised[of] = wanted = Wanted(key, binding, None, part, text, of, about)
        self.count += 1
        return wanted

    def binding(self, teacher: str, question: Question) -> str:
        asked = self.teachers[teacher]
        return binding_of(asked.module, asked.options, self.seed, question, asked.changed)

    def all(self) -> Iterator[Wanted]:
        """Every sample, question by question, whatever the order in which they came. A criticism is one only where
        nothing followed from it."""
        for found in self.of.values():
            yield from found
            yield from (more for each in found if (more := self.revised.get(each.key.record_id)) is not None)


def right_path(question: Question, trace: str, answer: str) -> str | None:
    """The reasoning path of a trace that selection, as it is by default, would accept; else None. The verifier is
    ``auto``, or the built-in one that the question names."""
    named = str(question.metadata.get(COLUMN) or AUTO)
    verdict = verify(answer, question.gold, question.question, named if named in BUILT_IN else AUTO)
    row = {"question": question.question, "answer": answer, "gold": question.gold, "trace": trace, "weight": 1.0}
    return accepted_path(ACCEPTED, row) if verdict.right else None
