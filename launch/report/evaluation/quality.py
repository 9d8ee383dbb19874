"""What traces are like, beside accuracy; and what a student lost on general text."""

from __future__ import annotations

from typing import Any

from tracestill.data_pipeline.guards.visible import in_html
from tracestill.launch.report.evaluation.cells import about, banded, number, shared
from tracestill.launch.report.parts import Found, colour_of, legend, table, text
from tracestill.launch.report.plots.lines import lines

RIGHT = "share of questions"
ALIKE = {"rouge_l": "ROUGE-L", "edits": "1 - edits"}


@about("quality")
def quality(found: Found, part: dict[str, Any]) -> str:
    """Empty where traces were not looked at."""
    body = [
        [text(in_html(name)), *(shared(held[key]) for key in ("sound", "sound_right", "sound_wrong")),
         *(plain(held["alike"][measure][group]) for measure in ALIKE for group in ("right", "wrong")),
         *(plain((held.get("paths") or {}).get(group)) for group in ("all", "right"))]
        for name, held in part.items()
    ]  # fmt: skip
    heads = ["arm", "sound traces", "of right answers", "of others"]
    heads += [f"{title}, {group}" for title in ALIKE.values() for group in ("right", "wrong")]
    heads += ["paths of a question", "right and sound"]
    names = list(found["arms"] | found["models"])
    colours = [colour_of(found, name) for name in names]
    charts = []
    for measure, title in ALIKE.items():
        bins = {name: part[name]["alike"][measure]["bins"] if name in part else [] for name in names}
        points = {name: [(row["mean"], *banded(row)) for row in rows] for name, rows in bins.items()}
        charts.append(
            lines(
                points,
                title=f"right, by {title} with the teacher",
                x=f"{title}, 1 is the same",
                y=RIGHT,
                log=False,
                percent=True,
                colours=colours,
            )
        )
    bins = {name: part[name]["lengths"] if name in part else [] for name in names}
    points = {name: [(row["mean"], *banded(row)) for row in rows] for name, rows in bins.items()}
    charts.append(lines(points, title="right, by length", x="tokens of the trace", y=RIGHT, log=False, percent=True,
                        colours=colours))  # fmt: skip
    return (
        "<h2>What traces are like, beside accuracy</h2><p class='soft'>Sound: nothing in the trace is known to be "
        "false (select.checks). ROUGE-L and edits, in words: how like the teacher's trace that is most like it, of "
        "questions with right answers and with others. Traces as like the teacher's where the answer is wrong are "
        "imitation alone. Paths: different ones among the samples of a question.</p>"
        f'{table(heads, body)}{legend(found, list(part))}<div class="many">{"".join(charts)}</div>'
    )


def plain(row: Found | None) -> str:
    """A mean with its interval."""
    if row is None or row["share"] is None:
        return ""
    return f'{row["share"]:.3f}<div class="small">{row["low"]:.3f} to {row["high"]:.3f}</div>'


@about("general")
def general(found: Found, part: dict[str, Any]) -> str:
    """Empty where no general text was read."""
    rows = []
    for name, held in part.items():
        for when in ("before", "after"):
            if row := held[when]:
                low, high = row["loss_low"], row["loss_high"]
                between = "" if low is None else f'<div class="small">{low:.3f} to {high:.3f}</div>'
                rows.append([text(in_html(name)), when, f'{held["texts"]:,}', f'{number(row["loss"])}{between}',
                             number(row["bits_per_byte"]), f'{row["accuracy"]:.1%}'])  # fmt: skip
    if not rows:
        return ""
    heads = ["arm", "training", "texts", "loss", "bits a byte", "tokens right"]
    return (
        "<h2>General text</h2><p class='soft'>Mean negative log-likelihood in nats a token of text that has nothing "
        "to do with the task, of the student before its training and after it: what becoming a specialist cost.</p>"
        + table(heads, rows)
    )
