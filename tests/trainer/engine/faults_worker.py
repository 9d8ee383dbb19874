"""Two ranks: steps that must change nothing, a parameter that a step leaves alone, bf16. Rank 0 writes what it saw."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from engine_workshop import MicroStep, all_agree, engine, equal, fingerprint, packed, shared_out, student, take_step
from tiny_step import documents, weightless
from torch import Tensor, nn

from tracestill.trainer.engine import zero
from tracestill.trainer.engine.engine import Engine, leave

ACCUMULATION = 2
HOSTED = ("1-cpu", "2-cpu", "3-cpu-cpu")  # of engine_workshop's OFFLOADED


@contextmanager
def broken_gradient(of: Engine) -> Iterator[None]:
    """One parameter's gradient is NaN on rank 1; the loss is as it was."""
    hook = None
    if of.rank == 1:
        norm = of.module.model.get_decoder().layers[0].input_layernorm.weight
        hook = norm.register_hook(lambda gradient: gradient * float("nan"))
    yield
    if hook is not None:
        hook.remove()


def make(stage: int | str, clip: float, precision: str) -> Engine:
    built = student(None, tied=False)
    return engine(built, zero=stage, clip=clip, accumulation=ACCUMULATION, precision=precision)


def faulty_run(stage: int | str, clip: float, precision: str) -> tuple[list[str], bool, list[Tensor]]:
    of = make(stage, clip, precision)
    measured = of.measure(shared_out(0, of)[0])
    assert float(measured[:, 0].sum()) > 0
    reasons = [take_step(of, shared_out(0, of)).reason]
    before = fingerprint(of)
    micro = shared_out(1, of)
    if of.rank == 1:
        micro[0] = MicroStep(micro[0].packed, float("nan"))
    reasons.append(take_step(of, micro).reason)
    with broken_gradient(of):
        reasons.append(take_step(of, shared_out(2, of)).reason)
    nothing = [MicroStep(packed([weightless(3)]), 0.0) for _ in range(ACCUMULATION)]
    reasons.append(take_step(of, nothing, weight_sum=0.0).reason)
    reasons.append(take_step(of, nothing).reason)
    of.measure(shared_out(1, of)[0])
    untouched = equal(before, fingerprint(of))
    reasons.append(take_step(of, shared_out(4, of), weight_sum=1.0).reason)
    after = fingerprint(of)
    of.close()
    return reasons, untouched, after


def clean_run(stage: int | str, clip: float, precision: str) -> list[Tensor]:
    of = make(stage, clip, precision)
    for step in (0, 4):
        take_step(of, shared_out(step, of))
    after = fingerprint(of)
    of.close()
    return after


def forgotten_parameter(stage: int | str, used: str) -> float:
    """First moment of a parameter after two steps of two micro-steps, with gradient 1 in each that is ``used``."""
    built = student(None, tied=False)
    built.extra = nn.Linear(1, 1, bias=False)
    plain, left = built.forward, list(used)

    def forward(batch, scale, teacher=None):
        loss, statistics = plain(batch, scale, teacher)
        here = left.pop(0) == "x"
        return (loss + built.extra(torch.ones(1)).sum() / dist.get_world_size() if here else loss), statistics

    built.forward = forward  # type: ignore[method-assign]
    of = engine(built, zero=stage, clip=0.0, accumulation=ACCUMULATION)
    take_step(of, shared_out(0, of))
    take_step(of, shared_out(1, of))
    moment = torch.zeros(())
    for piece in zero.pieces(of.deepspeed):
        if piece.name == "extra.weight" and len(piece.value) and (of.rank == 0 or not piece.replicated):
            moment = piece.moment(of.optimizer, "exp_avg").sum()
    dist.all_reduce(moment)
    of.close()
    return float(moment)


def rate_of_zero(stage: int | str) -> tuple[bool, bool]:
    """Whether a step at a rate of 0 leaves all parameters as they are, and one at another rate changes every one."""
    of = make(stage, 0.0, "fp32")

    def values() -> list[Tensor]:
        return [piece.value.clone() for piece in zero.pieces(of.deepspeed) if len(piece.value)]

    def step(rate: float) -> list[Tensor]:
        for one in shared_out(0, of):
            of.backward(of.forward(one)[0])
        of.step(rate)
        return values()

    before = values()
    still = equal(before, step(0.0))
    moved = all_agree(all(not torch.equal(a, b) for a, b in zip(before, step(1e-2), strict=True)))
    of.close()
    return still, moved


def dropout_draws() -> list[list[list[float]]]:
    """What each rank draws first, of engines with the seeds 0, 0 and 5."""
    found = []
    for seed in (0, 0, 5):
        of = engine(student(None, tied=False), zero=0, seed=seed)
        drawn = [None] * of.ranks
        dist.all_gather_object(drawn, torch.rand(4).tolist())
        found.append(drawn)
        of.close()
    return found


def low_precision(stage: int | str) -> dict:
    """bf16 parameters, fp32 masters and gradients; the norm of the first gradient; losses of one step repeated."""
    built = student(None, tied=False)
    of = engine(built, zero=stage, clip=0.0, accumulation=ACCUMULATION, precision="bf16")
    results = [take_step(of, shared_out(0, of)) for _ in range(6)]
    for one in shared_out(0, of):
        of.backward(of.forward(one)[0])
    found = {
        "losses": [result.loss for result in results],
        "norm": results[0].grad_norm,
        "parameters": sorted({str(p.dtype) for p in built.parameters()}),
        "rope": sorted({str(b.dtype) for name, b in built.named_buffers() if "inv_freq" in name}),
        "masters": sorted({str(piece.value.dtype) for piece in zero.pieces(of.deepspeed)}),
        "gradients": sorted({str(gradient.dtype) for gradient in zero.gradients(of.deepspeed, of.rank)}),
    }
    of.close()
    return found


def main() -> None:
    results: dict = {"skipped": {}, "moments": {}, "bf16": {}, "rates": {}, "draws": dropout_draws()}
    assert len(documents(0)) == 12
    for stage in (0, 1, 2, 3, *HOSTED):
        for clip, precision in ((0.0, "fp32"), (0.5, "fp32"), (0.5, "bf16")):
            if (stage or precision == "fp32") and (precision == "bf16" or stage not in HOSTED):
                reasons, untouched, after = faulty_run(stage, clip, precision)
                same = equal(after, clean_run(stage, clip, precision))
                found = {"reasons": reasons, "untouched": untouched, "same": same}
                results["skipped"][f"{stage}-{clip}-{precision}"] = found
        touched = ("xx..", "x.x.", ".x.x") if stage in HOSTED else ("xx..",)
        results["moments"][stage] = {used: forgotten_parameter(stage, used) for used in touched}
        if stage not in HOSTED:
            results["rates"][stage] = rate_of_zero(stage)
        if stage:
            results["bf16"][stage] = low_precision(stage)
    if dist.get_rank() == 0:
        Path(sys.argv[-1]).write_text(json.dumps(results))


main()
leave(0)
