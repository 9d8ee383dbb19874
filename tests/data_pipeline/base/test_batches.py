"""Parquet files read some rows at a time."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tracestill.data_pipeline.base.batches import Rows
from tracestill.data_pipeline.base.errors import InputError

SCHEMA = pa.schema([("trace", pa.string()), ("weight", pa.float32()), ("raw", pa.string())])


def rows(tmp_path, **columns):
    pq.write_table(pa.table(columns), tmp_path / "records.parquet")
    return Rows(tmp_path / "records.parquet", SCHEMA)


def test_columns_that_earlier_versions_lack_are_empty(tmp_path):
    found = list(rows(tmp_path, trace=["a", "b", "c"], weight=[1.0, None, 2.0]).batches(2))
    assert [len(table) for table in found] == [2, 1]
    assert found[0].schema == SCHEMA
    assert pa.concat_tables(found)["raw"].to_pylist() == [""] * 3


def test_a_text_that_is_null_is_named(tmp_path):
    texts = pa.array(["a", "b", "c", None], pa.string())
    with pytest.raises(InputError, match=r"records\.parquet: row 3 \(from 0\): its trace is null"):
        list(rows(tmp_path, trace=texts, weight=[1.0] * 4).batches(3))
