"""Everything that a recipe asks for is found in the journal or asked for, and what is said is journaled at once."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.sampling.asking.crew import Crew
from tracestill.data_pipeline.sampling.asking.desk import Answer, NotAsked, Note
from tracestill.data_pipeline.sampling.asking.money import Ledger
from tracestill.data_pipeline.sampling.files.rejected import Rejected, refuse_too_many
from tracestill.data_pipeline.sampling.files.trace_store import TraceStore
from tracestill.data_pipeline.sampling.heard import Unusable, heard
from tracestill.data_pipeline.sampling.journal import Journal, Key
from tracestill.data_pipeline.sampling.readers.chain import Unread
from tracestill.data_pipeline.sampling.reading import Reader, asked_of, place_of, rejection, text_of
from tracestill.data_pipeline.sampling.sample_config import SampleConfig
from tracestill.data_pipeline.sampling.teachers import FAILURES, Said, Solution
from tracestill.data_pipeline.sampling.wanted import CRITIQUE, Course, Wanted
from tracestill.data_pipeline.sampling.watch import Watch

MAX_REJECTED, MAX_FAILED = "sample.max_rejected", "sample.max_failed"
REPLAYED = 500  # recorded traces that are journaled at a time
LOOKED_AT, EVERY = (
    500,
    10,
)  # answers that are read at once, to end a run in vain early: the first ones, then every tenth
BUDGET = "budget"  # reason of what was not asked, and the name of the note of what is drawn


class Progress(Protocol):
    """Is told samples in the journal, samples in all, and what can be said of those that were asked for."""

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


@dataclass
class Asking:
    """Of one run of the stage. ``at`` says how many samples are in the journal."""

    book: Journal
    course: Course
    reader: Reader
    watch: Watch
    traces: TraceStore
    sample: SampleConfig
    seed: int
    kinds: Kinds
    progress: Progress
    at: int = 0
    asked: int = 0
    heard: int = 0  # answers
    useless: int = 0  # answers that gave nothing to be read
    read: int = 0  # answers that were read at once
    unread: int = 0  # of these those that no reader reads, or that break a check
    bad: list[Rejected] = field(default_factory=list)  # what cannot be used, as far as it has been seen
    failed: dict[Key, tuple[Wanted, str]] = field(default_factory=dict)  # and why
    unpaid: list[Wanted] = field(default_factory=list)  # what there was no money for

    def run(self) -> float:
        """Until nothing is missing; the money that this journal has cost so far. Raises InputError if too much fails or
        cannot be used; what has been journaled stays."""
        notes = self.book.notes()
        ledger = Ledger(self.sample.budget, float(notes.get("", {}).get(BUDGET, 0)))
        done = self.book.done()
        teachers = {name: asked.teacher for name, asked in self.watch.teachers.items()}
        with Crew(teachers, self.sample.attempts, ledger, notes) as crew:
            waiting: dict[str, Wanted] = {}
            try:
                self.send(self.course.first(), done, crew, waiting)
                self.tell()
                for some in crew.answers():
                    self.keep(some, waiting, done, crew)
            finally:
                self.save(crew.stop(), waiting)
                spent = ledger.close()
                if ledger.drawn or spent:
                    self.book.note("", BUDGET, repr(spent))
        return ledger.total

    def send(
        self, wanted: Iterator[Wanted], done: set[tuple[str, str]], crew: Crew, waiting: dict[str, Wanted]
    ) -> None:
        """Ask for what the journal lacks; go on from what it has."""
        replays: list[Wanted] = []
        queue = wanted
        while (each := next(queue, None)) is not None:
            if (each.key.record_id, each.binding) in done:
                self.at += 1
                queue = itertools.chain(self.known(each), queue) if self.looks else queue
            elif each.place is not None:
                replays.append(each)
                if len(replays) == REPLAYED:
                    queue = itertools.chain(self.replay(replays), queue)
            else:
                ask = each.ask(self.course.by_id[each.key.question_id], self.seed)
                waiting[ask.id] = each
                crew.put(each.key.teacher, ask)
        if more := self.replay(replays):
            self.send(iter(more), done, crew, waiting)

    @property
    def looks(self) -> bool:
        """Whether what is in the journal has to be read before the end."""
        return self.course.goes_on or self.book.has_rejected

    def known(self, each: Wanted) -> list[Wanted]:
        """What follows from a sample of the journal."""
        said = self.book.said(each.key, each.binding)
        if isinstance(said, Unusable):
            self.note_fault(each, said)
        return self.course.after(each, None if isinstance(said, Unusable) else said)

    def replay(self, some: list[Wanted]) -> list[Wanted]:
        """Journal recorded traces; what follows from them."""
        more = []
        answers = []
        for each in some:
            assert each.place is not None
            said = heard(self.traces.read(each.place))
            answers.append((each.key, each.binding, said))
            more += self.course.after(each, None if isinstance(said, Unusable) else said)
        if answers:
            self.book.add_all(answers)
            self.at += len(answers)
            self.asked += len(answers)
            self.tell()
        some.clear()
        return more

    def keep(
        self, some: list[Answer | Note], waiting: dict[str, Wanted], done: set[tuple[str, str]], crew: Crew
    ) -> None:
        """Journal what was said, then look at it, and ask for what follows."""
        answers: list[tuple[Key, str, Solution | Said | Unusable]] = []
        new: list[tuple[Wanted, Solution | Said | Unusable]] = []
        try:
            for each in some:
                if isinstance(each, Note):
                    self.journal(answers)  # a note may say that what was given before it needs no remembering
                    self.book.note("" if each.name == BUDGET else each.teacher, each.name, each.value)
                    each.kept.set()
                    continue
                wanted = waiting.pop(each.ask.id)
                if isinstance(each.said, NotAsked):
                    self.unpaid.append(wanted)
                    continue
                said = heard(each.said)
                if isinstance(said, Solution):
                    refuse_unknown_kinds(said, wanted.key, self.kinds)
                answers.append((wanted.key, wanted.binding, said))
                new.append((wanted, said))
        finally:
            self.journal(answers)  # before anything is made of them that may fail
        for wanted, said in new:
            if fault := self.fault(wanted, said):
                self.note_fault(wanted, fault)
            if more := self.course.after(wanted, None if isinstance(said, Unusable) else said):
                self.send(iter(more), done, crew, waiting)
        self.refuse()

    def save(self, some: list[Answer], waiting: dict[str, Wanted]) -> None:
        """Journal what came while sampling ended, as far as it can be used: it has been paid for."""
        answers: list[tuple[Key, str, Solution | Said | Unusable]] = []
        for each in some:
            said = heard(each.said)
            if isinstance(said, Unusable) or said.spans:  # nobody has looked at their kinds
                continue
            if (wanted := waiting.pop(each.ask.id, None)) is not None:
                answers.append((wanted.key, wanted.binding, said))
        self.journal(answers)

    def journal(self, answers: list[tuple[Key, str, Solution | Said | Unusable]]) -> None:
        """In one transaction; empties the list."""
        if not answers:
            return
        self.book.add_all(answers)
        self.at += len(answers)
        self.asked += len(answers)
        for teacher in {key.teacher for key, _, _ in answers}:
            self.watch.look(teacher)
        answers.clear()
        self.tell()

    def tell(self) -> None:
        """How far it is, and which share of what was asked for gives a record, as far as that has been looked at."""
        share = (1 - self.useless / max(1, self.asked)) * (1 - self.unread / max(1, self.read))
        self.progress(self.at, self.course.count, f"{share:.0%} usable" if self.read or self.useless else "")

    def fault(self, wanted: Wanted, said: Solution | Said | Unusable) -> Unusable | None:
        """Why what a teacher said gives no record, if it is seen at once."""
        if isinstance(said, Unusable) or wanted.part == CRITIQUE or not self.is_looked_at():
            self.useless += isinstance(said, Unusable)
            return said if isinstance(said, Unusable) else None
        read = self.reader.read(self.course.by_id[wanted.key.question_id], said)
        self.read, self.unread = self.read + 1, self.unread + isinstance(read, Unread)
        return Unusable(read.reason, read.detail, text_of(said)) if isinstance(read, Unread) else None

    def is_looked_at(self) -> bool:
        """Reading costs as much as all else here: of many texts some tell, and all are read at the end."""
        self.heard += 1
        return self.heard <= LOOKED_AT or self.heard % EVERY == 0

    def note_fault(self, wanted: Wanted, fault: Unusable) -> None:
        if fault.reason in FAILURES:
            self.failed[wanted.key] = wanted, fault.detail
        else:
            self.bad.append(rejection(wanted, fault))

    def refuse(self) -> None:
        """Raise InputError if more has failed, or cannot be used, than the recipe allows."""
        total = self.course.count
        refuse_too_many(self.bad, total, self.sample.max_rejected, MAX_REJECTED, "samples")
        if len(self.failed) <= self.sample.max_failed * total:
            return
        self.book.forget((each.key, each.binding) for each, _ in self.failed.values())
        last = list(self.failed.values())[-1][1]
        share = ""
        if self.sample.max_failed and len(self.failed) > 1:
            share = f"; {len(self.failed)} of {total} samples failed, more than {MAX_FAILED} allows"
        raise InputError(
            f"{last}{share}; {self.at - len(self.failed)} samples are kept in {self.book.path}: mend the teacher and "
            "run again, only missing samples are asked"
        )

    def not_asked(self) -> list[Rejected]:
        """What there was no money for, as the rejected samples that they are."""
        detail = f"sample.budget = {self.sample.budget} does not pay for it"
        return [Rejected(place_of(each.key), BUDGET, detail, "", **asked_of(each)) for each in self.unpaid]


def refuse_unknown_kinds(solution: Solution, key: Key, kinds: Kinds) -> None:
    known = kinds.members("trace")
    if unknown := [span.kind for span in solution.spans or () if span.kind not in known]:
        raise InputError(
            f"{place_of(key)}: span kind '{unknown[0]}' is no kind of the trace ({', '.join(known)}); "
            "name it under kinds in the recipe"
        )
