"""The report's section on rounds: one row a round, from ``rounds.json``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from tracestill.data_pipeline.guards.visible import in_html
from tracestill.data_pipeline.rounds.on_policy import NOBODY
from tracestill.launch.report.parts import Found, table, text
from tracestill.launch.report.plots.figure import SERIES, keys
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


def writing(row: Row) -> str:
    own = row.get("own_texts") if "trained" in row else None
    return f"{own['time']['writing']:.0%}" if own else ""


def accuracy(row: Row) -> str:
    if "trained" not in row:
        return ""
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


def ways_gone(row: Row) -> str:
    held = row.get("traces", {}).get("gone")
    return "" if held is None or not row["round"] else f"{held['count']:,} of {held['of']:,}"


COLUMNS: tuple[tuple[str, Callable[[Row], str]], ...] = (
    ("round", lambda row: row.get("label", str(row["round"]))),
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
    ("tokens a text", of_traces("tokens", ".1f")),
    ("ways gone", ways_gone),
    ("new by teachers", first_new),
    ("time writing", writing),
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


def told_apart(rows: Sequence[Row]) -> list[Row]:
    """The rows of the table: of a round whose student learnt from texts of its own two, for the first of these texts,
    and for the last ones with its student."""
    found: list[Row] = []
    for row in rows:
        if row.get("first_texts"):
            at, teachers, traces = row["round"], row["teachers"], row["first_texts"]
            found.append({"round": at, "label": f"{at}, first texts", "teachers": teachers, "traces": traces})
            found.append({**row, "label": f"{at}, last texts"})
        else:
            found.append(row)
    return found


def followed(result: Row) -> str:
    """Whom students follow on texts of their own; empty where that is nobody, or there are none."""
    own = (result.get("settings", {}).get("on_policy") or {}).get("teacher") or {}
    served = own.get("server")
    if not own or (own["model"] == NOBODY and not served):
        return ""
    return own["model"] + (f", served at {served['url']}" if served else "")


SHARE, FIRST, CHANCE = "share", "round 0's traces of the same questions", "by chance"


class Curve(NamedTuple):
    """A plot over rounds."""

    title: str
    unit: str
    of: Callable[[Row], tuple[float, ...]]  # value, and its interval where it has one
    beside: Callable[[Row], tuple[float, ...]] | None = None  # drawn dashed
    dashed: str = ""  # what that is


def trace_value(*keys: str) -> Callable[[Row], tuple[float, ...]]:
    """The first of a round's figures of traces that is known."""
    return lambda row: next((found for key in keys if (found := values(row.get("traces", {}), key))), ())


CURVES = (
    Curve("accuracy", "share of questions", lambda row: values(row, "accuracy", "accuracy_low", "accuracy_high")),
    Curve("other forms of the questions answered right", SHARE, lambda row: ends(row, "variations")),
    Curve("ECE of votes", SHARE, lambda row: ends(row, "ece")),
    Curve("two right samples of a test question differ", SHARE, lambda row: ends(row, "apart")),
    Curve(
        *("two traces of a question differ", SHARE, trace_value("differ_same", "differ")),
        *(trace_value("differ_first"), FIRST),
    ),
    Curve("paths a question", "distinct paths", trace_value("paths")),
    Curve("entropy of strategies", "bits", trace_value("entropy")),
    Curve("self-BLEU of a question's traces", "BLEU-4", trace_value("self_bleu")),
    Curve(
        *("rare strategies of round 0 that are seen", SHARE, trace_value("coverage")),
        *(trace_value("coverage_by_chance"), CHANCE),
    ),
    Curve(
        *("rare strategies of round 0 that are tried", SHARE, trace_value("tried")),
        *(trace_value("tried_by_chance"), CHANCE),
    ),
    Curve("length of a trace", "words", trace_value("words")),
)


def values(row: Row, *keys: str) -> tuple[float, ...]:
    """Empty where one is missing."""
    found = [row.get(key) for key in keys]
    return () if None in found else tuple(value for value in found if value is not None)


def ends(row: Row, key: str) -> tuple[float, ...]:
    """A share, and its interval where it has one."""
    return share_and_ends(row.get(key) or {})


def share_and_ends(held: Row) -> tuple[float, ...]:
    return values(held, "share", "low", "high") or values(held, "share")


