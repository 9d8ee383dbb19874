"""The figures of a round: how its new traces solve, beside those of round 0."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tracestill.data_pipeline.answers.plain import normal_text
from tracestill.data_pipeline.base.schema import GENERAL, QUESTION_SCHEMA, RECORD_SCHEMA, read_rows
from tracestill.data_pipeline.rounds import diversity
from tracestill.data_pipeline.rounds.strategies import rare_ones, strategy
from tracestill.data_pipeline.selection.paths import PathsConfig, path_of
from tracestill.data_pipeline.selection.repetition import words_of
from tracestill.data_pipeline.selection.selection import VERDICT_SCHEMA
from tracestill.data_pipeline.soundness.equations import equations

PATHS = PathsConfig()
COMPARED = 500  # questions whose traces self-BLEU compares, at even distances
MOST_GONE, SHOWN = 20, 2000  # ways of round 0 that are named as gone, and characters of an example of each


class Way(NamedTuple):
    """A training record whose answer is right and whose trace is sound, or not."""

    question_id: str
    teacher: str
    right: bool  # and sound
    kept: bool
    path: str
    strategy: str
    words: list[str]
    sample: int = 0  # which of those that its teacher gave to the question
    question: str = ""
    trace: str = ""


def ways(sample: Path, select: Path) -> list[Way]:
    """Of each training record, in the order of the records; general texts left out."""
    held = {row["question_id"]: row for row in read_rows(sample / "questions.parquet", QUESTION_SCHEMA)}
    rows = read_rows(sample / "records.parquet", RECORD_SCHEMA)
    verdicts = read_rows(select / "verdicts.parquet", VERDICT_SCHEMA)
    found = []
    for row, verdict in zip(rows, verdicts, strict=True):
        if held[row["question_id"]]["split"] != "train" or row["reader"] == GENERAL:
            continue
        right, kept = bool(verdict["right"] and verdict["sound"]), bool(verdict["kept"])
        found.append(way_of(row, row["teacher"], right=right, kept=kept, sample=row["index"]))
    return found


def way_of(row: Mapping[str, Any], teacher: str, *, right: bool, kept: bool, sample: int) -> Way:
    """Of a text with its ``question_id``, ``question`` and ``trace``."""
    question, trace = row["question"], row["trace"]
    plain, read = normal_text(trace), equations(trace)
    told = path_of(trace, read, plain, PATHS), strategy(question, read), words_of(plain)
    return Way(row["question_id"], teacher, right, kept, *told, sample, question, trace)


def accepted(sample: Path, select: Path) -> list[Way]:
    """Those that are right and sound."""
    return [each for each in ways(sample, select) if each.right]


def traces_of(every: Sequence[Way], first: Sequence[Way], rare: float) -> dict[str, Any]:
    """Figures of a round's new traces, ``every`` one, beside those of round 0; of right and sound ones but for
    ``tried``, the coverage of all, and ``words``, their mean length."""
    right, of_question = [each for each in every if each.right], by_question(every)
    paths, before = paths_of(of_question), paths_of(by_question(first))
    strategies = [each.strategy for each in right if each.strategy]
    reference = [each.strategy for each in first if each.right]  # also without one: a draw that shows none
    rarely = rare_ones(reference, rare)
    covered, tried = (diversity.coverage(reference, [each.strategy for each in own], rarely) for own in (right, every))
    beside = diversity.beside(paths, before)
    several = [[each.words for each in own] for own in of_question.values() if len(own) > 1]
    stride = max(1, -(-len(several) // COMPARED))
    return {
        "traces": len(every),
        "right": len(right),
        "kept": sum(each.kept for each in every),
        "questions": len({each.question_id for each in every}),
        "solved": len(paths),
        "paths": diversity.paths_a_question(paths),
        "differ": diversity.differing(paths),
        "differ_same": beside.now if beside else None,
        "differ_first": beside.first if beside else None,
        "differ_error": beside.error if beside else None,
        "pairs": sum(len(own) > 1 for own in paths.values()),
        "strategies": len(set(strategies)),
        "entropy": diversity.entropy(strategies),
        "self_bleu": diversity.self_bleu({str(at): own for at, own in enumerate(several[::stride])}),
        "coverage": covered.share if covered else None,
        "coverage_by_chance": covered.chance if covered else None,
        "coverage_error": covered.error if covered else None,
        "tried": tried.share if tried else None,
        "tried_by_chance": tried.chance if tried else None,
        "words": sum(len(each.words) for each in every) / len(every) if every else 0.0,
        "gone": gone(every, first),
    }


def gone(every: Sequence[Way], first: Sequence[Way]) -> dict[str, Any]:
    """Which strategies of round 0's right traces none of these right traces has: their ``count``, ``of`` how many, and
    of the ``most`` frequent each how often round 0 had it (``times``, ``share``), the probability that as many draws
    would miss it (``missed_by_chance``), in how many wrong traces it is still ``tried``, and an example of round 0."""
    examples: dict[str, Way] = {}
    right = [each for each in first if each.right]
    for each in right:
        examples.setdefault(each.strategy, each)
    times = Counter(each.strategy for each in right)
    seen = Counter(each.strategy for each in every if each.right)
    tried = Counter(each.strategy for each in every)
    known = sorted(filter(None, times), key=lambda name: (-times[name], name))
    lost = [name for name in known if not seen[name]]
    return {
        "count": len(lost),
        "of": len(known),
        "most": [
            {
                "strategy": name,
                "times": times[name],
                "share": times[name] / len(right),
                "missed_by_chance": (1 - times[name] / len(right)) ** seen.total(),
                "tried": tried[name],
                "question": shortened(examples[name].question),
                "trace": shortened(examples[name].trace),
            }
            for name in lost[:MOST_GONE]
        ],
    }


def shortened(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def by_question(every: Sequence[Way]) -> dict[str, list[Way]]:
    """The right and sound ones."""
    found: dict[str, list[Way]] = {}
    for each in every:
        if each.right:
            found.setdefault(each.question_id, []).append(each)
    return found


def paths_of(held: Mapping[str, Sequence[Way]]) -> dict[str, list[str]]:
    return {key: [each.path for each in own] for key, own in held.items()}


def teachers_kept(every: Sequence[Way]) -> list[str]:
    return sorted({each.teacher for each in every if each.kept})


def new_ones(every: Sequence[Way], first: Collection[str]) -> list[Way]:
    """The traces of a later round that no teacher of round 0 wrote."""
    return [each for each in every if each.teacher not in first]
