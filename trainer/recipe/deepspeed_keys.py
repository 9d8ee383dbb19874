"""What a recipe's ``deepspeed`` block may hold. Imports neither torch nor deepspeed, so a recipe is checked at once."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.kinds import nearest
from tracestill.trainer.recipe import offload

VERSION = "0.19.8"  # of DeepSpeed, whose keys these are

OWNED = {
    "train_batch_size": "a step's size follows from plan.capacity and plan.packs_per_step",
    "train_micro_batch_size_per_gpu": "a micro-step is one pack; set plan.capacity",
    "gradient_accumulation_steps": "it follows from plan.packs_per_step and the number of ranks",
    "managed_gradient_accumulation": "the trainer counts micro-steps",
    "gradient_clipping": "set train.clip",
    "gradient_allreduce_op": "the gradient is the sum over all ranks",
    "prescale_gradients": "the trainer undoes DeepSpeed's averaging",
    "gradient_predivide_factor": "the trainer undoes DeepSpeed's averaging",
    "optimizer": "set train.lr, train.betas, train.eps and train.weight_decay",
    "scheduler": "set train.schedule, train.warmup and train.lr",
    "fp16": "fp16 training is not supported; set train.precision: bf16",
    "bf16": "set train.precision",
    "bfloat16": "set train.precision",
    "torch_autocast": "set train.precision",
    "data_types": "gradients are accumulated in fp32",
    "sequence_parallel_size": "set train.sequence_parallel",
    "data_parallel_size": "it follows from the number of ranks and train.sequence_parallel",
    "seq_parallel_communication_data_type": "gradients are reduced as without train.sequence_parallel",
    "tensorboard": "set train.monitor.tensorboard",
    "wandb": "set train.monitor.wandb",
    "comet": "set train.monitor.comet",
    "csv_monitor": "train/log.jsonl holds every number",
    "autotuning": "it ends the training and writes where it was started; `tracestill bench` finds the fastest setting",
    "checkpoint": "set train.async_save, train.checkpoint_every and train.keep",
    "data_efficiency": "documents are chosen by select and ordered by the plan",
    "dataloader_drop_last": "documents are chosen by select and ordered by the plan",
    "datastates_ckpt": "train.async_save writes checkpoints while training goes on",
    "hybrid_engine": "it is for reinforcement learning; leave it out",
    "pipeline": "layers are not split among ranks",
    "tensor_parallel": "AutoTP compares the first micro-step among ranks, fails on ours and leaves a rank waiting; "
    "and a checkpoint would hold pieces of layers. train.zero: 3 splits parameters, train.sequence_parallel rows",
    "expert_parallel": "AutoEP finds no experts in the student, and does nothing; train.zero: 3 splits experts too",
    "compile": "set student.compile; DeepCompile refuses the sum of gradients (gradient_allreduce_op) at train.zero 0 "
    "to 2, and needs a GPU",
    "zero_optimization.stage": "set train.zero",
    "zero_optimization.cpu_offload": "set train.offload.optimizer: cpu",
    "zero_optimization.cpu_offload_param": "set train.offload.parameters: cpu",
    "zero_optimization.cpu_offload_use_pin_memory": "set train.offload.pin",
    "zero_optimization.zenflow": "a step would update the parameters with the largest gradients only, and the others "
    "later, by sums of old ones; leave it out",
}
"""Keys of the DeepSpeed config that a recipe's ``deepspeed`` block may not set, and what to set instead."""

REMOVED = {
    "amp": "set train.precision",
    "compression_training": "it would train an uncompressed student; compress the exported one",
    "curriculum_learning": "order and lengths are the plan's; weighting.use: steps_last_first makes it harder by steps",
    "eigenvalue": "leave it out",
    "elasticity": "any number of ranks does the same steps; `tracestill train --max-restarts N --elastic` goes on "
    "without a lost host",
    "graph_harvesting": "leave it out; student.compile compiles layers",
    "nebula": "train.async_save writes checkpoints while training goes on",
    "progressive_layer_drop": "leave it out",
    "quantize_training": "leave it out; compress the exported student",
    "sparse_attention": "set student.attention",
    "sparse_gradients": "leave it out",
    "zero_optimization.mics_hierarchical_params_gather": "set zero_optimization.zero_hpz_partition_size",
    "zero_optimization.mics_shard_size": "set zero_optimization.zero_hpz_partition_size",
    "zero_optimization.zeropp_loco_param": "leave it out; zero_quantized_gradients works without it",
}
"""Keys that DeepSpeed once read and now refuses, when its engine is built, and what to do instead."""

