"""What an evaluation measured beside accuracy, in a short line for each part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tracestill.trainer.measures.changes import SAME
from tracestill.trainer.measures.settings import WAYS


def said(result: Mapping[str, Any]) -> list[str]:
    """From result.json; a part that was not measured has no line."""
    return [line for name, tell in LINES.items() if result.get(name) and (line := tell(result[name]))]


def of_samples(part: Mapping[str, Any]) -> str:
    if not part["curve"]:
        return ""
    last = part["curve"][-1]
    named = {"a majority": "majority", "one of them": "pass", "a weighted vote": "weighted", "a sound one": "sound"}
    told = [f"{name} {last[key]['share']:.1%}" for name, key in named.items() if last[key]]
    eces = [f"{by} {held['ece']:.3f}" for by, held in part["calibration"].items() if held["ece"] is not None]
    errors = f"; calibration error by {', '.join(eces)}" if eces else ""
    return f"of {last['k']} samples: right are {', '.join(told)}{errors}"


def of_budgets(part: Mapping[str, Any]) -> str:
    points = [
        f"{'all' if row['budget'] is None else row['budget']} {row['right']['share']:.1%}"
        for row in part["curve"]
        if row["right"]["share"] is not None
    ]
    return f"right by tokens of the thought: {', '.join(points)}" if points else ""


def of_cause(part: Mapping[str, Any]) -> str:
    ways = [f"{way} {part['ways'][way]['share']:.1%}" for way in (SAME, *WAYS) if way in part["ways"]]
    alone = part["no_trace"]
    told = f"answers that change with the trace: {', '.join(ways) or 'no trace to change'}"
    return told + (f"; right without a trace {alone['share']:.1%}" if alone["share"] is not None else "")


def of_quality(part: Mapping[str, Any]) -> str:
    sound, alike = part["sound"], part["alike"]["rouge_l"]
    told = [f"{sound['share']:.1%} sound"] if sound["share"] is not None else []
    groups = [
        f"{alike[name]['share']:.3f} if {name}" for name in ("right", "wrong") if alike[name]["share"] is not None
    ]
    told += [f"ROUGE-L with the teacher's {', '.join(groups)}"] if groups else []
    return f"traces: {'; '.join(told)}" if told else ""


def of_general(part: Mapping[str, Any]) -> str:
    losses = [f"{part[when]['loss']:.4f} {when} training" for when in ("before", "after") if part[when]]
    return f"loss on general text: {', '.join(losses)}"


def of_transfer(part: Mapping[str, Any]) -> str:
    told = []
    for task, forms in part["cells"].items():
        plain, kept = forms["plain"]["accuracy"]["share"], part["consistency"].get(task)
        all_right = kept["all_right"]["share"] if kept else None
        told.append(f"{task} {plain:.1%}" + (f" (in all forms {all_right:.1%})" if all_right is not None else ""))
    return f"right, plainly asked: {', '.join(told)}"


LINES = {
    "transfer": of_transfer,
    "samples": of_samples,
    "budgets": of_budgets,
    "cause": of_cause,
    "quality": of_quality,
    "general": of_general,
}
