"""What a forecast needs to know of a recipe's student: FLOPs of its own packs, sizes, and what of it learns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.stage import read_manifest
from tracestill.data_pipeline.plan.plan import PlanConfig
from tracestill.data_pipeline.plan.plan_stage import planner_of
from tracestill.data_pipeline.tokens.store import TokenStore
from tracestill.launch.bench.bench import Bench
from tracestill.trainer.batches.batches import row_length
from tracestill.trainer.recipe.recipe import Recipe
from tracestill.trainer.recipe.run_directory import open_channels
from tracestill.trainer.recipe.settings import BUCKET
from tracestill.trainer.timing import memory
from tracestill.trainer.timing.own_texts import own_texts
from tracestill.trainer.timing.step_time import LIVE, PERSISTENT, Machine, Task
from tracestill.trainer.weighting import TargetWeights, Weighting, make_weighting

STEPS = 8  # of the plan, over which predictions are averaged


@dataclass
class Student:
    """What the model needs to know of a recipe: costs, sizes and documents."""

    recipe: Recipe
    store: TokenStore
    cost: Any  # trainer.flops.DecoderCost
    parameters: int
    trained: int  # of them; adapters are among both
    sizes: tuple[int, ...]  # elements of each tensor
    trained_tensors: int  # how many of them learn
    tied: int
    layers: int
    decoder: memory.Decoder | None  # for memory; None if the student is not of the kind that ``memory`` knows
    learning: memory.Learning | None  # None: all of it learns
    scores: Mapping[str, Path]  # scorer -> its channels, of those that the plan reads
    weighting: Weighting
    known: dict[tuple[int, int, bool], tuple[np.ndarray, np.ndarray, bool]] = field(default_factory=dict)

    @classmethod
    def of(cls, bench: Bench) -> Student:
        """Raises InputError for a student or a training that the model does not know."""
        from tracestill.trainer.metrics.flops import cost_of, layers_of
        from tracestill.trainer.student.adapt import choose_parameters
        from tracestill.trainer.student.check import bare_model, pretrained_config
        from tracestill.trainer.student.student import transformers_config

        recipe = bench.run.recipe.for_arm(bench.arm)
        own = recipe.student
        if recipe.train.sequence_parallel > 1:
            raise InputError("--forecast: train.sequence_parallel: it knows nothing of ranks that share rows")
        for key in ("quantize", "dora"):
            if own.lora and getattr(own.lora, key):
                raise InputError(f"--forecast: student.lora.{key}: it knows nothing of what that computes and keeps")
        encode = bench.run.stage(bench.arm, "encode")
        about = read_manifest(encode) or {}
        ids = {f"{name}_token_id": about["special_ids"][name] for name in ("bos", "eos", "pad")}
        more = {"vocab_size": about["vocab_size"], **ids}
        config = pretrained_config(own) if own.config is None else transformers_config(own.config, more)
        with torch.device("meta"):
            model = bare_model(own, config)
            choose_parameters(model, own, seed=0)
        cost = cost_of(model)
        if cost is None:
            raise InputError("--forecast: the FLOPs of this student cannot be counted")
        head = model.get_output_embeddings().weight
        shared = head is model.get_input_embeddings().weight
        text = config.get_text_config(decoder=True)
        decoder, trained = memory.decoder_of(text), sum(p.numel() for p in model.parameters() if p.requires_grad)
        learning = None
        if decoder is not None and not all(p.requires_grad for p in model.parameters()):
            learning = learning_of(layers_of(model.get_decoder(), text), cost.first, head.requires_grad)
            every = sum(p.numel() for p in model.parameters())
            learning = replace(learning, trained=trained, added=every - decoder.parameters)
        store = TokenStore(encode / "tokens.arrow", recipe.span_kinds())
        read = open_channels(bench.run, bench.arm, store, bench.run.scores_read(bench.arm))
        return cls(
            recipe,
            store,
            cost,
            sum(p.numel() for p in model.parameters()),
            trained,
            tuple(p.numel() for p in model.parameters()),
            sum(p.requires_grad for p in model.parameters()),
            head.numel() if shared else 0,
            text.num_hidden_layers,
            decoder,
            learning,
            bench.run.scores_planned(bench.arm),
            make_weighting(recipe.weighting, recipe.span_kinds(), recipe.seed, read),
        )

    def tasks(self, capacity: int, packs: int, ranks: int, zero: int, number: int, *, recompute: bool) -> list[Task]:
        """Steps of ``packs`` packs dealt to ``ranks``; ``number``: bytes of a parameter's number."""
        raw = self.recipe.deepspeed.get("zero_optimization", {})
        costs, sizes, _ = self.packs(capacity, packs, recompute=recompute)
        steps = -(-packs // ranks)
        most = int(raw.get("stage3_param_persistence_threshold", PERSISTENT))
        kept = [size for size in self.sizes if size <= most]
        loads = np.zeros((len(costs), steps * ranks))
        loads[:, :packs] = costs
        return [
            Task(
                self.parameters,
                load,
                float(count),
                zero=zero,
                parameter_bytes=number,
                layers=self.layers,
                tensors=len(self.sizes),
                kept=sum(kept),
                kept_tensors=len(kept),
                tied=self.tied,
                frozen=self.parameters - self.trained,
                overlap=raw.get("overlap_comm"),
                live=int(raw.get("stage3_max_live_parameters", LIVE)),
                **self.reduced(zero, number),
            )
            for load, count in zip(loads.reshape(len(costs), steps, ranks), sizes.sum(axis=1), strict=True)
        ]

    def reduced(self, zero: int, number: int) -> dict[str, Any]:
        """How the recipe has gradients reduced, as far as DeepSpeed heeds it: not at ZeRO 0, nor at 1 in half
        precision, which is another class and reduces to all. A tensor is never cut."""
        raw = self.recipe.deepspeed.get("zero_optimization", {})
        if zero == 0 or (zero, number) == (1, 2):
            return {"to_owners": False, "bucket": BUCKET}
        to_all, bucket = raw.get("use_multi_rank_bucket_allreduce"), raw.get("reduce_bucket_size")
        most = None if bucket is None else max(int(bucket), -(-self.trained // self.trained_tensors))
        return {"to_owners": None if to_all is None else not to_all, "bucket": most}

    def launched(self, capacity: int, packs: int, machine: Machine, zero: int, *, recompute: bool) -> bool:
        """Whether hosts take longer to launch a micro-step than devices take to compute a mean pack."""
        costs, sizes, _ = self.packs(capacity, packs, recompute=recompute)
        return self.layers * machine.launch.get(zero, 0.0) > costs[sizes > 0].mean() / machine.rate

    def recomputed(self, capacity: int, packs: int) -> float:
        """FLOPs of these packs where layers are computed again, over those where they are not."""
        plain, again = (self.packs(capacity, packs, recompute=way)[0].sum() for way in (False, True))
        return float(again / plain)

    def packs(self, capacity: int, packs: int, *, recompute: bool = False) -> tuple[np.ndarray, np.ndarray, bool]:
        """(steps, packs) FLOPs and tokens of the first steps of an epoch, 0 for an empty pack; and whether there are so
        few packs that they come again."""
        if (capacity, packs, recompute) not in self.known:
            own = self.recipe.plan
            # packs and their order do not depend on how many make a step, but for their groups
            same = {"balance": own.balance, "keep": own.keep, "mixture": own.mixture, "order": own.order}
            config = PlanConfig(capacity=capacity, packs_per_step=own.packs_per_step, **same)
            plan = planner_of(self.store.path.parent, config, self.recipe.seed, self.scores).plan(0)
            ids = plan.steps.ravel()
            again = len(ids) < STEPS * packs
            ids = np.resize(ids[ids >= 0] if again else ids, (STEPS, packs))
            costs, sizes = (np.zeros(plan.n_packs + 1) for _ in range(2))  # the last is the empty pack, -1
            for pack in np.unique(ids[ids >= 0]):
                costs[pack], sizes[pack] = self.cost_of_pack(plan.pack(int(pack)), recompute=recompute)
            self.known[capacity, packs, recompute] = costs[ids], sizes[ids], again
        return self.known[capacity, packs, recompute]

    def cost_of_pack(self, documents: np.ndarray, *, recompute: bool) -> tuple[float, int]:
        """FLOPs and tokens of a pack."""
        lengths = self.store.lengths[documents]
        tokens = int(lengths.sum())
        weights, distil = TargetWeights(self.store, self.weighting), self.recipe.distil
        table = weights.table(0)
        if distil is not None and (mix := distil.mix_at(0)):  # the head looks at rows of either weight
            table = table * (mix < 1) + distil.table(self.recipe.span_kinds(), 0)
        weighted = weights.of_pack(documents, 0, table).counted.weighted
        padding = row_length(tokens) - tokens
        padded = (self.cost.linear + (self.cost.again if recompute else 0)) * padding
        return self.cost.of(lengths, recompute=recompute) + padded + self.cost.head * weighted, tokens

    def memory_gib(self, capacity: int, ranks: int, zero: int, number: int, *, recompute: bool) -> float | None:
        """Of one rank, by ``timing.memory``."""
        if self.decoder is None:
            return None
        train = self.recipe.train
        bucket = self.recipe.deepspeed.get("zero_optimization", {}).get("reduce_bucket_size")
        setting = memory.Setting(
            capacity,
            ranks,
            zero=zero,
            bucket=None if bucket is None else int(bucket),
            bytes=number,
            recompute=recompute,
            chunk_rows=train.chunk_rows,
            learning=self.learning,
            optimizer=train.optimizer.use,
            host_optimizer=train.offload.optimizer != "none",
            host_parameters=train.offload.parameters != "none",
            **self.teacher(ranks),
        )
        return memory.estimate(self.decoder, setting)["peak"] / 2**30

    def teacher(self, ranks: int) -> dict[str, Any]:
        """What ``memory`` counts of a model that is followed, and of texts that the student writes to learn from."""
        if self.recipe.distil is not None:
            return {"entries": self.recipe.score[self.recipe.distil.scorer].k}
        return own_texts(self.recipe, ranks)


def learning_of(layers: Sequence[nn.Module], first: int, head: bool) -> memory.Learning:
    """What of a student's layers learns, as ``memory`` counts what is kept of them; ``first`` is the first that a
    gradient reaches."""
    found = []
    for place, layer in enumerate(layers):
        learns = [name for name, p in layer.named_parameters() if p.requires_grad]
        ranks = {name: p.shape[0] for name, p in layer.named_parameters() if ".lora_A." in name}
        found.append(
            memory.Layer(
                reached=place >= first,
                attention_input=any(f".{m}." in f".{name}" for name in learns for m in ("q_proj", "k_proj", "v_proj")),
                mlp_input=any(f".{m}." in f".{name}" for name in learns for m in ("gate_proj", "up_proj")),
                mlp_product=any(".down_proj." in f".{name}" for name in learns),
                norms=any("norm" in name for name in learns),
                ranks=sum(ranks.values()),
            )
        )
    return memory.Learning(tuple(found), head=head)
