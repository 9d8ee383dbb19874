"""The first step measured before anything is learnt: the proof that the weighting does what its author meant."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from tracestill.data_pipeline.base.stage import write_json
from tracestill.trainer.assembly.job import Job
from tracestill.trainer.assembly.teacher_stops import stop_warning, template_warning
from tracestill.trainer.metrics.log import LOG, Log
from tracestill.trainer.metrics.telemetry import Meter
from tracestill.trainer.preview.effect import looks_at, warnings
from tracestill.trainer.preview.page import page
from tracestill.trainer.preview.preview import preview, read_tokenizer, show, token_names, weight_shares
from tracestill.trainer.preview.shares import share_warnings, without_entries
from tracestill.trainer.weighting import TargetWeights
from tracestill.trainer.weighting.by_teacher import learnt_by


def show_first_step(job: Job) -> None:
    """Print what the weighting does to the first step, and store it: preview.json, preview.html and the log."""
    kinds, weights = job.recipe.span_kinds(), job.batches.weights
    batch = job.batches.step(0)
    measured = measure(job, batch.micro)
    if job.engine.rank != 0:
        return
    teacher = job.batches.teacher
    of_teacher = None if teacher is None else teacher.weights
    found = preview(kinds, weights, batch.documents, measured, read_tokenizer(job.tokenizer), of_teacher)
    named, learnt = token_names(job.tokenizer), None
    if teacher is not None:
        learnt = TargetWeights(job.batches.store, learnt_by(job.weighting, teacher.weighting, job.batches.store))
    found["warnings"] = warnings(weights, kinds, job.steps, named, learnt)
    found["warnings"] += doubts(job, batch.documents, found["kinds"])
    if teacher is not None:
        found["warnings"] += without_entries(found["kinds"], teacher.config.channel)
        found["warnings"] += stop_warning(job.recipe) + template_warning(job.recipe, job.tokenizer)
    write_json(job.directory / "preview.json", found)
    title = f"{job.recipe.name}, {job.arm}: the first step"
    (job.directory / "preview.html").write_text(page(found, kinds.names, title), encoding="utf-8")
    Log(job.directory / LOG, resume_at=0, write=True).add(event="preview", step=0, **found)
    show(found, kinds, job.console)


def doubts(job: Job, documents: np.ndarray, rows: list[dict[str, Any]]) -> list[str]:
    """What is odd about the shares of the first step, whose ``documents`` gave the preview's ``rows``."""
    weights, kinds = job.batches.weights, job.recipe.span_kinds()
    tables = np.stack([weights.table(step) for step in looks_at(job.steps)])
    equal = tables[0].copy()
    equal[[kinds.id(name) for name in (*kinds.members("trace"), "answer")]] = 1
    _, shares = weight_shares(weights, documents, equal)
    named, targets = [*job.recipe.weighting.weights], job.batches.store.counts.sum(axis=0, dtype=np.int64)
    return share_warnings(named, kinds, rows, shares, targets, tables)


def measure(job: Job, micro: list[Any]) -> dict[str, dict[str, float]]:
    """Kind -> its statistics over the step of all ranks, and ``gradient_share``:

        share_k = sum over targets i of kind k of |dL/dx_i|  /  the same sum over all targets

    x_i: what the head reads to predict target i. The norms add up over documents, micro-steps and ranks, and grow as
    the weights do, so the share compares with those of the weights and of the loss.
    """
    engine, head = job.engine, job.engine.module.head[0]
    meter = Meter(job.recipe.span_kinds(), engine.device)
    norms = torch.zeros(len(meter.kinds), dtype=torch.float64, device=engine.device)
    head.gradient_norms = norms
    try:
        for one in micro:
            meter.add(engine.measure(one))
    finally:
        head.gradient_norms = None
    dist.all_reduce(norms)
    shares = (norms / norms.sum().clamp(min=1e-300)).tolist()
    measured = meter.read()["kinds"]
    return {
        name: {**measured.get(name, {}), "gradient_share": share}
        for name, share in zip(meter.kinds.names, shares, strict=True)
    }
