"""Teacher-forced losses of an exported student on stored documents, by span kind, each token given all before it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tracestill.data_pipeline.documents.encode import load_layout
from tracestill.data_pipeline.tokens.store import TokenStore
from tracestill.trainer.batches.rectangles import layout_for
from tracestill.trainer.export.export import quiet
from tracestill.trainer.losses.intervals import mean_interval
from tracestill.trainer.losses.rows import rows_of
from tracestill.trainer.ranks.threads import ThreadChoice
from tracestill.trainer.recipe.precision import training_dtype
from tracestill.trainer.recipe.recipe import Recipe
from tracestill.trainer.recipe.settings import StudentConfig
from tracestill.trainer.student.student import Student, build_student

ROW_TOKENS = 8192  # of documents in one forward pass; a longer document has a row of its own


def load_student(export_dir: Path, recipe: Recipe, device: torch.device) -> Student:
    """The exported student with the attention and the loss that it was trained with."""
    layout, own = load_layout(recipe.encode, export_dir), recipe.student
    with quiet():
        student = build_student(
            StudentConfig(
                config=None,
                pretrained=export_dir,
                attention=own.attention,
                trust_remote_code=own.trust_remote_code,
            ),
            vocab_size=layout.size,
            bos_id=layout.special_ids["bos"],
            eos_id=layout.stops[0],
            pad_id=layout.pad,
            num_kinds=len(recipe.span_kinds()),
            device=device,
            dtype=training_dtype(recipe.train, device),
            chunk_rows=recipe.train.chunk_rows,
        )
    return student.to(device).eval()


@torch.no_grad()
def teacher_forced(
    student: Student,
    store: TokenStore,
    device: torch.device,
    threads: ThreadChoice | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, dict[str, Any]]:
    """Kind -> mean nll in nats (``loss``), its 95 % interval by question (``loss_low``, ``loss_high``; None with one
    question only), share of targets predicted (``accuracy``) and ``count`` of targets.

    Every target of every document counts once, whatever weights the recipe and the records carry. ``threads`` is the
    choice for single tokens: whole rows may be faster with all cores. ``progress`` is told tokens done and in all.
    Raises InputError for a document that the student has no positions for.
    """
    choice = ThreadChoice([threads.chosen, threads.candidates[-1]], rounds=1) if threads else None
    kinds = len(store.kind_names)
    make_row = layout_for(student.model.config, store).make_row
    table = np.ones(kinds, dtype=np.float32)
    table[0] = 0.0  # pad: what follows a cut, or only an encoder reads
    counts, nll, correct = np.zeros((3, len(store), kinds))
    done = 0
    for documents in rows_of(store.lengths, ROW_TOKENS):
        tokens, ids, offsets, weights = store.gather(documents)
        packed = make_row(tokens, ids, offsets, np.ones_like(weights), table, 0, device)
        if choice:
            choice.begin()
        found = student.token_losses(packed)
        at = packed.active.cpu().numpy()
        losses, right = (of.cpu().numpy()[at] for of in (found.nll, found.correct))
        if choice:
            choice.lap(len(tokens))
        of_row = np.searchsorted(packed.cu_seqlens.cpu().numpy(), at, side="right") - 1
        cell = documents[of_row], packed.kinds.cpu().numpy()[at]
        for sums, values in ((counts, 1), (nll, losses), (correct, right)):
            np.add.at(sums, cell, values)
        done += len(tokens)
        progress(done, int(store.lengths.sum()))
    result: dict[str, dict[str, Any]] = {}
    for kind, (name, count) in enumerate(zip(store.kind_names, counts.sum(axis=0), strict=True)):
        if count:
            low, high = mean_interval(nll[:, kind], counts[:, kind], store.question_ids) or (None, None)
            means = {"loss": nll[:, kind].sum() / count, "accuracy": correct[:, kind].sum() / count}
            result[name] = {
                **{key: float(value) for key, value in means.items()},
                "count": int(count),
                "loss_low": low,
                "loss_high": high,
            }
    return result
