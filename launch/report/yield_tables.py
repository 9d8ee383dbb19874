"""What the yield report says, as tables and sentences: the terminal and the page show the same ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tracestill.data_pipeline.guards.visible import one_line
from tracestill.launch.report.parts import Found

COLUMNS = ("asked", "read", "answered", "right", "sound", "distinct", "kept")
UNKNOWN = "–"
LONG = 40  # characters of a name that are shown
MANY = 20  # rows of a table that a terminal and the page show; the JSON has all
NEEDS = {"answered": "an answer", "right": "a right answer", "sound": "no false step"}


@dataclass(frozen=True)
class Shown:
    """One table: the first cell of a row names it, the others are numbers or short words."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()  # sentences below it
    warning: str = ""


def head(found: Found) -> str:
    """The whole in one sentence."""
    total = found["total"]
    return (
        f"{total['asked']:,} samples of {total['questions']:,} training questions; {total['right']:,} "
        f"({share(total['right'], total['asked'])}) are right, {total['kept']:,} ({share(total['kept'], total['asked'])}) "
        f"are kept, of {total['questions_kept']:,} questions. {policy(found)}"
    )


def policy(found: Found) -> str:
    """What selection asked of a record to be kept."""
    needs = ", ".join(NEEDS[flag] for flag in found["needed"] if flag != "answered" or len(found["needed"]) == 1)
    return f"Selection keeps what has {needs}" + (f" (policy {found['policy']})." if found["policy"] != "own" else ".")


def tables(found: Found) -> list[Shown]:
    """All that there is to show, in the order in which it is read."""
    some = [counts(found, name, rows) for name, rows in found["by"].items() if name != "difficulty"]
    if not any(name != "question" for name in found["by"] if name != "difficulty"):
        some.insert(0, counts(found, "", []))
    return [*some, *ceilings(found), policies(found), difficulty(found), *unsolved(found)]


def counts(found: Found, name: str, rows: Sequence[Found]) -> Shown:
    """How many samples of each value came how far."""
    told = [key for key in ("tokens", "cost") if found["total"].get(key) is not None]
    of_questions = name == "question"
    each = [*(() if of_questions else ("questions with a right one",)), *(f"{key} a kept one" for key in told)]
    body = []
    for row in [*rows[:MANY], found["total"]]:
        label = name_of(row) if "value" in row else "all"
        cells = [number(row[key]) for key in COLUMNS]
        cells.insert(4, share(row["right"], row["asked"]) + around(row.get("right_share")))
        more = [] if of_questions else [share(row["questions_right"], row["questions"])]
        body.append([label, *cells, *more, *(amount(row[f"{key}_per_kept"]) for key in told)])
    notes = []
    if of_questions:
        notes.append("the hardest first" + (f"; {len(rows) - MANY:,} more stand in the JSON" if rows[MANY:] else ""))
    elif rows[MANY:]:
        notes.append(f"{len(rows) - MANY:,} more stand in the JSON")
    return Shown(f"samples by {name.replace('+', ' and ')}" if name else "samples",
                 [name.replace("+", ", "), *COLUMNS[:4], "share right", *COLUMNS[4:], *each], body, notes)  # fmt: skip


def ceilings(found: Found) -> list[Shown]:
    """pass@k and maj@k of all, and of each value of a dimension that was asked more than once."""
    rows = [("all", found["total"])]
    for name, of in found["by"].items():
        if len(name.split("+")) > 1 or name in ("teacher", "temperature", "style"):
            rows += [(name_of(row), row) for row in of[:MANY] if len(row.get("pass") or ()) > 1]
    most = max((point["k"] for _, row in rows for point in row["pass"]), default=1)
    if most < 2:
        return []
    points = {(key, point["k"]): None for key in ("pass", "maj") for _, row in rows for point in row[key]}
    marks = sorted(points, key=lambda mark: (mark[0] == "maj", mark[1]))
    body = [[label, *(cell(row, *mark) for mark in marks)] for label, row in rows]
    partly = [point for point in found["total"]["pass"] if point["questions"] < found["total"]["questions"]]
    notes = [
        "pass@k: of k samples of a question at least one is right; maj@k: so is their most frequent answer. "
        "In brackets: 95 % interval, by questions"
    ]
    if partly:
        which = ", ".join(f"k = {point['k']}: {point['questions']:,}" for point in partly)
        notes.append(f"not all questions were asked that often ({which})")
    if len(found["by"].get("teacher", ())) > 1:
        notes.append("all: k samples drawn from those of all teachers together")
    return [Shown("ceiling", ["", *(f"{key}@{k}" for key, k in marks)], body, notes)]


