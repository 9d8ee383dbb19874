"""Operation `pack`: the flat, ragged tokens of one pack's documents -> the tensors one micro-step trains on.

Position i of a row of T tokens predicts token i + 1 of the same document. With d(i) the document of position i:

    labels[i]      = tokens[i + 1]                               -100 at the last position of a document
    kinds[i]       = kinds_of_tokens[i + 1]                      0 (pad) there
    loss_weight[i] = table[kinds[i]] * record_weights[d(i)] * token_weights[i + 1]      (fp32, left to right)
    active         = the i that have a label and where every factor of loss_weight[i] is non-zero

`active` looks at the factors, never at their product: a product may underflow to zero, and the count of rows,
which is known on the host before the step, would then disagree with the index. This file holds the reference,
which is also the CPU path; `triton_pack` is the same in one launch on a GPU.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from tracestill.kernels.pack.layout import NO_LABEL, PackedBatch, Source, active_mask

BACKENDS = ("auto", "reference", "triton")


def check(
    tokens: np.ndarray,  # (n,)
    kinds: np.ndarray,  # (n,)
    offsets: np.ndarray,  # (D + 1,)
    record_weights: np.ndarray,  # (D,)
    table: np.ndarray,  # (K,)
    length: int | None = None,
    pad_id: int = 0,
    token_weights: np.ndarray | None = None,  # (n,)
) -> Source:
    """Checks shapes and values and appends the padding's segment. Raises ValueError, see `pack`."""
    tokens = np.ascontiguousarray(tokens, dtype=np.int32)
    kinds = np.ascontiguousarray(kinds, dtype=np.uint8)
    record_weights = np.ascontiguousarray(record_weights, dtype=np.float32)
    table = np.ascontiguousarray(table, dtype=np.float32)
    bounds = np.asarray(offsets, dtype=np.int64)
    n = len(tokens)
    length = n if length is None else length
    if bounds.ndim != 1 or len(bounds) == 0 or bounds[0] != 0 or bounds[-1] != n:
        raise ValueError(
            f"offsets must go from 0 to the number of tokens, {n}; got {bounds[[0, -1]] if len(bounds) else []}"
        )
    lengths = np.diff(bounds)
    if len(lengths) and lengths.min() < 1:
        raise ValueError(f"document {int(lengths.argmin())} holds {int(lengths.min())} tokens; expected at least 1")
    if len(record_weights) != len(lengths):
        raise ValueError(f"{len(record_weights)} record weights for {len(lengths)} documents")
    if len(kinds) != n:
        raise ValueError(f"{len(kinds)} kinds for {n} tokens")
    if length < n:
        raise ValueError(f"{n} tokens do not fit a row of length {length}")
    if length < 1:
        raise ValueError("an empty pack needs a length of at least 1")
    if length >= 2**31:
        raise ValueError(f"a row of length {length} does not fit int32 cu_seqlens")
    if n and kinds.max() >= len(table):
        raise ValueError(f"kind {int(kinds.max())} has no weight: the table holds {len(table)} kinds")
    if token_weights is not None:
        token_weights = np.ascontiguousarray(token_weights, dtype=np.float32)
        if len(token_weights) != n:
            raise ValueError(f"{len(token_weights)} token weights for {n} tokens")
    for name, values in (("kind", table), ("record", record_weights), ("token", token_weights)):
        # one comparison refuses negative numbers, infinities and NaN
        if values is not None and not ((values >= 0) & (values < np.inf)).all():
            raise ValueError(f"{name} weights must be finite and not negative")
    if length > n:
        bounds = np.append(bounds, length)
        record_weights = np.append(record_weights, np.float32(0))
    return Source(tokens, kinds, bounds.astype(np.int32), record_weights, table, token_weights, length, pad_id)


def pack_reference(source: Source) -> PackedBatch:
    """The formula in NumPy, on the CPU."""
    n, length = len(source.tokens), source.length
    input_ids = np.full(length, source.pad_id, dtype=np.int64)
    input_ids[:n] = source.tokens
    lengths = np.diff(source.bounds)
    positions = np.arange(length) - np.repeat(source.bounds[:-1].astype(np.int64), lengths)

    labels = np.full(length, NO_LABEL, dtype=np.int64)
    kinds = np.zeros(length, dtype=np.uint8)
    weight = np.zeros(length, dtype=np.float32)
    active = np.empty(0, dtype=np.int64)
    if n > 1:
        labels[: n - 1] = source.tokens[1:]
        kinds[: n - 1] = source.kinds[1:]
        weight[: n - 1] = source.table[source.kinds[1:]] * np.repeat(source.record_weights, lengths)[: n - 1]
        if source.token_weights is not None:
            weight[: n - 1] *= source.token_weights[1:]
        last = source.bounds[(source.bounds > 0) & (source.bounds < n)] - 1
        labels[last], kinds[last], weight[last] = NO_LABEL, 0, 0
        active = np.flatnonzero(active_mask(source))
    return PackedBatch(
        input_ids=torch.from_numpy(input_ids)[None],
        labels=torch.from_numpy(labels),
        position_ids=torch.from_numpy(positions)[None],
        loss_weight=torch.from_numpy(weight),
        kinds=torch.from_numpy(kinds),
        cu_seqlens=torch.from_numpy(source.bounds),
        active=torch.from_numpy(active),
        max_length=int(lengths.max()),
    )


def pack(
    tokens: np.ndarray,  # (n,) int32, the documents one after the other
    kinds: np.ndarray,  # (n,) uint8
    offsets: np.ndarray,  # (D + 1,) integer, from 0 to n
    record_weights: np.ndarray,  # (D,) float32
    table: np.ndarray,  # (K,) float32, weight by kind
    *,
    length: int | None = None,
    pad_id: int = 0,
    token_weights: np.ndarray | None = None,  # (n,) float32, of the token as a label
    backend: str = "auto",
    device: torch.device | str | None = None,
) -> PackedBatch:
    """Packs documents into one row of `length` positions (of n where it is None), on `device` (default: CPU).

    A document's first token is never a label. A pack without documents gives a row of `pad_id` without active
    rows. `backend` is `reference`, `triton`, or `auto`: Triton on a GPU, the reference elsewhere.

    Raises ValueError for shapes that disagree, a document without tokens, more tokens than `length`, a kind
    outside the table, weights that are negative or not finite, or a backend that cannot run.
    """
    source = check(tokens, kinds, offsets, record_weights, table, length, pad_id, token_weights)
    device = torch.device("cpu" if device is None else device)
    if backend not in BACKENDS:
        raise ValueError(f"unknown pack backend '{backend}'; known: {', '.join(BACKENDS)}")
    if backend == "triton" or (backend == "auto" and device.type == "cuda"):
        try:
            from tracestill.kernels.pack.triton_pack import pack_triton
        except ImportError as error:
            raise ValueError(f"pack backend 'triton' cannot run: {error}; pip install triton") from error
        return pack_triton(source, device)
    return to_device(pack_reference(source), device)


def to_device(batch: PackedBatch, device: torch.device) -> PackedBatch:
    """The batch with its tensors on `device`; itself if they are there."""
    if batch.input_ids.device == device:
        return batch
    moved: dict[str, Any] = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in vars(batch).items()}
    return PackedBatch(**moved)
