"""Teacher-forced loss of each span kind on documents of held-out questions, while training goes on.

Every target counts once, whatever the recipe's weights, so that curves of differently weighted runs compare. They are
measured on validation documents, and may then choose a checkpoint; without any, on test documents, just to look at.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.documents.encode import STORES
from tracestill.data_pipeline.tokens.store import TokenStore
from tracestill.trainer.batches.batches import MicroStep, row_of
from tracestill.trainer.batches.rectangles import RowMaker, refuse_longer
from tracestill.trainer.engine.engine import Engine
from tracestill.trainer.losses.rows import rows_of
from tracestill.trainer.metrics.telemetry import Meter
from tracestill.trainer.ranks.mesh import Mesh
from tracestill.trainer.recipe.settings import GENERATION, TrainConfig


def choose_store(encode: Path) -> tuple[str, Path] | None:
    """Split and token store that are measured on: validation before test; None if ``encode`` wrote neither."""
    for split in ("validation", "test"):
        if (encode / STORES[split]).exists():
            return split, encode / STORES[split]
    return None


def refuse_longer_held_out(encode: Path, kinds: Kinds, positions: int | None) -> None:
    """Raises InputError naming a held-out document that is longer than the student's ``positions``, before training."""
    for split in ("validation", "test"):
        if (encode / STORES[split]).exists():
            refuse_longer(TokenStore(encode / STORES[split], kinds), positions)


def open_held_out(
    settings: TrainConfig, encode: Path, kinds: Kinds, capacity: int, pad_id: int, make_row: RowMaker = row_of
) -> HeldOut | None:
    """What is measured while training, or None. Raises InputError if a metric is to choose without validation."""
    found = choose_store(encode)
    by_documents = settings.metric and not settings.metric.startswith(GENERATION)
    if by_documents and (found is None or found[0] != "validation"):
        raise InputError(
            f"{encode}: holds no validation documents, by which train.metric: {settings.metric} would choose; set "
            "questions.validation, or loosen `select`"
        )
    if not settings.held_out_every or found is None:
        return None
    split, path = found
    return HeldOut(
        TokenStore(path, kinds),
        kinds,
        split=split,
        capacity=capacity,
        documents=settings.held_out_documents,
        pad_id=pad_id,
        make_row=make_row,
    )


class HeldOut:
    """Rows of held-out documents, shared out among the ranks; equally many on each, as collectives demand."""

    def __init__(
        self,
        store: TokenStore,
        kinds: Kinds,
        *,
        split: str,
        capacity: int,
        documents: int,
        pad_id: int,
        make_row: RowMaker = row_of,
    ) -> None:
        """``documents``: how many of the store's are used, the first ones. ``make_row``: as in ``Batches``."""
        self.store, self.kinds, self.split, self.pad_id, self.make_row = store, kinds, split, pad_id, make_row
        self.table = np.ones(len(kinds), dtype=np.float32)
        self.table[0] = 0.0
        count = min(documents, len(store))
        targets = int(store.counts[:count, 1:].sum())
        self.scale = 1 / targets if targets else 0.0  # as with the normaliser ``weights``
        self.rows = rows_of(store.lengths, capacity, order=range(count))

    def measure(self, engine: Engine) -> dict[str, Any]:
        """Kind -> its numbers, as in a line of the log; called on every rank."""
        meter = Meter(self.kinds, engine.device)
        place, nothing = engine.mesh, np.zeros(0, dtype=np.int64)
        for first in range(0, len(self.rows), place.data_ranks):
            at = first + place.data_rank
            mine = self.rows[at] if at < len(self.rows) else nothing
            meter.add(engine.measure(self.micro_step(mine, engine.device, place)))
        return meter.read()["kinds"]

    def micro_step(self, documents: np.ndarray, device: torch.device, place: Mesh) -> MicroStep:
        tokens, kinds, offsets, _ = self.store.gather(documents)
        weights = np.ones(len(documents), dtype=np.float32)
        row = self.make_row(
            tokens, kinds, offsets, weights, self.table, self.pad_id, device, part=place.part, parts=place.parts
        )
        return MicroStep(row, self.scale, documents)
