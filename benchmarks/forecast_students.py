"""Students of 0.6, 8 and 70 billion parameters on 1 to 1,024 nodes that nobody here has: the plot of `forecast.py`.

Nodes of eight H100 (`trainer/metrics/hardware.py`), bf16, layers recomputed, documents of 4,096 tokens in packs of
16,384. ``weak``: one pack a GPU and step. ``strong``: 4,194,304 tokens a step whatever the number of GPUs, 256 packs of
them. A stage is drawn where the student fits into a GPU by `trainer/timing/memory.py`. It stops scaling where twice the
nodes bring less than 1.4 times the tokens a second; in strong scaling that is at the latest where the packs are used
up.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from machine import table

from tracestill.trainer.metrics.hardware import EFFICIENCY, NODES, launch_times
from tracestill.trainer.timing.memory import LLAMA3_8B, LLAMA3_70B, QWEN3_0_6B, ROOM, Decoder, Setting, estimate
from tracestill.trainer.timing.step_time import PASSES, Machine, Task, even, forecast

STUDENTS = {"0.6B": QWEN3_0_6B, "8B": LLAMA3_8B, "70B": LLAMA3_70B}
NODE_COUNTS = [2**k for k in range(11)]
CAPACITY, LENGTH, PACKS = 16_384, 4_096, 256
HARDWARE = "h100"
STAGES = (1, 2, 3)  # bf16 training begins at 1
LESS = 1.4  # times the throughput for twice the nodes: less is no scaling


def machine() -> Machine:
    node = NODES[HARDWARE]
    links = (dict.fromkeys(PASSES, node.inside), dict.fromkeys(PASSES, node.between))
    return Machine(
        node.peak * EFFICIENCY[HARDWARE], node.bandwidth, *links, node.devices, launch=launch_times(recompute=True)
    )


def point(student: Decoder, nodes: int, zero: int, *, strong: bool) -> dict[str, Any]:
    """Throughput and memory of one setting."""
    node = NODES[HARDWARE]
    ranks = nodes * node.devices
    packs = PACKS if strong else ranks
    working = min(ranks, packs)
    steps = -(-packs // ranks)
    flops = student.flops(packs * CAPACITY, LENGTH) * 4 / 3
    loads = even(flops, steps, working)
    if working < ranks:  # the others hold their share of the student, and wait
        loads = even(flops * ranks / working, steps, ranks)
    task = Task(
        student.parameters,
        loads,
        float(packs * CAPACITY),
        zero=zero,
        layers=student.layers,
        tied=student.vocabulary * student.hidden if student.tied else 0,
    )
    held = estimate(student, Setting(CAPACITY, ranks=ranks, zero=zero, recompute=True))["peak"]
    times = forecast(task, machine())
    return {
        "nodes": nodes,
        "gpus": ranks,
        "tokens_per_second": times.tokens_per_second,
        "communication_share": times.communication / times.step,
        "gib": held / 2**30,
        "fits": held < ROOM * node.memory,
    }


def curves() -> dict[str, Any]:
    """Student -> scaling -> stage -> its points, and up to how many nodes it scales (None: it does not fit)."""
    found: dict[str, Any] = {}
    for name, student in STUDENTS.items():
        found[name] = {}
        for how in ("weak", "strong"):
            found[name][how] = {}
            for zero in STAGES:
                points = [point(student, nodes, zero, strong=how == "strong") for nodes in NODE_COUNTS]
                found[name][how][str(zero)] = {"points": points, "scales_to_nodes": scales_to(points)}
    return found


def scales_to(points: list[dict[str, Any]]) -> int | None:
    """The last of these numbers of nodes that still brought 1.4 times the throughput of half of them."""
    fitting = [point for point in points if point["fits"]]
    if not fitting:
        return None
    last = fitting[0]
    for point in fitting[1:]:
        if point["tokens_per_second"] < LESS * last["tokens_per_second"]:
            break
        last = point
    return int(last["nodes"])


def draw(found: dict[str, Any], path: Path) -> None:
    """The plot, as SVG."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "foresee"  # the same picture for the same numbers
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(found), figsize=(12, 4.2), layout="constrained")
    for panel, (name, hows) in zip(panels, found.items(), strict=True):
        for how, style in (("weak", "-"), ("strong", "--")):
            for colour, (zero, curve) in enumerate(hows[how].items()):
                points = [p for p in curve["points"] if p["fits"]]
                if not points:
                    continue
                line = [[p[key] for p in points] for key in ("gpus", "tokens_per_second")]
                broad = {"linewidth": 4, "alpha": 0.4} if zero == "1" else {}  # under ZeRO 2, which often equals it
                panel.loglog(*line, style, color=f"C{colour}", label=f"ZeRO {zero}, {how}", **broad)
                last = next(p for p in points if p["nodes"] == curve["scales_to_nodes"])
                panel.plot(last["gpus"], last["tokens_per_second"], "o", color=f"C{colour}", markersize=4)
        panel.set(title=f"{name} parameters", xlabel="GPUs", ylabel="tokens a second")
        panel.grid(alpha=0.3)
        panel.legend(fontsize=7)
    figure.suptitle("Foreseen on nodes of eight H100; dots: from there on twice the nodes bring less than 1.4 times")
    figure.savefig(path, metadata={"Date": None})


def show(found: dict[str, Any]) -> None:
    rows = [
        [name, how, f"ZeRO {zero}", str(first), str(curve["scales_to_nodes"] or "-"), best]
        for name, hows in found.items()
        for how, curves_of in hows.items()
        for zero, curve in curves_of.items()
        for fitting in [[p for p in curve["points"] if p["fits"]]]
        for first in [fitting[0]["nodes"] if fitting else "does not fit"]
        for best in [f"{max(p['tokens_per_second'] for p in fitting):,.0f}" if fitting else ""]
    ]
    print(table(["student", "scaling", "stage", "fits from nodes", "scales to nodes", "most tokens/s"], rows))


if __name__ == "__main__":
    show(curves())
