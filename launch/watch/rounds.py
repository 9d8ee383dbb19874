"""Rounds as their directory tells of them: which is at hand, what came of the others, and how they ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tracestill.launch.report.rounds_page import RESULT, accuracy, differ, rare
from tracestill.launch.rounds.recipes import CHUNKS, ROUNDS, folder_of, student_of
from tracestill.launch.rounds.show import ending
from tracestill.launch.watch.follow import Kept
from tracestill.trainer.lock import run_lock
from tracestill.trainer.recipe.run_directory import RECIPE

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Rounds:
    """The rounds of a run at one moment."""

    at: int | None  # the round at hand; None before round 0
    count: int | None  # after round 0, at most; None where the recipe cannot be read
    rows: tuple[Row, ...]  # of rounds.json: the round at hand once it has its traces, and all before it
    best: int | None
    over: bool  # they came to their end, and nobody is at work
    ending: tuple[str, ...]  # why they ended, and the best one; empty until then

    @property
    def head(self) -> str:
        if self.at is None:
            return "no round yet"
        return f"round {self.at}" + ("" if self.count is None else f" of {self.count}")

    @property
    def warnings(self) -> list[str]:
        return [f"round {row['round']}: {text}" for row in self.rows for text in row.get("warnings", ())]

    def told(self) -> list[tuple[str, str]]:
        """Each round of which something is known, in a line."""
        return [(f"round {row['round']}", what) for row in self.rows if (what := figures_of(row))]


class Result:
    """Follows rounds.json."""

    def __init__(self, root: Path) -> None:
        self.root, self.file = root, Kept(root / RESULT)

    def look(self, at: int | None, count: int | None, *, at_work: bool, trained: bool) -> Rounds:
        """``at``: the round at hand, which is ``trained`` or not; ``count``: rounds after round 0."""
        held = self.file.look() or {}
        rows = rows_of(held)
        done = bool(held.get("stopped")) or (count is not None and sum(bool(row["trained"]) for row in rows) > count)
        over = bool(rows) and done and not at_work
        if not over:  # the command goes through finished rounds anew, and knows their figures from another time
            rows = [row for row in rows if is_known(row, at, trained=trained)]
        best = held.get("best")
        return Rounds(at, count, tuple(rows), best, over, tuple(said(self.root, held)) if over else ())


def rows_of(held: Row) -> list[Row]:
    """Rounds in a result; none of a damaged one."""
    rows = held.get("rounds")
    rows = rows if isinstance(rows, list) else []
    return [row for row in rows if isinstance(row, dict) and isinstance(row.get("round"), int) and "trained" in row]


def is_known(row: Row, at: int | None, *, trained: bool) -> bool:
    """Whether a row tells of the round as it is: of the round at hand, an accuracy is an older one until a student has
    been trained."""
    if at is None or row["round"] > at:
        return False
    return row["round"] < at or trained or not row["trained"]


def said(root: Path, held: Row) -> list[str]:
    try:
        told = ending(root, held)
    except (LookupError, TypeError, ValueError):  # of another version
        return []
    return told if held.get("stopped") else ["ended: all rounds are done", *told]


def figures_of(row: Row) -> str:
    """The traces that a round learns from, and what its student answers, as far as it is known."""
    traces, own = row.get("traces", {}), "own_texts" in row
    try:
        parts = [f"{traces['traces']:,} {'texts of its own' if own else 'traces'}"] if "traces" in traces else []
        parts += [f"{traces[key]:,} {key}" for key in ("right", "kept") if key in traces]
        parts += [f"{name} {cell}" for name, cell in (("differ", differ(row)), ("rare seen", rare("coverage")(row)))
                  if cell]  # fmt: skip
        if row["trained"]:
            parts.append(f"accuracy {accuracy(row)}, {row['questions']:,} {row['split']} questions")
        elif row["trained"] is not None:
            parts.append("not trained")
    except (LookupError, TypeError, ValueError):  # of another version
        return ""
    return ", ".join(parts)


def at_hand(root: Path) -> int | None:
    """The round in which the command of all rounds is at work, else the newest one; None before round 0."""
    folders = (path for path in (root / ROUNDS).glob("*") if path.name.isdecimal() and (path / RECIPE).exists())
    numbers = sorted((int(path.name) for path in folders), reverse=True)
    process = process_of(root)
    works = (number for number in numbers if process and process_of(folder_of(root, number)) == process)
    return next(works, next(iter(numbers), None))


def process_of(root: Path) -> tuple[str, int, int] | None:
    """Who holds a directory: node, process, and when that began."""
    try:
        found = run_lock.last_of(root)
    except OSError:
        return None
    return None if found is None or found.owner is None else (found.owner.node, found.owner.pid, found.owner.born)


def left_writing(root: Path, number: int) -> list[str]:
    """What there is to say of texts that a student has written for a round, where nobody writes on."""
    chunks = len(list((folder_of(root, number) / CHUNKS).glob("*/*.json")))
    if not chunks:
        return []
    kept = f"{chunks} chunk{'s' if chunks > 1 else ''} of what it wrote"
    return [f"write {student_of(number - 1)}: cut off; {kept} {'are' if chunks > 1 else 'is'} kept"]
