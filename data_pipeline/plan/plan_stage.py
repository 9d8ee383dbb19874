"""The plan stage: one plan for each epoch that training will read, written beside each other."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.base.stage import output_digest, read_manifest, stage
from tracestill.data_pipeline.channels import Channels
from tracestill.data_pipeline.channels.document_scores import of_documents
from tracestill.data_pipeline.channels.named import scorers_of
from tracestill.data_pipeline.plan.keep import BEYOND, OUTSIDE
from tracestill.data_pipeline.plan.plan import PlanConfig, Planner, save_plan
from tracestill.data_pipeline.tokens.columns import FILE, Columns
from tracestill.data_pipeline.tokens.sides import widths
from tracestill.data_pipeline.tokens.store import TokenStore


def stage_config(config: PlanConfig, *, seed: int, steps: int | None, epochs: int | None) -> dict[str, Any]:
    """What, besides the token store, decides how the plans come out."""
    own = config.model_dump(mode="json", exclude_defaults=True)
    parts = {"order_of_parts": list(config.mixture.parts)} if config.mixture is not None else {}  # the first has it
    return {"plan": own, "seed": seed, "steps": steps, "epochs": epochs, **parts}


def run(
    directory: Path,
    encode: Path,
    config: PlanConfig,
    *,
    seed: int,
    steps: int | None,
    epochs: int | None,
    scores: Mapping[str, Path] = MappingProxyType({}),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write ``epoch-000`` … for ``epochs`` passes, or for as many as ``steps`` optimizer updates begin.

    The manifest holds ``steps_per_epoch`` of epoch 0 and, where a mixture or an order makes others differ from it,
    ``steps_of_epochs``; ``epochs``, ``digests`` (one for each) and ``statistics`` of epoch 0 (``Planner.report``).
    Of the documents, those that are in no epoch are counted by reason: as ``keep`` says, or ``left_out`` by a mixture.
    ``scores``: scorer -> the directory of its channels, of those that ``config.channels`` names. ``progress`` is told
    epochs done and in all. Raises InputError where ``Planner`` does, or if the store is too old for what the recipe
    asks, or if channels are not there, or of another store.
    """
    settings = stage_config(config, seed=seed, steps=steps, epochs=epochs)
    inputs = {"encode": encode, **{f"score/{name}": path for name, path in scores.items()}}
    with stage(directory, "plan", settings, inputs) as work:
        planner = planner_of(encode, config, seed, scores)
        digests: list[str] = []
        counts: list[int] = []  # steps of each epoch
        comes = np.zeros(len(planner.lengths), bool)
        while len(counts) < epochs if epochs else sum(counts) < (steps or 1):
            epoch = len(counts)
            plan = planner.plan(epoch)
            if epoch == 0:
                work.extra["steps_per_epoch"] = plan.n_steps
                work.extra["statistics"] = planner.report(plan, ranks_that_divide(config.group))
            save_plan(plan, work.path / f"epoch-{epoch:03d}")
            digests.append(plan.digest())
            counts.append(plan.n_steps)
            comes[plan.documents] = True
            progress(len(counts), epochs or max(len(counts), -(-(steps or 1) // counts[0])))
        work.extra |= {"epochs": len(counts), "digests": digests}
        if len(set(counts)) > 1:
            work.extra["steps_of_epochs"] = counts
        out = int(comes.sum())
        work.counts |= {"in": len(comes), "out": out}
        reasons = {name: planner.keep.get(name, 0) for name in (OUTSIDE, BEYOND)}
        reasons["left_out"] = len(comes) - out - sum(reasons.values())
        if out < len(comes):
            work.counts["rejected"] = {name: count for name, count in reasons.items() if count}


def planner_of(
    encode: Path, config: PlanConfig, seed: int, scores: Mapping[str, Path] = MappingProxyType({})
) -> Planner:
    """The planner of a store, which reads the columns and the channels that its config needs."""
    store = TokenStore(encode / "tokens.arrow")
    lengths = widths(store.lengths, store.encoder_lengths)  # so that capacity holds for encoder and decoder apart
    columns = Columns(encode / FILE, len(store)) if config.columns else None
    padded = bool(store.encoder_lengths.any())  # rows of an encoder-decoder
    if not (read := scorers_of(config.channels)):
        return Planner(lengths, config, seed=seed, columns=columns, alike=padded)
    digest, about = output_digest(encode), (read_manifest(encode) or {})["config"]
    kinds = Kinds(tuple(about["kinds"]), tuple(about["tree"].items()))
    opened = {name: Channels(scores[name], store, digest) for name in read}
    said = functools.cache(lambda score: of_documents(opened, score, kinds))
    return Planner(lengths, config, seed=seed, columns=columns, said=said, alike=padded)


def ranks_that_divide(group: int) -> tuple[int, ...]:
    """Numbers of ranks for which the balance of work is reported: the powers of two from 2 up to the group, or 2."""
    return tuple(2**k for k in range(1, max(2, group.bit_length())))
