"""What became of every trace that was asked for, as one table: from the files of the stages `sample` and `select`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tracestill.data_pipeline.answers.numbers.number import number
from tracestill.data_pipeline.answers.plain import normal_text
from tracestill.data_pipeline.answers.verify import same_answer
from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.schema import GENERAL
from tracestill.data_pipeline.base.stage import read_manifest

FLAGS = ("read", "answered", "right", "sound", "distinct", "kept")
PROVENANCE = ("record_id", "question_id", "teacher", "style", "temperature")
VERDICTS = pa.schema(
    [
        *((name, pa.string()) for name in PROVENANCE[:-1]),
        ("temperature", pa.float32()),
        *((name, pa.bool_()) for name in FLAGS),  # null: not looked at
        ("reason", pa.string()),  # why it is not kept; "" if it is
    ]
)
POLICIES = {
    "strict": ("answered", "right", "sound"),
    "answer": ("answered", "right"),
    "none": ("answered",),
}  # what a record needs
NOT_ASKED = "budget"  # the reason of what there was no money for
# reason of select's rejected.parquet -> the flags that it settles; those before it held, where they were looked at
SETTLES = {
    "no_answer": ("answered", False),
    "wrong_answer": ("right", False),
    "unverified": ("right", False),  # nobody could tell
    "verify_timeout": ("right", False),
    "false_equation": ("sound", False),
    "false_step": ("sound", False),
    "same_path": ("distinct", False),
    "over_maximum": ("distinct", True),
}
# an operator behind a number, which may bear a unit: an operation, whether it holds or not
OPERATION = r"[\d)%][ \t]*(?:[A-Za-z]+ )?(?:[+*×÷]|[-−–] |/ ?[\d($]|x [\d($]|\\times|\\cdot|\\div)"
DETAILS = {"tokens": "completion_tokens", "choices": "choices", "cost": "cost"}


def yield_table(sample: Path, select: Path) -> tuple[pa.Table, int]:
    """One row (VERDICTS) a trace that was asked for, first those that gave a record, in the order of records.parquet;
    and how many more were asked for of which an older version does not say what of whom.

    Raises InputError if a file cannot be read.
    """
    path = select / "verdicts.parquet"
    table = columns(path, VERDICTS.names).cast(VERDICTS) if path.exists() else verdicts(sample, select)
    unread, unknown = unread_rows(sample)
    fresh = pc.invert(pc.is_in(unread["record_id"], value_set=table["record_id"]))
    return pa.concat_tables([table, unread.filter(fresh)]), unknown


def verdicts(sample: Path, select: Path) -> pa.Table:
    """The rows of records, where the stage `select` says of each only what it was rejected for.

    A later check than that saw nothing of a record: its flag is null. Whether an answer is right is found out here
    where nothing says so.
    """
    config = (read_manifest(select) or {}).get("config", {})
    checked = {"right": config.get("answer", True), "sound": looked_at(config),
               "distinct": config.get("unique_paths", True)}  # fmt: skip
    rejected = columns(select / "rejected.parquet", ["record_id", "reason", "detail"])
    records = columns(sample / "records.parquet", [*PROVENANCE, "answer", "gold", "question"])
    at = pc.index_in(records["record_id"], value_set=rejected["record_id"])
    reason = pc.fill_null(pc.take(rejected["reason"], at), "").to_pylist()
    late = pc.fill_null(pc.match_substring(pc.take(rejected["detail"], at), "select.weight"), False).to_pylist()
    known: dict[tuple[str, bool], list[bool | None]] = {}
    for each in set(zip(reason, late, strict=True)):
        known[each] = flags_of(*each, checked)
    rows = [known[each] for each in zip(reason, late, strict=True)]
    flags = {name: [row[index] for row in rows] for index, name in enumerate(FLAGS)}
    unsure = [i for i, row in enumerate(rows) if row[FLAGS.index("right")] is None and row[FLAGS.index("answered")]]
    if unsure:
        cases = zip(*(records[name].take(unsure).to_pylist() for name in ("answer", "gold", "question")), strict=True)
        held: dict[tuple[str, str, str], bool] = {}
        for index, case in zip(unsure, cases, strict=True):
            if case not in held:
                held[case] = same_answer(*case)
            flags["right"][index] = held[case]
    parts = [*(records[name] for name in PROVENANCE), *(pa.array(flags[name], pa.bool_()) for name in FLAGS)]
    return pa.table([*parts, pa.array(reason, pa.string())], names=VERDICTS.names).cast(VERDICTS)


def flags_of(reason: str, late: bool, checked: Mapping[str, bool]) -> list[bool | None]:
    """The flags of a record in the order of FLAGS; ``late``: its weight was looked at after all else."""
    held: dict[str, bool | None] = {"read": True, "answered": True, "right": None, "sound": None, "distinct": None}
    order = list(held)
    name, value = SETTLES.get(reason, ("distinct", True) if not reason or late else ("answered", True))
    for before in order[: order.index(name)]:
        held[before] = True if checked.get(before, True) else held[before]
    held[name] = value if value is False or checked.get(name, True) else None
    return [*held.values(), not reason]


def unread_rows(sample: Path) -> tuple[pa.Table, int]:
    """The rows of what teachers said that gave no record; and how many there are without a word of who said it."""
    path = sample / "rejected.parquet"
    told = sum(((read_manifest(sample) or {}).get("counts", {}).get("rejected") or {}).values())
    if not path.exists():
        return VERDICTS.empty_table(), told
    if "record_id" not in schema_of(path).names:
        return VERDICTS.empty_table(), told
    table = columns(path, [*PROVENANCE, "reason"])
    asked = pc.and_(pc.not_equal(table["record_id"], ""), pc.not_equal(table["reason"], NOT_ASKED))
    table = table.filter(asked)
    no = pa.array(np.zeros(table.num_rows, bool))
    nothing = pa.nulls(table.num_rows, pa.bool_())
    more = [no, no, nothing, nothing, nothing, no]
    parts = [*(table[name] for name in PROVENANCE), *more, table["reason"]]
    return pa.table(parts, names=VERDICTS.names).cast(VERDICTS), 0


def general(sample: Path) -> pa.Array:
    """The questions' ids of records that are general text: one each."""
    path = sample / "records.parquet"
    if "reader" not in schema_of(path).names:
        return pa.array([], pa.string())
    table = columns(path, ["question_id", "reader"])
    return table.filter(pc.equal(table["reader"], GENERAL))["question_id"].combine_chunks()


