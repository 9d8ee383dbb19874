"""A training step on a CPU against the bare matrix products in it, and where the rest of its time goes.

    python benchmarks/micro_step.py [--json PATH] [--tiny]

The demo's student and one of SmolLM2-135M's shape (random weights) train as `train.py` takes a step, at the ZeRO stage
that `train.zero: auto` picks (`--zero` says another): batches, forward and backward through the engine, the checks, the
update. Every matrix product of one step is recorded by its
shapes and strides; the same products then run bare, into buffers that are there already, in turns with whole steps in
the same process. Operands of the bare products are shared by calls of equal shape, so they lie in the caches at least
as often. The products of attention are inside of torch's kernel: it too runs bare, on the operands that it had. With
two ranks both do so at the same time, one thread each. ``share`` is the time of the bare products over that of the
step, median of the rounds. More steps under torch's profiler say where the rest goes: each operation's own time,
grouped; `Python` is the time of these steps less all of them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from machine import claim, finish, table
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from trainer_steps import KINDS, our_step, run_ranks, write_store

from tracestill.data_pipeline.plan.plan import PlanConfig, make_plan
from tracestill.data_pipeline.tokens.store import TokenStore
from tracestill.trainer.batches.batches import Batches
from tracestill.trainer.engine.engine import connect, leave
from tracestill.trainer.ranks.collective_stats import CollectiveStats, counted_collectives
from tracestill.trainer.recipe.settings import TrainConfig
from tracestill.trainer.recipe.student_settings import StudentConfig
from tracestill.trainer.student.student import build_student
from tracestill.trainer.weighting import WeightingConfig, make_weighting

STUDENTS: dict[str, dict[str, Any]] = {
    "the demo's": {
        "shape": {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 3, "num_attention_heads": 4},
        "vocabulary": 400,
        "capacity": 4096,
        "median": 60,
        "micro_steps": 2,
        "rounds": 11,
    },
    "SmolLM2-135M's": {
        "shape": {
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
        },
        "vocabulary": 49152,
        "capacity": 1024,
        "median": 200,
        "micro_steps": 2,
        "rounds": 3,
    },
}
TINY = {
    "tiny": {
        "shape": {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
        "vocabulary": 64,
        "capacity": 128,
        "median": 20,
        "micro_steps": 1,
        "rounds": 1,
    }
}
RANKS = (1, 2)
PROFILED = 3  # steps
SPREAD = 0.3  # of the lognormal lengths: small, so that one step's attention is like another's
BAR = 0.7
PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "addmm_", "baddbmm_"}
GROUPS = {
    "matrix products": PRODUCTS,
    "attention": {
        "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_flash_attention_for_cpu_backward",
    },
    "update": {"_fused_adamw_"},
    "copies and gathers": {
        *("copy_", "cat", "clone", "index", "index_select", "index_copy_", "gather", "embedding"),
        *("embedding_dense_backward", "zero_", "fill_", "scatter_add_", "index_put_", "_index_put_impl_", "index_add_"),
    },
}
LOSS = "_LinearCrossEntropy"
OTHER, IN_LOSS, TALK, PYTHON = "norms, RoPE, activations, sums", "loss beside its products", "between ranks", "Python"


class Products(TorchDispatchMode):
    """Keeps the matrix products that run inside of it: function, and of every tensor shape and strides; of attention
    the function and what it was called with."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[tuple[str, tuple[Any, ...]]] = Counter()
        self.attention: list[tuple[Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in PRODUCTS:
            tensors = [a for a in args if isinstance(a, torch.Tensor)]
            self.calls[name, tuple((tuple(t.shape), t.stride()) for t in tensors)] += 1
        elif name in GROUPS["attention"]:
            self.attention.append((func, args, kwargs or {}))
        return func(*args, **(kwargs or {}))


def bare(calls: Counter[tuple[str, tuple[Any, ...]]]) -> Callable[[], None]:
    """All recorded products, one after the other, into buffers that are there already."""
    kept: dict[Any, torch.Tensor] = {}

    def operand(shape: tuple[int, ...], strides: tuple[int, ...]) -> torch.Tensor:
        if (shape, strides) not in kept:
            kept[shape, strides] = torch.empty_strided(shape, strides).normal_()
        return kept[shape, strides]

    work: list[tuple[Callable[[], Any], int]] = []
    for (name, tensors), count in calls.items():
        of = [operand(*tensor) for tensor in tensors]
        if name.endswith("_"):  # adds to its first operand
            total = torch.zeros(of[0].shape)
            work.append((lambda f=getattr(torch.Tensor, name), t=total, o=of[1:]: f(t, *o), count))
        else:
            *_, a, b = of
            out = torch.empty(*a.shape[:-1], b.shape[-1])
            work.append((lambda f=getattr(torch, name), o=of, out=out: f(*o, out=out), count))

    def run() -> None:
        for call, count in work:
            for _ in range(count):
                call()

    return run


@torch.no_grad()
def attend(calls: list[tuple[Any, Any, Any]]) -> None:
    """Attention's kernels alone."""
    for function, args, more in calls:
        function(*args, **more)


def grouped(steps: list[Callable[[], object]], said: CollectiveStats) -> dict[str, float]:
    """Share of the steps' time that each group of operations takes; of collectives, that for which they block."""
    before = said.seconds
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        start = time.perf_counter()
        for step in steps:
            step()
        taken = time.perf_counter() - start
    found: dict[str, float] = {TALK: (said.seconds - before) / taken}
    for event in seen.events():
        name = event.name.removeprefix("aten::")
        group = next((group for group, names in GROUPS.items() if name in names), None)
        if group is None or group == "copies and gathers":
            if not event.name.startswith("aten::"):
                continue  # ranges around operations: what they hold themselves is Python's
            if inside(event, LOSS):
                group = IN_LOSS
        found[group or OTHER] = found.get(group or OTHER, 0.0) + event.self_cpu_time_total / 1e6 / taken
    return {**found, PYTHON: 1 - sum(found.values())}


def inside(event: Any, name: str) -> bool:
    while event is not None:
        if name in event.name:
            return True
        event = event.cpu_parent
    return False


def work(folder: Path, sizes: dict[str, Any], zero: Any, said: CollectiveStats) -> dict[str, Any]:
    """On each rank: seconds of the rounds' steps and bare products, of the slower rank, and the groups of rank 0."""
    torch.set_num_threads(1)
    rounds, micro_steps = sizes["rounds"], sizes["micro_steps"]
    settings = TrainConfig(steps=rounds + 2 + PROFILED, zero=zero, clip=1.0, lr=1e-4)
    world = connect(settings)
    store = TokenStore(folder / "tokens.arrow", KINDS)
    plan_config = PlanConfig(capacity=sizes["capacity"], packs_per_step=world.ranks * micro_steps)
    plan = make_plan(store.lengths, plan_config, seed=0, epoch=0)
    weighting = make_weighting(WeightingConfig(weights={"prompt": 0}), KINDS, 0)
    batches = Batches(
        store, lambda epoch: plan, weighting, rank=world.rank, ranks=world.ranks, pad_id=0, device=world.device
    )
    config = StudentConfig(config={"model_type": "llama", **sizes["shape"], "tie_word_embeddings": True})
    student = build_student(
        config, vocab_size=sizes["vocabulary"], num_kinds=len(KINDS), seed=0, bos_id=1, eos_id=2, pad_id=0
    )
    parameters = sum(p.numel() for p in student.parameters())
    step = our_step(settings, batches, student)
    step(0)  # warms up
    with Products() as products:
        step(1)
    run = bare(products.calls)
    run()
    times: dict[str, list[float]] = {"step": [], "products": [], "attention": []}
    for at in range(rounds):
        for name, function in (
            ("step", lambda at=at: step(at + 2)),
            ("products", run),
            ("attention", lambda: attend(products.attention)),
        ):
            dist.barrier()
            start = time.perf_counter()
            function()
            taken = torch.tensor(time.perf_counter() - start)
            dist.all_reduce(taken, op=dist.ReduceOp.MAX)
            times[name].append(float(taken))
    groups = grouped([lambda at=at: step(rounds + 2 + at) for at in range(PROFILED)], said)
    flops = sum(count * operations(name, tensors) for (name, tensors), count in products.calls.items())
    return {
        "parameters": parameters,
        "zero": zero,
        "tokens_of_a_micro_step": sizes["capacity"],
        "micro_steps": micro_steps,
        "seconds": times,
        "share": statistics.median(
            (p + a) / s for s, p, a in zip(times["step"], times["products"], times["attention"], strict=True)
        ),
        "flop_of_a_step": flops,
        "gflop_per_second_of_the_bare_products": flops / statistics.median(times["products"]) / 1e9,
        "share_of_each_group": dict(sorted(groups.items(), key=lambda item: -item[1])),
    }


def operations(name: str, tensors: tuple[Any, ...]) -> int:
    """Floating-point operations of a product."""
    (a, _), (b, _) = tensors[-2:]
    rows = 1
    for size in a:
        rows *= size
    return 2 * rows * int(b[-1])


def measure(students: dict[str, dict[str, Any]], counts: tuple[int, ...], *, tiny: bool, zero: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, sizes in students.items():
        for ranks in counts:
            with tempfile.TemporaryDirectory(prefix="micro-step-") as place:
                folder = Path(place)
                tokens = (sizes["rounds"] + PROFILED + 3) * sizes["micro_steps"] * ranks * sizes["capacity"]
                how = {"vocabulary": sizes["vocabulary"], "median": sizes["median"], "prompt": 0.25, "spread": SPREAD}
                write_store(folder / "tokens.arrow", tokens, longest=sizes["capacity"], **how)
                run_ranks(
                    ranks, __file__, ["--work", place, name, "--zero", zero, *(["--tiny"] if tiny else [])], folder
                )
                case = json.loads((folder / "found.json").read_text(encoding="utf-8"))
                found[f"{name}, {ranks} rank{'s' * (ranks > 1)}"] = case
    return found


def show(found: dict[str, Any]) -> None:
    for name, case in found.items():
        step = statistics.median(case["seconds"]["step"])
        print(f"\n{name}: {case['parameters'] / 1e6:.1f}M parameters, {1e3 * step:.0f} ms a step, ", end="")
        print(f"bare products {case['share']:.1%}, {case['gflop_per_second_of_the_bare_products']:.0f} GFLOP/s")
        print(table(["", "share of the step"], [[g, f"{s:.1%}"] for g, s in case["share_of_each_group"].items()]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write every figure, the machine and the claims here")
    parser.add_argument("--tiny", action="store_true", help="a tiny student, no claims: to see that it runs")
    parser.add_argument("--ranks", type=int, nargs="+", default=RANKS, help="how many (default: 1 and 2)")
    parser.add_argument("--zero", default="auto", choices=["auto", "0", "1", "2", "3"], help="stage (default: auto)")
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    students = TINY if wanted.tiny else STUDENTS
    if wanted.work:
        folder, name = wanted.work
        zero = wanted.zero if wanted.zero == "auto" else int(wanted.zero)
        with counted_collectives() as said:
            found = work(Path(folder), students[name], zero, said)
        if dist.get_rank() == 0:
            (Path(folder) / "found.json").write_text(json.dumps(found), encoding="utf-8")
        leave(0)
    found = measure(students, tuple(wanted.ranks), tiny=wanted.tiny, zero=wanted.zero)
    show(found)
    claims = (
        []
        if wanted.tiny
        else [
            claim(f"{name}: time of the bare products, attention's too, over the step's", case["share"], ">=", BAR)
            for name, case in found.items()
        ]
    )
    return finish({"cases": found}, claims, wanted.json)


if __name__ == "__main__":
    sys.exit(main())
