"""Every record judged by itself, in parallel, and what the choice among those of a question needs, held compactly.

About 150 bytes a record are held. The words of those that are compared by words lie in a file without a name, which is
mapped into memory.
"""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa

from tracestill.data_pipeline.answers import Verifier
from tracestill.data_pipeline.base.batches import Rows
from tracestill.data_pipeline.base.workers import cores, shared_out
from tracestill.data_pipeline.selection.config import SelectConfig
from tracestill.data_pipeline.selection.judging import BIT, NONE, READ, Job, judge
from tracestill.data_pipeline.selection.step_judge import StepJudges
from tracestill.data_pipeline.selection.verified import wrong_answers

AT_ONCE = 256  # records that a worker gets at a time
FEW = 4096  # records for which no further process is started: it takes a second to begin
HELD = ("record_id", "question_id", "teacher")  # columns held besides what was found


@dataclass(frozen=True)
class Judgements:
    """Of all n records, in their order."""

    flags: np.ndarray  # (n,) uint16, bits of judging.BIT
    reasons: np.ndarray  # (n,) uint8, judging.CODE of what rejects it by itself
    paths: np.ndarray  # (n,) uint64, equal for traces of a question that reason alike
    lengths: np.ndarray  # (n,) int32, characters of the trace
    weights: np.ndarray  # (n,) float32, nan: none
    questions: np.ndarray  # (n,) int32, numbers in the order of their first records
    teachers: np.ndarray  # (n,) int32, likewise
    details: pa.ChunkedArray  # (n,) texts, empty where nothing rejects it
    ids: pa.Array  # (n,) texts
    ends: np.ndarray  # (n,) int64, of each one's words in ``texts``
    texts: IO[bytes]  # uint32 digests of words

    def __len__(self) -> int:
        return len(self.flags)

    def have(self, flag: str, places: np.ndarray | slice = slice(None)) -> np.ndarray:
        """(n,) bool: which records, of those at ``places``, have a flag."""
        found: np.ndarray = (self.flags[places] & BIT[flag]) != 0
        return found

    @cached_property
    def all_words(self) -> np.ndarray:
        """uint32, mapped from the file."""
        total = int(self.ends[-1]) if len(self.ends) else 0
        return np.memmap(self.texts, np.uint32, "r", shape=(total,)) if total else NONE

    def words(self, places: np.ndarray) -> list[np.ndarray]:
        """The words of records, by number."""
        return [np.asarray(self.all_words[self.ends[at - 1] if at else 0 : self.ends[at]]) for at in places]


def judge_all(
    select: SelectConfig,
    rows: Rows,
    folder: Path,
    progress: Callable[[int, int], None],
    verifier: Verifier,
    named: Mapping[str, str],
    steps: StepJudges,
) -> Judgements:
    """Judge all rows in ``select.workers`` processes, but their answers in this one, by ``verifier`` or what ``named``
    says of a question, and what teachers say of their ``steps``; ``folder`` is where a file may grow meanwhile."""
    held: dict[str, list[pa.Array]] = {name: [] for name in HELD}
    weights: list[np.ndarray] = []
    waiting: deque[list[dict[str, Any]]] = deque()  # rows of the batches under way

    def jobs() -> Iterator[Job]:
        for table in rows.batches(AT_ONCE, tuple(dict.fromkeys((*HELD, *READ, "reader")))):
            for name in HELD:
                held[name] += table[name].chunks
            weights.append(table["weight"].to_numpy())
            found = table.select(READ).to_pylist()
            waiting.append(found if steps.judges else [])
            asked = table.select(["question_id", "question", "gold", "answer", "reader"]).to_pylist()
            yield select, found, wrong_answers(asked, verifier, named)

    texts = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - it lives as long as what is returned
    found = [judge((select, [], []))]  # an empty one: there may be no records at all
    details: list[pa.Array] = []
    done = 0
    for batch in shared_out(judge, jobs(), select.workers or default_workers(len(rows)), "select.workers"):
        rows_of = waiting.popleft()
        batch = steps.judged(batch, rows_of) if rows_of else batch
        texts.write(batch.words.tobytes())
        found.append(batch._replace(words=NONE, details=[]))
        details.append(pa.array(batch.details, pa.string()))
        done += len(batch.flags)
        progress(done, len(rows))
    texts.flush()
    return Judgements(
        flags=np.concatenate([each.flags for each in found]),
        reasons=np.concatenate([each.reasons for each in found]),
        paths=np.concatenate([each.paths for each in found]),
        lengths=np.concatenate([each.lengths for each in found]),
        weights=np.concatenate([np.zeros(0), *weights]).astype(np.float32),
        questions=codes(held["question_id"]),
        teachers=codes(held["teacher"]),
        details=pa.chunked_array(details, pa.string()),
        ids=pa.chunked_array(held["record_id"], pa.string()).combine_chunks(),
        ends=np.cumsum(np.concatenate([each.counts for each in found]), dtype=np.int64),
        texts=texts,
    )


def default_workers(records: int) -> int:
    return 1 if records <= FEW else cores()


def codes(chunks: Sequence[pa.Array]) -> np.ndarray:
    """(n,) int32: the number of each text among the different ones, in the order in which they come."""
    found = pa.chunked_array(chunks, pa.string()).combine_chunks().dictionary_encode()
    return np.asarray(found.indices.to_numpy(zero_copy_only=False), np.int32)
