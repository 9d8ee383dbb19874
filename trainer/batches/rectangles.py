"""A pack's documents for an encoder-decoder: padded rows for its two bodies, one flat row for the loss.

T5 adds a dense position bias to its attention and reads two lengths a document, so its documents do not share a row
as a decoder's do. They are laid into a few rectangles, grouped so that little is padded; the decoder's hidden states
are then taken in the order of the pack, and everything behind them is as it is for decoders.

Under ZeRO-3 every call of a body gathers its parameters from all ranks, so all ranks call it equally often: a pack
always gives the same number of rectangles, and what it does not need is a document of one token that nobody reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.plan.plan import Plan
from tracestill.data_pipeline.tokens.sides import encoder_lengths, widths
from tracestill.data_pipeline.tokens.store import TokenStore
from tracestill.kernels.pack import PackedBatch
from tracestill.trainer.batches.batches import row_of
from tracestill.trainer.recipe.positions import positions_in

GROUPS = (1, 2, 4, 8)  # numbers of rectangles to choose from; each costs another pass, which ZeRO-3 pays in gathers
PADDING = 0.1  # share of padding at which no more rectangles are made
LOOKS = 64  # packs whose padding is measured
RowMaker = Callable[..., PackedBatch]


@dataclass(frozen=True)
class Rectangle:
    """B documents, padded to E tokens for the encoder and to W for the decoder."""

    encoder_ids: Tensor  # (B, E) int64
    encoder_mask: Tensor  # (B, E) int64: 1 where there is a token
    decoder_ids: Tensor  # (B, W) int64; a decoder looks back only, so padding behind a document needs no mask


@dataclass(frozen=True)
class PairedBatch(PackedBatch):
    """The flat row (1, T) of what decoders are fed and shall predict, and the rectangles that they are fed from."""

    rectangles: tuple[Rectangle, ...]
    places: Tensor  # (T,) int64: where each position's hidden state lies among those of all rectangles, row by row

    @property
    def positions(self) -> int:
        return sum(one.encoder_ids.numel() + one.decoder_ids.numel() for one in self.rectangles)


class Layout(NamedTuple):
    """How a student's documents are laid out."""

    make_row: RowMaker  # called as ``batches.row_of`` is
    about: str = ""  # for the console, behind what is said of attention


def layout_for(config: Any, store: TokenStore | None = None, plan: Plan | None = None) -> Layout:
    """The layout for a student of this transformers config, the same on all ranks: packed rows, or rectangles.

    As few rectangles a pack as leave little padding in the plan's first packs; as many as there can be without a plan.
    Raises InputError for a store that was encoded for another student, or holds what is too long for this one.
    """
    if store is not None:
        refuse_longer(store, positions_in(config.to_dict()))
    if not config.is_encoder_decoder:
        if store is not None and store.encoder_lengths.any():
            raise InputError(f"{store.path}: was encoded for an encoder-decoder; set encode.template: plain")
        return Layout(row_of)
    groups, about = GROUPS[-1], ""
    if store is not None and plan is not None:
        packs = [plan.pack(pack) for pack in range(min(plan.n_packs, LOOKS))]
        shares = {groups: padding_share(store, packs, groups) for groups in GROUPS}
        groups = next((groups for groups in GROUPS if shares[groups] <= PADDING), groups)
        about = f", in {groups} rectangle(s) a pack of which {shares[groups]:.1%} is padding"
    return Layout(partial(paired_row, start_id=config.decoder_start_token_id, groups=groups), about)


def refuse_longer(store: TokenStore, positions: int | None) -> None:
    """Raises InputError naming the longest document if it is longer than a student that has so many positions takes."""
    lengths = widths(store.lengths, store.encoder_lengths)
    if positions is not None and len(lengths) and (longest := int(lengths.max())) > positions:
        raise InputError(
            f"{store.path}: document {store.ids[int(lengths.argmax())]} has {longest:,} tokens, the student "
            f"{positions:,} positions (max_position_embeddings, or the default of its model type); write the number "
            "into student.config, or lower plan.capacity"
        )


