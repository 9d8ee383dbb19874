"""The rows of a part, whatever it is written in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.sampling.files.documents import json_rows
from tracestill.data_pipeline.sampling.files.formats import Part
from tracestill.data_pipeline.sampling.files.hub import hub_rows
from tracestill.data_pipeline.sampling.files.lines import Row, jsonl_rows
from tracestill.data_pipeline.sampling.files.tables import arrow_rows, parquet_rows, table_rows

READ = {"jsonl": jsonl_rows, "json": json_rows, "parquet": parquet_rows, "arrow": arrow_rows}
DELIMITERS = {"csv": ",", "tsv": "\t"}


def rows_of(part: Part, columns: Sequence[str] | None = None) -> Iterator[tuple[str, Row]]:
    """(split, row) of each row; split: what the part's name says, or the hub. ``columns`` name those of a table
    without a first line of names. Raises InputError if the file cannot be read at all."""
    if part.format == "hub":
        yield from hub_rows(part.name)
        return
    try:
        if part.format in DELIMITERS:
            rows = table_rows(part.path, part.packed, DELIMITERS[part.format], list(columns) if columns else None)
        else:
            rows = READ[part.format](part.path, part.packed)
        for row in rows:
            yield part.split, row
    except OSError as error:
        raise InputError(f"{part.path}: not readable ({error.strerror or error})") from error
