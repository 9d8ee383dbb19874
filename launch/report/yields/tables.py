"""What the yield report says, as tables and sentences: the terminal and the page show the same ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tracestill.data_pipeline.guards.visible import one_line
from tracestill.launch.report.parts import Found

COLUMNS = ("asked", "read", "answered", "right", "sound", "distinct", "kept")
UNKNOWN = "–"
NARROW = 0.04  # width of an interval that is shown with a decimal
LONG = 40  # characters of a name that are shown
PROSE = 200  # of a question
MANY = 20  # rows of a table that a terminal and the page show; the JSON has all
NEEDS = {"answered": "an answer", "right": "a right answer", "sound": "no false step"}


@dataclass(frozen=True)
class Shown:
    """One table: the first cells of a row, ``texts`` of them, name it, the others are numbers or short words."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()  # sentences below it
    warning: str = ""
    texts: int = 1


def head(found: Found) -> str:
    """The whole in one sentence."""
    total = found["total"]
    right, kept = (share(total[key], total["asked"]) for key in ("right", "kept"))
    return (
        f"{total['asked']:,} samples of {total['questions']:,} training questions; {total['right']:,} "
        f"({right}) are right, {total['kept']:,} ({kept}) are kept, of {total['questions_kept']:,} questions. "
        f"{policy(found)}"
    )


def policy(found: Found) -> str:
    """What selection asked of a record to be kept."""
    needs = ", ".join(NEEDS[flag] for flag in found["needed"] if flag != "answered" or len(found["needed"]) == 1)
    return f"Selection keeps what has {needs}" + (f" (policy {found['policy']})." if found["policy"] != "own" else ".")


def tables(found: Found) -> list[Shown]:
    """All that there is to show, in the order in which it is read."""
    by = found["by"] or {"": []}
    some = [shown for name, rows in by.items() for shown in (counts(found, name, rows), *shares(found, name, rows))]
    return [*some, *ceilings(found), policies(found), difficulty(found), *unsolved(found)]


def counts(found: Found, name: str, rows: Sequence[Found]) -> Shown:
    """How many samples of each value came how far."""
    body = [[name_of(row), *(number(row[key]) for key in COLUMNS)] for row in [*rows[:MANY], found["total"]]]
    notes = ["the hardest questions first"] if name == "question" else []
    if rows[MANY:]:
        notes.append(f"{len(rows) - MANY:,} more stand in the JSON")
    return Shown(f"samples by {words(name)}" if name else "samples", [words(name), *COLUMNS], body, notes)


def shares(found: Found, name: str, rows: Sequence[Found]) -> list[Shown]:
    """What the samples of each value are worth; nothing of questions, and of too many values."""
    told = [key for key in ("tokens", "cost") if found["total"].get(key) is not None]
    if rows and "right_share" not in rows[0]:
        return []
    body = [
        [name_of(row), percent(row["right_share"]), share(row["kept"], row["asked"]),
         share(row["questions_right"], row["questions"]),
         *([number(row["alone"]) if row["alone"] is not None else ""] if rows else []),
         *(amount(row[f"{key}_per_kept"]) for key in told)]
        for row in [*rows[:MANY], found["total"]]
    ]  # fmt: skip
    notes = ["in brackets: 95 % intervals, by questions. Solved: questions with a right sample"]
    if rows:
        notes[0] += "; by it alone: that nothing else in this table solves"
    if told:
        notes.append(f"{'/kept, '.join(told)}/kept: of all samples of which it is known, divided by the kept ones")
    alone = ["by it alone"] if rows else []
    heads = [words(name), "right", "kept", "solved", *alone, *(f"{key}/kept" for key in told)]
    return [Shown(f"shares by {words(name)}" if name else "shares", heads, body, notes)]


def words(name: str) -> str:
    return name.replace("+", " and ")


def ceilings(found: Found) -> list[Shown]:
    """pass@k and maj@k of all, and of each value of a dimension that was asked more than once."""
    rows = [found["total"]]
    for of in found["by"].values():
        rows += [row for row in of[:MANY] if len(row.get("pass") or ()) > 1] if len(of) > 1 else []
    if max(point["k"] for row in rows for point in row["pass"]) < 2:
        return []
    body = []
    for row in rows:
        majority = {point["k"]: point for point in row["maj"]}
        for point in row["pass"]:
            cells = [percent(held) if held else "" for held in (point, majority.get(point["k"]))]
            body.append(
                [name_of(row) if point["k"] == 1 else "", number(point["k"]), *cells, number(point["questions"])]
            )
    notes = ["pass@k: of k samples of a question at least one is right; maj@k: so is their most frequent answer"]
    if len(found["by"].get("teacher", ())) > 1:
        notes.append("all: the k samples are drawn from those of all teachers together")
    return [Shown("ceiling", ["", "k", "pass@k", "maj@k", "questions"], body, notes)]


