"""Votes among several answers, as curves over their number, and how well confidence tells right answers."""

from __future__ import annotations

from typing import Any

from tracestill.data_pipeline.guards.visible import in_html
from tracestill.launch.report.evaluation.cells import about, banded, number, shared
from tracestill.launch.report.parts import Found, colour_of, legend, table, text
from tracestill.launch.report.plots.lines import lines

CURVES = {"pass": "one of k is right", "majority": "majority", "weighted": "weighted vote", "sound": "a sound one"}
BY = {"votes": "share of the votes", "likelihood": "share of their likelihood", "answer": "probability of the answer"}


@about("samples")
def samples(found: Found, part: dict[str, Any]) -> str:
    """Empty where no student drew samples."""
    part = {name: row for name, row in part.items() if row["curve"]}
    return votes(found, part) + calibration(found, part) if part else ""


def votes(found: Found, part: dict[str, Any]) -> str:
    charts, body = [], []
    for key, title in CURVES.items():
        series = {
            name: [(row["k"], *banded(row[key])) for row in part[name]["curve"] if row[key]] if name in part else []
            for name in found["arms"] | found["models"]
        }
        colours = [colour_of(found, name) for name in series]
        charts.append(lines(series, title=title, x="samples k", y="share of questions", log=False, percent=True,
                            colours=colours))  # fmt: skip
    for name, row in part.items():
        last = row["curve"][-1]
        about = f"{row['questions']:,} questions, {row['count']} at temperature {row['temperature']:g}"
        left = {"not asked": row["not_asked"], "without a gold answer": row["without_gold"]}
        about += "".join(f"; {count:,} {what}" for what, count in left.items() if count)
        cells = [text(in_html(name)), text(about), f"{row['answers']:.2f}", f"{last['k']}"]
        body.append([*cells, *(shared(last[key]) for key in CURVES)])
    heads = ["arm", text("asked", left=True), "different answers", "k", *CURVES.values()]
    return (
        "<h2>Several answers to each question</h2><p class='soft'>Share of questions answered right by k samples, in "
        "the mean over all choices of k among those drawn: at least one of them is right (pass@k); the answer that "
        "most give (answers are one if the verifier says that they say the same); the answer of most likelihood; one "
        "of those whose trace holds nothing that is known to be false. Intervals: 95 %, by drawing questions "
        "again.</p>"
        f'{legend(found, list(part))}<div class="many">{"".join(charts)}</div>{table(heads, body)}'
    )


def calibration(found: Found, part: dict[str, Any]) -> str:
    charts, body, tables = [], [], []
    for by, title in BY.items():
        of_by = {
            name: row["calibration"][by] for name, row in part.items() if row["calibration"].get(by, {}).get("count")
        }
        if not of_by:
            continue
        said = {name: [(row["confidence"], *banded(row)) for row in held["table"]] for name, held in of_by.items()}
        colours = [colour_of(found, name) for name in said]
        charts.append(lines(said, title=title, x="confidence", y="share of answers right", log=False, percent=True,
                            square=True, colours=colours))  # fmt: skip
        for name, held in of_by.items():
            figures = [number(held[key]) for key in ("ece", "brier", "brier_constant", "auroc")]
            body.append([text(in_html(name)), text(title), f"{held['count']:,}", *figures])
            bins = [
                [
                    f"{row['least']:.3f} to {row['most']:.3f}",
                    f"{row['confidence']:.3f}",
                    f"{row['count']:,}",
                    shared(row),
                ]
                for row in held["table"]
            ]
            heads = ["confidence", "mean", "answers", "right"]
            tables.append(f"<h3>{in_html(name)}: {title}</h3>{table(heads, bins)}")
    if not body:
        return ""
    heads = ["arm", text("confidence", left=True), "answers", "ECE", "Brier", "Brier of the mean", "AUROC"]
    return (
        "<h2>Does it know what it knows?</h2><p class='soft'>Confidence in an answer against whether it is right, in "
        "bins of equally many answers; dashed: as it should be. ECE: mean distance from that. Brier: mean square of "
        "it, answer by answer; that of the mean belongs to who always says the share right. AUROC: how often a right "
        "answer has more confidence than a wrong one. Votes are those of all samples; the probability is that of the "
        "answer after its own trace.</p>"
        f'{legend(found, list(part))}<div class="many">{"".join(charts)}</div>{table(heads, body)}'
        f"<details><summary>The reliability tables</summary>{''.join(tables)}</details>"
    )
