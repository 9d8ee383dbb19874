"""The plan stage: one plan for each epoch that training will read, written beside each other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tracestill.data_pipeline.base.stage import stage
from tracestill.data_pipeline.plan.plan import PlanConfig, make_plan, save_plan
from tracestill.data_pipeline.tokens.sides import widths
from tracestill.data_pipeline.tokens.store import TokenStore


def stage_config(config: PlanConfig, *, seed: int, steps: int | None, epochs: int | None) -> dict[str, Any]:
    """What, besides the token store, decides how the plans come out."""
    own = config.model_dump(mode="json", exclude_defaults=True)
    return {"plan": own, "seed": seed, "steps": steps, "epochs": epochs}


def run(
    directory: Path,
    encode: Path,
    config: PlanConfig,
    *,
    seed: int,
    steps: int | None,
    epochs: int | None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write ``epoch-000`` … for ``epochs`` passes, or for as many as ``steps`` optimizer updates begin.

    The manifest holds ``steps_per_epoch`` (of epoch 0; others may differ by none: the lengths are the same),
    ``epochs``, ``digests`` (one for each epoch) and ``statistics`` of epoch 0. ``progress`` is told epochs done
    and in all. Raises InputError where ``make_plan`` does.
    """
    settings = stage_config(config, seed=seed, steps=steps, epochs=epochs)
    with stage(directory, "plan", settings, {"encode": encode}) as work:
        store = TokenStore(encode / "tokens.arrow")
        lengths = widths(store.lengths, store.encoder_lengths)  # so that capacity holds for encoder and decoder apart
        digests: list[str] = []
        epoch, total = 0, epochs or 1
        while epoch < total:
            plan = make_plan(lengths, config, seed=seed, epoch=epoch)
            if epoch == 0:
                total = epochs or -(-(steps or 1) // plan.n_steps)
                work.extra["steps_per_epoch"] = plan.n_steps
                work.extra["statistics"] = plan.statistics(lengths, ranks_that_divide(config.group))
            save_plan(plan, work.path / f"epoch-{epoch:03d}")
            digests.append(plan.digest())
            epoch += 1
            progress(epoch, total)
        work.extra |= {"epochs": total, "digests": digests}
        work.counts |= {"in": len(lengths), "out": len(lengths)}


def ranks_that_divide(group: int) -> tuple[int, ...]:
    """Numbers of ranks for which the balance of work is reported: the powers of two from 2 up to the group, or 2."""
    return tuple(2**k for k in range(1, max(2, group.bit_length())))
