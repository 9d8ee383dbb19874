"""Accuracy against the tokens that a thought may have."""

from __future__ import annotations

from typing import Any

from tracestill.data_pipeline.guards.visible import in_html
from tracestill.launch.report.evaluation.cells import about, banded, percent, shared
from tracestill.launch.report.parts import Found, colour_of, legend, table, text
from tracestill.launch.report.plots.lines import lines

CURVES = {"right": "right", "answered": "answered", "ended": "thoughts that had to be ended"}


@about("budgets")
def budgets(found: Found, part: dict[str, Any]) -> str:
    """Empty where no thought had a budget."""
    names = list(found["arms"] | found["models"])
    colours = [colour_of(found, name) for name in names]
    charts = []
    for key, title in CURVES.items():
        series = {
            name: [(row["budget"], *banded(row[key])) for row in part[name]["curve"] if row["budget"] is not None]
            if name in part
            else []
            for name in names
        }
        charts.append(lines(series, title=title, x="tokens of the thought", y="share of questions", log=False,
                            percent=True, colours=colours))  # fmt: skip
    body = [
        [
            text(in_html(name)),
            "as many as it likes" if row["budget"] is None else f"{row['budget']:,}",
            shared(row["right"]),
            *(percent(row[key]["share"]) for key in ("answered", "ended", "continued")),
            "" if row["tokens_mean"] is None else f"{row['tokens_mean']:,.1f}",
            "" if row["right_per_1000_tokens"] is None else f"{row['right_per_1000_tokens']:.2f}",
        ]
        for name, held in part.items()
        for row in held["curve"]
    ]
    heads = ["arm", "budget", "right", "answered", "ended", "made to go on", "tokens", "right per 1,000 tokens"]
    return (
        "<h2>Right answers by the budget of the thought</h2><p class='soft'>A thought that is longer than its budget "
        "is closed there, and the student has to answer; tokens are those of thought and answer.</p>"
        f'{legend(found, list(part))}<div class="many">{"".join(charts)}</div>{table(heads, body)}'
    )
