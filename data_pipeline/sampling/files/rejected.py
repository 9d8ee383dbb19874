"""What a stage cannot use of its input: kept with place, reason and text; too large a share of it ends the stage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.schema import write_rows

SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("where", "reason", "detail", "text", "file")),
        ("row", pa.int64()),  # of the file, from 1 on
        *((name, pa.string()) for name in ("record_id", "question_id", "teacher", "style")),
        ("temperature", pa.float32()),
    ]
)
SHARE = 0.05
NAMED = 3  # places of rejected ones that a message names, beside the first


@dataclass(frozen=True)
class Rejected:
    """One record that is left out."""

    where: str  # file:line, or whose and of which question
    reason: str  # one of a few words, for counting
    detail: str  # what was found and what was expected
    text: str  # the record itself; what is no Unicode stands as Python would escape it
    file: str = ""  # that it comes from, if it does
    row: int | None = None
    record_id: str = ""  # that a trace would have had, with what was asked of whom; empty of anything else
    question_id: str = ""
    teacher: str = ""
    style: str = ""
    temperature: float | None = None


def by_reason(rejected: Sequence[Rejected]) -> dict[str, int]:
    """Reason -> how many, by name."""
    return dict(sorted(Counter(each.reason for each in rejected).items()))


def listed(counts: Mapping[str, int]) -> str:
    """``not_json 3, no_gold 1``."""
    return ", ".join(f"{reason} {count}" for reason, count in counts.items())


def refuse_too_many(rejected: Sequence[Rejected], total: int, share: float, field: str, what: str) -> None:
    """Raise InputError, in one line that begins with the first one's place, if more than ``share`` of ``total`` are."""
    if len(rejected) <= share * total:
        return
    first = rejected[0]
    others = ", ".join(each.where for each in rejected[1 : NAMED + 1])
    more = f"; so are {others}{' and others' if len(rejected) > NAMED + 1 else ''}" if others else ""
    counts = listed(by_reason(rejected))
    raise InputError(
        f"{first.where}: {first.detail}{more}. {len(rejected)} of {total} {what} cannot be used ({counts}), more than "
        f"{field} = {share:g} allows: mend them, or raise it to go on without them"
    )


def write_rejected(path: Path, rejected: Sequence[Rejected]) -> None:
    """Keep them as Parquet (SCHEMA)."""
    write_rows(path, [asdict(each) for each in rejected], SCHEMA)
