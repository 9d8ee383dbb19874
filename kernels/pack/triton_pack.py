"""Operation `pack` on a GPU: one copy of about 5 bytes a token from pinned memory, then one kernel launch.

The host counts the active positions of every block of 1,024 (`block_counts`), so a program knows where in the
index it writes: no atomics, no second launch, and the size of `active` is known without asking the device.
Each program also learns the segments its block begins and ends in; a position finds its own between the two by
bisection (none at all inside a long document). No argument is specialised on, so lengths never recompile; rows
are allocated in whole blocks, since the stores of an unknown length would be masked and lose their vectors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl

from tracestill.kernels.pack.layout import BLOCK, PackedBatch, Source, active_mask

ROW_BYTES = 3 * 8 + 4 + 1  # written for each position: three int64, a float32, a uint8
ALIGN = 16  # bytes: every section of the staged buffer starts where vector loads may
OPTIONS = {"num_warps": 8, "enable_fp_fusion": False}


@triton.jit(do_not_specialize=["n", "pad_id"])
def pack_kernel(
    tokens,  # (rows,) int32, of which n are meant; rows is the length rounded up to whole blocks
    kinds,  # (n,) uint8
    bounds,  # (S + 1,) int32
    record_weights,  # (S,) float32
    table,  # (K,) float32
    token_weights,  # (n,) float32; unread unless HAS_TOKEN_WEIGHTS
    counts,  # (blocks + 1,) int32: active positions before each block
    segments,  # (blocks + 1,) int32: segment of each block's first position, then the last segment
    input_ids,  # (rows,) int64
    labels,  # (rows,) int64
    position_ids,  # (rows,) int64
    loss_weight,  # (rows,) float32
    label_kinds,  # (rows,) uint8
    active,  # (A,) int64
    n,
    pad_id,
    HAS_TOKEN_WEIGHTS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    block = tl.program_id(0)
    at = block * BLOCK + tl.arange(0, BLOCK)

    first = tl.load(segments + block)
    last = tl.load(segments + block + 1)
    low = tl.zeros([BLOCK], tl.int32) + first
    high = tl.zeros([BLOCK], tl.int32) + last
    span = last - first
    while span > 0:
        middle = (low + high + 1) // 2
        beyond = tl.load(bounds + middle) <= at
        low = tl.where(beyond, middle, low)
        high = tl.where(beyond, high, middle - 1)
        span = span // 2
    start = tl.load(bounds + low)
    end = tl.load(bounds + low + 1)
    labelled = (at + 1 < end) & (at + 1 < n)  # the padding's segment starts at n and has no labels

    token = tl.where(at < n, tl.load(tokens + at), pad_id)
    label = tl.load(tokens + at + 1, mask=labelled, other=-100)
    kind = tl.load(kinds + at + 1, mask=labelled, other=0)
    by_kind = tl.load(table + kind.to(tl.int32), mask=labelled, other=0.0)
    by_record = tl.load(record_weights + low)
    weight = by_kind * by_record
    on = labelled & (by_kind != 0.0) & (by_record != 0.0)
    if HAS_TOKEN_WEIGHTS:
        by_token = tl.load(token_weights + at + 1, mask=labelled, other=0.0)
        weight = weight * by_token
        on = on & (by_token != 0.0)

    tl.store(input_ids + at, token.to(tl.int64))
    tl.store(labels + at, label.to(tl.int64))
    tl.store(position_ids + at, (at - start).to(tl.int64))
    tl.store(loss_weight + at, weight)
    tl.store(label_kinds + at, kind)
    rank = tl.cumsum(on.to(tl.int32), 0)  # of each active position in its block, from 1
    tl.store(active + tl.load(counts + block) + rank - 1, at.to(tl.int64), mask=on)


def rows_of(length: int) -> int:
    """Positions of whole blocks that hold a row of `length`."""
    return -(-length // BLOCK) * BLOCK


def block_counts(source: Source) -> np.ndarray:
    """(blocks + 1,) int32: active positions before each block of BLOCK positions; the last entry is their number."""
    blocks = rows_of(source.length) // BLOCK
    mask = np.zeros(blocks * BLOCK, dtype=bool)
    found = active_mask(source)
    mask[: len(found)] = found
    counts = np.zeros(blocks + 1, dtype=np.int32)
    np.cumsum(np.count_nonzero(mask.reshape(blocks, BLOCK), axis=1), out=counts[1:])
    return counts


def block_segments(source: Source) -> np.ndarray:
    """(blocks + 1,) int32: the segment that holds each block's first position, then the row's last segment."""
    blocks = rows_of(source.length) // BLOCK
    segments = np.empty(blocks + 1, dtype=np.int32)
    segments[:-1] = np.searchsorted(source.bounds, np.arange(blocks) * BLOCK, side="right") - 1
    segments[-1] = len(source.bounds) - 2
    return segments


@dataclass(frozen=True)
class Staged:
    """A pack's inputs on (or on their way to) the device, in one buffer."""

    sections: dict[str, torch.Tensor]  # views of the buffer, by the kernel's argument names
    buffer: torch.Tensor  # (bytes,) uint8
    ready: torch.cuda.Event | None  # the copy is done; None on the CPU
    n: int
    length: int
    pad_id: int
    active: int
    max_length: int