def cell(row: Found, key: str, k: int) -> str:
    point = next((point for point in row[key] if point["k"] == k), None)
    return "" if point is None else f"{point['share']:.1%}{around(point)}"


def policies(found: Found) -> Shown:
    """What each policy lets through."""
    body = []
    for name, row in found["policies"].items():
        mine = name == found["policy"]
        if row is None:
            body.append([name, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, number(found["total"]["kept"]) if mine else UNKNOWN])
            continue
        least = number(found["total"]["kept"]) if mine else f"at most {row['records']:,}"
        body.append([name, *(number(row[key]) for key in ("records", "wrong", "unsound", "questions")), least])
    notes = ["kept: what is left when paths that are alike, and records beyond the maximum, have gone"]
    if found["policies"]["none"] and found["total"]["sound"] is not None:
        notes.append("unsound: as far as selection looked; it may not have looked at traces with a wrong answer")
    return Shown("policies", ["policy", "pass its checks", "of them wrong", "unsound", "of questions", "kept"], body, notes)


def difficulty(found: Found) -> Shown:
    """What selection did to the distribution of difficulty."""
    held = found["difficulty"]
    keys = ("questions", "asked", "kept", "questions_kept")
    body = [[row["name"], *(f"{row[key]:.1%}" for key in keys)] for row in held["buckets"]]
    rate = held["pass_rate"]
    notes = [
        f"mean share of right samples: {rate['questions']:.1%} of questions, {rate['kept']:.1%} of those that kept records "
        "are of",
    ]
    if "kept" in held["hard"]:
        before, after = held["hard"]["questions"], held["hard"]["kept"]
        notes.append(
            f"at most half of the samples right: {before['share']:.1%}{around(before)} of questions, "
            f"{after['share']:.1%}{around(after)} of what is kept"
        )
    return Shown("difficulty", ["right of a question's samples", "questions", "samples", "kept records",
                                "questions with a kept one"], body, notes, held["warning"])  # fmt: skip


def unsolved(found: Found) -> list[Shown]:
    """Questions that nobody solves, and what they have in common."""
    held, total = found["unsolved"], found["total"]["questions"]
    body = [
        [row["feature"], part["name"], number(part["questions"]), number(part["unsolved"]),
         f"{part['share']:.1%}{around(part)}", "yes" if part["stands_out"] else ""]
        for row in held["common"] for part in row["parts"]
    ]  # fmt: skip
    notes = [f"{held['questions']:,} of {total:,} questions ({held['share']:.1%}{around(held)}) have no right sample; "
             f"they were asked {held['asked']:g} times (median)"]  # fmt: skip
    if not held["questions"]:
        return [Shown("never solved", [], [], notes)]
    if held["agreed"]:
        notes.append(f"on {held['agreed']:,} of them at least half of the samples, and three, give the same other answer: "
                     "the gold answer may be wrong, so look at them")  # fmt: skip
    if held["silent"]:
        notes.append(f"on {held['silent']:,} of them at least half of the samples gave no answer")
    if body and not any(row[-1] for row in body):
        notes.append("no part of the questions stands out: what differs above is within what chance does")
    elif body:
        notes.append("stands out: its interval, widened for all these comparisons, leaves out the share of all questions")
    some = [Shown("never solved", ["", "", "questions", "never solved", "share", "stands out"], body, notes)]
    rows = [[one_line(row["question"]), one_line(row["gold"]), said(row)] for row in held["examples"]]
    return [*some, Shown("some of them", ["question", "gold", "most frequent answer"], rows)]


def said(row: Found) -> str:
    """``240 (5 of 5)``"""
    return f"{one_line(row['answer'])} ({row['times']:,} of {row['asked']:,})" if row["times"] else f"none of {row['asked']}"


def name_of(row: Found) -> str:
    """The values of a row on one line; those of questions by their text."""
    names = [row["question"]] if "question" in row else [value or "(none)" for value in row["value"]]
    text = one_line(", ".join(names))
    return text if len(text) <= LONG else f"{text[: LONG - 1]}…"


def number(value: Any) -> str:
    return UNKNOWN if value is None else f"{value:,}"


def amount(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def share(part: int | None, whole: int) -> str:
    return UNKNOWN if part is None or not whole else f"{part / whole:.1%}"


def around(held: Found | None) -> str:
    """`` (78 to 81)``: an interval in percent."""
    return "" if held is None else f" ({100 * held['low']:.0f} to {100 * held['high']:.0f})"
