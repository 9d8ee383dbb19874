"""The report's section on training: curves of losses by kind, of pace and rates, and what the weighting does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tracestill.data_pipeline.base.intervals import wilson
from tracestill.data_pipeline.guards.visible import in_html
from tracestill.launch.report.parts import Found, alike, legend, seconds, table, text
from tracestill.launch.report.plots.figure import SERIES, keys
from tracestill.launch.report.plots.lines import Point, lines
from tracestill.launch.report.training.own_texts import own_texts
from tracestill.trainer.preview.page import document, kind_class, kinds_table, notes

PACE = {  # title, unit
    "tokens_per_second": ("pace", "tokens a second"),
    "mfu": ("MFU, share of what the devices can reach", "share"),
    "memory_gib": ("most memory of a rank so far", "GiB"),
}
NATS = "nats a token"
OF_WEIGHTED = ("weighting", "loss", "documents")  # only arms that agree in these share an axis of what is weighted
OF_KIND = ("tokenizer",)  # and in this, one of losses by kind


def training(found: Found) -> str:
    """How students were trained, and what the weighting does."""
    return curves(found) + own_texts(found) + weighting(found)


def series_of(found: Found, pick: Any, source: str = "curve") -> dict[str, list[Point]]:
    """Arm -> its points (step, value), of those that ``pick`` finds in the lines of a log."""
    result: dict[str, list[Point]] = {}
    for arm, row in found["arms"].items():
        points = row["train"][source] if row["train"] else []
        result[arm] = [(point["step"], value) for point in points if (value := pick(point)) is not None]
    return result


def each(title: str, unit: str, groups: list[list[str]], *values: dict[str, list[Point]]) -> list[str]:
    """A chart for each group of arms that share an axis."""
    return [
        lines(
            *({arm: points if arm in arms else [] for arm, points in one.items()} for one in values),
            title=f"{title}: {', '.join(arms)}" if groups[1:] else title,
            y=unit,
        )
        for arms in groups
    ]


def kinds_in(found: Found) -> list[str]:
    """The kinds of which some training knows a loss."""
    trained = [row["train"] for row in found["arms"].values() if row["train"]]
    every = [point["kinds"] for row in trained for point in (*row["curve"], *row["held_out"])]
    return [kind for kind in found["kinds"] if any(kind in point for point in every)]


def loss_charts(found: Found, weighted: Sequence[str] = OF_WEIGHTED, same: Sequence[str] = OF_KIND) -> list[str]:
    """The weighted loss, and the loss of each kind. Arms that agree in ``weighted``, or in ``same``, share an axis."""
    trained = {arm: row["train"] for arm, row in found["arms"].items() if row["train"]}
    groups = alike(found, list(trained), *weighted)
    charts = each("loss, weighted", f"{NATS}, weighted", groups, series_of(found, lambda point: point["loss"]))
    groups = alike(found, list(trained), *same)
    for kind in kinds_in(found):

        def loss(point: Found, kind: str = kind) -> float | None:
            return point["kinds"].get(kind, {}).get("loss")

        title = f"loss of {kind}{without_weight(kind, trained)}"
        charts += each(title, NATS, groups, series_of(found, loss), series_of(found, loss, "held_out"))
    return charts


def curves(found: Found) -> str:
    trained = {arm: row["train"] for arm, row in found["arms"].items() if row["train"]}
    if not trained:
        return ""

    def series(pick: Any) -> dict[str, list[Point]]:
        return series_of(found, pick)

    weighted = alike(found, list(trained), *OF_WEIGHTED)
    same = alike(found, list(trained), *OF_KIND)
    charts = loss_charts(found)
    for kind in kinds_in(found):

        def divergence(point: Found, kind: str = kind) -> float | None:
            return point["kinds"].get(kind, {}).get("divergence")

        charts += each(f"divergence of {kind} from the teacher", NATS, same, series(divergence))
    right = {arm: [answers(point) for point in row["answers"]] for arm, row in trained.items()}
    title = "held-out questions answered right"
    right = {arm: right.get(arm, []) for arm in found["arms"]}
    charts.append(lines(right, title=title, y="share of questions", log=False, percent=True))
    charts += each("norm of the gradient", "norm", weighted, series(lambda point: point.get("grad_norm")))
    charts.append(lines(series(lambda point: point.get("lr")), title="learning rate", y="learning rate", log=False))
    for key, (title, unit) in PACE.items():
        charts.append(lines(series(lambda point, key=key: point.get(key)), title=title, y=unit, log=False,
                            percent=unit == "share"))  # fmt: skip
    charts += [shares(arm, row["curve"], found["kinds"]) for arm, row in trained.items()]
    body = []
    for arm, row in trained.items():
        rate = row["tokens"] / row["step_seconds"] if row["step_seconds"] else 0.0
        state = "" if row["finished"] else " (unfinished)"
        cells = [text(in_html(arm) + state), f"{row['steps']:,}", f"{row['epochs']:,}", f"{row['tokens']:,}"]
        last = "" if row["loss"] is None else f"{row['loss']:.4f}"
        body.append([*cells, f"{rate:,.0f}", last, seconds(row["seconds"])])
    heads = ["arm", "steps", "epochs begun", "tokens", "tokens a second", "last loss, weighted", "time"]
    apart = (
        " Arms whose weighting, terms of the loss or layout of documents differ have charts of their own for what "
        "is weighted (loss, gradient), and these numbers do not compare; losses by kind do, since every target counts "
        "once."
        if weighted[1:]
        else ""
    )
    return (
        "<h2>Training</h2><p class='soft'>Losses in nats a token, on a logarithmic scale. Solid: training documents, "
        "means of the steps between two lines of the log; of kinds without weight, a sample of the last one. "
        f"Dashed: held-out documents, where they are measured.{apart}"
        "</p>" + legend(found, list(trained)) + f'<div class="many">{"".join(charts)}</div>' + table(heads, body)
    )


def answers(point: Found) -> Point:
    """A point of the accuracy while a student trains, with its interval."""
    share, count = point["accuracy"], point["count"]
    return (point["step"], share, *wilson(share * count, count)) if count else (point["step"], share)


def without_weight(kind: str, trained: Found) -> str:
    """Names the arms that gave a kind no weight while they trained, to stand behind its name; empty if none did."""
    weights = {
        arm: [point["kinds"][kind].get("weight") for point in row["curve"] if kind in point["kinds"]]
        for arm, row in trained.items()
    }
    arms = [arm for arm, found in weights.items() if found and all(weight == 0 for weight in found)]
    return f" (no weight in {', '.join(arms)})" if arms else ""


def shares(arm: str, curve: Sequence[Found], kinds: Sequence[str]) -> str:
    """Share of the loss by kind over steps, in the kinds' colours; empty for a log that does not hold it."""
    series = {
        kind: [
            (p["step"], share + p["kinds"][kind].get("teacher_share", 0.0))
            for p in curve
            if (share := p["kinds"].get(kind, {}).get("share")) is not None
        ]
        for kind in kinds
    }
    series = {kind: points for kind, points in series.items() if any(share for _, share in points)}
    colours = [kind_class(kind, kinds) for kind in series]
    title = f"share of the loss by kind, {arm}"
    chart = lines(series, title=title, y="share of the loss", log=False, percent=True, colours=colours or SERIES)
    return f"<div>{chart}{keys(dict(zip(series, colours, strict=True)))}</div>" if chart else ""


def weighting(found: Found) -> str:
    parts = []
    for arm, row in found["arms"].items():
        preview = row["preview"]
        if not preview:
            continue
        parts.append(f"<div><h3>{in_html(arm)}</h3>")
        kinds = found["kinds"]
        parts.append(f"{notes(preview)}{kinds_table(preview, kinds)}{document(preview, kinds)}</div>")
    if not parts:
        return ""
    return (
        "<h2>What the weighting does</h2><p class='soft'>The first optimizer step, before anything is learnt, and one "
        "of its documents: a solid line under a token that counts in the loss, a dotted one under a token that does "
        f'not.</p><div class="pair">{"".join(parts)}</div>'
    )
