"""Records made by hand, and the stage that selects among them."""

from __future__ import annotations

from pathlib import Path

from tracestill.data_pipeline.base.schema import RECORD_SCHEMA, REJECTED_SCHEMA, read_rows, write_rows
from tracestill.data_pipeline.base.stage import stage
from tracestill.data_pipeline.selection.config import SelectConfig
from tracestill.data_pipeline.selection.selection import run


def record(record_id: str, trace: str, answer: str = "7", question: str = "q1") -> dict:
    return {
        **{"record_id": record_id, "question_id": question, "question": "What is 3 + 4?", "gold": "7"},
        **{"trace": trace, "answer": answer, "spans": [], "weight": 1.0},
        **{"teacher": "t", "style": "", "temperature": 1.0, "index": 0},
    }


def judged(tmp_path: Path, rows: list[dict], **select: object) -> tuple[list[str], dict[str, str]]:
    """Ids kept, and reason by id of the others."""
    with stage(tmp_path / "sample", "sample", {}, {}) as work:
        write_rows(work.path / "records.parquet", rows, RECORD_SCHEMA)
    run(SelectConfig.model_validate(select), directory=tmp_path / "select", sample=tmp_path / "sample")
    kept = read_rows(tmp_path / "select" / "records.parquet", RECORD_SCHEMA)
    rejected = read_rows(tmp_path / "select" / "rejected.parquet", REJECTED_SCHEMA)
    assert all(row["detail"] for row in rejected)
    return [row["record_id"] for row in kept], {row["record_id"]: row["reason"] for row in rejected}
