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


def seen(row: Row) -> str:
    traces = row.get("traces", {})
    if traces.get("coverage") is None:
        return ""
    return f"{traces['coverage']:.0%} ({traces['coverage_by_chance']:.0%})"


def accuracy(row: Row) -> str:
    if not row["trained"]:
        return "not trained"
    return f"{row['accuracy']:.1%} ({row['accuracy_low']:.0%}-{row['accuracy_high']:.0%})"


COLUMNS: tuple[tuple[str, Callable[[Row], str]], ...] = (
    ("round", lambda row: str(row["round"])),
    ("teacher", lambda row: ", ".join(row["teachers"])),
    ("traces", of_traces("traces", ",")),
    ("right", of_traces("right", ",")),
    ("kept", of_traces("kept", ",")),
    ("solved", of_traces("solved", ",")),
    ("paths a question", of_traces("paths", ".2f")),
    ("differ", of_traces("differ", ".0%")),
    ("strategies", of_traces("strategies", ",")),
    ("entropy", of_traces("entropy", ".2f")),
    ("self-BLEU", of_traces("self_bleu", ".2f")),
    ("rare seen (chance)", seen),
    ("words", of_traces("words", ".1f")),
    ("accuracy (95 %)", accuracy),
)
SHARE = "share"
CURVES: tuple[tuple[str, str, Callable[[Row], tuple[float, ...]]], ...] = (  # title, unit, value and its interval
    ("accuracy", "share of questions", lambda row: values(row, "accuracy", "accuracy_low", "accuracy_high")),
    ("entropy of strategies", "bits", lambda row: values(row.get("traces", {}), "entropy")),
    ("two traces of a question differ", SHARE, lambda row: values(row.get("traces", {}), "differ")),
    ("rare strategies of round 0 that are seen", SHARE, lambda row: values(row.get("traces", {}), "coverage")),
    ("length of a trace", "words", lambda row: values(row.get("traces", {}), "words")),
)


def values(row: Row, *keys: str) -> tuple[float, ...]:
    """Empty where one is missing."""
    found = [row.get(key) for key in keys]
    return () if None in found else tuple(value for value in found if value is not None)


def rounds(found: Found) -> str:
    """Empty for a run without rounds."""
    result = found.get("rounds")
    if not result:
        return ""
    heads = [in_html(head) for head, _ in COLUMNS]
    words = ("teacher",)
    body = [
        [text(in_html(cell(row))) if head in words else in_html(cell(row)) for head, cell in COLUMNS]
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
        "<h2>Rounds</h2><p class='soft'>A round's new traces, those that are right and sound but for the first column, "
        "and the student that learnt from them. Each round is a run of its own, with a report of its own. Accuracy "
        "that stays while traces differ less, and rare strategies go, is the beginning of a collapse: go back to the "
        "best round, and keep more of the first data (docs/rounds.md).</p>"
        + table(heads, body)
        + f'<div class="many">{"".join(charts)}</div>'
        + told
    )
