"""The token store: tokenised documents in one Arrow IPC file, memory-mapped.

The value buffers of the list columns are the flat ragged buffers that packing reads, so a document's tokens are
a view into the page cache. Any Arrow tool opens the file.
"""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.tokens.sides import encoder_lengths

FORMAT = "tracestill token store 1"
BATCH_TOKENS = 1 << 23  # a batch is written at this many tokens (7 bytes each) even if it has few documents
AT_A_TIME = 4096  # documents whose targets are counted together
BROKEN = (OSError, pa.ArrowException, ValueError, KeyError, IndexError, UnicodeDecodeError)


def store_schema(kinds: Kinds) -> pa.Schema:
    """The columns of a token store whose kinds are ``kinds``; the schema's metadata names them."""
    return pa.schema(
        [
            ("id", pa.string()),
            ("question_id", pa.string()),
            ("tokens", pa.list_(pa.int32())),
            ("kinds", pa.list_(pa.uint8())),
            ("steps", pa.list_(pa.uint16())),  # index of the step of the trace that a token belongs to, 0 outside
            ("weight", pa.float32()),
            ("counts", pa.list_(pa.int32(), len(kinds))),  # targets of each kind; the first token is no target
        ],
        metadata={"format": FORMAT, "kinds": json.dumps(kinds.names)},
    )


class Documents(NamedTuple):
    """N documents, one after the other."""

    ids: list[str]
    question_ids: list[str]
    weights: list[float]
    lengths: np.ndarray  # (N,) tokens of each
    tokens: np.ndarray  # (n,) int32
    kinds: np.ndarray  # (n,) uint8
    steps: np.ndarray  # (n,) uint16


