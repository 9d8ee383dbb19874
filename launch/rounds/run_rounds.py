"""Rounds in a row: each is a run of its own below the directory of all, and its student teaches the next one.

What has finished is found again: stages by their manifests, training by its checkpoints, a student's traces by their
chunks. So the same command goes on wherever it was ended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from rich.console import Console
from rich.text import Text

from tracestill.data_pipeline.base.stage import is_current, read_manifest, write_json
from tracestill.data_pipeline.guards.visible import visible
from tracestill.data_pipeline.rounds.verdict import (
    End,
    after_training,
    before_training,
    best_of,
    student_warnings,
    warnings,
)
from tracestill.data_pipeline.selection.selection import NothingLeft
from tracestill.launch.report.rounds_page import RESULT
from tracestill.launch.rounds.monitor import data_figures, student_figures, text_figures
from tracestill.launch.rounds.recipes import ROUNDS, TRACES, WRITTEN, round_of, settings_of, student_of
from tracestill.launch.rounds.show import told_of
from tracestill.launch.run.checks import check_scorer_of_texts, check_works
from tracestill.launch.run.progress import bar, line
from tracestill.launch.run.runner import is_due, run_stages
from tracestill.launch.run.stage_spec import How, Work
from tracestill.launch.run.stages import plan_works
from tracestill.trainer.assembly.teacher_stops import check_teacher
from tracestill.trainer.lock.run_lock import held
from tracestill.trainer.recipe.recipe import MAIN_ARM, Recipe, refuse_local_checkpoints
from tracestill.trainer.recipe.run_directory import RunDirectory

JOURNAL = "journal.sqlite"
DATA = ("sample", "select")  # stages after which it is decided whether a round is trained


@dataclass
class Rounds:
    """All rounds of a recipe below ``root``, as far as they have come."""

    root: Path
    recipe: Recipe
    console: Console
    how: How = field(default_factory=How)
    found: list[dict[str, Any]] = field(default_factory=list)  # by round
    end: End | None = None

    def run(self) -> dict[str, Any]:
        """Do what is missing; what ``rounds.json`` then says. Raises as the stages do."""
        first = self.at(0)
        for number in range(settings_of(self.recipe).count + 1):
            self.console.print(Text(f"round {number}", "bold"))
            run = self.at(number)
            with held(run.root, self.tell):
                RunDirectory.create(run.root, run.recipe, replace=True)
                share_journal(run.root)
                self.end = self.round(number, run, first)
            if self.end is not None:
                self.found[-1]["trained"] = bool(self.found[-1]["trained"])
                break
        return self.keep()

    def check(self) -> None:
        """Raise InputError for what round 0 cannot begin with, and for what the recipe of a later one cannot be;
        nothing is written."""
        refuse_local_checkpoints(self.recipe, "rounds")
        first = self.at(0)
        later = round_of(self.root, self.recipe, 1, self.teachers()).recipe
        check_works(first, plan_works(first, self.how), self.console, cluster=self.how.cluster)
        if settings_of(self.recipe).on_policy is not None:
            later = later.model_copy(update={"encode": self.recipe.encode})
            check_scorer_of_texts(later)
            check_teacher(later)

    def at(self, number: int) -> RunDirectory:
        """A round as it is until selection has told how much there is of what."""
        return round_of(self.root, self.recipe, number)

    def teachers(self) -> list[str]:
        """Who is asked for traces in round 0."""
        return [each.name for each in self.recipe.sample.teachers if not each.only_revises]

    def round(self, number: int, run: RunDirectory, first: RunDirectory) -> End | None:
        """One round; why none follows, if there is a reason."""
        settings = settings_of(self.recipe)
        teachers = self.teachers()
        if number:
            teachers = [student_of(number - 1), *(teachers if settings.teacher == "mixture" else ())]
        self.found.append({"round": number, "run": f"{ROUNDS}/{number}", "teachers": teachers, "trained": None})
        if number and settings.on_policy is not None:
            return self.own_texts(number, run, first)
        if number:
            counts = self.found[-1]["written"] = self.written(run, first, number)
            if not counts["right"]:
                return End(number, "nothing_right", nothing_right(student_of(number - 1), counts))
        works = plan_works(run, self.how)
        check_works(run, works, self.console, cluster=self.how.cluster)
        begin = next(at for at, work in enumerate(works) if work.stage not in DATA)
        try:
            run_stages(works[:begin], self.console)
        except NothingLeft as error:
            if not number:
                raise
            self.tell(str(error))
            return nothing_kept(number)
        figures = data_figures(run, first, settings.rare)
        first_teachers, beside = figures.pop("teachers"), figures.pop("beside")
        self.found[-1]["traces"] = figures
        if number:
            self.warn(number, warnings(self.found[0]["traces"], figures))
            if not figures["kept"]:
                return nothing_kept(number)
            if (end := before_training(number, figures, settings.stop)) is not None:
                return end
            if is_short(settings.keep, beside, figures["kept"]):
                run = round_of(self.root, self.recipe, number, first_teachers)
                RunDirectory.create(run.root, run.recipe, replace=True)
                works = plan_works(run, self.how)
        self.keep()  # the monitor's word can be read while the student is trained
        run_stages(with_report(works[begin:]), self.console)
        self.found[-1] |= {"trained": True, **student_figures(run, first, self.console)}
        if number:
            self.warn(number, student_warnings(self.found[0], self.found[-1]))
        self.keep()
        return after_training([each for each in self.found if each["trained"]], settings.stop)

    def own_texts(self, number: int, run: RunDirectory, first: RunDirectory) -> End | None:
        """A round whose student learns from texts that it writes meanwhile; these are looked at behind the training."""
        settings = settings_of(self.recipe)
        works = plan_works(run, self.how)
        check_works(run, works, self.console, cluster=self.how.cluster)
        run_stages(with_report(works), self.console)
        told = (read_manifest(run.stage(MAIN_ARM, "train")) or {})["on_policy"]
        every = text_figures(run, first, settings.rare, student_of(number - 1))
        counted = {"traces": told["in"], "right": told["right"]}  # all there is if the texts are gone
        self.found[-1] |= {"own_texts": told, "first_texts": every[0] if every else None}
        self.found[-1] |= {"traces": every[-1] if every else counted}
        self.found[-1] |= {"trained": True, **student_figures(run, first, self.console)}
        self.warn(number, warnings(self.found[0]["traces"], every[-1]) if every else [])
        self.warn(number, student_warnings(self.found[0], self.found[-1]))
        self.keep()
        if (ended := told["ended"]) is not None:
            return End(number, ended["rule"], ended["why"])
        if every and (end := before_training(number, every[-1], settings.stop)) is not None:
            return end
        return after_training([each for each in self.found if each["trained"]], settings.stop)

    def written(self, run: RunDirectory, first: RunDirectory, number: int) -> dict[str, Any]:
        """The student of the round before writes; the counts."""
        from tracestill.launch.rounds.writing import identity_of, write_traces

        before = self.at(number - 1)
        directory, label = run.root / WRITTEN, f"write {student_of(number - 1)}"
        note = "up to date, skipped"
        current = is_current(directory, WRITTEN, *identity_of(self.recipe, first, before))
        if not current or is_damaged(directory / TRACES):
            try:
                with bar(label, self.console, "traces", directory) as progress:
                    write_traces(self.recipe, first, before, run.root, progress.set)
            except KeyboardInterrupt:
                told = f"interrupted while {student_of(number - 1)} writes: what it has written is kept, by chunks"
                raise KeyboardInterrupt(f"{told}; the same command goes on") from None
            note = ""
        counts = dict((read_manifest(directory) or {})["counts"])
        self.console.print(line(label, note or told_of(counts), "dim" if note else "green"), soft_wrap=True)
        return counts

    def warn(self, number: int, texts: Sequence[str]) -> None:
        """Say what is doubtful of a round, and keep it."""
        self.found[-1].setdefault("warnings", []).extend(texts)
        for text in texts:
            self.console.print(Text(visible(f"warning: round {number}: {text}"), "bold yellow"), soft_wrap=True)

    def keep(self) -> dict[str, Any]:
        """Write what is known now; it is all in the rounds' directories, too."""
        trained = [each for each in self.found if each["trained"]]
        best = best_of(trained)["round"] if trained else None
        student = None if best is None else self.at(best).stage(MAIN_ARM, "train") / "export"
        result = {
            "name": self.recipe.name,
            "settings": settings_of(self.recipe).model_dump(mode="json"),
            "rounds": self.found,
            "best": best,
            "student": None if student is None else str(student.relative_to(self.root)),
            "stopped": None if self.end is None else self.end._asdict(),
        }
        write_json(self.root / RESULT, result)
        return result

    def tell(self, text: str) -> None:
        self.console.print(text, style="yellow", highlight=False, markup=False, soft_wrap=True)


