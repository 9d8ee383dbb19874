"""How a recipe would go on more nodes: what was measured here, put into the model of ``trainer.step_time``.

The student's FLOPs are counted, the packs of its own plan are dealt to the ranks that there would be, and the rates of
computing and updating are those of the cases that ``tracestill bench`` ran, or with ``--hardware`` a data sheet's.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch

from tracestill.data_pipeline.errors import InputError
from tracestill.data_pipeline.plan import PlanConfig, make_plan
from tracestill.data_pipeline.stage import read_manifest
from tracestill.data_pipeline.store import TokenStore
from tracestill.launch import deepspeed_command, multinode
from tracestill.launch.bench import Bench
from tracestill.launch.calibrate import RECOMPUTED, calibrate
from tracestill.launch.cluster import Cluster
from tracestill.launch.probe import MARK
from tracestill.trainer import memory
from tracestill.trainer.batches import row_length
from tracestill.trainer.hardware import EFFICIENCY, NODES, Link
from tracestill.trainer.recipe import Recipe
from tracestill.trainer.step_time import LIVE, PASSES, Machine, Task, foresee
from tracestill.trainer.weighting import make_weighting, table_at

STEPS = 8  # of the plan, over which predictions are averaged
STAGES = (0, 1, 2, 3)
COLLECTIVES = "tracestill.launch.collective"
Found = dict[str, Any]


@dataclass(frozen=True)
class Forecast:
    """What is to be foreseen."""

    nodes: Sequence[int]
    devices: int | None = None  # of a node; None: as measured, or the hardware's
    link: Link | None = None  # between nodes; None: as measured, or the hardware's
    hardware: str = ""  # of NODES; empty: what was measured


@dataclass
class Student:
    """What the model needs to know of a recipe: costs, sizes and documents."""

    recipe: Recipe
    store: TokenStore
    cost: Any  # trainer.flops.DecoderCost
    parameters: int
    tensors: int
    tied: int
    layers: int
    decoder: memory.Decoder | None  # for memory; None if the student is not of the kind that ``memory`` knows
    known: dict[tuple[int, int], tuple[np.ndarray, np.ndarray, bool]] = field(default_factory=dict)

    @classmethod
    def of(cls, bench: Bench) -> Student:
        """Raises InputError for a student or a training that the model does not know."""
        from tracestill.trainer.flops import cost_of
        from tracestill.trainer.student import auto_class, transformers_config
        from tracestill.trainer.student_check import pretrained_config

        recipe = bench.run.recipe.for_arm(bench.arm)
        own = recipe.student
        if own.lora or own.freeze:
            raise InputError("--foresee: student.lora, student.freeze: it knows students that are trained whole")
        if recipe.train.sequence_parallel > 1:
            raise InputError("--foresee: train.sequence_parallel: it knows nothing of ranks that share rows")
        encode = bench.run.stage(bench.arm, "encode")
        about = read_manifest(encode) or {}
        ids = {f"{name}_token_id": about["special_ids"][name] for name in ("bos", "eos", "pad")}
        more = {"vocab_size": about["vocab_size"], **ids}
        config = pretrained_config(own) if own.config is None else transformers_config(own.config, more)
        with torch.device("meta"):
            model = auto_class(own).from_config(config, dtype=torch.float32)
        cost = cost_of(model)
        if cost is None:
            raise InputError("--foresee: the FLOPs of this student cannot be counted")
        head = model.get_output_embeddings().weight
        shared = head is model.get_input_embeddings().weight
        return cls(
            recipe,
            TokenStore(encode / "tokens.arrow", recipe.span_kinds()),
            cost,
            sum(p.numel() for p in model.parameters()),
            len(list(model.parameters())),
            head.numel() if shared else 0,
            config.get_text_config(decoder=True).num_hidden_layers,
            decoder_of(config.get_text_config(decoder=True)),
        )

    def tasks(self, capacity: int, packs: int, ranks: int, zero: int, number: int, *, recompute: bool) -> list[Task]:
        """Steps of ``packs`` packs dealt to ``ranks``; ``number``: bytes of a parameter's number."""
        raw = self.recipe.deepspeed.get("zero_optimization", {})
        costs, sizes, _ = self.packs(capacity, packs)
        steps = -(-packs // ranks)
        loads = np.zeros((len(costs), steps * ranks))
        loads[:, :packs] = costs * (RECOMPUTED if recompute else 1)
        return [
            Task(
                self.parameters,
                load,
                float(count),
                zero=zero,
                parameter_bytes=number,
                layers=self.layers,
                tensors=self.tensors,
                tied=self.tied,
                overlap=raw.get("overlap_comm"),
                live=int(raw.get("stage3_max_live_parameters", LIVE)),
            )
            for load, count in zip(loads.reshape(len(costs), steps, ranks), sizes.sum(axis=1), strict=True)
        ]

    def packs(self, capacity: int, packs: int) -> tuple[np.ndarray, np.ndarray, bool]:
        """(steps, packs) FLOPs and tokens of the first steps of an epoch, 0 for an empty pack; and whether there are so
        few packs that they come again."""
        if (capacity, packs) not in self.known:
            own = self.recipe.plan
            # packs and their order do not depend on how many make a step, but for their groups
            config = PlanConfig(capacity=capacity, packs_per_step=own.packs_per_step, balance=own.balance)
            plan = make_plan(self.store.lengths, config, seed=self.recipe.seed, epoch=0)
            ids = plan.steps.ravel()
            again = len(ids) < STEPS * packs
            ids = np.resize(ids[ids >= 0] if again else ids, (STEPS, packs))
            costs, sizes = (np.zeros(plan.n_packs + 1) for _ in range(2))  # the last is the empty pack, -1
            for pack in np.unique(ids[ids >= 0]):
                costs[pack], sizes[pack] = self.cost_of_pack(plan.pack(int(pack)))
            self.known[capacity, packs] = costs[ids], sizes[ids], again
        return self.known[capacity, packs]

    def cost_of_pack(self, documents: np.ndarray) -> tuple[float, int]:
        """FLOPs and tokens of a pack."""
        weighting = make_weighting(self.recipe.weighting, self.recipe.span_kinds(), self.recipe.seed)
        weighs = table_at(weighting, 0, len(self.store.kind_names)) != 0
        lengths = self.store.lengths[documents]
        tokens = int(lengths.sum())
        weighted = float(self.store.counts[documents][:, weighs].sum())
        padding = row_length(tokens) - tokens
        return self.cost.of(lengths) + self.cost.linear * padding + self.cost.head * weighted, tokens

    def memory_gib(self, capacity: int, ranks: int, zero: int, number: int, *, recompute: bool) -> float | None:
        """Of one rank, by ``trainer.memory``."""
        if self.decoder is None:
            return None
        rows = self.recipe.train.chunk_rows
        setting = memory.Setting(capacity, ranks, zero=zero, bytes=number, recompute=recompute, chunk_rows=rows)
        return memory.estimate(self.decoder, setting)["peak"] / 2**30


def decoder_of(config: Any) -> memory.Decoder | None:
    names = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "vocab_size")
    if config.model_type not in ("llama", "qwen2", "qwen3", "mistral") or not all(hasattr(config, n) for n in names):
        return None
    heads = config.num_attention_heads
    return memory.Decoder(
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        heads=heads,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        vocabulary=config.vocab_size,
        tied=bool(config.tie_word_embeddings),
        qk_norm=config.model_type == "qwen3",
    )