BLOCK, SWITCH, NUMBER, TEXT = "a mapping", "true or false", "a whole number", "a text"
OTHERS = {
    "activation_checkpointing": BLOCK,
    "aio": BLOCK,
    "comms_logger": BLOCK,
    "communication_data_type": TEXT,
    "disable_allgather": SWITCH,
    "disable_python_gc": SWITCH,
    "dump_state": SWITCH,
    "flops_profiler": BLOCK,
    "log_level": TEXT,
    "memory_breakdown": SWITCH,
    "steps_per_print": NUMBER,
    "timers": BLOCK,
    "use_data_before_expert_parallelism": SWITCH,
    "vocabulary_size": NUMBER,
    "wall_clock_breakdown": SWITCH,
    "weight_quantization": BLOCK,
    "zero_allow_untested_optimizer": SWITCH,
    "zero_force_ds_cpu_optimizer": SWITCH,
    "zero_optimization": BLOCK,
}
"""The other keys that DeepSpeed reads, and what they hold; it passes over every further one without a word."""
TYPES: dict[str, tuple[type, ...]] = {BLOCK: (Mapping,), SWITCH: (bool,), NUMBER: (int,), TEXT: (str,)}
LEVELS = ("debug", "info", "warning", "error", "critical")  # of log_level

PATHS = ("flops_profiler.output_file",)
"""Keys of OTHERS that name a file which DeepSpeed writes."""
FOLDER = "deepspeed"  # of the train directory, where these files lie


def check(raw: Mapping[str, Any]) -> None:
    """Raises InputError for a key that the trainer owns or DeepSpeed has removed, saying what to set instead, for one
    that nobody reads, and for a path that leads out of the run."""
    for key, value in raw.items():
        if (expected := OTHERS.get(key)) and not is_a(value, expected):
            raise InputError(f"deepspeed.{key}: expected {expected}, got {value!r}")
    for key, instead in {**OWNED, **REMOVED}.items():
        outer, _, inner = key.rpartition(".")
        if inner in (raw.get(outer, {}) if outer else raw):
            gone = f"DeepSpeed has removed it ({VERSION} refuses it); " if key in REMOVED else ""
            raise InputError(f"deepspeed.{key}: {gone}{instead}")
    for key in raw:
        if key not in OTHERS:
            known = [*OTHERS, *OWNED, *REMOVED]
            raise InputError(f"deepspeed.{key}: DeepSpeed knows no such key{nearest(str(key), known)}")
    if (level := raw.get("log_level", "info")) not in LEVELS:
        raise InputError(f"deepspeed.log_level: expected one of {', '.join(LEVELS)}, got {level!r}")
    for key, (only, reason) in offload.REFUSED.items():
        block = f"zero_optimization.{offload.BLOCKS['optimizer']}"
        if value_at(raw, f"{block}.{key}") not in (None, only):
            raise InputError(f"deepspeed.{block}.{key}: {reason}; leave it out")
    for key in PATHS:
        check_path(f"deepspeed.{key}", value_at(raw, key))


def is_a(value: Any, expected: str) -> bool:
    return isinstance(value, TYPES[expected]) and not (expected == NUMBER and isinstance(value, bool))


def value_at(raw: Mapping[str, Any], key: str) -> Any:
    """The value of a dotted key; None if it is not there."""
    value: Any = raw
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def check_path(field: str, value: Any) -> None:
    """Raise InputError unless a path stays below the directory that it will be put into."""
    if value is None or value == "":
        return
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise InputError(f"{field}: expected the name of a file, got {value!r}")
    path = PurePosixPath(value)
    out = path.is_absolute() or PureWindowsPath(value).drive or value.startswith("~") or ".." in path.parts
    if out or path == PurePosixPath("."):
        raise InputError(
            f"{field}: leads out of the run directory, got {value!r}; give a name such as flops.txt, which is written "
            f"into the train directory's folder {FOLDER}"
        )


def placed(raw: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    """A copy of the block whose paths lie in ``directory``, that of an arm's training.

    Raises InputError for a path that leads out of it by a link.
    """
    found = copy.deepcopy(dict(raw))
    for key in PATHS:
        if not (value := value_at(found, key)):
            continue
        check_path(f"deepspeed.{key}", value)
        path = directory / FOLDER / value
        if directory.resolve() not in path.resolve().parents:
            raise InputError(f"deepspeed.{key}: {path} leads out of {directory} by a link; delete that")
        outer, _, inner = key.rpartition(".")
        value_at(found, outer)[inner] = str(path.absolute())
    return found
