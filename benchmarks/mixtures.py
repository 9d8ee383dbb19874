"""Mixtures and orders of a million documents: what they cost the planner, and what an order costs packs and ranks.

    python benchmarks/mixtures.py [--json PATH] [--quick]

CPU seconds, taken in turns, of planning one epoch of trace-like lengths: plain; with a mixture of four parts, two of
them repeated; with an order; with both. What is read and drawn once a run (``Planner``) is timed apart. Balance and
packs are those of the same documents in a random order and by two keys: difficulty, which has nothing to do with
length, and length itself. Exits 1 if a claim does not hold. ``--quick`` takes a tenth of the documents.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from machine import claim, finish, table
from planner import CAPACITY, MEDIAN, in_turns
from planner_memory import trace_lengths

from tracestill.data_pipeline.plan.curriculum import OrderConfig
from tracestill.data_pipeline.plan.plan import PlanConfig, Planner
from tracestill.data_pipeline.tokens.columns import FILE, Columns, schema_of

RANKS = (8, 64)
PARTS = {
    "big": {"share": 1, "where": {"teacher": "big"}},
    "small": {"share": 4, "where": {"teacher": "small"}},
    "general": {"share": 0.5, "where": {"source": "chats"}},
    "rest": {"share": 0.5},
}
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "mixture": {"mixture": {"parts": PARTS}},
    "order": {"order": "difficulty"},
    "mixture and order": {"mixture": {"parts": PARTS}, "order": "difficulty"},
}


def columns_of(documents: int, directory: Path) -> Columns:
    """A table of so many documents: 30 % of a big teacher, 60 % of a small one, 5 % general; pass rates of 16."""
    rng = np.random.default_rng(0)
    who = rng.choice(4, documents, p=[0.3, 0.6, 0.05, 0.05])
    texts = {"teacher": ("big", "small", "general", "other"), "source": ("sums", "sums", "chats", "sums")}
    made = {name: pa.array(np.array(values)[who]) for name, values in texts.items()}
    made["difficulty"] = pa.array(rng.integers(0, 17, documents).astype(np.float32) / 16)
    made["trace_tokens"] = pa.array(np.full(documents, 1, np.int32))
    ids = pa.array(np.arange(documents).astype(str))
    schema = schema_of({})
    columns = [made.get(name, ids if "id" in name else pa.array([""] * documents)) for name in schema.names]
    pq.write_table(pa.Table.from_arrays(columns, schema=schema), directory / FILE)
    return Columns(directory / FILE, documents)


def measure(documents: int, rounds: int) -> dict[str, Any]:
    lengths = trace_lengths(documents, MEDIAN, CAPACITY)
    with tempfile.TemporaryDirectory() as directory:
        columns = columns_of(documents, Path(directory))
        configs = {name: PlanConfig(capacity=CAPACITY, packs_per_step=64, **case) for name, case in CASES.items()}
        planners = {name: Planner(lengths, config, seed=1, columns=columns) for name, config in configs.items()}
        times = in_turns({name: lambda own=own: own.plan(1) for name, own in planners.items()}, rounds)
        name = "mixture and order"
        once = in_turns({name: lambda: Planner(lengths, configs[name], seed=1, columns=columns)}, rounds)[name]
        both = planners[name]
        mixed = both.report(both.plan(0))
        orders = {}
        for by in ("difficulty", "length"):
            planner = Planner(
                lengths, configs["plain"].model_copy(update={"order": OrderConfig(by=by)}), seed=1, columns=columns
            )
            orders[by] = planner.report(planner.plan(0), RANKS)
    plain = times["plain"]["median_s"]
    return {
        "documents": documents,
        "epoch": {name: {**taken, "ratio": taken["median_s"] / plain} for name, taken in times.items()},
        "once": {**once, "ratio": once["median_s"] / plain},
        "mixture": mixed["mixture"],
        "largest_share_error_tokens": max(
            abs(part["tokens"] - part["share_wanted"] * mixed["tokens"]) for part in mixed["mixture"].values()
        ),
        "longest": int(lengths.max()),
        "orders": {
            by: {key: found[key] for key in ("packs", "fill", "imbalance", "order")} for by, found in orders.items()
        },
    }


def claims_of(found: dict[str, Any], quick: bool) -> list[dict[str, Any]]:
    claims = [
        claim("tokens by which a part misses its share", found["largest_share_error_tokens"], "<=", found["longest"]),
        claim(
            "rank correlation of difficulty and step", found["orders"]["difficulty"]["order"]["correlation"], ">=", 0.95
        ),
        claim("packs by difficulty over those in a random order", over(found, "difficulty"), "<=", 1.005),
    ]
    for by in found["orders"]:
        worst = max(found["orders"][by]["imbalance"].values())
        claims.append(claim(f"max/mean work of ranks, by {by}", worst, "<=", 1.01))
    if not quick:
        ratio = found["epoch"]["mixture and order"]["ratio"]
        claims.append(claim("an epoch with mixture and order over a plain one", ratio, "<=", 2.0))
    return claims


def over(found: dict[str, Any], by: str) -> float:
    one = found["orders"][by]
    return float(one["packs"] / one["order"]["unordered"]["packs"])


def show(found: dict[str, Any]) -> None:
    rows: list[list[Any]] = [[name, t["median_s"], t["ratio"]] for name, t in found["epoch"].items()]
    rows.append(["once a run, mixture and order", found["once"]["median_s"], found["once"]["ratio"]])
    print("\n" + table([f"an epoch of {found['documents']:,} documents", "CPU s", "over plain"], rows))
    rows = [
        [name, p["share_wanted"], p["share"], p["documents"], p["repeats"], p["left_out"]]
        for name, p in found["mixture"].items()
    ]
    print("\n" + table(["part", "share wanted", "share", "documents", "repeats", "left out"], rows))
    rows = []
    for by, one in found["orders"].items():
        loose = one["order"]["unordered"]
        for name, these in ((by, one), ("random", loose)):
            correlation = one["order"]["correlation"] if name == by else ""
            rows.append([name, correlation, these["packs"], these["fill"], *these["imbalance"].values()])
    print("\n" + table(["order", "rank correlation", "packs", "filling", *(f"max/mean of {n}" for n in RANKS)], rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write every figure here")
    parser.add_argument("--quick", action="store_true", help="a tenth of the documents")
    wanted = parser.parse_args()
    found = measure(100_000 if wanted.quick else 1_000_000, 3 if wanted.quick else 9)
    show(found)
    sys.exit(finish(found, claims_of(found, wanted.quick), wanted.json))


if __name__ == "__main__":
    main()
