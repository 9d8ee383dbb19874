"""How a recipe would go on more nodes: what was measured here, put into the model of ``timing.step_time``.

The student's FLOPs are counted, the packs of its own plan are dealt to the ranks that there would be, and the rates of
computing and updating are those of the cases that ``tracestill bench`` ran, or with ``--hardware`` a data sheet's.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from tracestill.data_pipeline.base.errors import InputError
from tracestill.launch.bench.bench import Bench
from tracestill.launch.bench.calibrate import RECOMPUTED, calibrate
from tracestill.launch.bench.forecast_student import Student
from tracestill.launch.hosts.cluster import Cluster
from tracestill.launch.hosts.probe import MARK
from tracestill.launch.start import deepspeed_command, multinode
from tracestill.trainer.metrics.hardware import EFFICIENCY, NODES, Link, launch_times
from tracestill.trainer.ranks.cores import usable_cores
from tracestill.trainer.timing import memory
from tracestill.trainer.timing.step_time import PASSES, Machine, Task, forecast

STAGES = (0, 1, 2, 3)
COLLECTIVES = "tracestill.launch.hosts.collective"
Found = dict[str, Any]


@dataclass(frozen=True)
class Forecast:
    """What is to be forecast."""

    nodes: Sequence[int]
    devices: int | None = None  # of a node; None: as measured, or the hardware's
    link: Link | None = None  # between nodes; None: as measured, or the hardware's
    hardware: str = ""  # of NODES; empty: what was measured


def forecast_nodes(bench: Bench, student: Student, found: Found, wanted: Forecast) -> Found:
    """Throughput for each ZeRO stage and number of nodes: the recipe's step shared by all (``strong``), and growing
    with them (``weak``). Raises InputError for a link that is neither measured nor stated."""
    plan, own = student.recipe.plan, student.recipe.student
    capacity, packs, recompute = plan.capacity, plan.packs_per_step, own.activation_checkpointing
    if "recommended" in found:
        setting = next(c["setting"] for c in found["cases"] if c["setting"]["name"] == found["recommended"]["name"])
        capacity, packs, recompute = setting["capacity"], setting["packs"], setting["recompute"]
    machine, notes, room = choose_machine(bench, found, wanted, student.recomputed(capacity, packs))
    fp32 = any(case.get("precision") == "float32" for case in found.get("cases", ()))
    fp32 |= student.recipe.train.precision == "fp32"
    number = 4 if fp32 else 2
    measured = results_of(found, capacity, recompute=recompute)
    if wanted.link is not None:  # what several nodes reached here is no matter of a link that is only stated
        measured = [result for result in measured if result["nodes"] == 1]
    anchors = Anchors.of(measured, student, machine, number)
    if note := anchors.note():
        notes.append(note)
    most = wanted.nodes[-1] * machine.devices
    if most > packs:
        notes.append(f"strong: a step has {packs} pack(s), so of {most} ranks that read one each the others are idle")
    if wanted.hardware:
        machine = replace(machine, launch=launch_times(recompute=recompute))
        floor = ", ".join(f"{1e3 * machine.launch[stage]:.1f} ms at ZeRO {stage}" for stage in STAGES[1:])
        notes.append(f"no layer is computed faster than a host launches it: {floor}")
    if student.recipe.train.offload.used:
        notes.append("train.offload: neither copies to hosts nor the update on their cores are forecast")
    if student.recipe.train.on_policy is not None:
        notes.append("train.on_policy: memory holds its teacher and its texts; the time that both take is not forecast")
    if student.packs(capacity, packs * wanted.nodes[-1])[2]:
        notes.append("the data make so few packs that they come again")
    slow = [stage for stage in STAGES[1:] if student.launched(capacity, packs, machine, stage, recompute=recompute)]
    if slow:
        notes.append(
            f"ZeRO {', '.join(map(str, slow))}: hosts take longer to launch a micro-step of {capacity} tokens than a "
            "GPU would to compute it; larger ones bring more"
        )
    result: Found = {"nodes": list(wanted.nodes), "devices": machine.devices, "notes": notes, "strong": {}, "weak": {}}
    result["machine"] = asdict(machine)
    for how in ("strong", "weak"):
        for stage in student.recipe.train.offload.stages:
            if stage == 0 and not fp32:
                continue  # ZeRO 0 trains in fp32 only
            points: list[Found] = []
            for count in wanted.nodes:
                ranks = count * machine.devices
                work = (capacity, packs * (count if how == "weak" else 1), ranks, stage, number)
                held = student.memory_gib(capacity, ranks, stage, number, recompute=recompute)
                about = {"nodes": count, "ranks": ranks, "memory_gib": held, "room_gib": room}
                alone = mean(student.tasks(*work, recompute=recompute), machine)
                points.append({**about, **anchors.correct(alone, stage, work[1], ranks, count)})
                first = points[0]
                a_node = first["tokens_per_second"] / first["nodes"]
                points[-1]["efficiency"] = points[-1]["tokens_per_second"] / count / a_node
            result[how][str(stage)] = points
    return result


def results_of(found: Found, capacity: int, *, recompute: bool) -> list[Found]:
    """What was measured at this size of a micro-step, the search's cases and those of the scaling."""
    every = [*found.get("cases", ()), *(r for by in found.get("scaling", {}).values() for r in by.values())]
    return [r for r in every if "problem" not in r and (r["capacity"], r["recompute"]) == (capacity, recompute)]


