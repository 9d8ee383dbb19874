"""The planner against a sort of the same lengths, against other packers, and against its own promises.

    python benchmarks/planner.py [--json PATH] [--quick]

Times are taken in turns within this process and compared as medians. They are CPU seconds of the process, since
the claims are about one core: other load on the machine stretches the clock, not them (the JSON has both).
Peers are used where they can be imported (TRL: ``trl.data_utils``; Axolotl: ``axolotl.utils.samplers.multipack``);
one that cannot is listed as absent.
Exits 1 if a claim does not hold. ``--quick`` takes a tenth of the documents and leaves out what then means nothing.
"""

from __future__ import annotations

import argparse
import bisect
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from machine import claim, finish, table
from planner_memory import in_subprocess, trace_lengths

from tracestill.data_pipeline.plan.order import LINEAR_COST
from tracestill.data_pipeline.plan.packing import best_fit_decreasing
from tracestill.data_pipeline.plan.plan import Plan, PlanConfig, imbalance, make_plan, pack_costs

CAPACITY = 16_384
MEDIAN = 3500  # tokens of the median document at CAPACITY; scaled with the capacity
EXAMPLE = [26, 26, 24, 20, 18, 15, 14, 12, 11, 10, 9, 7, 5, 4, 3, 2, 2]  # capacity 30, 7 bins


def in_turns(functions: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, dict[str, Any]]:
    """CPU seconds of each function, called one after the other ``rounds`` times: median, least, most; and the
    median on the clock."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            clock, start = time.perf_counter(), time.process_time()
            function()
            taken[name].append((time.process_time() - start, time.perf_counter() - clock))
    return {name: summary(pairs) for name, pairs in taken.items()}


def summary(pairs: list[tuple[float, float]]) -> dict[str, Any]:
    cpu, clock = ([pair[i] for pair in pairs] for i in (0, 1))
    found = {"median_s": statistics.median(cpu), "min_s": min(cpu), "max_s": max(cpu)}
    return {**found, "wall_median_s": statistics.median(clock), "runs": len(pairs)}


def versions(*names: str) -> dict[str, str]:
    """Installed versions of peers."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def plan_for(lengths: np.ndarray, capacity: int, **config: Any) -> Plan:
    return make_plan(lengths, PlanConfig(**{"capacity": capacity, "packs_per_step": 64, **config}), seed=1, epoch=0)


def measure_time(documents: int, rounds: int) -> dict[str, Any]:
    """Planning against ``np.argsort(kind="stable")`` of the same int32 lengths, and the packs found."""
    lengths = trace_lengths(documents, MEDIAN, CAPACITY)
    times = in_turns(
        {"argsort": lambda: np.argsort(lengths, kind="stable"), "plan": lambda: plan_for(lengths, CAPACITY)}, rounds
    )
    found = plan_for(lengths, CAPACITY).statistics(lengths)
    del found["imbalance"]
    return {**times, "ratio": times["plan"]["median_s"] / times["argsort"]["median_s"], **found}


def next_fit(lengths: list[int], capacity: int) -> int:
    """Bins of next-fit: a document that does not fit the open bin opens the next."""
    bins, room = 0, 0
    for length in lengths:
        if length > room:
            bins, room = bins + 1, capacity
        room -= length
    return bins


def windowed(lengths: np.ndarray, capacity: int, window: int) -> int:
    """Bins of best-fit-decreasing in windows of so many documents (TRL maps windows of 1,000 by default)."""
    parts = (lengths[start : start + window] for start in range(0, len(lengths), window))
    return sum(best_fit_decreasing(np.bincount(p, minlength=capacity + 1), capacity).bins for p in parts)


def trl_packer(lengths: np.ndarray) -> Callable[[], int]:
    """TRL's best-fit-decreasing on all documents at once; finding the packs and moving the tokens (int32 here, as in
    our store) are one function. Takes 6 GB of memory at 100,000 documents. Raises ImportError without TRL."""
    from trl.data_utils import _pack_bfd

    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int32)
    table = pa.table({"input_ids": pa.ListArray.from_arrays(offsets, np.zeros(offsets[-1], np.int32))})
    return lambda: len(_pack_bfd(table, CAPACITY))


