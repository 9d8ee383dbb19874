"""``tracestill train-segmenter``: a classifier of clauses from traces that somebody labelled."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train_segmenter(
    labels: Annotated[
        Path, typer.Argument(metavar="LABELS", help='JSON Lines: {"question", "trace", "spans": [[start, end, kind]]}.')
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where the model is written, as JSON.")],
    test_share: Annotated[
        float, typer.Option("--test-share", min=0, max=0.9, help="Share of the questions that it is tested on instead.")
    ] = 0.25,
) -> None:
    """Fit the classifier that [bold]segment.by: model[/] reads to labelled traces, and test it on some set apart.

    Example: [cyan]tracestill train-segmenter labels.jsonl --out segmenter.json[/], then in a recipe
    [cyan]segment: {by: model, model: segmenter.json}[/]
    """
    from rich.table import Table

    from tracestill.data_pipeline.base.errors import InputError
    from tracestill.data_pipeline.segmentation.labels import read_labels
    from tracestill.data_pipeline.segmentation.training import train, write_model
    from tracestill.trainer.ranks.console import Terminal

    traces = read_labels(labels)
    if not out.absolute().parent.is_dir():
        raise InputError(f"--out {out}: its folder is not there")
    found = train(traces, test_share)
    write_model(out, found, {"labels": labels.name, "clauses": found.clauses, "test_share": test_share})
    console = Terminal()
    console.print(f"{out}: learnt from {found.clauses:,} clauses", highlight=False, soft_wrap=True)
    if not found.test:
        console.print("no trace was set apart to test it on; raise --test-share, or label more", style="yellow")
        return
    table = Table(title="on the traces set apart", title_justify="left")
    for heading in ("kind", "clauses", "precision", "recall", "F1"):
        table.add_column(heading, justify="left" if heading == "kind" else "right")
    for kind, score in found.test.items():
        table.add_row(kind, f"{score.clauses:,}", f"{score.precision:.3f}", f"{score.recall:.3f}", f"{score.f1:.3f}")
    console.print(table)
    console.print(f"macro F1 {found.macro_f1:.3f}; segment.by: flow has {found.flow_macro_f1:.3f}", highlight=False)
