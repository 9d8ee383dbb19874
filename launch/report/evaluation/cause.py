"""Does the trace cause the answer: what happens when a student's own trace is changed."""

from __future__ import annotations

from typing import Any

from tracestill.data_pipeline.guards.visible import in_html
from tracestill.launch.report.evaluation.cells import about, banded, of, shared
from tracestill.launch.report.parts import Found, colour_of, legend, table, text
from tracestill.launch.report.plots.lines import Point, lines

WAYS = {
    "same": "nothing changed",
    "cut": "cut before a step, and answered",
    "corrupt": "another number",
    "swap": "a step of another trace",
    "blank": "an ellipsis for a step",
}


@about("cause")
def cause(found: Found, part: dict[str, Any]) -> str:
    """Empty where no student's trace was changed."""
    body = [
        [text(in_html(name)), text(WAYS.get(way, way)), f'{row["count"]:,}', shared(row), f'{row["other"]:,}',
         f'{row["none"]:,}', *(of(row[when], row.get("judged", row["count"])) for when in ("was_right", "right"))]
        for name, held in part.items()
        for way in WAYS
        if (row := held["ways"].get(way))
    ]  # fmt: skip
    heads = [
        "arm",
        text("change", left=True),
        "asked",
        "answer changed",
        "another",
        "none",
        "right before",
        "right after",
    ]
    parts = [
        "<h2>Does the trace cause the answer?</h2><p class='soft'>The student's own trace is changed at one step, and "
        "the student goes on from there by itself. Answers that change, or go missing, of all; intervals: 95 %, "
        "questions taken as independent, their steps not. Where nothing was changed, the same answers should come: "
        "what does not is owed to writing the trace again.</p>",
        table(heads, body) if body else "",
        curves(found, part),
        by_kind(part),
        without(part),
    ]
    left = [
        f"{in_html(name)}: {count:,} times '{in_html(WAYS.get(way, way))}' could not be done"
        for name, held in part.items()
        for way, count in held["inapplicable"].items()
    ]
    return "".join(parts) + (f'<p class="soft">{"; ".join(left)}.</p>' if left else "")


def curves(found: Found, part: dict[str, Any]) -> str:
    names = list(found["arms"] | found["models"])
    colours = [colour_of(found, name) for name in names]
    charts = []

    def chart(title: str, x: str, points: dict[str, list[Point]]) -> None:
        series = {name: points.get(name, []) for name in names}
        charts.append(lines(series, title=title, x=x, y="share of answers", log=False, percent=True, colours=colours))

    early = {name: [(row["left"], 1 - row["share"]) for row in held["early"]] for name, held in part.items()}
    chart("same answer, if asked at once", "share of its steps left", early)
    for way, title in WAYS.items():
        steps = {
            name: [(row["step"], *banded(row)) for row in held["by_step"].get(way, [])] for name, held in part.items()
        }
        if way not in ("same", "cut"):
            chart(f"answer changed by {title}", "step", steps)
    teacher = {name: [(row["given"], row["share"]) for row in held["teacher"]] for name, held in part.items()}
    own = {name: [(row["given"], row["own"] / row["count"]) for row in held["teacher"]] for name, held in part.items()}
    series = {name: teacher.get(name, []) for name in names}
    charts.append(
        lines(
            series,
            own,
            title="right after the teacher's first steps (dashed: after its own)",
            x="steps given",
            y="share of questions",
            log=False,
            percent=True,
            colours=colours,
        )
    )
    return f'{legend(found, list(part))}<div class="many">{"".join(charts)}</div>'


def by_kind(part: dict[str, Any]) -> str:
    kinds = sorted({kind for held in part.values() for of_way in held["by_kind"].values() for kind in of_way})
    body = [
        [text(in_html(name)), text(WAYS.get(way, way)), *(shared(of_way.get(kind)) for kind in kinds)]
        for name, held in part.items()
        for way in WAYS
        if way != "same" and (of_way := held["by_kind"].get(way))
    ]
    if not body:
        return ""
    heads = ["arm", text("change", left=True), *(in_html(kind) or "unknown" for kind in kinds)]
    return "<h3>Answers that change, by the kind of the step</h3>" + table(heads, body)


def without(part: dict[str, Any]) -> str:
    rows = [
        [
            text(in_html(name)),
            f"{row.get('asked', row['count']):,}",
            of(row["same"], row.get("asked", row["count"])),
            f"{held.get('without_gold', 0):,}",
            shared(row),
            of(row["own"], row["count"]),
        ]
        for name, held in part.items()
        if (row := held["no_trace"]).get("asked", row["count"])
    ]
    heads = ["arm", "asked", "same answer", "without a gold answer", "right without a trace", "right with its own"]
    return "<h3>Answers at once, without a trace</h3>" + table(heads, rows) if rows else ""