def trl_search(lengths: np.ndarray) -> Callable[[], int]:
    """The same on columns of nulls: what is left is the search for packs, without moving a token."""
    from trl.data_utils import _pack_bfd

    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int32)
    table = pa.table({"input_ids": pa.ListArray.from_arrays(offsets, pa.nulls(int(offsets[-1])))})
    return lambda: len(_pack_bfd(table, CAPACITY))


def axolotl_packer(lengths: np.ndarray) -> Callable[[], int]:
    """Axolotl's multipack at its defaults (groups of 100,000, 200 documents a bin), compiled before it is timed."""
    from axolotl.utils.samplers.multipack import pack_parallel

    pack_parallel(lengths[:100], CAPACITY, 100_000, 200, 1)
    return lambda: len(pack_parallel(lengths, CAPACITY, 100_000, 200, 1))


def measure_peers(documents: int, rounds: int) -> dict[str, Any]:
    """Seconds and packs of every packer on the same lengths; ``ratio`` is its time over ours."""
    lengths = trace_lengths(documents, MEDIAN, CAPACITY)
    peers: dict[str, Any] = {}
    functions: dict[str, Callable[[], int]] = {
        "tracestill, the whole plan": lambda: plan_for(lengths, CAPACITY).n_packs,
        "next-fit (plain Python)": lambda: next_fit(lengths.tolist(), CAPACITY),
        "best-fit-decreasing in windows of 1,000 (ours)": lambda: windowed(lengths, CAPACITY, 1000),
    }
    for name, make in {
        "TRL best-fit-decreasing": trl_packer,
        "TRL best-fit-decreasing, search only": trl_search,
        "Axolotl multipack": axolotl_packer,
    }.items():
        try:
            functions[name] = make(lengths)
        except (ImportError, pa.ArrowException) as error:
            peers[name] = {"absent": f"{type(error).__name__}: {error}"}
    least = -(-int(lengths.sum(dtype=np.int64)) // CAPACITY)
    times = in_turns(functions, rounds)
    base = times["tracestill, the whole plan"]["median_s"]
    for name, function in functions.items():
        packs = function()
        peers[name] = {
            **times[name],
            "ratio": times[name]["median_s"] / base,
            "packs": packs,
            "wasted": 1 - int(lengths.sum(dtype=np.int64)) / (packs * CAPACITY),
            "packs_over_lower_bound": packs / least - 1,
        }
    return peers


def item_by_item(lengths: list[int], capacity: int) -> int:
    """Bins of best-fit-decreasing done one item after the other."""
    rooms: list[int] = []
    for length in sorted(lengths, reverse=True):
        at = bisect.bisect_left(rooms, length)
        room = rooms.pop(at) if at < len(rooms) else capacity
        bisect.insort(rooms, room - length)
    return len(rooms)


def measure_exactness(trials: int) -> dict[str, int]:
    """How many of so many inputs need another number of bins than item by item: random ones, the known example,
    capacities 2^k + 1, equal lengths, lengths equal to the capacity."""
    generator = np.random.default_rng(7)
    inputs = [(30, EXAMPLE), (CAPACITY, trace_lengths(50_000, MEDIAN, CAPACITY).tolist())]
    for k in range(1, 15):
        capacity = 2**k + 1
        inputs += [(capacity, [capacity] * 9), (capacity, [max(1, capacity // 3)] * 100)]
        inputs += [(capacity, generator.integers(1, capacity + 1, 500).tolist())]
    for _ in range(trials):
        capacity = int(generator.integers(1, 400))
        highest = int(generator.integers(1, capacity + 1))
        inputs.append((capacity, generator.integers(1, highest + 1, generator.integers(1, 300)).tolist()))
    differ = sum(
        best_fit_decreasing(np.bincount(lengths, minlength=capacity + 1), capacity).bins
        != item_by_item(lengths, capacity)
        for capacity, lengths in inputs
    )
    return {"inputs": len(inputs), "differ": differ}


def sorted_inside_steps(plan: Plan, values: np.ndarray) -> Plan:
    """The same steps with the packs of each sorted by ``values``, empty packs last."""
    key = np.where(plan.steps >= 0, values[plan.steps], np.inf)
    steps = np.take_along_axis(plan.steps, np.argsort(key, axis=1, kind="stable"), axis=1)
    return Plan(plan.capacity, plan.packs_per_step, plan.documents, plan.pack_offsets, steps)


def measure_balance(documents: int, capacity: int, ranks: int, accumulation: int) -> dict[str, Any]:
    """max/mean over ranks of work, trace tokens and answer tokens; ours, random packs, and random packs ordered
    inside a step. Answers are lognormal (median 250), questions too (150); the trace is the rest."""
    lengths = trace_lengths(documents, MEDIAN * capacity / CAPACITY, capacity)
    generator = np.random.default_rng(3)
    answer = np.minimum(generator.lognormal(np.log(250), 0.6, documents), lengths * 0.5).astype(np.int64)
    question = np.minimum(generator.lognormal(np.log(150), 0.5, documents), lengths * 0.3).astype(np.int64)
    trace = lengths - answer - question
    found: dict[str, Any] = {"capacity": capacity, "ranks": ranks, "accumulation": accumulation}
    plans = {
        name: plan_for(lengths, capacity, packs_per_step=ranks * accumulation, balance=name) for name in ("cost", "off")
    }
    for name, plan in plans.items():
        costs = pack_costs(plan, lengths)
        starts = plan.pack_offsets[:-1]
        found[name] = {
            "work": imbalance(plan, costs, ranks),
            "trace": imbalance(plan, np.add.reduceat(trace[plan.documents], starts), ranks),
            "answer": imbalance(plan, np.add.reduceat(answer[plan.documents], starts), ranks),
        }
        if name == "off":
            found["sorted inside random steps"] = {"work": imbalance(sorted_inside_steps(plan, costs), costs, ranks)}
    plan = plans["cost"]
    packs = plan.steps[:, 0]  # packs of a step are numbered one after the other
    ends = np.append(packs[1:], plan.n_packs)
    tokens = np.add.reduceat(lengths[plan.documents].astype(np.int64), plan.pack_offsets[packs])
    mean_length = tokens / (plan.pack_offsets[ends] - plan.pack_offsets[packs])
    correlation = float(np.corrcoef(np.arange(plan.n_steps), mean_length)[0, 1])
    return {**found, "steps": plan.n_steps, "correlation": correlation, "bound": 3 / plan.n_steps**0.5}


def measure(quick: bool) -> dict[str, Any]:
    scale = 10 if quick else 1
    sizes = {1_000_000 // scale: 7, 10_000_000 // scale: 3}
    memory = {n: in_subprocess("plan", "--documents", str(n)) for n in sizes}
    store = in_subprocess(
        "store", "--documents", str(10_000_000 // scale), "--gigabytes", str(20 / scale), "--steps", "40"
    )
    return {
        "time": {str(n): measure_time(n, rounds) for n, rounds in sizes.items()},
        "memory": {str(n): found for n, found in memory.items()},
        "peers": {"documents": 100_000, "packers": measure_peers(100_000, 1 if quick else 3)},
        "exactness": measure_exactness(2000),
        "balance": [
            measure_balance(1_000_000 // scale, capacity, ranks, accumulation)
            for capacity in (16_384, 32_768)
            for ranks in (8, 64)
            for accumulation in (1, 4)
        ],
        "larger_than_memory": store,
    }


def claims_of(found: dict[str, Any], quick: bool) -> list[dict[str, Any]]:
    claims = []
    for (documents, times), bar in zip(found["time"].items(), (3.0, 1.2), strict=True):
        if not quick:
            claims.append(claim(f"time over argsort at {documents} documents", times["ratio"], "<=", bar))
            memory = found["memory"][documents]["bytes_per_document"]
            claims.append(claim(f"peak bytes a document at {documents} documents", memory, "<=", 60.0))
        over = times["packs_over_lower_bound"]
        claims.append(claim(f"packs over ceil(sum/capacity) at {documents} documents", over, "<=", 0.005))
    claims.append(claim("inputs packed otherwise than item by item", found["exactness"]["differ"], "<=", 0))
    trl = found["peers"]["packers"]["TRL best-fit-decreasing"]
    if "ratio" in trl:
        claims.append(claim("TRL's time over ours at 100000 documents", trl["ratio"], ">=", 100.0))
    for row in found["balance"]:
        case = f"capacity {row['capacity']}, {row['ranks']} ranks x {row['accumulation']}"
        claims.append(claim(f"max/mean work, {case}", row["cost"]["work"], "<=", 1.01))
        claims.append(claim(f"|correlation of step and length|, {case}", abs(row["correlation"]), "<=", row["bound"]))
    anonymous = found["larger_than_memory"]["rss_anon_max"] / 2**30
    claims.append(claim("RssAnon in GiB, 20 GB store and its plan", anonymous, "<", 2.0))
    return claims


def show(found: dict[str, Any]) -> None:
    rows: list[list[Any]] = []
    for n, t in found["time"].items():
        seconds = [t["argsort"]["median_s"], t["plan"]["median_s"], t["ratio"]]
        rows.append([int(n), *seconds, t["fill"], found["memory"][n]["bytes_per_document"]])
    print("\n" + table(["documents", "argsort s", "plan s", "ratio", "filling", "bytes a document"], rows))
    rows = []
    for name, p in found["peers"]["packers"].items():
        figures = [p["median_s"], p["ratio"], p["packs"], p["wasted"]] if "absent" not in p else ["", "", "", ""]
        rows.append([name, *figures, p.get("absent", "")])
    print("\n" + table(["packer, 100,000 documents", "s", "x ours", "packs", "waste", "absent"], rows))
    rows = []
    for r in found["balance"]:
        for name in ("cost", "off", "sorted inside random steps"):
            figures = [r[name].get(what, "") for what in ("work", "trace", "answer")]
            rows.append([r["capacity"], f"{r['ranks']} x {r['accumulation']}", name, *figures])
    print("\n" + table(["capacity", "ranks x accumulation", "balance", "work", "trace", "answer"], rows))


def draw(found: dict[str, Any], path: Path) -> None:
    """A picture of the two tables: seconds of each packer, and the imbalance of work for each set-up."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 3.6), layout="constrained")
    packers = {name: p for name, p in found["peers"]["packers"].items() if "absent" not in p}
    bars = left.barh(list(packers), [p["median_s"] for p in packers.values()], color="tab:blue")
    left.bar_label(bars, [f"{p['median_s']:.3g} s, waste {p['wasted']:.2%}" for p in packers.values()], fontsize=7)
    left.set(xscale="log", title="100,000 documents, one core", xlabel="CPU seconds")
    left.set_xlim(right=100 * max(p["median_s"] for p in packers.values()))
    left.tick_params(axis="y", labelsize=7)
    left.invert_yaxis()
    rows = found["balance"]
    at = np.arange(len(rows))
    kinds = {"random packs": "off", "sorted inside a step": "sorted inside random steps", "groups by cost": "cost"}
    for i, (label, key) in enumerate(kinds.items()):
        right.bar(at + 0.27 * (i - 1), [r[key]["work"] - 1 for r in rows], 0.27, label=label)
    right.set_xticks(at, [f"{r['capacity'] // 1024}k\n{r['ranks']} x {r['accumulation']}" for r in rows], fontsize=7)
    right.set(yscale="log", ylabel="max/mean work of ranks - 1", xlabel="capacity, ranks x accumulation")
    right.set_ylim(top=10)
    right.legend(fontsize=7, ncols=3, loc="upper center")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write every figure here, and a plot beside it (.png)")
    parser.add_argument("--quick", action="store_true", help="a tenth of the documents")
    wanted = parser.parse_args()
    found = measure(wanted.quick)
    show(found)
    if wanted.json:
        wanted.json.parent.mkdir(parents=True, exist_ok=True)
        draw(found, wanted.json.with_suffix(".png"))
    figures = {"peer_versions": versions("trl", "axolotl", "numba"), "cost": f"{LINEAR_COST} * L + L^2", **found}
    sys.exit(finish(figures, claims_of(found, wanted.quick), wanted.json))


if __name__ == "__main__":
    main()