class TokenStoreWriter:
    """Writes a token store, a record batch at a time: memory is bounded by one batch.

    Without ``close`` (a crash, an exception inside ``with``) the file has no footer and does not open.
    """

    def __init__(
        self, path: Path, kinds: Kinds, batch_documents: int = 65536, batch_tokens: int = BATCH_TOKENS
    ) -> None:
        self._schema = store_schema(kinds)
        self._num_kinds = len(kinds)
        self._limits = batch_documents, batch_tokens
        self._file = path.open("wb")
        self._writer = pa.ipc.new_file(self._file, self._schema)
        self._clear()

    def _clear(self) -> None:
        self._ids: list[str] = []
        self._question_ids: list[str] = []
        self._weights: list[float] = []
        self._lengths: list[int] = []
        self._columns: tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]] = ([], [], [])
        self._tokens = 0

    def add(
        self,
        id: str,
        question_id: str,
        tokens: np.ndarray,  # (n,) integers
        kinds: np.ndarray,  # (n,) integers below K
        steps: np.ndarray,  # (n,) integers below 65,536
        weight: float = 1.0,
    ) -> None:
        """Add a document of n >= 1 tokens. Raises ValueError if lengths differ or the weight is no finite float >= 0.

        Kinds out of range raise ValueError when the batch is written.
        """
        arrays: list[np.ndarray] = [
            np.asarray(tokens, np.int32),
            np.asarray(kinds, np.uint8),
            np.asarray(steps, np.uint16),
        ]
        if not (len(arrays[0]) == len(arrays[1]) == len(arrays[2]) >= 1):
            raise ValueError(f"document {id}: needs as many tokens as kinds and steps, and at least one")
        if not 0 <= weight < float("inf"):
            raise ValueError(f"document {id}: weight {weight} is not a finite number >= 0")
        if self._tokens + len(arrays[0]) > self._limits[1]:
            self._flush()
        self._ids.append(id)
        self._question_ids.append(question_id)
        self._weights.append(weight)
        self._lengths.append(len(arrays[0]))
        for column, values in zip(self._columns, arrays, strict=True):
            column.append(values)
        self._tokens += len(arrays[0])
        if len(self._ids) >= self._limits[0]:
            self._flush()

    def extend(self, many: Documents) -> None:
        """Add documents, as ``add`` does one after the other: the file has the same bytes. Raises as ``add`` does."""
        documents, tokens = len(self._ids) + len(many.ids), self._tokens + len(many.tokens)
        weights = np.asarray(many.weights, np.float64)
        plain = bool(np.all((many.lengths >= 1) & (weights >= 0) & np.isfinite(weights)))
        sizes = {len(many.tokens), len(many.kinds), len(many.steps), int(many.lengths.sum())}
        if plain and len(sizes) == 1 and documents < self._limits[0] and tokens <= self._limits[1]:
            for held, more in ((self._ids, many.ids), (self._question_ids, many.question_ids)):
                held += more
            self._weights += many.weights
            self._lengths += many.lengths.tolist()
            for column, values in zip(self._columns, (many.tokens, many.kinds, many.steps), strict=True):
                column.append(values)
            self._tokens = tokens
            return
        ends = np.cumsum(many.lengths)
        for at, (end, length) in enumerate(zip(ends.tolist(), many.lengths.tolist(), strict=True)):
            own = slice(end - length, end)
            ids = many.ids[at], many.question_ids[at]
            self.add(*ids, many.tokens[own], many.kinds[own], many.steps[own], many.weights[at])

    def _flush(self) -> None:
        if not self._ids:
            return
        lengths = np.array(self._lengths, np.int64)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        tokens, kinds, steps = (np.concatenate(column) for column in self._columns)
        if kinds.max() >= self._num_kinds:
            raise ValueError(f"kind {kinds.max()} is not below the {self._num_kinds} kinds of this store")
        counts = targets(kinds, lengths, self._num_kinds)
        lists = [pa.ListArray.from_arrays(pa.array(offsets), pa.array(values)) for values in (tokens, kinds, steps)]
        columns = [
            pa.array(self._ids, pa.string()),
            pa.array(self._question_ids, pa.string()),
            *lists,
            pa.array(np.asarray(self._weights, np.float32)),
            pa.FixedSizeListArray.from_arrays(pa.array(counts), self._num_kinds),
        ]
        self._writer.write_batch(pa.record_batch(columns, schema=self._schema))
        self._clear()

    def close(self) -> None:
        """Write what is left and the footer."""
        try:
            self._flush()
            self._writer.close()
        finally:
            self._file.close()

    def __enter__(self) -> TokenStoreWriter:
        return self

    def __exit__(self, type_: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if type_ is None:
            self.close()
        else:
            self._file.close()


def targets(
    kinds: np.ndarray,  # (n,) uint8 of documents one after the other
    lengths: np.ndarray,  # (D,) int64 tokens of each, at least one
    num_kinds: int,
) -> np.ndarray:
    """(D * K,) int32: tokens of each kind in each document, without its first token, which is no target."""
    starts = np.cumsum(lengths) - lengths
    found = []
    for first in range(0, len(lengths), AT_A_TIME):  # what is counted takes 16 bytes a token
        own = slice(first, first + AT_A_TIME)
        begin, sizes = starts[first], lengths[own]
        cells = np.repeat(np.arange(len(sizes)) * num_kinds, sizes) + kinds[begin : begin + sizes.sum()]
        counts = np.bincount(cells, minlength=len(sizes) * num_kinds).astype(np.int32)
        counts[cells[starts[own] - begin]] -= 1
        found.append(counts)
    return np.concatenate(found)


class TokenStore:
    """Read access to a token store of N documents, K kinds.

    ``lengths`` (N,) int32 tokens of each document; ``counts`` (N, K) int32 targets of each kind; ``weights`` (N,)
    float32 record weights. Arrays that lie in the file are read-only views of the memory map.

    Raises InputError if the file is missing, torn, no token store, or has other kinds than ``kinds`` (where given).
    """

    def __init__(self, path: Path, kinds: Kinds | None = None) -> None:
        self.path = path
        try:
            with pa.memory_map(str(path)) as source:
                reader = pa.ipc.open_file(source)
                metadata = {k.decode(): v.decode() for k, v in (reader.schema.metadata or {}).items()}
                if metadata.get("format") != FORMAT:
                    raise ValueError(f"its format is {metadata.get('format', 'another')!r}, not {FORMAT!r}")
                self.kind_names: tuple[str, ...] = tuple(json.loads(metadata["kinds"]))
                if not reader.schema.equals(store_schema(Kinds(self.kind_names))):
                    raise ValueError("its columns are not those of a token store")
                self._batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
            self._map()
        except BROKEN as error:
            raise InputError(f"{path}: not a whole token store ({error}); run the encode stage again") from error
        if kinds is not None and kinds.names != self.kind_names:
            raise InputError(
                f"{path}: its span kinds are {', '.join(self.kind_names)}, those of the recipe are "
                f"{', '.join(kinds.names)}; run the encode stage again"
            )

    def _map(self) -> None:
        """Find the flat buffers of each batch, and the place of each document in them."""
        num_kinds = len(self.kind_names)
        flat: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        starts, lengths, counts, weights = [], [], [], []
        for batch in self._batches:
            batch.validate()
            if any(column.null_count for column in batch.columns):
                raise ValueError("a column has empty cells")
            lists = [batch.column(name) for name in ("tokens", "kinds", "steps")]
            offsets = numbers(lists[0].offsets)
            if any(not np.array_equal(offsets, numbers(column.offsets)) for column in lists[1:]):
                raise ValueError("tokens, kinds and steps of a document differ in number")
            length = np.diff(offsets)
            tokens, kinds, steps = (numbers(column.values) for column in lists)
            flat.append((tokens, kinds, steps))
            if offsets[0] < 0 or offsets[-1] > min(map(len, flat[-1])):
                raise ValueError("the offsets of its documents are damaged")
            starts.append(offsets[:-1])
            lengths.append(length)
            counts.append(numbers(batch.column("counts").values).reshape(-1, num_kinds))
            weights.append(numbers(batch.column("weight")))
            if not np.array_equal(counts[-1].sum(axis=1), length - 1):
                raise ValueError("the counts of kinds do not add up to the targets of a document")
            if not np.all(np.isfinite(weights[-1]) & (weights[-1] >= 0)):
                raise ValueError("a record weight is not a finite number >= 0")
        self._flat = flat
        self._starts = join(starts, np.empty(0, np.int32))
        self.lengths = join(lengths, np.empty(0, np.int32))
        self.counts = join(counts, np.empty((0, num_kinds), np.int32))
        self.weights = join(weights, np.empty(0, np.float32))
        self._firsts = np.cumsum([0, *map(len, starts)])  # first document of each batch, then N

    def __len__(self) -> int:
        return len(self.lengths)

    @cached_property
    def ids(self) -> list[str]:
        """The record id of each document."""
        return [value for batch in self._batches for value in batch.column("id").to_pylist()]

    @cached_property
    def question_ids(self) -> list[str]:
        """The question id of each document."""
        return [value for batch in self._batches for value in batch.column("question_id").to_pylist()]

    @cached_property
    def encoder_lengths(self) -> np.ndarray:
        """(N,) int64: leading tokens of each document that only an encoder reads; 0 in a store for decoders."""
        places = zip(self._flat, self._firsts[:-1], self._firsts[1:], strict=True)
        parts = [encoder_lengths(flat[1], self._starts[first:end]) for flat, first, end in places]
        return join(parts, np.empty(0, np.int64))

    def _view(self, document: int, column: int) -> np.ndarray:
        if not 0 <= document < len(self):
            raise IndexError(f"{self.path}: document {document} of {len(self)}")
        batch = int(np.searchsorted(self._firsts, document, side="right")) - 1
        start = self._starts[document]
        return self._flat[batch][column][start : start + self.lengths[document]]

    def tokens(self, document: int) -> np.ndarray:
        """(n,) int32 view of a document's token ids."""
        return self._view(document, 0)

    def kinds(self, document: int) -> np.ndarray:
        """(n,) uint8 view of the kind of each token."""
        return self._view(document, 1)

    def steps(self, document: int) -> np.ndarray:
        """(n,) uint16 view of the step index inside the trace of each token; 0 outside the trace."""
        return self._view(document, 2)

    def gather(self, document_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The documents of one pack, one after the other.

        Returns tokens (n,) int32, kinds (n,) uint8, offsets (D + 1,) int32 and record weights (D,) float32, all
        copies. Raises IndexError for a document that does not exist.
        """
        documents = np.asarray(document_ids, np.int64)
        if not len(documents):
            return np.empty(0, np.int32), np.empty(0, np.uint8), np.zeros(1, np.int32), np.empty(0, np.float32)
        if documents.min() < 0 or documents.max() >= len(self):
            raise IndexError(f"{self.path}: documents {documents.min()} to {documents.max()} of {len(self)}")
        lengths, starts = self.lengths[documents], self._starts[documents]
        offsets = np.zeros(len(documents) + 1, np.int32)
        np.cumsum(lengths, out=offsets[1:])
        batches = np.searchsorted(self._firsts, documents, side="right") - 1
        places = list(zip(batches.tolist(), starts.tolist(), (starts + lengths).tolist(), strict=True))
        flat = self._flat
        tokens = np.concatenate([flat[batch][0][start:end] for batch, start, end in places])
        kinds = np.concatenate([flat[batch][1][start:end] for batch, start, end in places])
        return tokens, kinds, offsets, self.weights[documents]


def numbers(array: pa.Array) -> np.ndarray:
    """A column of numbers as a view of where it lies, read-only if that is. (pyarrow's own ways import pandas, and 18's
    fail without.)

    Raises ValueError if a cell is empty.
    """
    if array.null_count:
        raise ValueError("a cell is empty")
    held, of = array.buffers()[1], array.type
    kind = "f" if pa.types.is_floating(of) else "u" if pa.types.is_unsigned_integer(of) else "i"
    dtype = np.dtype(f"{kind}{of.bit_width // 8}")
    return np.frombuffer(held or b"", dtype, len(array), array.offset * dtype.itemsize)


def join(parts: list[np.ndarray], empty: np.ndarray) -> np.ndarray:
    """The parts as one array; a single part stays the view it is."""
    return parts[0] if len(parts) == 1 else np.concatenate([empty, *parts])
