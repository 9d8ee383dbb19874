"""The model of step time against what others published: the part of `forecast.py` that needs no measurement.

`published_throughput.json` holds series of runs that differ in the number of GPUs (and in accumulation) alone. The
run with the fewest GPUs gives the rate at which a GPU computes; the model then says what more of them reach, from the
cluster's link figures, which come from elsewhere. Overlapping is as the trainers do it: FSDP gathers and reduces
behind computation, nanotron reduces behind the last micro-step's backward pass, in fp32.
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import Any

from machine import claim, table

from tracestill.trainer.metrics.hardware import Link
from tracestill.trainer.timing.step_time import PASSES, Machine, Task, even, forecast

PUBLISHED = Path(__file__).with_name("published_throughput.json")
LATENCY = {"inside": 2e-6, "between": 8e-6}  # seconds a hop
DEVICES = 8
UPDATE = {"A100 40GB": 1.4e12, "H100": 2.6e12}  # bytes a second of memory, in the optimizer: 80 % of the data sheet's


def machine_of(series: dict[str, Any], gpus: int, links: dict[str, Any], rate: float) -> Machine:
    """The published cluster, with ``rate`` FLOP/s a GPU."""
    kind = "A100 40GB" if series["gpu"].startswith("A100") else "H100"
    figures = links[kind]
    inside = dict.fromkeys(PASSES, Link(LATENCY["inside"], figures["inside_gb_per_second"] * 1e9))
    between = dict.fromkeys(PASSES, Link(LATENCY["between"], figures["between_nodes_gb_per_second"] * 1e9))
    if series["model"].startswith("nanotron"):  # what that cluster reached, latency included, by number of nodes
        medians = links["nanotron"]["median_gb_per_second_by_nodes"]
        nodes = str(-(-gpus // DEVICES))
        inside = between = {name: Link(0.0, medians[name][nodes] * 1e9) for name in PASSES}
    return Machine(rate, UPDATE[kind], inside, between, DEVICES)


def task_of(series: dict[str, Any], gpus: int, accumulation: int) -> Task:
    """A step of a series, FLOPs counted as its MFU counts them: 6 N + 12 layers hidden sequence a token."""
    tokens = series["sequence"] * series["micro_batch"] * accumulation * gpus
    a_token = 6 * series["parameters"] + 12 * series["layers"] * series["hidden"] * series["sequence"]
    zero = int(series["sharding"][-1])
    return Task(
        series["parameters"],
        even(a_token * tokens * (4 / 3 if series["recompute"] == "full" else 1), accumulation, gpus),
        tokens,
        zero=zero,
        gradient_bytes=series["gradient_bytes"],
        layers=series["layers"],
        overlap=True,
        bucket=max(1, series["parameters"] // series["layers"]),  # a layer's gradients
        live=0,  # FSDP gathers a layer for the forward pass and again for the backward pass
        scattered=zero > 0,
    )


def per_gpu(series: dict[str, Any], gpus: int, accumulation: int, links: dict[str, Any], rate: float) -> float:
    """Tokens a second and GPU that the model foresees."""
    return forecast(task_of(series, gpus, accumulation), machine_of(series, gpus, links, rate)).tokens_per_second / gpus


def rate_from(series: dict[str, Any], gpus: int, accumulation: int, speed: float, links: dict[str, Any]) -> float:
    """The rate at which the model meets a published run; found by halving, as more FLOP/s are never slower."""
    low, high = 1e12, 1e16
    for _ in range(100):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if per_gpu(series, gpus, accumulation, links, middle) < speed else (low, middle)
    return low


def check() -> dict[str, Any]:
    """Every published run but the first of each series, with what the model foresaw."""
    published = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    rows = []
    for series in published["series"]:
        (first, steps, speed), *others = series["points"]
        rate = rate_from(series, first, steps, speed, published["links"])
        for gpus, accumulation, measured in others:
            foreseen = per_gpu(series, gpus, accumulation, published["links"], rate)
            rows.append(
                {
                    **{key: series[key] for key in ("source", "model", "gpu", "sharding", "micro_batch", "compile")},
                    "fitted_on_gpus": first,
                    "gpus": gpus,
                    "measured_tokens_per_second_per_gpu": measured,
                    "foreseen_tokens_per_second_per_gpu": foreseen,
                    "error_of_step_time": measured / foreseen - 1,
                    "change_from_the_fitted": measured / speed - 1,
                }
            )
    return {"rows": rows, "left_out": published["left_out"]}


def groups(rows: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Source -> the errors of the step times foreseen, without their signs."""
    found: dict[str, list[float]] = {}
    for row in rows:
        found.setdefault(row["source"].split(",")[0].split(" (")[0], []).append(abs(row["error_of_step_time"]))
    return found


def claims_of(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        claim(f"published, {source}: median error of a step time, {len(errors)} runs", median(errors), "<", 0.15)
        for source, errors in groups(found["rows"]).items()
    ]


def show(found: dict[str, Any]) -> None:
    rows = [
        [
            f"{row['model']}, {row['gpu'].split(' SXM')[0]}, {row['sharding']}, micro-batch {row['micro_batch']}",
            f"{row['fitted_on_gpus']} -> {row['gpus']}",
            float(row["measured_tokens_per_second_per_gpu"]),
            float(row["foreseen_tokens_per_second_per_gpu"]),
            f"{row['error_of_step_time']:+.1%}",
        ]
        for row in found["rows"]
    ]
    print(table(["published run", "GPUs", "tokens/s a GPU", "foreseen", "error of step"], rows))
    for source, errors in groups(found["rows"]).items():
        print(f"{source}: {len(errors)} runs, median error {median(errors):.1%}, largest {max(errors):.1%}")


if __name__ == "__main__":
    show(check())
