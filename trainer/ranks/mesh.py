"""Sequence parallelism: neighbouring ranks share each row, so that a row may be longer than one rank's memory allows.

A row is cut into equal runs of tokens, one a rank. Labels, weights and kinds were shifted before, so the loss of a
run needs nothing of the next. All of a student but its attention works on single tokens. Around attention,
DeepSpeed's Ulysses (arXiv 2309.14509) exchanges runs for heads and back: each rank gets some heads of the whole row,
and our packed attention isolates its documents by the row's own cu_seqlens.

DeepSpeed's engine is told nothing of it. Every rank, whichever run it reads, adds its share to one sum of gradients,
which ZeRO reduces and partitions over all of them, as in data parallelism. (Told of it, through an ``mpu``, version
0.19.8 does the same over the same ranks, but divides by ranks / parts at stages 0 to 2 and by ranks at stage 3.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tracestill.data_pipeline.base.errors import InputError
from tracestill.kernels.pack import PackedBatch

KEY = "train.sequence_parallel"


@dataclass(frozen=True)
class Mesh:
    """Where one rank stands: with whom it shares rows, and which of the data's rows they read."""

    part: int = 0  # the run of each row that this rank holds
    parts: int = 1  # ranks that share a row
    data_rank: int = 0  # among ranks that hold the same part of different rows
    data_ranks: int = 1
    row_group: dist.ProcessGroup | None = None  # the ranks that share its rows; None: it is alone
    data_group: dist.ProcessGroup | None = None  # the ranks of its part; None: all


@cache
def mesh(rank: int, ranks: int, parts: int) -> Mesh:
    """The place of a rank when ``parts`` neighbouring ranks share each row. Every rank calls it alike.

    Raises InputError if the ranks do not form such groups.
    """
    if ranks % parts:
        raise InputError(f"{KEY}: {ranks} ranks do not form groups of {parts}; choose a divisor of the ranks")
    if parts == 1:
        return Mesh(data_rank=rank, data_ranks=ranks)
    rows = [dist.new_group(list(range(first, first + parts))) for first in range(0, ranks, parts)]
    data = [dist.new_group(list(range(part, ranks, parts))) for part in range(parts)]
    reader, part = divmod(rank, parts)
    return Mesh(part, parts, reader, ranks // parts, rows[reader], data[part])


def cut(row: PackedBatch, part: int, parts: int) -> PackedBatch:
    """The ``part``-th of ``parts`` equal runs of a row on the CPU, where the number of active positions is known.

    Documents' bounds (``cu_seqlens``) stay those of the whole row, as attention needs them. Raises ValueError if the
    row's length is no multiple of ``parts``.
    """
    length, rest = divmod(len(row.labels), parts)
    if rest:
        raise ValueError(f"a row of {len(row.labels)} tokens has no {parts} equal parts")
    run = slice(part * length, (part + 1) * length)
    first, last = torch.searchsorted(row.active, torch.tensor([run.start, run.stop])).tolist()
    return replace(
        row,
        input_ids=row.input_ids[:, run],
        labels=row.labels[run],
        position_ids=row.position_ids[:, run],
        loss_weight=row.loss_weight[run],
        kinds=row.kinds[run],
        active=row.active[first:last] - run.start,
    )


def refuse_heads(heads: int, kv_heads: int, parts: int) -> None:
    """Raises InputError if ``parts`` ranks cannot have equally many query heads, and key/value heads that fit."""
    if heads % parts:
        raise InputError(f"{KEY}: {parts} ranks cannot share the student's {heads} attention heads evenly")
    if kv_heads % parts and parts % kv_heads:
        raise InputError(
            f"{KEY}: {parts} ranks cannot share the student's {kv_heads} key/value heads; one has to divide the other"
        )


def refuse(config: Any, parts: int) -> None:
    """Raises InputError if students of this transformers config cannot be trained with ``parts`` ranks to a row."""
    if parts == 1:
        return
    if config.is_encoder_decoder:
        raise InputError(f"{KEY}: '{config.model_type}' is an encoder-decoder; ranks cannot share its rows")
    text = config.get_text_config(decoder=True)
    heads = text.num_attention_heads
    refuse_heads(heads, getattr(text, "num_key_value_heads", None) or heads, parts)


def exchange(ulysses: Callable[..., Any], place: Mesh) -> Callable[..., tuple[Tensor, None]] | None:
    """What models' attention goes through in training (see ``kernels.attention``); None if no row is shared.

    ``ulysses`` is DeepSpeed's ``UlyssesSPAttentionHF``. One is made for every attention and shape of heads, so that
    layers may differ and a reference model may stand beside the student.
    """
    if place.parts == 1:
        return None

    @cache
    def of(attend: Callable[..., Any], heads: int, kv_heads: int, size: int) -> Any:
        refuse_heads(heads, kv_heads, place.parts)
        shape = {"attn_head_count": heads, "kv_head_count": kv_heads, "attn_head_size": size}
        more = {"batch_size": 1, "num_hidden_layers": 0, "seq_length_is_variable": True}
        return ulysses(attn=attend, process_group=place.row_group, **shape, **more)

    def exchanged(
        attend: Callable[..., Any],  # of the model's own backend
        module: torch.nn.Module,
        query: Tensor,  # (1, Hq, T / parts, d)
        key: Tensor,  # (1, Hkv, T / parts, d)
        value: Tensor,  # (1, Hkv, T / parts, d)
        attention_mask: Tensor | None,
        **options: Any,
    ) -> tuple[Tensor, None]:  # (1, T / parts, Hq * d)
        if key.shape != value.shape:
            raise InputError(f"{KEY}: {type(module).__name__} has keys and values of different sizes; set it to 1")
        # it gathers them at every layer, and our attention goes by cu_seqlens: one number instead of the row's
        options["position_ids"] = query.new_zeros((1, 1), dtype=torch.long)
        groups = getattr(module, "num_key_value_groups", None)
        through = of(attend, query.shape[1], key.shape[1], query.shape[3])
        found = through(module, query, key, value, attention_mask, **options)
        if groups is not None:
            module.num_key_value_groups = groups  # it leaves its own there when it repeats key/value heads
        return found

    return exchanged
