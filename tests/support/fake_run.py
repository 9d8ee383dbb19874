"""A finished run in miniature, without training: what the report and the command line read."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tracestill.data_pipeline.base.stage import Stage, identity, read_manifest, stage, write_manifest
from tracestill.launch.report.report import gather, write_report
from tracestill.launch.run.stages import STAGES, plan_works
from tracestill.trainer.recipe.recipe import Recipe, build
from tracestill.trainer.recipe.run_directory import RunDirectory

STUDENT = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
RECIPE = {
    "name": "mini",
    "questions": {"source": "digit_sum", "train": 12, "test": 4, "options": {"digits": 3, "modulus": 10}},
    "sample": {"teachers": [{"name": "solver", "options": {"error_rate": 0.2}}], "samples": 3},
    "encode": {"tokenizer": {"vocab_size": 320}},
    "plan": {"capacity": 256, "packs_per_step": 2},
    "student": {"config": STUDENT},
    "weighting": {"weights": {"prompt": 0}},
    "train": {"steps": 40, "ranks": 1},
    "arms": {"answers_only": {"encode": {"trace": "drop"}}},
}
KINDS = {"plan": 0.2, "derive": 0.5, "check": 0.3, "answer": 1.4, "control": 0.1}
HOSTILE = "<script>alert('trace')</script> & 1 < 2"


def mini_recipe(**changes: object) -> Recipe:
    return build({**RECIPE, **changes}, where="mini")


def claim(root: Path, recipe: Recipe | None = None, *, replace: bool = False) -> RunDirectory:
    return RunDirectory.create(root, recipe or mini_recipe(), replace=replace)


def run_data_stages(run: RunDirectory) -> None:
    """The real stages up to the plan: a fraction of a second."""
    from rich.console import Console

    for work in plan_works(run):
        if work.stage in ("sample", "select", "tokenizer", "encode", "plan"):
            work.spec.do(work, Console(quiet=True))


def summary(name: str, directory: Path) -> str:
    """The line about a finished stage."""
    return next(spec for spec in STAGES if spec.name == name).summary(read_manifest(directory) or {}, directory)


def gathered(run: RunDirectory) -> dict[str, Any]:
    return gather(run, plan_works(run))


def report(run: RunDirectory) -> None:
    write_report(run, plan_works(run))


def write_train(run: RunDirectory, arm: str, steps: int = 40, *, finished: bool = True) -> None:
    """A training's log, export and manifest, with losses that fall by a formula."""
    directory = run.stage(arm, "train")
    (directory / "export").mkdir(parents=True)
    (directory / "export" / "config.json").write_text("{}")
    low = 0.15 if arm == "traces" else 1.5
    lines = [{"event": "skipped", "step": 1, "reason": "made up"}]
    for step in range(2, steps + 1, 2):
        fall = low + 3 * math.exp(-step / 12)
        kinds = {name: {"loss": fall * scale, "accuracy": 0.5, "count": 9} for name, scale in KINDS.items()}
        numbers = {"tokens": 400, "weighted_tokens": 300, "seconds": 0.5, "tokens_per_second": 800.0}
        lines.append({"step": step, "epoch": 0, "loss": fall, "lr": 1e-3 * step / steps, "grad_norm": fall, **numbers})
        lines[-1]["kinds"] = kinds
        if arm == "traces":  # the other arms' logs are of an older version
            lines[-1] |= {"mfu": 0.4, "memory_gib": 1.5, "padding": 0.05, "balance": 1.0, "data_wait": 0.01}
            lines[-1]["kinds"] = {name: {**row, "weight": 9.0, "share": 0.2} for name, row in kinds.items()}
            lines[-1]["kinds"]["prompt"] = {**kinds["plan"], "weight": 0.0, "share": 0.0}
        if step % 10 == 0:
            lines.append({"event": "held_out", "step": step, "kinds": {**kinds, "prompt": kinds["plan"]}})
            lines.append({"event": "answers", "step": step, "split": "test", "accuracy": step / 50, "count": 4})
    (directory / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 41, "los')
    tokens = [{"text": t, "kind": k, "weight": w} for t, k, w in (("<s>", "control", 0), (HOSTILE, "derive", 1))]
    rows = [{"kind": "derive", "weight": 1.0, "tokens": 9, "weight_sum": 9.0, "weight_share": 1.0, "loss_share": 1.0}]
    preview = {"kinds": rows, "document": {"id": "d", "tokens": tokens}, "warnings": [f"beware {HOSTILE}"]}
    (directory / "preview.json").write_text(json.dumps(preview))
    if finished:
        finish_train(run, arm, steps)


def finish_train(run: RunDirectory, arm: str, steps: int = 40) -> None:
    directory, (config, inputs) = run.stage(arm, "train"), run.train_stage(arm)
    write_manifest(directory, identity("train", config, inputs), Stage(directory, counts={"steps": steps}), 21.5)


def write_evaluation(run: RunDirectory, arm: str, accuracy: float) -> None:
    work = next(work for work in plan_works(run) if work.stage == "evaluate" and work.arm == arm)
    result = {
        "accuracy": accuracy,
        "accuracy_low": max(0.0, accuracy - 0.05),
        "accuracy_high": min(1.0, accuracy + 0.05),
        "questions": 4,
        "trace_tokens_mean": 61.5,
        "truncated": 1,
        "kinds": {name: {"loss": scale, "accuracy": 0.9, "count": 40} for name, scale in KINDS.items()},
        "seconds": 3.5,
    }
    rows = [
        {
            "question_id": str(i),
            "question": f"question {i} {HOSTILE}",
            "gold": "7",
            "text": f"<think>{HOSTILE}</think> 7",
            "trace": HOSTILE,
            "answer": "7" if i % 2 else None,
            "correct": bool(i % 2),
            "tokens": 12,
        }
        for i in range(10)
    ]
    with stage(work.directory, "evaluate", work.config, work.inputs) as writing:
        (writing.path / "result.json").write_text(json.dumps(result))
        pq.write_table(pa.Table.from_pylist(rows), writing.path / "predictions.parquet")


class Ended:
    """A process that is over."""

    def __init__(self, code: int) -> None:
        self.code = code

    def poll(self) -> int:
        return self.code

    def send_signal(self, number: int) -> None:
        """Nobody hears it."""
