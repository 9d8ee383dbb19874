"""A run of the stage `sample` against a server, and what its journal holds."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from tracestill.data_pipeline.base.schema import RECORD_SCHEMA, read_rows
from tracestill.data_pipeline.sampling.questions import QuestionsConfig
from tracestill.data_pipeline.sampling.sample import SampleConfig, run


def teacher(url: str, name: str = "t", **options: Any) -> dict[str, Any]:
    return {"name": name, "use": "api", "options": {"url": url, "model": "m", "concurrency": 8, **options}}


def go(where: Path, teachers: list[dict[str, Any]], train: int = 6, **sample: Any) -> list[dict[str, Any]]:
    run(
        QuestionsConfig(source="their_tasks.noted", train=train, test=0),
        SampleConfig.model_validate({"teachers": teachers, "test_samples": 0, **sample}),
        seed=0,
        directory=where / "sample",
        journal=where / "journal.sqlite",
    )
    return read_rows(where / "sample" / "records.parquet", RECORD_SCHEMA)


def sql(where: Path, query: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(where / "journal.sqlite") as database:
        return database.execute(query).fetchall()