class Staging:
    """Copies packs to one device from a ring of pinned buffers, on a stream of its own.

    `put` returns while the copy runs, so the loader of the next micro-step overlaps with the compute of this
    one. It waits only where the buffer's copy of `depth` packs ago is still under way. Not thread-safe.
    """

    def __init__(self, device: torch.device | str, depth: int = 2):
        self.device = torch.device(device)
        self.cuda = self.device.type == "cuda"
        self.stream = torch.cuda.Stream(self.device) if self.cuda else None
        self.slots: list[torch.Tensor | None] = [None] * depth
        self.copied: list[torch.cuda.Event | None] = [None] * depth
        self.turn = 0

    def put(self, source: Source) -> Staged:
        """Starts the copy of a pack's inputs. The host's arrays may be overwritten once it returns."""
        counts = block_counts(source)
        arrays = {
            "tokens": source.tokens,
            "kinds": source.kinds,
            "bounds": source.bounds,
            "record_weights": source.record_weights,
            "table": source.table,
            "counts": counts,
            "segments": block_segments(source),
        }
        if source.token_weights is not None:
            arrays["token_weights"] = source.token_weights
        # the kernel reads whole blocks of tokens and ignores what lies beyond the last
        room = {k: a.nbytes for k, a in arrays.items()} | {"tokens": rows_of(source.length) * 4}
        starts, size = {}, 0
        for name, nbytes in room.items():
            starts[name] = size
            size += -(-nbytes // ALIGN) * ALIGN
        host = self._slot(size)
        view = host.numpy()
        for name, array in arrays.items():
            view[starts[name] : starts[name] + array.nbytes] = array.view(np.uint8)
        buffer, ready = self._copy(host[:size])
        types = {k: torch.from_numpy(np.empty(0, dtype=a.dtype)).dtype for k, a in arrays.items()}
        sections = {k: buffer[starts[k] : starts[k] + room[k]].view(types[k]) for k in arrays}
        longest = int(np.diff(source.bounds).max())
        return Staged(
            sections, buffer, ready, len(source.tokens), source.length, source.pad_id, int(counts[-1]), longest
        )

    def _slot(self, size: int) -> torch.Tensor:
        """The ring's next host buffer, free to be written, of at least `size` bytes."""
        self.turn = (self.turn + 1) % len(self.slots)
        event, slot = self.copied[self.turn], self.slots[self.turn]
        if event is not None:
            event.synchronize()
        if slot is None or len(slot) < size:
            # a power of two, so that growing lengths pin memory only a few times
            slot = torch.empty(1 << (size - 1).bit_length(), dtype=torch.uint8, pin_memory=self.cuda)
            self.slots[self.turn] = slot
        return slot

    def _copy(self, host: torch.Tensor) -> tuple[torch.Tensor, torch.cuda.Event | None]:
        if self.stream is None:
            return host.to(self.device, copy=True), None
        with torch.cuda.stream(self.stream):
            buffer = torch.empty(len(host), dtype=torch.uint8, device=self.device)
            buffer.copy_(host, non_blocking=True)
            ready = torch.cuda.Event()
            ready.record(self.stream)
        self.copied[self.turn] = ready
        return buffer, ready


def allocate(staged: Staged) -> dict[str, torch.Tensor]:
    """The kernel's outputs, uninitialised, by its argument names: whole blocks of rows, and the active index."""
    device, rows = staged.buffer.device, rows_of(staged.length)
    whole = {"input_ids": torch.int64, "labels": torch.int64, "position_ids": torch.int64}
    whole |= {"loss_weight": torch.float32, "label_kinds": torch.uint8}
    outputs = {name: torch.empty(rows, dtype=dtype, device=device) for name, dtype in whole.items()}
    return outputs | {"active": torch.empty(staged.active, dtype=torch.int64, device=device)}


def launch(staged: Staged, outputs: dict[str, torch.Tensor]) -> None:
    """Fills `outputs` in one launch on the current stream, after the copy."""
    if staged.ready is not None:
        stream = torch.cuda.current_stream(staged.buffer.device)
        stream.wait_event(staged.ready)
        staged.buffer.record_stream(stream)  # it was allocated on the copy's stream
    arguments: dict[str, Any] = {"token_weights": staged.sections["record_weights"], **staged.sections, **outputs}
    pack_kernel[(rows_of(staged.length) // BLOCK,)](
        **arguments,
        n=staged.n,
        pad_id=staged.pad_id,
        HAS_TOKEN_WEIGHTS="token_weights" in staged.sections,
        BLOCK=BLOCK,
        **OPTIONS,
    )


def pack_staged(staged: Staged) -> PackedBatch:
    """The packed batch of staged inputs; cu_seqlens is the staged array itself, so nothing writes it again."""
    outputs = allocate(staged)
    launch(staged, outputs)
    return batch_of(staged, outputs)


def batch_of(staged: Staged, outputs: dict[str, torch.Tensor]) -> PackedBatch:
    """The batch that `launch` left in `outputs`."""
    length = staged.length
    return PackedBatch(
        input_ids=outputs["input_ids"][None, :length],
        labels=outputs["labels"][:length],
        position_ids=outputs["position_ids"][None, :length],
        loss_weight=outputs["loss_weight"][:length],
        kinds=outputs["label_kinds"][:length],
        cu_seqlens=staged.sections["bounds"],
        active=outputs["active"],
        max_length=staged.max_length,
    )


def bytes_moved(staged: Staged) -> tuple[int, int]:
    """(bytes the kernel reads and writes, the least any kernel could), a load counted each time it is issued.

    The least: every input once and every output once. The kernel loads each token twice, as input and as label,
    and the two bounds and the record weight of each position's document; the latter, like the table, repeat
    within a block and stay in its cache, so they count once a block and document.
    """
    inputs = sum(t.nbytes for k, t in staged.sections.items() if k not in ("tokens", "counts", "segments"))
    inputs += staged.n * 4
    least = inputs + staged.length * ROW_BYTES + staged.active * 8
    rows = rows_of(staged.length)
    blocks, segments = rows // BLOCK, len(staged.sections["record_weights"])
    again = 4 * staged.n + 16 * blocks + (segments + blocks) * 12 + blocks * staged.sections["table"].nbytes
    padding = (rows - staged.length) * ROW_BYTES + (rows - staged.n) * 4
    return least + again + padding, least


_stagings: dict[torch.device, Staging] = {}


def pack_triton(source: Source, device: torch.device) -> PackedBatch:
    """Stages and packs in one go; a loader that runs ahead calls `Staging.put` and `pack_staged` itself.

    Raises ValueError on the CPU, unless Triton interprets its kernels (TRITON_INTERPRET=1).
    """
    if device.type != "cuda" and not triton.knobs.runtime.interpret:
        raise ValueError(f"pack backend 'triton' needs a CUDA device, not '{device}'; use 'reference'")
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    if device not in _stagings:
        _stagings[device] = Staging(device)
    return pack_staged(_stagings[device].put(source))