def votes(sample: Path) -> pa.Table:
    """``record_id`` and ``vote`` of each record: a number that is equal for equal answers, -1 for none."""
    table = columns(sample / "records.parquet", ["record_id", "answer"])
    answers = table["answer"].combine_chunks().dictionary_encode()
    codes: dict[Any, int] = {}
    each = [code_of(text, codes) for text in answers.dictionary.to_pylist()]
    vote = np.asarray([*each, -1], np.int64)[np.asarray(answers.indices.fill_null(len(each)))]
    return pa.table({"record_id": table["record_id"], "vote": vote, "answer": table["answer"]})


def code_of(answer: str, codes: dict[Any, int]) -> int:
    if not answer.strip():
        return -1
    value = number(answer)
    return codes.setdefault(normal_text(answer) if value is None else value, len(codes))


def operations(sample: Path) -> pa.Table:
    """``record_id`` and ``operations`` of each record: how often its trace puts an operator between two numbers."""
    found = [(batch["record_id"], pc.count_substring_regex(batch["trace"], OPERATION)) for batch
             in batches(sample / "records.parquet", ["record_id", "trace"])]  # fmt: skip
    ids, counts = ([pair[at] for pair in found] for at in (0, 1))
    return pa.table(
        {"record_id": pa.chunked_array(ids, pa.string()), "operations": pa.chunked_array(counts, pa.int32())}
    )


def costs(sample: Path) -> pa.Table | None:
    """``record_id``, ``tokens`` written and ``cost`` (null: not told) of the records of which a server or a local model
    told more; None if none did. Choices of one request share its tokens."""
    path = sample / "details.parquet"
    if not path.exists():
        return None
    parts = []
    for batch in batches(path, ["record_id", "details"]):
        told = {name: number_in(batch["details"], key) for name, key in DETAILS.items()}
        shared = pc.divide(told["tokens"], pc.fill_null(told["choices"], 1.0))
        parts.append(pa.table({"record_id": batch["record_id"], "tokens": shared, "cost": told["cost"]}))
    return pa.concat_tables(parts) if parts else None


def number_in(details: pa.Array, key: str) -> pa.Array:
    """The number under a key of JSON objects as Python writes them. A quote within a text has a backslash before it, so
    no text holds such a key."""
    found = pc.extract_regex(details, rf'"{key}": (?P<value>-?[0-9][0-9.eE+-]*)')
    return pc.struct_field(found, "value").cast(pa.float64())


def columns(path: Path, names: Sequence[str]) -> pa.Table:
    """Some columns of a Parquet file. Raises InputError if it cannot be read, or lacks one."""
    missing = [name for name in names if name not in schema_of(path).names]
    if missing:
        raise InputError(f"{path}: lacks the columns {', '.join(missing)}")
    return pq.read_table(path, columns=list(names))


def schema_of(path: Path) -> pa.Schema:
    try:
        return pq.read_schema(path)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: not a readable Parquet file ({error})") from error


def batches(path: Path, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
    schema_of(path)
    with pq.ParquetFile(path) as file:
        yield from file.iter_batches(batch_size=8192, columns=list(names))


def questions_of(sample: Path) -> pa.Table:
    """The questions of the stage `sample`: question_id, question, gold, split, group, in their order."""
    return columns(sample / "questions.parquet", ["question_id", "question", "gold", "split", "group"])


def looked_at(config: Mapping[str, Any]) -> bool:
    """Whether anybody read the traces for what is false; earlier versions said so by ``equations``."""
    return config.get("checks") != [] and config.get("equations") is not False


def needed(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The flags that a record needs under a stage's settings of `select`, before paths and numbers are looked at."""
    named = POLICIES.get(str(config.get("policy", "strict")), POLICIES["strict"])
    checked = {"right": config.get("answer") is not False, "sound": looked_at(config)}
    off = {name for name, is_checked in checked.items() if not is_checked}
    return tuple(flag for flag in named if flag not in off)