@dataclass
class Anchors:
    """What was measured at the forecast's own setting. A forecast of just that is the measurement; others are the model
    times what the nearest of these measurements said of it."""

    results: list[Found]
    factors: list[float]  # of each: the model's tokens a second over the measured ones

    @classmethod
    def of(cls, results: list[Found], student: Student, machine: Machine, number: int) -> Anchors:
        factors = []
        for result in results:
            sizes = (result["capacity"], result["packs_per_step"], result["ranks"], result["zero"], number)
            here = replace(machine, devices=result["ranks"] // result["nodes"])
            model = mean(student.tasks(*sizes, recompute=result["recompute"]), here)
            factors.append(model["tokens_per_second"] / result["tokens_per_second"])
        return cls(results, factors)

    def correct(self, model: Found, zero: int, packs: int, ranks: int, nodes: int) -> Found:
        """The forecast ``model`` of a setting, held against what was measured."""
        wanted = (zero, packs, ranks, nodes)
        for result in self.results:
            if (result["zero"], result["packs_per_step"], result["ranks"], result["nodes"]) == wanted:
                return measured_point(result)
        own = [i for i, result in enumerate(self.results) if result["zero"] == zero]
        if own:
            nearest = min(own, key=lambda i: abs(math.log(self.results[i]["ranks"] / ranks)))
            factor = self.factors[nearest]
        else:  # what the model gets wrong of other stages it gets wrong of this one too
            factor = statistics.median(self.factors) if self.factors else 1.0
        return {
            "tokens_per_second": model["tokens_per_second"] / factor,
            "step_seconds": model["step_seconds"] * factor,
            "split": {name: seconds * factor for name, seconds in model["split"].items()},
            "measured": False,
        }

    def note(self) -> str:
        """How far the model was off where it could be seen."""
        if not self.factors:
            return ""
        low, high = min(self.factors), max(self.factors)
        return (
            f"held against {len(self.factors)} measurement(s) of this setting, for which the model alone says "
            f"{low:.2f} to {high:.2f} times the tokens a second; forecasts are divided by that"
        )


def measured_point(result: Found) -> Found:
    """A measurement in the form of a forecast."""
    parts = result["split"]
    return {
        "tokens_per_second": result["tokens_per_second"],
        "step_seconds": result["step_seconds"],
        "split": {
            **{name: parts[name] for name in ("data", "optimizer", "communication")},
            "compute": parts["forward"] + parts["backward"],
            "hidden": 0.0,
        },
        "measured": True,
    }


def mean(tasks: Sequence[Task], machine: Machine) -> Found:
    """What a mean of these steps would take."""
    times = [forecast(task, machine) for task in tasks]
    parts = ("data", "compute", "optimizer", "communication", "hidden")
    return {
        "tokens_per_second": sum(t.tokens for t in times) / sum(t.step for t in times),
        "step_seconds": sum(t.step for t in times) / len(times),
        "split": {name: sum(getattr(t, name) for t in times) / len(times) for name in parts},
    }


def choose_machine(
    bench: Bench, found: Found, wanted: Forecast, again: float = RECOMPUTED
) -> tuple[Machine, list[str], float | None]:
    """The cluster to forecast, what is to be said about it, and the GiB of one of its devices that may be used (None:
    not known). ``again``: the FLOPs with recomputation over those without."""
    if wanted.hardware:
        if wanted.hardware not in NODES:
            raise InputError(f"--hardware {wanted.hardware}: unknown; choose one of {', '.join(NODES)}")
        node, share = NODES[wanted.hardware], EFFICIENCY[wanted.hardware]
        stated = wanted.link or node.between
        links = (dict.fromkeys(PASSES, node.inside), dict.fromkeys(PASSES, stated))
        machine = Machine(node.peak * share, node.bandwidth, *links, wanted.devices or node.devices)
        note = f"{wanted.hardware}: {share:.0%} of {node.peak / 1e12:.0f} TFLOP/s assumed; {spelled(stated)}"
        return machine, [note], memory.ROOM * node.memory / 2**30
    cases = [case for case in found["cases"] if "problem" not in case]
    most = max(case["ranks"] // case["nodes"] for case in cases)
    devices = wanted.devices or most
    inside, across = measure_links(bench)
    crowded = None
    if bench.cluster is None and not deepspeed_command.count_gpus() and most > usable_cores():
        crowded = (most / usable_cores(), fitted(bench, None, most))
    if inside is None and devices > 1:
        raise InputError("--devices: one rank says nothing about links inside of a node; measure on two or more")
    if wanted.link:
        between, note = dict.fromkeys(PASSES, wanted.link), spelled(wanted.link)
    elif across is not None:
        between, note = across, "between nodes: as measured between two hosts"
    elif bench.cluster is None and inside is not None and not deepspeed_command.count_gpus():
        between, note = inside, "between nodes: as fast as inside of this one; say otherwise with --link GB/s,us"
    elif wanted.nodes[-1] > 1:
        raise InputError("--forecast: nothing here tells how nodes are joined; add --link GB/s,us, or a second host")
    else:
        between, note = inside or free(), "one node: nothing is said between nodes"
    notes = [note, f"computing and updating: as measured here on {cases[0]['device']}"]
    return calibrate(cases, inside or free(), between, devices, again, crowded), notes, room_here()


def room_here() -> float | None:
    """GiB of one of this host's GPUs that may be used."""
    if not deepspeed_command.count_gpus():
        return None
    return memory.ROOM * torch.cuda.get_device_properties(0).total_memory / 2**30


def parse_link(text: str) -> Link | None:
    """The link in ``50,5``: GB/s of a node, and microseconds. Raises InputError for another form."""
    if not text:
        return None
    bandwidth, _, latency = text.partition(",")
    try:
        found = Link(float(latency or 10) * 1e-6, float(bandwidth) * 1e9)
    except ValueError:
        raise InputError(f"--link {text}: expected GB/s and microseconds, such as 50,5") from None
    if not (0 < found.bandwidth < math.inf and 0 <= found.latency < math.inf):
        raise InputError(f"--link {text}: expected numbers above 0")
    return found


def spelled(link: Link) -> str:
    return f"between nodes: {link.bandwidth / 1e9:g} GB/s and {link.latency * 1e6:g} us a hop"


def measure_links(bench: Bench) -> tuple[dict[str, Link] | None, dict[str, Link] | None]:
    """Links inside a node (None: of one rank) and between nodes (None: of one host), each by two messages.

    Between nodes the latency is that of one rank on each of two hosts, the bandwidth that of all their ranks together.
    """
    cluster = bench.cluster
    if cluster is None:
        ranks = bench.ranks if deepspeed_command.count_gpus() else max(2, min(bench.ranks, usable_cores()))
        return (fitted(bench, None, ranks) if ranks > 1 else None), None
    first = cluster.hosts[0]
    inside = fitted(bench, replace(cluster, hosts=(first,))) if len(first.slots) > 1 else None
    if len(cluster.hosts) == 1:
        return inside, None
    ones = tuple(replace(host, slots=host.slots[:1]) for host in cluster.hosts[:2])
    across = fitted(bench, replace(cluster, hosts=ones))
    if ones != cluster.hosts[:2]:
        whole = fitted(bench, replace(cluster, hosts=cluster.hosts[:2]))
        across = {name: Link(link.latency, whole[name].bandwidth) for name, link in across.items()}
    return inside, across


def free() -> dict[str, Link]:
    """Between a rank and itself."""
    return dict.fromkeys(PASSES, Link(0.0, 1e18))


def fitted(bench: Bench, cluster: Cluster | None, ranks: int = 0) -> dict[str, Link]:
    """Operation -> its link, measured by ranks that start as in training."""
    slots = [len(host.slots) for host in cluster.hosts] if cluster else [ranks]
    words = ["--fit", "--slots", ",".join(map(str, slots))]
    folder = bench.folder / "links"
    if cluster is None:
        start = deepspeed_command.start_ranks(COLLECTIVES, words, deepspeed_command.Ranks(ranks), bench.run.root)
    else:
        start = multinode.start_entry(cluster, bench.run.root, COLLECTIVES, words, folder)
    log = folder / "console.log"
    log.unlink(missing_ok=True)
    deepspeed_command.run(start.arguments, log, start.environment, watch=start.watch)
    for line in log.read_text(encoding="utf-8").splitlines():
        if MARK in line:
            return {name: Link(**values) for name, values in json.loads(line.partition(MARK)[2]).items()}
    raise deepspeed_command.TrainingFailed(f"ranks ended without a measurement of their links; see {log}")
