"""What following a teacher costs the loss: its k = 32 most probable tokens of every row, beside the plain loss.

    python benchmarks/linear_cross_entropy_teacher.py [--json PATH] [--rounds 9] [--tiny]

On a CPU: fp32, N 4096, H 256, V 32000, chunks of 1024 rows, entries of 32 and 16 bits, every row weighed by label and
teacher; loss and gradients of hidden states and head. In turns in one process, as the median of the ratios of a turn's
CPU seconds (a machine with other work counts for both). The rival is plain PyTorch: all logits at once, their
log-softmax, the entries and the rest, by autograd. `--tiny` runs the same code on small shapes, without claims.
Exits 1 if a claim does not hold.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from linear_cross_entropy import SHAPE, TINY, in_turns, summary
from linear_cross_entropy_ours import CHUNK, inputs, ratio
from machine import claim, finish, table
from torch import Tensor

from tracestill.kernels.loss import TeacherTopK, linear_cross_entropy

K = 32
FORMS = ("forward", "reverse", "jsd")


def entries(rows: int, vocabulary: int) -> tuple[Tensor, Tensor]:
    """(N, K) int32 ids and fp16 log-probabilities of some distribution."""
    g = torch.Generator().manual_seed(2)
    ids = torch.stack([torch.randperm(vocabulary, generator=g)[:K] for _ in range(rows)])
    log_q = torch.log_softmax(2 * torch.randn(rows, K + 1, generator=g), 1)[:, :K]
    return ids.int(), log_q.sort(1, descending=True).values.half()


def ours(data: tuple[Tensor, ...], teacher: TeacherTopK | None) -> Callable[[], Any]:
    hidden, weight, targets, weights = data
    kinds = torch.zeros(len(hidden), dtype=torch.uint8)

    def run() -> Any:
        x, w = hidden.detach().requires_grad_(), weight.detach().requires_grad_()
        loss, _ = linear_cross_entropy(
            x, w, targets, weights, kinds, num_kinds=1, teacher=teacher, chunk_rows=CHUNK, active=torch.arange(len(x))
        )
        return torch.autograd.grad(loss, (x, w))

    return run


def plain(data: tuple[Tensor, ...], teacher: TeacherTopK) -> Callable[[], Any]:
    """The forward divergence beside the label in plain PyTorch."""
    hidden, weight, targets, weights = data

    def run() -> Any:
        x, w = hidden.detach().requires_grad_(), weight.detach().requires_grad_()
        log_p = torch.log_softmax(F.linear(x, w), 1)
        at, log_q = log_p.gather(1, teacher.ids.long()), teacher.log_probs.float()
        rest, tail = (torch.log1p(-one.exp().sum(1).clamp(max=1 - 1e-6)) for one in (at, log_q))
        divergence = (log_q.exp() * (log_q - at)).sum(1) + tail.exp() * (tail - rest)
        nll = -log_p.gather(1, targets.unsqueeze(1)).squeeze(1)
        return torch.autograd.grad((weights * nll + teacher.weights * divergence).sum(), (x, w))

    return run


def measure(shape: tuple[int, int, int], rounds: int) -> dict[str, Any]:
    data = inputs(shape, 0.0)
    ids, log_q = entries(shape[0], shape[2])
    teachers = {form: TeacherTopK(ids, log_q, torch.ones(shape[0]), divergence=form) for form in FORMS}  # type: ignore[arg-type]
    runs: dict[str, Callable[[], object]] = {"label alone": ours(data, None)}
    runs |= {form: ours(data, teacher) for form, teacher in teachers.items()}
    runs["forward, plain PyTorch"] = plain(data, teachers["forward"])
    for a, b in zip(runs["forward"](), runs["forward, plain PyTorch"](), strict=True):  # type: ignore[call-overload]
        assert float((a - b).norm() / b.norm()) < 1e-4, "the two compute different gradients"
    clock, cpu = in_turns(runs, rounds)
    return {
        "shape": shape,
        "k": K,
        "chunk_rows": CHUNK,
        "seconds": {name: summary(times) for name, times in clock.items()},
        "cpu_seconds": {name: summary(times) for name, times in cpu.items()},
        "cpu_over_label_alone": {name: ratio(cpu, name, "label alone") for name in runs if name != "label alone"},
        "entries_mib": K * 6 * shape[0] / 2**20,
    }


def claims_of(found: dict[str, Any]) -> list[dict[str, Any]]:
    over = found["cpu_over_label_alone"]
    worst = max(over[form] for form in FORMS)
    claims = [
        claim(f"a teacher's {K} entries: CPU seconds over the label alone, the worst divergence", worst, "<=", 1.2)
    ]
    rival = over["forward, plain PyTorch"] / over["forward"]
    return [*claims, claim("plain PyTorch's CPU seconds over ours, forward", rival, ">=", 1.25)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write every figure here")
    parser.add_argument("--rounds", type=int, default=9, help="turns that count")
    parser.add_argument("--tiny", action="store_true", help="small shapes, no claims")
    wanted = parser.parse_args()
    found = measure(TINY if wanted.tiny else SHAPE, wanted.rounds)
    over = found["cpu_over_label_alone"]
    rows = [
        [name, times["median_s"], times["min_s"], times["max_s"], over.get(name, 1.0)]
        for name, times in found["cpu_seconds"].items()
    ]
    print(table(["", "median CPU s", "min", "max", "over label alone"], rows))
    return finish(found, [] if wanted.tiny else claims_of(found), wanted.json)


if __name__ == "__main__":
    sys.exit(main())
