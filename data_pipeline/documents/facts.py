"""What is known of the questions of training documents, for the columns beside the token store: where they come from,
and how hard they are for those who were asked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tracestill.data_pipeline.base.schema import QUESTION_SCHEMA, read_rows
from tracestill.data_pipeline.tokens.columns import own_types, own_value, schema_of
from tracestill.data_pipeline.yields.table import yield_table

ASKED = pa.schema([QUESTION_SCHEMA.field(name) for name in ("question_id", "split", "source", "group", "metadata")])


class Facts:
    """Looks up what is known of a record's question."""

    def __init__(self, sample: Path, select: Path, own: Sequence[str] = ()) -> None:
        """``own``: names in the questions' metadata. Raises InputError for a name that none has."""
        rows = [row for row in read_rows(sample / "questions.parquet", ASKED) if row["split"] == "train"]
        metadata: list[Mapping[str, Any]] = [json.loads(row["metadata"] or "{}") for row in rows] if own else []
        self.types = own_types(metadata, own)
        self.of: dict[str, tuple[Any, ...]] = {}
        for at, row in enumerate(rows):
            values = [own_value(metadata[at].get(name), self.types[name]) for name in own]
            self.of[row["question_id"]] = row["source"] or "", row["group"] or "", *values
        # which records from elsewhere do without
        self.difficulty = difficulties(sample, select) if (sample / "records.parquet").exists() else {}

    def table(self, known: Mapping[str, list[Any]]) -> pa.Table:
        """The rows of documents in the table; ``known``: its columns of their records, and whether each is general
        text."""
        asked = known["question_id"]
        none = ("", "", *(None for _ in self.types))
        found = zip(*(self.of.get(question, none) for question in asked), strict=True)
        pairs = zip(asked, known["general"], strict=True)
        columns = {
            **{name: values for name, values in known.items() if name != "general"},
            "difficulty": [None if general else self.difficulty.get(question) for question, general in pairs],
            **dict(zip(("source", "group", *self.types), map(list, found), strict=True)),
        }
        return pa.table(columns, schema=schema_of(self.types))


def difficulties(sample: Path, select: Path) -> dict[str, float]:
    """Question id -> share of its samples that are not right, as ``select`` found, or could not be read: 0 where all
    are right."""
    table, _ = yield_table(sample, select)
    right = pc.and_(*(pc.fill_null(table[flag], False) for flag in ("answered", "right")))
    samples = pa.table({"question_id": table["question_id"], "right": right.cast(pa.float64())})
    mean = samples.group_by("question_id").aggregate([("right", "mean")])
    shares = (1 - mean["right_mean"].to_numpy()).astype(np.float32).astype(np.float64).tolist()
    return dict(zip(mean["question_id"].to_pylist(), shares, strict=True))
