"""A weighting that could never teach a stop is refused by the ranks, and what was trained before stays."""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml
from click.testing import Result
from fake_run import RECIPE
from forked_command import command

NEVER = "weighting.weights.control={from: 0, to: 1, steps: 9, start: 900}"  # which only the number of steps tells


def run(folder: Path, *settings: str, code: int = 0) -> Result:
    words = ["run", folder / "recipe.yaml", "--run-dir", folder / "run", "--until", "train", "--replace"]
    return command(*words, *(word for setting in settings for word in ("--set", setting)), code=code)


def test_a_run_is_refused_unless_it_is_allowed(tmp_path: Path) -> None:
    train = {"steps": 3, "ranks": 2, "log_every": 1}
    recipe = {**RECIPE, "encode": {"two_task": {}, **RECIPE["encode"]}, "train": train, "arms": {}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    run(tmp_path, NEVER, "weighting.allow_unstoppable=true")
    folder = tmp_path / "run/arms/traces/train"
    found = json.loads((folder / "preview.json").read_text())["warnings"]
    for sort in ("a trace and no answer", "an answer and no trace"):
        assert f"</s> weighs nothing in documents with {sort}: the student will not learn to stop there" in found
        assert any(line.startswith(f"</think> weighs nothing in documents with {sort}: ") for line in found)
    again = run(tmp_path, NEVER)
    assert re.search(r"^train\b.* up to date, skipped$", again.stderr, re.MULTILINE), "the key changes no number"

    before = (folder / "log.jsonl").read_bytes()
    refused = run(tmp_path, NEVER, "train.lr=1e-3", code=2)
    assert "Traceback" not in refused.stderr
    (line,) = {line for line in refused.stderr.splitlines() if "could never stop" in line}
    assert "since </s>, which ends its documents, weighs nothing in any step (its kind is control)" in line
    assert (folder / "log.jsonl").read_bytes() == before, "what was trained before stays"
    assert (folder / "export/config.json").is_file()