def paired_row(
    tokens: np.ndarray,  # (n,) int32
    kinds: np.ndarray,  # (n,) uint8
    offsets: np.ndarray,  # (D + 1,)
    weights: np.ndarray,  # (D,)
    table: np.ndarray,  # (K,)
    pad_id: int,
    device: torch.device,
    token_weights: np.ndarray | None = None,  # (n,) float32
    *,
    start_id: int,
    groups: int,
    part: int = 0,
    parts: int = 1,
) -> PairedBatch:
    """Documents in the layout of ``data_pipeline.sides``, in exactly ``groups`` rectangles.

    The last token that the encoder reads makes room for the symbol that the decoder starts from, so that a position's
    label is the token behind it, as in any packed row. Raises InputError for a decoder's documents.
    """
    assert (part, parts) == (0, 1), "ranks cannot share rectangles"
    starts, lengths = offsets[:-1].astype(np.int64), np.diff(offsets).astype(np.int64)
    read = encoder_lengths(kinds, starts)
    if (read == 0).any():
        raise InputError("a document has nothing for the encoder to read; run the encode stage again")
    written = lengths - read
    behind = np.arange(len(tokens)) - np.repeat(starts + read, lengths)  # from -read, 0 at the decoder's first label
    kept = behind >= -1
    fed = np.where(behind == -1, np.int32(start_id), tokens)[kept]
    bounds = np.cumsum([0, *(written + 1)])
    own = None if token_weights is None else token_weights[kept]
    packed = row_of(fed, kinds[kept], bounds, weights, table, pad_id, device, own)

    rectangles, places, base = [], np.zeros(len(packed.labels), np.int64), 0
    for group in [*group_documents(read, written, groups), *[np.zeros(0, np.int64)] * groups][:groups]:
        height, width = max(1, len(group)), int(max(written[group], default=1))
        encoder = np.full((height, int(max(read[group], default=1))), pad_id, np.int64)
        mask, decoder = np.zeros_like(encoder), np.full((height, width), start_id, np.int64)
        mask[:, 0] = 1
        for row, document in enumerate(group.tolist()):
            size, first = int(read[document]), int(bounds[document])
            encoder[row, :size] = tokens[starts[document] : starts[document] + size]
            mask[row, :size] = 1
            size = int(written[document])
            decoder[row, :size] = fed[first : first + size]
            places[first : first + size] = base + row * width + np.arange(size)
        base += height * width
        on_device = (torch.from_numpy(array).to(device, non_blocking=True) for array in (encoder, mask, decoder))
        rectangles.append(Rectangle(*on_device))
    where = torch.from_numpy(places).to(device, non_blocking=True)
    return PairedBatch(**vars(packed), rectangles=tuple(rectangles), places=where)


def group_documents(read: np.ndarray, written: np.ndarray, groups: int) -> list[np.ndarray]:
    """Documents (D,) of both lengths in at most ``groups`` groups, so that their rectangles hold little padding.

    Cuts, again and again, where most is saved, the documents of a group in order of one of the two lengths. (Not
    always the best of all groupings, which is hard to find; the same on every machine.)
    """
    found = [np.arange(len(read))] if len(read) else []
    while 0 < len(found) < groups:
        cuts = [best_cut(read[group], written[group]) for group in found]
        chosen = max(range(len(found)), key=lambda at: cuts[at][0])
        saved, low = cuts[chosen]
        if saved <= 0:
            break
        group = found[chosen]
        found[chosen : chosen + 1] = [group[low], group[~low]]
    return found


def best_cut(read: np.ndarray, written: np.ndarray) -> tuple[int, np.ndarray]:
    """Positions saved by the best cut of a group of B documents in two, and the (B,) mask of its one half."""
    best, half = 0, np.zeros(len(read), bool)
    whole = len(read) * int(read.max() + written.max())
    for order in (np.argsort(read, kind="stable"), np.argsort(written, kind="stable")):
        sides = np.stack([read[order], written[order]])
        low = np.maximum.accumulate(sides, axis=1).sum(axis=0)[:-1]  # (B - 1,) widths if cut behind each document
        high = np.maximum.accumulate(sides[:, ::-1], axis=1).sum(axis=0)[::-1][1:]
        count = np.arange(1, len(order))
        saved = whole - count * low - count[::-1] * high
        if len(saved) and saved.max() > best:
            best, half = int(saved.max()), np.zeros(len(read), bool)
            half[order[: int(saved.argmax()) + 1]] = True
    return best, half


def padding_share(store: TokenStore, packs: Iterable[np.ndarray], groups: int) -> float:
    """Share of the rectangles' positions that is padding, over these packs of documents."""
    real = laid = 0
    for documents in packs:
        read = store.encoder_lengths[documents]
        written = store.lengths[documents] - read
        real += int(store.lengths[documents].sum())
        for group in group_documents(read, written, groups):
            laid += len(group) * int(read[group].max() + written[group].max())
    return 1 - real / laid if laid else 0.0
