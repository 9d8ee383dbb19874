"""How a recipe would go on more nodes: what was measured here, put into the model of ``trainer.step_time``.

The student's FLOPs are counted, the packs of its own plan are dealt to the ranks that there would be, and the rates of
computing and updating are those of the cases that ``tracestill bench`` ran, or with ``--hardware`` a data sheet's.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
from tracestill.trainer.step_time import PASSES, Machine, Task, foresee
from tracestill.trainer.weighting import make_weighting, table_at

STEPS = 8  # of the plan, over which predictions are averaged
STAGES = (0, 1, 2, 3)
COLLECTIVES = "tracestill.launch.collective"
Found = dict[str, Any]


@dataclass
class Student:
    """What the model needs to know of a recipe: costs, sizes and documents."""

    recipe: Recipe
    store: TokenStore
    cost: Any  # trainer.flops.DecoderCost
    parameters: int
    tied: int
    layers: int
    decoder: memory.Decoder | None  # for memory; None if the student is not of the kind that ``memory`` knows

    @classmethod
    def of(cls, bench: Bench) -> Student:
        """Raises InputError for a student whose FLOPs cannot be counted."""
        from tracestill.trainer.flops import cost_of
        from tracestill.trainer.student import auto_class, transformers_config
        from tracestill.trainer.student_check import pretrained_config

        recipe = bench.run.recipe.for_arm(bench.arm)
        encode = bench.run.stage(bench.arm, "encode")
        about = read_manifest(encode) or {}
        more = {"vocab_size": about["vocab_size"]}
        own = recipe.student
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
            head.numel() if shared else 0,
            config.get_text_config(decoder=True).num_hidden_layers,
            decoder_of(config.get_text_config(decoder=True)),
        )

    def tasks(self, capacity: int, packs: int, ranks: int, zero: int, number: int, *, recompute: bool) -> list[Task]:
        """The first steps of the plan, dealt to ``ranks``; ``number``: bytes of a parameter's number."""
        raw = self.recipe.deepspeed.get("zero_optimization", {})
        parts = self.recipe.train.sequence_parallel
        readers = max(1, ranks // parts)
        loads, tokens = self.packs(capacity, packs, readers)
        found = []
        for load, count in zip(loads * (RECOMPUTED if recompute else 1), tokens, strict=True):
            shared = np.repeat(load, parts, axis=1) / parts
            found.append(
                Task(
                    self.parameters,
                    shared,
                    float(count),
                    zero=zero,
                    parameter_bytes=number,
                    layers=self.layers,
                    tied=self.tied,
                    overlap=raw.get("overlap_comm"),
                    live=int(raw.get("stage3_max_live_parameters", 1e9)),
                )
            )
        return found

    def packs(self, capacity: int, packs: int, readers: int) -> tuple[np.ndarray, np.ndarray]:
        """(steps, A, readers) FLOPs, and (steps,) tokens."""
        plan = make_plan(self.store.lengths, PlanConfig(capacity=capacity, packs_per_step=packs), seed=0, epoch=0)
        weighting = make_weighting(self.recipe.weighting, self.recipe.span_kinds(), self.recipe.seed)
        weighs = table_at(weighting, 0, len(self.store.kind_names)) != 0
        costs, sizes = np.zeros(plan.n_packs + 1), np.zeros(plan.n_packs + 1)  # the last is the empty pack, -1
        for pack in range(plan.n_packs):
            documents = plan.pack(pack)
            lengths = self.store.lengths[documents]
            weighted = float(self.store.counts[documents][:, weighs].sum())
            padding = row_length(int(lengths.sum())) - int(lengths.sum())
            costs[pack] = self.cost.of(lengths) + self.cost.linear * padding + self.cost.head * weighted
            sizes[pack] = lengths.sum()
        steps = -(-packs // readers)
        slots: np.ndarray = np.full((STEPS, steps * readers), -1)
        if plan.n_packs < STEPS * packs:  # little data: its packs come again
            slots[:, :packs] = np.resize(np.arange(plan.n_packs), (STEPS, packs))
        else:
            slots[:, :packs] = plan.steps[:STEPS]
        slots = slots.reshape(STEPS, steps, readers)
        return costs[slots], sizes[slots].sum(axis=(1, 2))

    def memory_gib(self, capacity: int, ranks: int, zero: int, number: int, *, recompute: bool) -> float | None:
        """Of one rank, by ``trainer.memory``."""
        if self.decoder is None:
            return None
        train = self.recipe.train
        setting = memory.Setting(
            capacity,
            ranks=ranks,
            sequence_parallel=min(train.sequence_parallel, ranks),
            zero=zero,
            bytes=number,
            recompute=recompute,
            chunk_rows=train.chunk_rows,
        )
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


def foresee_nodes(
    bench: Bench, found: Found, nodes: Sequence[int], *, devices: int | None, link: str, hardware: str
) -> Found:
    """Throughput for each ZeRO stage and number of nodes: the recipe's step shared by all (``strong``), and growing
    with them (``weak``). Raises InputError for a student or an option that cannot be used."""
    student = Student.of(bench)
    plan, own = student.recipe.plan, student.recipe.student
    capacity, packs, recompute = plan.capacity, plan.packs_per_step, own.activation_checkpointing
    if "recommended" in found:
        setting = next(c["setting"] for c in found["cases"] if c["setting"]["name"] == found["recommended"]["name"])
        capacity, packs, recompute = setting["capacity"], setting["packs"], setting["recompute"]
    machine, notes, room = choose_machine(bench, found, devices, link, hardware)
    if (most := nodes[-1] * machine.devices // student.recipe.train.sequence_parallel) > packs:
        notes.append(f"strong: a step has {packs} pack(s), so of {most} ranks that read one each the others are idle")
    fp32 = not hardware and any(case.get("precision") == "float32" for case in found["cases"])
    number = 4 if fp32 else 2
    result: Found = {"nodes": list(nodes), "devices": machine.devices, "notes": notes, "strong": {}, "weak": {}}
    for how in ("strong", "weak"):
        for stage in STAGES if fp32 else STAGES[1:]:  # ZeRO 0 trains in fp32 only
            points: list[Found] = []
            for count in nodes:
                ranks = count * machine.devices
                grown = packs * (count if how == "weak" else 1)
                tasks = student.tasks(capacity, grown, ranks, stage, number, recompute=recompute)
                held = student.memory_gib(capacity, ranks, stage, number, recompute=recompute)
                about = {"nodes": count, "ranks": ranks, "memory_gib": held, "room_gib": room}
                points.append({**about, **mean(tasks, machine)})
                first = points[0]
                points[-1]["efficiency"] = (points[-1]["tokens_per_second"] / count) / (
                    first["tokens_per_second"] / first["nodes"]
                )
            result[how][str(stage)] = points
    return result


def mean(tasks: Sequence[Task], machine: Machine) -> Found:
    """What a mean of these steps would take."""
    times = [foresee(task, machine) for task in tasks]
    parts = ("data", "compute", "optimizer", "communication", "hidden")
    return {
        "tokens_per_second": sum(t.tokens for t in times) / sum(t.step for t in times),
        "step_seconds": sum(t.step for t in times) / len(times),
        "split": {name: sum(getattr(t, name) for t in times) / len(times) for name in parts},
    }


def choose_machine(
    bench: Bench, found: Found, devices: int | None, link: str, hardware: str
) -> tuple[Machine, list[str], float | None]:
    """The cluster to foresee, what is to be said about it, and the GiB of one of its devices (None: not known)."""
    stated = parse_link(link)
    if hardware:
        if hardware not in NODES:
            raise InputError(f"--hardware {hardware}: unknown; choose one of {', '.join(NODES)}")
        node = NODES[hardware]
        between = stated or node.between
        machine = Machine(
            node.peak * EFFICIENCY[hardware],
            node.bandwidth,
            dict.fromkeys(PASSES, node.inside),
            dict.fromkeys(PASSES, between),
            devices or node.devices,
        )
        note = f"{hardware}: {EFFICIENCY[hardware]:.0%} of {node.peak / 1e12:.0f} TFLOP/s assumed; {spelled(between)}"
        return machine, [note], node.memory / 2**30
    cases = [case for case in found["cases"] if "problem" not in case]
    here = max(case["ranks"] // case["nodes"] for case in cases)
    links, across = measure_links(bench)
    if across is None and stated is None:
        notes = ["between nodes: taken to be as fast as inside of one; say otherwise with --link GB/s,us"]
    else:
        notes = [f"between nodes: {spelled(stated) if stated else 'as measured between two hosts'}"]
    to_others = dict.fromkeys(PASSES, stated) if stated else across or links
    machine = calibrate(cases, links, to_others, devices or here)
    notes.append(f"computing and updating: as measured here on {cases[0]['device']}")
    return machine, notes, None


def parse_link(text: str) -> Link | None:
    """The link in ``50,5``: GB/s, and microseconds. Raises InputError for another form."""
    if not text:
        return None
    try:
        bandwidth, _, latency = text.partition(",")
        found = Link(float(latency or 10) * 1e-6, float(bandwidth) * 1e9)
    except ValueError:
        raise InputError(f"--link {text}: expected GB/s and microseconds, such as 50,5") from None
    if found.bandwidth <= 0 or found.latency < 0:
        raise InputError(f"--link {text}: expected numbers above 0")
    return found


def spelled(link: Link) -> str:
    return f"{link.bandwidth / 1e9:g} GB/s and {link.latency * 1e6:g} us a hop between nodes"


def measure_links(bench: Bench) -> tuple[dict[str, Link], dict[str, Link] | None]:
    """Links inside a node and between nodes (None without a second host): the model's constants, by two messages."""
    cluster = bench.cluster
    if cluster is None:
        ranks = max(2, bench.ranks) if not deepspeed_command.count_gpus() else bench.ranks
        return (fitted(bench, None, ranks) if ranks > 1 else free()), None
    first = cluster.hosts[0]
    inside = free()
    if len(first.slots) > 1:
        inside = fitted(bench, replace(cluster, hosts=(first,)))
    if len(cluster.hosts) == 1:
        return inside, None
    ones = tuple(replace(host, slots=host.slots[:1]) for host in cluster.hosts[:2])
    return inside, fitted(bench, replace(cluster, hosts=ones))


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
