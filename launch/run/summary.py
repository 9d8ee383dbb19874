"""What a finished stage did, in one line, from its manifest and result."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tracestill.data_pipeline.base.stage import read_manifest


def summary(stage: str, directory: Path) -> str:
    """One line about a finished stage; empty if it has not finished."""
    manifest = read_manifest(directory)
    if manifest is None:
        return ""
    return SUMMARIES[stage](manifest, directory)


def sample(manifest: dict[str, Any], directory: Path) -> str:
    counts = manifest["counts"]
    validation = f", {counts['validation_questions']:,} validation" if "validation_questions" in counts else ""
    lines = listed("questions rejected", counts.get("source", {}).get("rejected", {}))
    return (
        f"{counts['train_questions']:,} training{validation} and {counts['test_questions']:,} held-out questions, "
        f"{counts['out']:,} records ({counts['from_journal']:,} from the journal)"
        f"{rejections(counts.get('rejected', {}))}{lines}{files(counts)}"
    )


def files(counts: Mapping[str, Any]) -> str:
    """What was read by which readers, and what is doubtful in it; empty where there is nothing to tell."""
    near = counts.get("source", {}).get("near_duplicates")
    told = f"; near duplicates across splits {near:,}" if isinstance(near, int) else f"; {near}" if near else ""
    return listed("read by", counts.get("readers", {})) + listed("doubtful", counts.get("checks", {})) + told


def select(manifest: dict[str, Any], directory: Path) -> str:
    counts = manifest["counts"]
    weightless = f", {counts['weightless']:,} of weight 0" if "weightless" in counts else ""
    return f"kept {counts['out']:,} of {counts['in']:,} records{weightless}{rejections(counts['rejected'])}"


def tokenizer(manifest: dict[str, Any], directory: Path) -> str:
    return f"{manifest['vocab_size']:,} tokens"


def encode(manifest: dict[str, Any], directory: Path) -> str:
    counts = manifest["counts"]
    split = counts["splits"]["train"]
    trimmed = f", {counts['trimmed']:,} trimmed" if counts.get("trimmed") else ""
    rejected = rejections(counts.get("rejected", {}))
    noted = listed("noted", counts.get("notes", {}))
    return f"{split['documents']:,} documents, {split['tokens']:,} tokens{trimmed}{rejected}{noted}"


def plan(manifest: dict[str, Any], directory: Path) -> str:
    statistics = manifest["statistics"]
    return (
        f"{statistics['packs']:,} packs, {statistics['fill']:.1%} filled, {manifest['steps_per_epoch']:,} steps an "
        f"epoch, {manifest['epochs']:,} epoch(s)"
    )


def train(manifest: dict[str, Any], directory: Path) -> str:
    steps = manifest["counts"].get("steps")
    return "trained" if steps is None else f"{steps:,} steps"


def evaluate(manifest: dict[str, Any], directory: Path) -> str:
    result = json.loads((directory / "result.json").read_text(encoding="utf-8"))
    threads = f", by {result['threads']} thread(s)" if result.get("threads") else ""
    left = f", {result['not_asked']:,} not asked" if result.get("not_asked") else ""
    return (
        f"{result['accuracy']:.1%} of {result['questions']:,} questions right{left}, "
        f"{result['truncated']:,} cut off{threads}"
    )


def report(manifest: dict[str, Any], directory: Path) -> str:
    missing = manifest["counts"]["missing"]
    return f"written, {missing} stage(s) missing in it" if missing else "written"


def rejections(rejected: Mapping[str, int]) -> str:
    """``; rejected: wrong answer 12, same path 3``, the most frequent first."""
    return listed("rejected", rejected)


def listed(what: str, counts: Mapping[str, int]) -> str:
    found = [
        f"{name.replace('_', ' ')} {count:,}" for name, count in sorted(counts.items(), key=lambda r: -r[1]) if count
    ]
    return f"; {what}: {', '.join(found)}" if found else ""


SUMMARIES: dict[str, Callable[[dict[str, Any], Path], str]] = {
    "sample": sample,
    "select": select,
    "tokenizer": tokenizer,
    "encode": encode,
    "plan": plan,
    "train": train,
    "evaluate": evaluate,
    "report": report,
}
