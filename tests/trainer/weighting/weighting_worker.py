"""One of several ranks that share a step whose token weights each knows only for its own documents."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from normaliser_cases import KINDS, NORMALISERS, batches, factors_of, loss_of

from tracestill.data_pipeline.tokens.store import TokenStore
from tracestill.trainer.engine.engine import leave
from tracestill.trainer.weighting import WeightingConfig, make_weighting


def whole_step(store: TokenStore, normaliser: str) -> dict[str, object]:
    """The loss of the step over all ranks, and w * c of every document; the same on every rank."""
    of = batches(store, normaliser, by_token=True, single=False, rank=dist.get_rank(), ranks=dist.get_world_size())
    step = of.step(0)
    loss = torch.tensor(sum(loss_of(micro, torch.float32) for micro in step.micro), dtype=torch.float64)
    dist.all_reduce(loss)
    gathered: list = [None] * dist.get_world_size()
    mine = {document: values.tolist() for document, values in factors_of(step.micro, store).items()}
    dist.all_gather_object(gathered, mine)
    factors = {document: values for part in gathered for document, values in part.items()}
    scales: list = [None] * dist.get_world_size()
    dist.all_gather_object(scales, [str(micro.scale) for micro in step.micro])
    return {"loss": float(loss), "factors": factors, "scales": scales, "weight_sum": step.weight_sum}


def quantiles(values: np.ndarray) -> list[dict]:
    """Thresholds of ranks that see unequal parts of some excess losses; the last one has no weighted token at all."""
    config = WeightingConfig(use="excess_loss", options={"reference": "x", "share": 0.3})
    of = make_weighting(config, KINDS)
    of.device = torch.device("cpu")
    ranks = dist.get_world_size()
    if dist.get_rank() < ranks - 1:  # nobody asks the multiplier of a rank whose rows all weigh nothing
        mine = torch.from_numpy(np.array_split(values, ranks - 1)[dist.get_rank()])
        of.observe(mine, *[torch.zeros_like(mine)] * 3)
    of.end_step()
    found: list = [None] * ranks
    dist.all_gather_object(found, of.state())
    return found


def main() -> None:
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    store = TokenStore(Path(sys.argv[-2]), KINDS)
    result = {name: whole_step(store, name) for name in NORMALISERS}
    values = np.random.default_rng(3).normal(0.2, 1.5, 3000).astype(np.float32)
    result["quantiles"] = quantiles(values)
    if dist.get_rank() == 0:
        Path(sys.argv[-1]).write_text(json.dumps(result))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
    leave(0)
