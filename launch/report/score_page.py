"""The scorers in the page: what models said of the stored tokens, by kind, how much of them, and the room it takes."""

from __future__ import annotations

from tracestill.data_pipeline.guards.visible import in_html
from tracestill.launch.report.parts import Found, seconds, table, text
from tracestill.trainer.recipe.score_settings import approximately


def scores(found: Found) -> str:
    every = [(arm, name, row) for arm, held in found["arms"].items() for name, row in held["scores"].items()]
    if not every:
        return ""
    size = []
    for arm, name, row in every:
        counts = row["counts"]
        foreseen = f"{row['foreseen_bytes'] / 1e6:,.1f} MB" if "foreseen_bytes" in row else ""
        channels = [c + approximately(row) if c == "influence" else c for c in row["channels"]]
        cells = [text(in_html(arm)), text(in_html(name)), text(in_html(", ".join(channels)))]
        cells += [f"{counts['documents']:,}", f"{counts['tokens']:,}", foreseen, f"{counts['bytes'] / 1e6:,.1f} MB"]
        size.append([*cells, seconds(row["seconds"])])
    heads = ["arm", "scorer", "channels", "documents", "tokens", "foreseen", "on disk", "time"]
    return (
        "<h2>Scores</h2><p class='soft'>What models said of the stored tokens. Covered: the share of a kind's targets "
        "of which a model said something.</p>" + table(heads, size) + by_kind(found)
    )


def by_kind(found: Found) -> str:
    rows = []
    for arm, held in found["arms"].items():
        for name, row in held["scores"].items():
            counts = row["counts"]
            if set(row["channels"]) <= {"influence"}:
                continue  # of steps, which have no kind
            means = list(counts["means"])
            for kind, targets in counts["targets"].items():
                said = counts["known"].get(kind, 0)
                values = [f"{m} {counts['means'][m][kind]:.3f}" for m in means if kind in counts["means"][m]]
                rows.append([text(in_html(arm)), text(in_html(name)), text(in_html(kind)), f"{targets:,}",
                             f"{said / targets:.1%}", text(in_html(", ".join(values)))])  # fmt: skip
    return table(["arm", "scorer", "kind", "targets", "covered", "means"], rows) if rows else ""
