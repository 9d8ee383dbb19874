"""The report's page: one HTML file that needs no network. All text of the run is escaped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import yaml

from tracestill.data_pipeline.base.intervals import wilson
from tracestill.data_pipeline.guards.visible import in_html
from tracestill.data_pipeline.selection.policy import POLICIES
from tracestill.launch.report.arms import headline, title
from tracestill.launch.report.document import document as whole
from tracestill.launch.report.parts import Found, alike, colour_of, legend, seconds, table, text
from tracestill.launch.report.plots.bars import stacked
from tracestill.launch.report.plots.figure import SERIES, keys
from tracestill.launch.report.plots.lines import Point, lines
from tracestill.launch.report.records.section import scripts, styles
from tracestill.launch.report.rounds_page import rounds
from tracestill.launch.report.style import REJECTED
from tracestill.launch.report.sweep_page import sweep
from tracestill.launch.report.verdicts import verdicts
from tracestill.trainer.preview.page import document, kind_class, kinds_table, notes

Section = Callable[[Found], str]
PACE = {  # title, unit
    "tokens_per_second": ("pace", "tokens a second"),
    "mfu": ("MFU, share of what the devices can reach", "share"),
    "memory_gib": ("most memory of a rank so far", "GiB"),
}
NATS = "nats a token"


def page(found: Found, sections: Sequence[Section]) -> str:
    """The whole page for what ``report.gather`` found, with the ``sections`` of its stages; parts whose stage has not
    run are left out, and named."""
    body = inside(found, sections)
    return whole(f"{found['name']}: report", title(found), body, styles=styles(body), scripts=scripts(body))


def inside(found: Found, sections: Sequence[Section]) -> str:
    """What the page of a run holds, below its title."""
    return "".join(
        section(found) for section in (headline, sweep, rounds, *sections, verdicts, traces, times, provenance)
    )


def training(found: Found) -> str:
    """How students were trained, and what the weighting does."""
    return curves(found) + weighting(found)


def shown_with_data(found: Found) -> str:
    """Nothing: ``data`` shows it."""
    return ""


def own_section(name: str) -> Section:
    """The section of a stage without one: what its summaries say."""

    def section(found: Found) -> str:
        rows = [[in_html(row["arm"] or "all arms"), text(in_html(row["summary"]))]
                for row in found["stages"] if row["stage"] == name]  # fmt: skip
        return f"<h2>{in_html(name)}</h2>{table(['arm', ''], rows)}" if rows else ""

    return section


def curves(found: Found) -> str:
    trained = {arm: row["train"] for arm, row in found["arms"].items() if row["train"]}
    if not trained:
        return ""
    every = [point["kinds"] for row in trained.values() for point in (*row["curve"], *row["held_out"])]
    kinds = [kind for kind in found["kinds"] if any(kind in point for point in every)]

    def series(pick: Any, source: str = "curve") -> dict[str, list[Point]]:
        result: dict[str, list[Point]] = {}
        for arm in found["arms"]:
            points = trained[arm][source] if arm in trained else []
            result[arm] = [(point["step"], value) for point in points if (value := pick(point)) is not None]
        return result

    def of(arms: Sequence[str], values: dict[str, list[Point]]) -> dict[str, list[Point]]:
        return {arm: points if arm in arms else [] for arm, points in values.items()}

    weighted = alike(found, list(trained), "weighting", "loss", "documents")  # only these share an axis
    same = alike(found, list(trained), "tokenizer")

    def each(title: str, unit: str, groups: list[list[str]], *values: dict[str, list[Point]]) -> list[str]:
        return [
            lines(
                *(of(arms, one) for one in values), title=f"{title}: {', '.join(arms)}" if groups[1:] else title, y=unit
            )
            for arms in groups
        ]

    charts = each("loss, weighted", f"{NATS}, weighted", weighted, series(lambda point: point["loss"]))
    for kind in kinds:

        def loss(point: Found, kind: str = kind) -> float | None:
            return point["kinds"].get(kind, {}).get("loss")

        title = f"loss of {kind}{without_weight(kind, trained)}"
        charts += each(title, NATS, same, series(loss), series(loss, "held_out"))
    for kind in kinds:

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
    heads = ["arm", "steps", "epochs", "tokens", "tokens a second", "last loss, weighted", "time"]
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


def data(found: Found) -> str:
    parts = []
    counts = found["sample"]
    if counts:
        parts.append(
            f"<p>{counts.get('train_questions', 0):,} training questions and {counts.get('test_questions', 0):,} "
            f"held-out ones; {counts.get('out', 0):,} records sampled.</p>" + accounts(counts)
        )
    bars, seen = [], []
    counted = [(row["selection"] or {}).get("rejected", {}) for row in found["arms"].values()]
    every = sorted({reason for rejected in counted for reason in rejected})
    for arm, row in found["arms"].items():
        chosen = row["selection"]
        if not chosen or chosen in seen:
            continue
        seen.append(chosen)
        reasons = [
            (reason.replace("_", " "), count, REJECTED[every.index(reason) % len(REJECTED)])
            for reason, count in sorted(chosen.get("rejected", {}).items())
        ]
        bars.append(
            ("all arms" if len(found["arms"]) > 1 and not seen[1:] else arm, [("kept", chosen["out"], "s0"), *reasons])
        )
        share = chosen["out"] / chosen["in"] if chosen["in"] else 0.0
        would = chosen.get("policies", {})
        policies = ", ".join(f"{name} {would[name]:,}" for name in POLICIES if name in would)
        parts.append(
            f"<p>Selection kept {chosen['out']:,} of {chosen['in']:,} records ({share:.1%})"
            f"{f'; by policy: {policies}' if policies else ''}.</p>"
        )
    if len(bars) > 1:
        bars[0] = (next(iter(found["arms"])), bars[0][1])
    parts.append(stacked(bars, title="What selection did with the records", x="records"))
    tokens = [
        (
            arm,
            [
                (k, row["data"]["splits"]["train"]["targets"].get(k, 0), kind_class(k, found["kinds"]))
                for k in found["kinds"]
                if k != "pad"  # what only an encoder reads, and what follows a cut
            ],
        )
        for arm, row in found["arms"].items()
        if row["data"] and "train" in row["data"].get("splits", {})
    ]
    if tokens:
        parts.append(stacked(tokens, title="Training targets by span kind", x="tokens"))
    for arm, row in found["arms"].items():
        parts += [f'<p class="note">{in_html(arm)}: {in_html(line)}</p>' for line in row.get("data_warnings", ())]
    about = "<p class='soft'>What students learnt from: questions, what teachers wrote, what selection kept of it.</p>"
    return f"<h2>Data</h2>{about}{''.join(parts)}" if counts or seen or tokens else ""


def accounts(counts: Found) -> str:
    """What became of everything that the questions' source held, and of everything that teachers said."""
    source, rejected = counts.get("source"), counts.get("rejected")
    parts = []
    joined = f"{source['joined']:,} add traces to another one, " if source and source.get("joined") else ""
    if source and source["in"] != source["used"]:
        parts.append(
            f"Of {source['in']:,} questions in the source {source['used']:,} are used, {source['duplicates']:,} are "
            f"repetitions, {joined}{source['unused']:,} were not "
            f"needed, and {sum(source['rejected'].values()):,} are rejected"
            f"{reasons_of(source['rejected'])}."
        )
    if rejected:
        parts.append(f"{sum(rejected.values()):,} samples of teachers are rejected{reasons_of(rejected)}.")
    if counts.get("readers"):
        parts.append(f"Traces were read by{reasons_of(counts['readers'])}.")
    if counts.get("checks"):
        parts.append(f"Kept, but doubtful{reasons_of(counts['checks'])}.")
    return "".join(f"<p>{part}</p>" for part in parts)


