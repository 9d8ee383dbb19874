"""Losses of several runs in one plot, where they compare; and where not, why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tracestill.data_pipeline.guards.visible import in_html
from tracestill.launch.report.arms import held_out
from tracestill.launch.report.parts import Found, alike, legend
from tracestill.launch.report.training.curves import OF_KIND, OF_WEIGHTED, loss_charts

TABLES = {"tokenizer": "tokenizers", "asked": "held-out questions"}
WEIGHTED, SAME = (*OF_WEIGHTED, "tokenizer"), (*OF_KIND, "asked")
NAMES = {"weighting": "weighting", "loss": "terms of the loss", "documents": "layout of documents",
         "tokenizer": "tokenizer", "asked": "held-out questions"}  # fmt: skip


def together(runs: Mapping[str, Found], tokenizers: Sequence[Mapping[str, str]], asked: Sequence[str]) -> str:
    """Training loss and held-out loss by kind of all runs, HTML; empty where none was trained.

    ``tokenizers`` and ``asked``: for each run what the tokenizer of each arm, and its held-out questions, are known by.
    """
    arms = {
        f"{name}: {arm}": {**row, "tokenizer": [row["tokenizer"], known[arm]], "asked": questions}
        for (name, found), known, questions in zip(runs.items(), tokenizers, asked, strict=True)
        for arm, row in found["arms"].items()
    }
    kinds = list(dict.fromkeys(kind for found in runs.values() for kind in found["kinds"]))
    found = {"arms": arms, "kinds": kinds}
    trained = [arm for arm, row in arms.items() if row["train"]]
    if not trained:
        return ""
    charts = "".join(loss_charts(found, weighted=WEIGHTED, same=SAME))
    reasons = why(found, trained, WEIGHTED, "weighted losses"), why(found, trained, SAME, "losses by kind")
    notes = "".join(f'<p class="note">{in_html(reason)}</p>' for reason in reasons if reason)
    tables = held_out(found, {key: TABLES[key] for key in SAME}).replace("<h2>", "<h3>").replace("</h2>", "</h3>")
    return (
        "<h2>Losses</h2><p class='soft'>Nats a token, on a logarithmic scale. Solid: training documents; dashed: "
        f"held-out documents, where they are measured.</p>{notes}{legend(found, trained)}"
        f'<div class="many">{charts}</div>{tables}'
    )


def why(found: Found, arms: Sequence[str], keys: Sequence[str], what: str) -> str:
    """Why not all arms share a plot; empty if they do."""
    differing = [NAMES[key] for key in keys if len(alike(found, arms, key)) > 1]
    if not differing:
        return ""
    named = ", ".join(differing[:-1]) + (" and " if differing[1:] else "") + differing[-1]
    return f"Not all {what} share a plot, because they do not compare: of these students differ {named}."
