"""Rounds without training: students that write like the symbolic teacher, as steadily as a test wants them to."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from fake_run import RECIPE, build
from rich.console import Console

from tracestill.data_pipeline.base.intervals import wilson
from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.base.schema import Question, Record
from tracestill.data_pipeline.base.stage import Stage, identity, stage, write_json, write_manifest
from tracestill.data_pipeline.sampling.readers.chain import Chain
from tracestill.data_pipeline.sampling.teachers.digit_sum import Teacher, TeacherOptions
from tracestill.launch.report import report
from tracestill.launch.rounds import run_rounds, writing
from tracestill.launch.run import student_stages
from tracestill.trainer.evaluation import evaluate
from tracestill.trainer.evaluation.asking import Reply, reply_of
from tracestill.trainer.recipe.recipe import Recipe
from tracestill.trainer.recipe.run_directory import RunDirectory

Spread = Callable[[int], float]  # round -> the temperature at which its student draws an order
Skill = Callable[[int], float]  # round -> the share of held-out questions that it answers right
Parts = Callable[[int], dict[str, Any]]  # round -> what else is measured of its student


def recipe(rounds: dict[str, Any], **changes: Any) -> Recipe:
    questions = {**RECIPE["questions"], "train": 30, "test": 4, "validation": 0}
    given = {**RECIPE, "questions": questions, "arms": {}, "rounds": {"count": 2, "samples": 2, **rounds}, **changes}
    return build(given, where="rounds")


def fake(
    monkeypatch,
    spread: Spread = lambda number: 1.0,
    skill: Skill = lambda number: 0.5,
    parts: Parts = lambda number: {},
) -> list[str]:
    """Training, evaluation and generation by formulas; what was trained, written and asked, as it comes."""
    told: list[str] = []

    def train(run: RunDirectory, arm: str, label: str, console: Console, **more: Any) -> None:
        told.append(f"train {run.root.name}")
        directory = run.stage(arm, "train")
        shutil.copytree(run.stage(arm, "tokenizer"), directory / "export", dirs_exist_ok=True)
        config, inputs = run.train_stage(arm)
        who = identity("train", config, inputs)
        (directory / "export" / "config.json").write_text(json.dumps({"learnt": who["inputs"]}, sort_keys=True))
        write_manifest(directory, who, Stage(directory, counts={"steps": 1}), 1.0)

    def evaluated(run: RunDirectory, arm: str, progress: Any = None) -> None:
        told.append(f"evaluate {run.root.name}")
        share = skill(int(run.root.name))
        low, high = wilson(share * 100, 100)
        result = {"accuracy": share, "accuracy_low": low, "accuracy_high": high, "questions": 100, "truncated": 0}
        result |= parts(int(run.root.name))
        with stage(run.stage(arm, "evaluate"), "evaluate", *run.evaluate_stage(arm)) as work:
            write_json(work.path / "result.json", {**result, "trace_tokens_mean": 30.0, "seconds": 1.0})
            rows = [dict.fromkeys(("question", "gold", "trace", "answer", "read_by", "correct", "tokens", "text"))]
            evaluate.write_rows(work.path / "predictions.parquet", rows[:0], evaluate.PREDICTION_SCHEMA)

    def ask(model: Any, layout: Any, own: Recipe, queries: Any) -> list[list[Reply]]:
        number = int(model.parents[3].name)
        told.append(f"write {number}")
        teacher = Teacher(TeacherOptions(error_rate=0.1))
        return [[said(layout, teacher, one, at, spread(number)) for at in range(one.samples)] for one in queries]

    monkeypatch.setattr(student_stages, "train_arm", train)
    monkeypatch.setattr(evaluate, "run", evaluated)
    monkeypatch.setattr(report, "page", lambda found, sections: "")  # the page of each round
    monkeypatch.setattr(run_rounds, "check_works", lambda *_, **__: None)
    monkeypatch.setattr(writing, "load_trained", lambda recipe, source, device: source)
    monkeypatch.setattr(writing, "ask", ask)
    monkeypatch.setattr(student_stages, "ranks_of", lambda recipe: SimpleNamespace(count=1))
    return told


def said(layout: Any, teacher: Teacher, query: Any, sample: int, spread: float) -> Reply:
    """What a student writes to a question."""
    question = re.search(r"What is .*10\?", query.question)[0]
    digits = [int(digit) for digit in re.findall(r"\d", question.partition(")")[0])]
    posed = Question("", question, "", "train", "", {"digits": digits, "modulus": 10})
    drawn = int.from_bytes(hashlib.sha256(f"{sample} {query.key}".encode()).digest()[:7], "big")
    solution = teacher.solve(posed, style="", temperature=spread, seed=drawn)
    record = Record("r", "q", question, "", solution.trace, solution.answer, solution.spans, 1.0, "", "", 1.0, 0)
    (document,) = layout.encode([record], Kinds())[0].documents.values()
    ids = document.tokens.tolist()[len(layout.prompt_ids(question)) :]
    return reply_of(layout.read(ids), True, Chain(), len(ids), 0.0)


def begin(root: Path, asked: Recipe) -> run_rounds.Rounds:
    root.mkdir(parents=True, exist_ok=True)
    return run_rounds.Rounds(root, asked, Console(quiet=True))