def reasons_of(rejected: dict[str, int]) -> str:
    """`` (not json 3, no gold 1)``; empty if nothing was rejected."""
    found = ", ".join(f"{in_html(reason.replace('_', ' '))} {count:,}" for reason, count in rejected.items())
    return f" ({found})" if found else ""


def times(found: Found) -> str:
    names = list(dict.fromkeys(row["stage"] for row in found["stages"]))
    rows = [
        (
            name,
            [
                (
                    row["arm"] or "shared",
                    row["seconds"] or 0.0,
                    colour_of(found, row["arm"] or ""),
                )
                for row in found["stages"]
                if row["stage"] == name
            ],
        )
        for name in names
    ]
    if not rows:
        return ""
    whole = sum(row["seconds"] or 0.0 for row in found["stages"])
    return f"<h2>Time of each stage</h2><p class='soft'>Seconds; {seconds(whole)} in all.</p>" + stacked(
        rows, title="Time by stage", x="seconds"
    )


def traces(found: Found) -> str:
    parts = []
    for arm, row in (found["arms"] | found["models"]).items():
        if not row["examples"]:
            continue
        parts.append(f"<div><h3>{in_html(arm)}</h3>")
        for example in row["examples"]:
            answer = in_html(str(example["answer"])) if example["answer"] else "<i>none</i>"
            rule = example["read_by"]  # older results lack it
            answer += f" ({in_html(rule.replace('_', ' '))})" if rule not in (None, "whole", "none") else ""
            mark = (
                '<span class="mark right">right</span>'
                if example["correct"]
                else '<span class="mark wrong">wrong</span>'
            )
            trace = in_html(example["trace"] or "") or '<span class="soft">(no trace)</span>'
            parts.append(
                f'<div class="example"><p>{in_html(example["question"])}</p><pre>{trace}</pre>'
                f"<p>answer {answer} · gold {in_html(example['gold'])} · {mark} · "
                f"{example['tokens']:,} tokens</p></div>"
            )
        parts.append("</div>")
    if not parts:
        return ""
    return (
        "<h2>Generated traces</h2><p class='soft'>The first held-out questions that each student answered right, and "
        f'wrong.</p><div class="pair">{"".join(parts)}</div>'
    )


def provenance(found: Found) -> str:
    machine = found["machine"]
    rows = [[in_html(name), in_html(version)] for name, version in found["versions"].items()]
    rows += [
        [in_html(name), text(in_html(", ".join(value) if isinstance(value, list) else str(value)))]
        for name, value in machine.items()
        if value
    ]
    recipe = in_html(yaml.safe_dump(found["recipe"], sort_keys=False, allow_unicode=True))
    return (
        "<h2>How it was made</h2>"
        + table(["what", "which"], rows)
        + f"<details><summary>The resolved recipe</summary><pre>{recipe}</pre></details>"
    )