def foresee_nodes(bench: Bench, student: Student, found: Found, wanted: Forecast) -> Found:
    """Throughput for each ZeRO stage and number of nodes: the recipe's step shared by all (``strong``), and growing
    with them (``weak``). Raises InputError for a link that is neither measured nor stated."""
    plan, own = student.recipe.plan, student.recipe.student
    capacity, packs, recompute = plan.capacity, plan.packs_per_step, own.activation_checkpointing
    if "recommended" in found:
        setting = next(c["setting"] for c in found["cases"] if c["setting"]["name"] == found["recommended"]["name"])
        capacity, packs, recompute = setting["capacity"], setting["packs"], setting["recompute"]
    machine, notes, room = choose_machine(bench, found, wanted)
    fp32 = any(case.get("precision") == "float32" for case in found.get("cases", ()))
    fp32 |= student.recipe.train.precision == "fp32"
    number = 4 if fp32 else 2
    anchors = Anchors.of(results_of(found, capacity, recompute=recompute), student, machine, number)
    if note := anchors.note():
        notes.append(note)
    most = wanted.nodes[-1] * machine.devices
    if most > packs:
        notes.append(f"strong: a step has {packs} pack(s), so of {most} ranks that read one each the others are idle")
    if student.packs(capacity, packs * wanted.nodes[-1])[2]:
        notes.append("the data make so few packs that they come again")
    result: Found = {"nodes": list(wanted.nodes), "devices": machine.devices, "notes": notes, "strong": {}, "weak": {}}
    result["machine"] = asdict(machine)
    for how in ("strong", "weak"):
        for stage in STAGES if fp32 else STAGES[1:]:  # ZeRO 0 trains in fp32 only
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
    times = [foresee(task, machine) for task in tasks]
    parts = ("data", "compute", "optimizer", "communication", "hidden")
    return {
        "tokens_per_second": sum(t.tokens for t in times) / sum(t.step for t in times),
        "step_seconds": sum(t.step for t in times) / len(times),
        "split": {name: sum(getattr(t, name) for t in times) / len(times) for name in parts},
    }


def choose_machine(bench: Bench, found: Found, wanted: Forecast) -> tuple[Machine, list[str], float | None]:
    """The cluster to foresee, what is to be said about it, and the GiB of one of its devices that may be used (None:
    not known)."""
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
    devices = wanted.devices or max(case["ranks"] // case["nodes"] for case in cases)
    inside, across = measure_links(bench)
    if inside is None and devices > 1:
        raise InputError("--devices: one rank says nothing about links inside of a node; measure on two or more")
    if wanted.link:
        between, note = dict.fromkeys(PASSES, wanted.link), spelled(wanted.link)
    elif across is not None:
        between, note = across, "between nodes: as measured between two hosts"
    elif bench.cluster is None and inside is not None and not deepspeed_command.count_gpus():
        between, note = inside, "between nodes: as fast as inside of this one; say otherwise with --link GB/s,us"
    elif wanted.nodes[-1] > 1:
        raise InputError("--foresee: nothing here tells how nodes are joined; add --link GB/s,us, or a second host")
    else:
        between, note = inside or free(), "one node: nothing is said between nodes"
    notes = [note, f"computing and updating: as measured here on {cases[0]['device']}"]
    return calibrate(cases, inside or free(), between, devices), notes, room_here()


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
        ranks = bench.ranks if deepspeed_command.count_gpus() else max(2, bench.ranks)
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
        start = deepspeed_command.start_ranks(COLLECTIVES, words, ranks)
    else:
        start = multinode.start_entry(cluster, bench.run.root, COLLECTIVES, words, folder)
    log = folder / "console.log"
    log.unlink(missing_ok=True)
    deepspeed_command.run(start.arguments, log, start.environment, watch=start.watch)
    for line in log.read_text(encoding="utf-8").splitlines():
        if MARK in line:
            return {name: Link(**values) for name, values in json.loads(line.partition(MARK)[2]).items()}
    raise deepspeed_command.TrainingFailed(f"ranks ended without a measurement of their links; see {log}")