def policies(found: Found) -> Shown:
    """What each policy lets through."""
    body = []
    for name, row in found["policies"].items():
        mine = name == found["policy"]
        if row is None:
            body.append([name, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, number(found["total"]["kept"]) if mine else UNKNOWN])
            continue
        least = number(found["total"]["kept"]) if mine else f"at most {row['records']:,}"
        least = number(row["kept"]) if row["kept"] is not None else least
        body.append([name, *(number(row[key]) for key in ("records", "wrong", "unsound", "questions")), least])
    notes = [
        "passes: records that pass its checks; wrong, unsound: those of them with a wrong answer, or a false step",
        "kept: what is left of them when paths that are alike, and records beyond the maximum, have gone",
    ]
    told = [row for row in found["policies"].values() if row]
    if any(row["kept"] is not None for row in told):
        notes[-1] += "; records of held-out questions included"
    if unseen := max((row["unseen"] for row in told), default=0):
        notes.append(f"in {unseen:,} traces selection did not look for false steps, so more may be unsound")
    return Shown("policies", ["policy", "passes", "wrong", "unsound", "questions", "kept"], body, notes)


def difficulty(found: Found) -> Shown:
    """What selection did to the distribution of difficulty."""
    held = found["difficulty"]
    keys = ("questions", "asked", "kept", "questions_kept")
    body = [[row["value"][0], *(f"{row['shares'][key]:.1%}" for key in keys)] for row in held["buckets"]]
    rate = held["pass_rate"]
    notes = [
        f"mean share of right samples: {rate['questions']:.1%} over questions, {rate['kept']:.1%} over kept records, "
        "each with its question's"
    ]
    if "kept" in held["hard"]:
        before, after = held["hard"]["questions"], held["hard"]["kept"]
        notes.append(
            f"at most half of the samples right: {percent(before)} of questions, {percent(after)} of what is kept"
        )
    heads = ["right samples", "questions", "samples", "kept records", "questions kept"]
    return Shown("difficulty", heads, body, notes, held["warning"])


def unsolved(found: Found) -> list[Shown]:
    """Questions that nobody solves, and what they have in common."""
    held, total = found["unsolved"], found["total"]["questions"]
    body = [
        [row["feature"], part["name"], number(part["questions"]), number(part["unsolved"]),
         percent(part), "yes" if part["stands_out"] else ""]
        for row in held["common"] for part in row["parts"]
    ]  # fmt: skip
    notes = [f"{held['questions']:,} of {total:,} questions have no right sample: {percent(held)}"]
    if held["questions"]:
        notes[0] += f"; they were asked {held['asked']:g} times (median)"
    if not held["questions"]:
        return [Shown("never solved", [], [], notes)]
    if body:
        notes.append("words, numbers: of the question; operations: median of its traces, right or not")
    if held["agreed"]:
        notes.append(
            f"on {held['agreed']:,} of them at least half of the samples, and three, give the same other answer: the "
            "gold answer may be wrong, so look at them"
        )
    if held["silent"]:
        notes.append(f"on {held['silent']:,} of them at least half of the samples gave no answer")
    if body and not any(row[-1] for row in body):
        notes.append("no part of the questions stands out: what differs above is within what chance does")
    elif body:
        notes.append(
            "stands out: its interval, widened for all these comparisons, leaves out the share of all questions"
        )
    some = [Shown("never solved", ["", "", "questions", "unsolved", "share", "stands out"], body, notes, texts=2)]
    rows = [[short(row["question"], PROSE), one_line(row["gold"]), said(row)] for row in held["examples"]]
    return [*some, Shown("some of them", ["question", "gold", "most frequent answer"], rows, texts=3)]


def said(row: Found) -> str:
    """``240 (5 of 5)``"""
    return (
        f"{one_line(row['answer'])} ({row['times']:,} of {row['asked']:,})"
        if row["times"]
        else f"none of {row['asked']}"
    )


def name_of(row: Found) -> str:
    """The values of a row on one line; those of questions by their text."""
    if "value" not in row:
        return "all"
    names = [row["question"]] if "question" in row else [value or "(none)" for value in row["value"]]
    return short(", ".join(names), LONG)


def short(text: str, most: int) -> str:
    text = one_line(text)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def number(value: Any) -> str:
    return UNKNOWN if value is None else f"{value:,}"


def amount(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def share(part: int | None, whole: int) -> str:
    return UNKNOWN if part is None or not whole else f"{part / whole:.1%}"


def percent(held: Found) -> str:
    """``78.9% (78 to 81)``: a share and its interval, with a decimal where that is narrow."""
    places = 1 if held["high"] - held["low"] < NARROW else 0
    return f"{held['share']:.1%} ({100 * held['low']:.{places}f} to {100 * held['high']:.{places}f})"