def over_rounds(rows: Sequence[Row], of: Callable[[Row], tuple[float, ...]]) -> list[tuple[float, ...]]:
    return [(float(row["round"]), *known) for row in rows if (known := of(row))]


def charts(rows: Sequence[Row]) -> str:
    found = []
    for curve in CURVES:
        held, beside = over_rounds(rows, curve.of), over_rounds(rows, curve.beside) if curve.beside else []
        about: dict[str, Any] = {"x": "round", "log": False, "percent": curve.unit.startswith(SHARE)}
        title = f"{curve.title} (dashed: {curve.dashed})" if held and beside else curve.title
        second = {"rounds": beside} if held and beside else None
        found.append(lines({"rounds": held}, second, title=title, y=curve.unit, **about))
    return "".join(found) + tasks(rows)


def tasks(rows: Sequence[Row]) -> str:
    """Right answers to other tasks, a line each."""
    names = list(dict.fromkeys(name for row in rows for name in row.get("tasks", {})))
    held = {name: [{**row.get("tasks", {}).get(name, {}), "round": row["round"]} for row in rows] for name in names}
    series = {name: over_rounds(own, share_and_ends) for name, own in held.items()}
    chart = lines(series, title="other tasks answered right", x="round", y=SHARE, log=False, percent=True)
    colours = {name: SERIES[at % len(SERIES)] for at, name in enumerate(names)}
    return f"<div>{chart}{keys(colours)}</div>" if chart else ""


def gone(row: Row) -> str:
    """The strategies of round 0 that a round's right traces have not, folded; empty where there is none."""
    held = row.get("traces", {}).get("gone")
    if not held or not held["count"]:
        return ""
    heads = ["strategy", "traces of round 0", "missed by chance", "still tried, but wrong", "a trace of round 0"]
    body = [
        [
            text(f"<code>{in_html(each['strategy'])}</code>"),
            f"{each['times']:,} ({each['share']:.1%})",
            f"{each['missed_by_chance']:.1%}",
            f"{each['tried']:,}" if each["tried"] else "no",
            text(f"{in_html(each['question'])}<pre>{in_html(each['trace'])}</pre>"),
        ]
        for each in held["most"]
    ]
    more = f", the {len(body)} most frequent" if len(body) < held["count"] else ""
    told = f"Round {row['round']}: {held['count']:,} of round 0's {held['of']:,} strategies are not seen any more{more}"
    return f"<details><summary>{told}</summary>{table(heads, body)}</details>"


def rounds(found: Found) -> str:
    """Empty for a run without rounds."""
    result = found.get("rounds")
    if not result:
        return ""
    rows = told_apart(result["rounds"])
    shown = [(head, cell) for head, cell in COLUMNS if any(map(cell, rows))]
    heads = [in_html(head) for head, _ in shown]
    words = ("teacher",)
    body = [[text(in_html(cell(row))) if head in words else in_html(cell(row)) for head, cell in shown] for row in rows]
    best, stopped = result["best"], result["stopped"]
    told = f"<p>Later rounds follow {whom}.</p>" if (whom := in_html(followed(result))) else ""
    told += "" if best is None else f"<p>Best: round {best}.</p>"
    told += f"<p>Stopped after round {stopped['round']}: {in_html(stopped['why'])}.</p>" if stopped else ""
    noted = [f"round {row['round']}: {each}" for row in result["rounds"] for each in row.get("warnings", ())]
    told += "".join(f'<p class="note">{in_html(each)}</p>' for each in noted)
    return (
        "<h2>Rounds</h2><p class='soft'>Of each round its new traces, and the student that learnt from them; one that "
        "learnt from texts of its own has two rows, its first texts and its last ones. Traces, rare tried and words "
        "count all of these traces, the other columns those that are right and sound. In brackets: round 0's traces of "
        "the same questions, what chance would show, or the interval. Each round is a run of its own, with a report of "
        "its own. Accuracy that stays while traces differ less, and rare strategies go, is the beginning of a "
        "collapse: go back to the best round, and keep more of the first data. Where few questions have two right "
        "traces, look at that first (docs/rounds.md).</p>"
        + table(heads, body)
        + f'<div class="many">{charts(result["rounds"])}</div>'
        + told
        + "".join(map(gone, result["rounds"]))
    )
