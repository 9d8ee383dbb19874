"""Verdicts with examples: for each reason for which selection rejected records, a few of them, and what helps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.guards.secret import mask
from tracestill.data_pipeline.guards.visible import in_html
from tracestill.data_pipeline.selection.policy import REMEDIES
from tracestill.launch.report.parts import Found, by_arm

EXAMPLES = 2  # of each reason
LONGEST = 1500  # characters of a trace that are shown
FIELDS = ("question", "gold", "answer", "trace", "teacher", "reason", "detail")


def verdicts_in(select: Path) -> list[dict[str, Any]]:
    """The first rejected records of each reason, as selection wrote them, in the order of their reasons' names; a
    longer trace is cut, and ``cut`` says by how many characters. Raises InputError if they cannot be read."""
    path = select / "rejected.parquet"
    found: dict[str, list[dict[str, Any]]] = {}
    try:
        with pq.ParquetFile(path) as file:
            columns = [name for name in FIELDS if name in file.schema_arrow.names]
            for batch in file.iter_batches(columns=columns):
                for row in batch.to_pylist():
                    held = found.setdefault(row["reason"], [])
                    if len(held) < EXAMPLES:
                        held.append(row)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable Parquet file ({error}); delete {select}, and select again") from error
    return [shortened(row) for reason in sorted(found) for row in found[reason]]


def shortened(row: dict[str, Any]) -> dict[str, Any]:
    trace = mask(row.get("trace") or "")  # before it is cut: of half a secret nobody sees that it is one
    return {**row, "trace": trace[:LONGEST], "cut": max(len(trace) - LONGEST, 0)}


def verdicts(found: Found) -> str:
    """A part for each way in which arms select; empty where nothing was rejected."""
    body = by_arm(found, "verdicts", lambda row, held: of_arm(held, (row.get("selection") or {}).get("rejected", {})))
    if not body:
        return ""
    return (
        "<h2>Verdicts, with examples</h2><p class='soft'>Why selection rejected records, and the first of them. Read "
        "them: a filter that rejects what is right costs as much as one that lets through what is wrong.</p>" + body
    )


def of_arm(held: list[dict[str, Any]], counts: dict[str, int]) -> str:
    parts = []
    for reason in dict.fromkeys(row["reason"] for row in held):
        count = f": {counts[reason]:,} record{'s' * (counts[reason] != 1)}" if reason in counts else ""
        remedy = f" <span class='soft'>What helps: {in_html(REMEDIES[reason])}.</span>" if reason in REMEDIES else ""
        examples = "".join(example(row) for row in held if row["reason"] == reason)
        parts.append(
            f"<details><summary><b>{in_html(reason.replace('_', ' '))}</b>{count}</summary>"
            f"<p>{remedy}</p>{examples}</details>"
        )
    return "".join(parts)


def example(row: dict[str, Any]) -> str:
    cut = f"<p class='soft'>and {row['cut']:,} characters more</p>" if row["cut"] else ""
    detail = f"<p><span class='mark wrong'>{in_html(row['detail'])}</span></p>" if row.get("detail") else ""
    answer = in_html(str(row["answer"])) if row.get("answer") else "<i>none</i>"
    gold = in_html(str(row["gold"])) if row.get("gold") else "<i>none</i>"
    return (
        f'<div class="example"><p>{in_html(row["question"])}</p><pre>{in_html(row["trace"]) or "(no trace)"}</pre>{cut}'
        f"{detail}<p>answer {answer} · gold {gold} · teacher {in_html(row['teacher'])}</p></div>"
    )
