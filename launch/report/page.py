"""The report's page: one HTML file that needs no network. All text of the run is escaped."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import yaml

from tracestill.data_pipeline.guards.visible import in_html
from tracestill.data_pipeline.selection.policy import POLICIES
from tracestill.launch.report.arms import headline, title
from tracestill.launch.report.document import document as whole
from tracestill.launch.report.parts import Found, colour_of, seconds, table, text
from tracestill.launch.report.plots.bars import stacked
from tracestill.launch.report.records.section import scripts, styles
from tracestill.launch.report.rounds_page import rounds
from tracestill.launch.report.style import REJECTED
from tracestill.launch.report.sweep_page import sweep
from tracestill.launch.report.verdicts import verdicts
from tracestill.trainer.preview.page import kind_class

Section = Callable[[Found], str]


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
        parts.append(f"Traces were read by {', '.join(f'{in_html(k)} ({n:,})' for k, n in counts['readers'].items())}.")
    if source and source.get("gold_from_traces"):
        parts.append(
            f"{source['gold_from_traces']:,} questions in the source have no gold answer: what most of their traces "
            "answer is taken for it. Of these, <em>right</em> says that an answer is the teacher's, not that it is so."
        )
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
    rows = [
        [
            in_html(name.replace("_gib", ", GiB")),
            text(in_html(", ".join(value) if isinstance(value, list) else str(value))),
        ]
        for name, value in {**found["versions"], **machine}.items()
        if value
    ]
    recipe = in_html(yaml.safe_dump(found["recipe"], sort_keys=False, allow_unicode=True))
    return (
        "<h2>How it was made</h2>"
        + table(["what", text("which", left=True)], rows)
        + f"<details><summary>The resolved recipe</summary><pre>{recipe}</pre></details>"
    )