def nothing_kept(number: int) -> End:
    return End(number, "nothing_kept", f"selection keeps no trace of {student_of(number - 1)}")


def is_damaged(file: Path) -> bool:
    """Whether a Parquet file was cut off, or is not there."""
    try:
        pq.read_metadata(file)
    except (OSError, ValueError):
        return True
    return False


def is_short(keep: float | None, beside: int, new: int) -> bool:
    """Whether the first teachers' records, ``beside`` the new ones, have less than the share that they are to have."""
    return keep is not None and beside < keep * (beside + new)


def share_journal(folder: Path) -> None:
    """Let a round's journal be that of all rounds."""
    link = folder / JOURNAL
    if not link.is_symlink() and not link.exists():
        link.symlink_to(Path("..") / ".." / JOURNAL)


def with_report(works: Sequence[Work]) -> list[Work]:
    """The works, but the report only if one of the others is to be done, or it is not there."""
    due = any(is_due(work, list(works[at + 1 :])) for at, work in enumerate(works) if not work.spec.always)
    return [work for work in works if due or not work.spec.always or read_manifest(work.directory) is None]


def nothing_right(student: str, counts: Mapping[str, Any]) -> str:
    """That no trace of a student can be learnt from, and what helps."""
    told, cut = f"no trace of {student} has the right answer", counts.get("rejected", {}).get("cut_off", 0)
    told += f": {cut:,} of {counts['in']:,} were cut off (evaluate.max_new_tokens)" if cut else ""
    return f"{told}; train round 0 until its student answers"
