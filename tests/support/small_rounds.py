"""``recipes/demo_rounds.yaml`` at a size at which a student learns to be right within seconds: each question has the
same answer, and there are three ways to it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

ROOT = Path(__file__).parents[2]
WAYS = ("3 + 4 = 7.", "2 + 5 = 7.", "1 + 6 = 7.")
STUDENT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
FIELDS = {"question": "question", "trace": "trace", "gold": "gold"}
CHANGES: dict[str, dict[str, Any]] = {
    "sample": {"teachers": [{"name": "book", "use": "recorded"}], "samples": 1},
    "encode": {"tokenizer": {"vocab_size": 300}},
    "plan": {"capacity": 512, "packs_per_step": 2, "group": 2},
    "train": {"steps": 40, "ranks": 1, "zero": 0, "lr": 2.0e-2, "warmup": 2, "checkpoint_every": 8, "log_every": 20},
    "evaluate": {"max_new_tokens": 24, "batch_size": 16, "variations": None, "also": {}},
    "rounds": {"count": 2},
}
OWN = {"k": 8, "questions": 4, "samples": 2, "refresh": 2}
OWN_STEPS = {"steps": 4, "lr": 1.0e-3, "warmup": 1, "checkpoint_every": 1, "log_every": 1}


def write_small_rounds(folder: Path) -> None:
    """Write the recipe and its questions into ``folder``, named from there."""
    rows = [{"question": f"Make 7 of case {n}.", "trace": way, "gold": "7"} for n in range(24) for way in WAYS]
    (folder / "sevens.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = yaml.safe_load((ROOT / "recipes/demo_rounds.yaml").read_text())
    for block, changes in CHANGES.items():
        recipe[block] |= changes
    recipe["questions"] = {"source": "sevens.jsonl", "fields": FIELDS, "validation": 4, "test": 4}
    recipe["student"]["config"] |= {**STUDENT, "num_key_value_heads": 2, "max_position_embeddings": 128}
    (folder / "small.yaml").write_text(yaml.safe_dump(recipe))


def write_own_rounds(folder: Path, teacher: str) -> None:
    """Write ``teacher.yaml``, whose run in the folder ``teacher`` trains one, beside the recipe ``own.yaml`` of a round
    in which a student follows it on texts of its own, on two ranks."""
    write_small_rounds(folder)
    recipe = yaml.safe_load((folder / "small.yaml").read_text())
    del recipe["rounds"]
    (folder / "teacher.yaml").write_text(yaml.safe_dump(recipe))
    recipe["train"] |= {"ranks": 2, "zero": 2, "steps": 24}
    recipe["encode"] = {"tokenizer": {"path": teacher}}
    on_policy = {**OWN, "teacher": {"model": teacher, "zero": 3}}
    recipe["rounds"] = {"kind": "on_policy", "count": 1, "on_policy": on_policy, "changes": {"train": OWN_STEPS}}
    (folder / "own.yaml").write_text(yaml.safe_dump(recipe))


def outcome(root: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """What rounds.json says, and the digests of all that rounds leave to be used: exports, traces, answers, figures."""
    patterns = ("export/*", "written/*.parquet", "select/records.parquet", "monitor/figures.json")
    patterns += ("evaluate/*.parquet", "validation/*.parquet", "tokens.arrow")
    files = sorted(path for pattern in patterns for path in root.glob(f"rounds/**/{pattern}") if path.is_file())
    digests = {str(path.relative_to(root)): hashlib.sha256(content(path)).hexdigest() for path in files}
    return json.loads((root / "rounds.json").read_text()), digests


def content(path: Path) -> bytes:
    """Of answers all but their log-probabilities: what is asked after a kill stands in other batches, and these round
    otherwise."""
    if path.parent.name not in ("evaluate", "validation"):
        return path.read_bytes()
    rows = pq.read_table(path).to_pylist()
    return repr([{name: row[name] for name in row if not name.startswith("logprob")} for row in rows]).encode()
