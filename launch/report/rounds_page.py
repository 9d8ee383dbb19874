"""The report's section on rounds: one row a round, from ``rounds.json``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tracestill.data_pipeline.guards.visible import in_html
from tracestill.launch.report.parts import Found, table, text
from tracestill.launch.report.plots.lines import lines

RESULT = "rounds.json"  # in the directory of a run with rounds
Row = Mapping[str, Any]


def of_traces(key: str, form: str) -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        value = row.get("traces", {}).get(key)
        return "" if value is None else format(value, form)

    return cell


def rare(key: str) -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        traces = row.get("traces", {})
        return "" if traces.get(key) is None else f"{traces[key]:.0%} ({traces[f'{key}_by_chance']:.0%})"

    return cell


def differ(row: Row) -> str:
    """Of the questions that have two traces in round 0, too, with its share behind it; of all where there are none."""
    traces = row.get("traces", {})
    same, first = (traces.get(key) if row["round"] else None for key in ("differ_same", "differ_first"))
    if same is not None:
        return f"{same:.0%} ({first:.0%})"
    return "" if traces.get("differ") is None else f"{traces['differ']:.0%}"


def samples_differ(row: Row) -> str:
    """To test questions that this round's student and round 0's have solved twice."""
    held = row.get("apart_beside")
    return f"{held['now']:.0%} ({held['first']:.0%})" if held else ""


def accuracy(row: Row) -> str:
    if not row["trained"]:
        return "" if row["trained"] is None else "not trained"  # None: not yet
    return f"{row['accuracy']:.1%} ({row['accuracy_low']:.0%}-{row['accuracy_high']:.0%})"


def with_ends(key: str) -> Callable[[Row], str]:
    """A share of the student's, with its interval; empty where it was not measured."""
    return lambda row: share(row[key]) if row.get(key) else ""


def share(held: Row) -> str:
    between = "" if held["low"] is None else f" ({held['low']:.0%}-{held['high']:.0%})"
    return f"{held['share']:.1%}{between}"


def first_new(row: Row) -> str:
    held = row.get("traces", {}).get("first_new")
    return "" if held is None else f"{held['traces']:,}, {held['right']:,} right, {held['kept']:,} kept"


COLUMNS: tuple[tuple[str, Callable[[Row], str]], ...] = (
    ("round", lambda row: str(row["round"])),
    ("teacher", lambda row: ", ".join(row["teachers"])),
    ("traces", of_traces("traces", ",")),
    ("right", of_traces("right", ",")),
    ("kept", of_traces("kept", ",")),
    ("solved", of_traces("solved", ",")),
    ("paths a question", of_traces("paths", ".2f")),
    ("differ (round 0)", differ),
    ("strategies", of_traces("strategies", ",")),
    ("entropy", of_traces("entropy", ".2f")),
    ("self-BLEU", of_traces("self_bleu", ".2f")),
    ("rare seen (chance)", rare("coverage")),
    ("rare tried (chance)", rare("tried")),
    ("words", of_traces("words", ".1f")),
    ("new by teachers", first_new),
    ("accuracy (95 %)", accuracy),
    ("other forms (95 %)", with_ends("variations")),
    (
        "other tasks (95 %)",
        lambda row: ", ".join(f"{name} {share(held)}" for name, held in row.get("tasks", {}).items()),
    ),
    ("ECE of votes (95 %)", with_ends("ece")),
    ("samples differ (95 %)", with_ends("apart")),
    ("same questions (round 0)", samples_differ),
)
SHARE = "share"
CURVES: tuple[tuple[str, str, Callable[[Row], tuple[float, ...]]], ...] = (  # title, unit, value and its interval
    ("accuracy", "share of questions", lambda row: values(row, "accuracy", "accuracy_low", "accuracy_high")),
    ("other forms of the questions answered right", SHARE, lambda row: ends(row, "variations")),
    ("ECE of votes", SHARE, lambda row: ends(row, "ece")),
    ("entropy of strategies", "bits", lambda row: values(row.get("traces", {}), "entropy")),
    ("two traces of a question differ", SHARE, lambda row: values(row.get("traces", {}), "differ")),
    ("two right samples of a test question differ", SHARE, lambda row: ends(row, "apart")),
    ("rare strategies of round 0 that are seen", SHARE, lambda row: values(row.get("traces", {}), "coverage")),
    ("length of a trace", "words", lambda row: values(row.get("traces", {}), "words")),
)


def values(row: Row, *keys: str) -> tuple[float, ...]:
    """Empty where one is missing."""
    found = [row.get(key) for key in keys]
    return () if None in found else tuple(value for value in found if value is not None)


def ends(row: Row, key: str) -> tuple[float, ...]:
    """A share, and its interval where it has one."""
    held = row.get(key) or {}
    return values(held, "share", "low", "high") or values(held, "share")


def rounds(found: Found) -> str:
    """Empty for a run without rounds."""
    result = found.get("rounds")
    if not result:
        return ""
    shown = [(head, cell) for head, cell in COLUMNS if any(map(cell, result["rounds"]))]
    heads = [in_html(head) for head, _ in shown]
    words = ("teacher",)
    body = [
        [text(in_html(cell(row))) if head in words else in_html(cell(row)) for head, cell in shown]
        for row in result["rounds"]
    ]
    charts = []
    for title, unit, of in CURVES:
        held = [(float(row["round"]), *known) for row in result["rounds"] if (known := of(row))]
        share = unit.startswith(SHARE)
        charts.append(lines({"rounds": held}, title=title, x="round", y=unit, log=False, percent=share))
    best, stopped = result["best"], result["stopped"]
    told = "" if best is None else f"<p>Best: round {best}.</p>"
    told += f"<p>Stopped after round {stopped['round']}: {in_html(stopped['why'])}.</p>" if stopped else ""
    noted = [f"round {row['round']}: {each}" for row in result["rounds"] for each in row.get("warnings", ())]
    told += "".join(f'<p class="note">{in_html(each)}</p>' for each in noted)
    return (
        "<h2>Rounds</h2><p class='soft'>Of each round its new traces, and the student that learnt from them. "
        "Traces, rare tried and words count all of these traces, the other columns those that are right and sound. "
        "In brackets: round 0's traces of the same questions, what chance would show, or the interval. Each round "
        "is a run of its own, with a report of its own. Accuracy that stays while traces differ less, and rare "
        "strategies go, is the beginning of a collapse: go back to the best round, and keep more of the first "
        "data. Where few questions have two right traces, look at that first (docs/rounds.md).</p>"
        + table(heads, body)
        + f'<div class="many">{"".join(charts)}</div>'
        + told
    )
