"""What a recipe's ``deepspeed`` block may hold. Imports neither torch nor deepspeed, so a recipe is checked at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tracestill.data_pipeline.errors import InputError
from tracestill.data_pipeline.kinds import nearest

OWNED = {
    "train_batch_size": "a step's size follows from plan.capacity and plan.packs_per_step",
    "train_micro_batch_size_per_gpu": "a micro-step is one pack; set plan.capacity",
    "gradient_accumulation_steps": "it follows from plan.packs_per_step and the number of ranks",
    "managed_gradient_accumulation": "the trainer counts micro-steps",
    "gradient_clipping": "set train.clip",
    "gradient_allreduce_op": "the trainer undoes DeepSpeed's averaging",
    "prescale_gradients": "the trainer undoes DeepSpeed's averaging",
    "gradient_predivide_factor": "the trainer undoes DeepSpeed's averaging",
    "optimizer": "set train.lr, train.betas, train.eps and train.weight_decay",
    "scheduler": "set train.schedule, train.warmup and train.lr",
    "fp16": "fp16 training is not supported; set train.precision: bf16",
    "bf16": "set train.precision",
    "bfloat16": "set train.precision",
    "amp": "set train.precision",
    "torch_autocast": "set train.precision",
    "data_types": "gradients are accumulated in fp32",
    "sequence_parallel_size": "set train.sequence_parallel",
    "data_parallel_size": "it follows from the number of ranks and train.sequence_parallel",
    "seq_parallel_communication_data_type": "gradients are reduced as without train.sequence_parallel",
    "tensorboard": "set train.monitor.tensorboard",
    "wandb": "set train.monitor.wandb",
    "comet": "set train.monitor.comet",
    "csv_monitor": "train/log.jsonl holds every number",
    "zero_optimization.stage": "set train.zero",
    "zero_optimization.offload_optimizer": "offloading is not supported",
    "zero_optimization.offload_param": "offloading is not supported",
    "zero_optimization.cpu_offload": "offloading is not supported",
    "zero_optimization.zenflow": "offloading is not supported",
}
"""Keys of the DeepSpeed config that a recipe's ``deepspeed`` block may not set, and what to set instead."""

OTHERS = (
    "activation_checkpointing",
    "aio",
    "autotuning",
    "checkpoint",
    "comms_logger",
    "communication_data_type",
    "compile",
    "compression_training",
    "curriculum_learning",
    "data_efficiency",
    "dataloader_drop_last",
    "datastates_ckpt",
    "disable_allgather",
    "disable_python_gc",
    "dump_state",
    "eigenvalue",
    "elasticity",
    "expert_parallel",
    "flops_profiler",
    "graph_harvesting",
    "hybrid_engine",
    "log_level",
    "memory_breakdown",
    "nebula",
    "pipeline",
    "progressive_layer_drop",
    "quantize_training",
    "sparse_attention",
    "sparse_gradients",
    "steps_per_print",
    "tensor_parallel",
    "timers",
    "use_data_before_expert_parallelism",
    "vocabulary_size",
    "wall_clock_breakdown",
    "weight_quantization",
    "zero_allow_untested_optimizer",
    "zero_force_ds_cpu_optimizer",
    "zero_optimization",
)
"""The other keys that DeepSpeed reads (0.19.8); it passes over every further one without a word."""


def check(raw: Mapping[str, Any]) -> None:
    """Raises InputError for a key that the trainer owns, saying what to set instead, and for one that nobody reads."""
    block = raw.get("zero_optimization", {})
    if not isinstance(block, Mapping):
        raise InputError("deepspeed.zero_optimization: expected a mapping")
    for key, instead in OWNED.items():
        outer, _, inner = key.rpartition(".")
        if inner in (raw.get(outer, {}) if outer else raw):
            raise InputError(f"deepspeed.{key}: {instead}")
    for key in raw:
        if key not in OTHERS:
            raise InputError(f"deepspeed.{key}: DeepSpeed knows no such key{nearest(str(key), [*OTHERS, *OWNED])}")
