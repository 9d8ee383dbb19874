"""The engine: DeepSpeed's ZeRO around the student, and the only file that imports deepspeed.

The trainer's loss is a sum over all ranks and micro-steps (its factor c is known beforehand), so the gradient
that the optimizer sees has to be the plain sum as well. DeepSpeed is told to sum, and at stage 3, where it can only
average, ``Engine.backward`` undoes that. Whether a step is taken is decided here, from one all-reduce that every
rank sees alike.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import math
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, Protocol

import torch
import torch.distributed as dist
from pydantic import ValidationError
from torch import Tensor

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.kinds import nearest
from tracestill.data_pipeline.models import own_code
from tracestill.kernels.loss import TeacherTopK
from tracestill.kernels.pack import PackedBatch
from tracestill.trainer.engine import leaves, offload, uncompiled, zero
from tracestill.trainer.engine.ema import Ema
from tracestill.trainer.engine.stage import resolve_stage
from tracestill.trainer.optimizers.making import make_optimizer
from tracestill.trainer.ranks.cores import own_threads
from tracestill.trainer.ranks.join_ranks import join
from tracestill.trainer.ranks.mesh import Mesh, exchange, mesh, refuse
from tracestill.trainer.ranks.rendezvous import meet
from tracestill.trainer.recipe import deepspeed_keys
from tracestill.trainer.recipe.monitor import MonitorConfig, events
from tracestill.trainer.recipe.offload import BLOCKS
from tracestill.trainer.recipe.precision import training_dtype, use_gpu
from tracestill.trainer.recipe.settings import TrainConfig, own_bucket
from tracestill.trainer.student.student import Student

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # before the import: else it warns that it found no device

import deepspeed
from deepspeed.monitor.config import DeepSpeedMonitorConfig
from deepspeed.monitor.monitor import MonitorMaster
from deepspeed.ops.op_builder import AsyncIOBuilder
from deepspeed.runtime.sequence_parallel.ulysses_sp import UlyssesSPAttentionHF
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

uncompiled.import_muon()
ZERO_KEYS = sorted(field.alias or name for name, field in DeepSpeedZeroConfig.model_fields.items())

LEAVING: list[Callable[[], None]] = []  # what this process does before it ends


@dataclass(frozen=True)
class World:
    """This process among all."""

    rank: int
    ranks: int
    local_rank: int
    device: torch.device
    dtype: torch.dtype  # that the student computes in
    mesh: Mesh


class Micro(Protocol):
    """What ``Engine.forward`` reads of a micro-step."""

    @property
    def packed(self) -> PackedBatch: ...
    @property
    def scale(self) -> float | Tensor: ...
    @property
    def teacher(self) -> TeacherTopK | None: ...


@dataclass(frozen=True)
class StepResult:
    """What one optimizer step did, the same on every rank."""

    loss: float  # of the whole step
    grad_norm: float  # of the true gradient, before clipping
    reason: str  # why nothing changed: "no weight", "loss is not finite", "gradient is not finite"; else ""
    stop: bool = False  # some rank was asked to stop after this step
    save: bool = False  # some rank says that a checkpoint is due after it

    @property
    def skipped(self) -> bool:
        """Whether the update was left out, on all ranks."""
        return self.reason != ""

    @property
    def faulty(self) -> bool:
        """Whether it was left out because something was not finite."""
        return self.skipped and not (math.isfinite(self.loss) and math.isfinite(self.grad_norm))


def connect(settings: TrainConfig) -> World:
    """Join the other ranks: NCCL on GPUs, gloo on the CPU. A process that nobody launched is a world of one.

    Raises InputError if there are more ranks on this host than GPUs, if they cannot know where they meet or share rows
    as ``train.sequence_parallel`` asks, and for a precision that does not fit; NotMet if some do not come.
    """
    quieten()
    join(os.environ)
    cuda = use_gpu()
    local = int(os.environ.get("LOCAL_RANK", os.environ.get("OMPI_COMM_WORLD_LOCAL_RANK", "0")))
    if cuda and local >= torch.cuda.device_count():
        raise InputError(
            f"local rank {local} has no GPU: this host has {torch.cuda.device_count()}; lower train.ranks, or set "
            f"DS_ACCELERATOR=cpu to train on the CPU"
        )
    if not dist.is_initialized():
        # DeepSpeed would compile a shared-memory all-reduce for CPUs now, and look whether it could compile all else
        vars(deepspeed.ops).setdefault("__compatible_ops__", {})["deepspeed_shm_comm"] = False
        if cuda:
            torch.cuda.set_device(local)
        if "MASTER_ADDR" not in os.environ:  # mpirun's, on several hosts
            deepspeed.comm.mpi_discovery(verbose=False)
        backend, gpu = ("nccl", torch.device("cuda", local)) if cuda else ("gloo", None)
        meet(backend, wait=settings.watchdog.start, timeout=deepspeed.constants.default_pg_timeout, device=gpu)
        deepspeed.init_distributed(dist_backend=backend, verbose=False)  # takes over the group that it finds
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    threads = None if cuda else own_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    rank, ranks = dist.get_rank(), dist.get_world_size()
    place = mesh(rank, ranks, settings.sequence_parallel)
    return World(rank, ranks, local, device, training_dtype(settings, device), place)


def leave(code: int) -> NoReturn:
    """End this process with an exit code, after the other ranks have come as far if it is 0.

    Not through the interpreter's shutdown: that takes torch's communication threads down in any order, and now and
    then (gloo, torch 2.13) aborts a rank that has done all its work.
    """
    for clear in LEAVING:
        clear()
    if dist.is_initialized() and code == 0:
        dist.barrier()
        dist.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    own_code.leave(code)


def quieten() -> None:
    """Let DeepSpeed say warnings only, and drop those that it draws upon itself at every collective, and upon us by an
    optimizer that is not on its list."""
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    logging.getLogger("DeepSpeed").addFilter(without_untested)
    warnings.filterwarnings("ignore", message="`torch.distributed.*is deprecated", category=FutureWarning)


def without_untested(record: logging.LogRecord) -> bool:
    return "untested optimizer" not in record.getMessage()


def deepspeed_config(
    settings: TrainConfig,
    accumulation: int,
    raw: Mapping[str, Any] | None = None,
    *,
    dtype: torch.dtype,
    directory: Path | None = None,
) -> dict[str, Any]:
    """The DeepSpeed config of a run, with a recipe's ``deepspeed`` block merged in, whose files lie in ``directory``
    (None: nothing will be written, and no directory is looked at).

    Raises InputError naming the key that a recipe may not set, and what to set instead.
    """
    deepspeed_keys.check(raw or {})
    raw = (raw or {}) if directory is None else deepspeed_keys.placed(raw or {}, directory)
    block = raw.get("zero_optimization", {})
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": settings.clip,
        "timers": {"throughput": {"enabled": False}},  # it would wait for the device in every micro-step
        # an average at stage 2 in bf16 would round once more before the sum
        "gradient_allreduce_op": "mean" if settings.zero == 3 else "sum",
        **raw,
        "zero_optimization": {
            **block,
            **settings.offload.zero_keys(block),
            "stage": 1 if settings.zero == "auto" else settings.zero,
        },
    }
    if settings.offload.directory is not None and directory is not None:
        for key in BLOCKS.values():
            if "nvme_path" in (kept := config["zero_optimization"].get(key, {})):
                kept["nvme_path"] = str(offload.place(kept["nvme_path"], directory))
    if settings.offload.optimizer != "none":
        config["zero_force_ds_cpu_optimizer"] = False  # torch's is as fast (benchmarks/host_adamw.py)
    if settings.optimizer.use != "adamw":
        config["zero_allow_untested_optimizer"] = True  # DeepSpeed's list of known ones is by class; ours are tested
    if dtype == torch.bfloat16:
        config["bf16"] = {"enabled": True}
        config["data_types"] = {"grad_accum_dtype": "fp32"}
        config.setdefault("communication_data_type", "fp32")
    return config


def check_block(settings: TrainConfig, raw: Mapping[str, Any]) -> None:
    """Raises InputError for a recipe's ``deepspeed`` block that DeepSpeed itself refuses, and for offloading that this
    host cannot do, before any work is done."""
    quieten()
    if settings.offload.directory is not None:
        offload.need_files(AsyncIOBuilder().is_compatible())
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            deepspeed.DeepSpeedConfig(deepspeed_config(settings, 1, raw, dtype=torch.float32))
    except InputError:
        raise
    except ValidationError as error:
        raise InputError("\n".join(fault_of(fault, raw) for fault in error.errors())) from error
    except Exception as error:  # each block raises errors of its own
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"deepspeed: DeepSpeed refuses it ({reason})") from error


def fault_of(fault: Any, raw: Mapping[str, Any]) -> str:
    """One line for what DeepSpeed's own model refuses in a recipe's ``deepspeed`` block ``raw``."""
    where = [str(part) for part in fault["loc"]]
    blocks = [key for key, block in raw.items() if isinstance(block, Mapping) and where[0] in block]
    field = ".".join(["deepspeed", *blocks[:1], *where])
    if fault["type"] == "extra_forbidden":
        zero_block = blocks[:1] == ["zero_optimization"] and len(where) == 1
        return f"{field}: DeepSpeed knows no such key" + (nearest(where[0], ZERO_KEYS) if zero_block else "")
    return f"{field}: {fault['msg']}, got {fault['input']!r}"


def open_monitor(config: MonitorConfig, directory: Path) -> Callable[[dict[str, Any]], None] | None:
    """Takes lines of the log to DeepSpeed's monitors; None if the recipe wants none, and on other ranks than 0.

    They are not the engine's own: those would wait for the device in every step, and count samples. Raises InputError
    if one does not start, such as for want of a login.
    """
    if not config.wanted() or dist.get_rank() != 0:
        return None
    wanted: dict[str, Any] = {"tensorboard": {"enabled": config.tensorboard, "output_path": str(directory)}}
    wanted["tensorboard"]["job_name"] = "tensorboard"
    if config.wandb:
        os.environ.setdefault("WANDB_DIR", str(directory))  # else it writes where the training was started
        wanted["wandb"] = {"enabled": True, **config.wandb.model_dump()}
    if config.comet:
        wanted["comet"] = {"enabled": True, "samples_log_interval": 1, **config.comet.model_dump()}
    try:
        monitor = MonitorMaster(DeepSpeedMonitorConfig(**wanted))
    except Exception as error:  # each backend raises errors of its own
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"train.monitor ({', '.join(config.wanted())}) does not start: {reason}") from error
    return lambda line: monitor.write_events(events(line))


class Engine:
    """One student under DeepSpeed: ``accumulation`` times forward and backward, then step."""

    base: str | None = None  # digest of the model that its frozen parameters come from, if it is kept elsewhere

    def __init__(
        self,
        student: Student,
        settings: TrainConfig,
        *,
        accumulation: int,
        raw_deepspeed: Mapping[str, Any] | None = None,
        seed: int = 0,
        directory: Path = Path(),
    ) -> None:
        """Raises InputError for a DeepSpeed key that the trainer owns, for a precision that does not fit, and for a
        student that ranks cannot share rows of."""
        world = connect(settings)
        self.rank, self.ranks, self.local_rank = world.rank, world.ranks, world.local_rank
        self.device, self.dtype, self.mesh = world.device, world.dtype, world.mesh
        refuse(student.model.config, self.mesh.parts)
        if student.routers is not None:
            student.routers.place = self.mesh
        student.exchange = exchange(UlyssesSPAttentionHF, self.mesh)
        settings, reason = resolve_stage(student, settings, self.device, self.dtype)
        self.stage = f"ZeRO {settings.zero}{reason}"
        self.settings, self.accumulation, self.seed = settings, accumulation, seed
        self.config = deepspeed_config(settings, accumulation, raw_deepspeed, dtype=self.dtype, directory=directory)
        buckets = self.config["zero_optimization"]
        if settings.offload.directory is not None:
            offload.need_files(AsyncIOBuilder().is_compatible())
            offload.size_buffers(buckets, student, self.ranks)
            LEAVING.append(partial(offload.clear, buckets, self.rank))
        elements = sum(p.numel() for p in student.parameters() if p.requires_grad)
        owned = settings.zero in (1, 2) and self.device.type == "cpu" and self.ranks > 1
        buckets.setdefault("reduce_bucket_size", own_bucket(elements, self.ranks if owned else 0))
        buckets.setdefault("use_multi_rank_bucket_allreduce", not owned)
        if settings.zero == 3:
            leaves.name_leaves(buckets, student)
        optimizer = make_optimizer(student, settings, dtype=self.dtype)
        with contextlib.redirect_stdout(io.StringIO()):  # it prints memory figures; its warnings are logged
            config = copy.deepcopy(self.config)
            self.deepspeed, *_ = deepspeed.initialize(model=student, optimizer=optimizer, config=config)
        if settings.zero == 3:
            leaves.let_gradients_in(student)
        self.module = student
        self.optimizer = self.deepspeed.basic_optimizer
        zero.begin_optimizer(self.deepspeed, self.rank)
        self.ema = None if settings.ema is None else Ema(self.deepspeed, settings.ema)
        torch.manual_seed(seed + self.rank)  # dropout differs between ranks
        self._start_step()

    def _start_step(self) -> None:
        zero.begin_step(self.deepspeed)
        self._micro_steps = 0
        self._loss = torch.zeros((), dtype=torch.float64, device=self.device)

    def forward(self, micro: Micro) -> tuple[Tensor, Tensor]:
        """This rank's share of the step's loss (scalar) and the statistics by kind of one micro-step."""
        self.deepspeed.set_gradient_accumulation_boundary(self._micro_steps + 1 == self.accumulation)
        loss, statistics = self.deepspeed(micro.packed, micro.scale, micro.teacher)
        self._loss += loss.detach()
        return loss, statistics

    @torch.no_grad()
    def measure(self, micro: Micro) -> Tensor:
        """The statistics by kind of one micro-step, without a gradient; called on every rank."""
        self.deepspeed.eval()
        _, statistics = self.deepspeed(micro.packed, micro.scale, micro.teacher)
        self.deepspeed.train()
        return statistics

    def averaged(self) -> contextlib.AbstractContextManager[None]:
        """Meanwhile the student has its average's parameters, if the recipe asks for one. Called on every rank."""
        return contextlib.nullcontext() if self.ema is None else self.ema.applied()

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of this micro-step. The optimizer sees the sum over all ranks and micro-steps.

        DeepSpeed (0.19.8) divides the sum over all ranks by their number at stage 3, and by the accumulation steps
        unless told not to.
        """
        averaged = self.ranks if self.settings.zero == 3 else 1
        self.deepspeed.backward(loss * averaged, scale_wrt_gas=False)
        self._micro_steps += 1

    def step(self, lr: float, *, weight_sum: float | None = None, stop: bool = False, save: bool = False) -> StepResult:
        """Update the parameters, or on all ranks none of them: if the step has no weight at all, or if any loss or
        gradient is not finite. The host waits for the device once, here.

        ``weight_sum`` is the sum of w over all ranks; None if the host does not know it: then a gradient that is
        exactly zero means no weight. ``stop`` and ``save`` on one rank reach the result of all. Raises RuntimeError
        unless ``accumulation`` micro-steps came before.
        """
        if self._micro_steps != self.accumulation:
            raise RuntimeError(f"{self._micro_steps} micro-steps before a step of {self.accumulation}")
        loss, square, stops, saves = self._sums(stop, save)
        if not math.isfinite(loss):
            reason = "loss is not finite"
        elif not math.isfinite(square):
            reason = "gradient is not finite"
        else:
            reason = "no weight" if (square if weight_sum is None else weight_sum) == 0 else ""
        if reason:
            zero.clear_gradients(self.deepspeed)
        else:
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            zero.hand_over_norm(self.deepspeed, math.sqrt(square), self.settings.clip)
            self.deepspeed.step()
            zero.count_update(self.deepspeed)
            if self.ema is not None:
                self.ema.update()
        self._start_step()
        return StepResult(loss, math.sqrt(square), reason, stops > 0, saves > 0)

    def _sums(self, stop: bool, save: bool) -> list[float]:
        """The step's loss, squared gradient norm and requests to stop and to save, summed over all ranks by one
        all-reduce. A NaN or an infinity on any rank makes the sum NaN or infinite, so every rank decides alike."""
        shares = zero.gradients(self.deepspeed, self.rank)
        squares = self._loss.new_zeros(())
        if shares:
            squares = torch.stack(torch._foreach_norm(shares)).double().square().sum()
        sums = torch.stack([self._loss, squares, *squares.new_tensor([float(stop), float(save)])])
        dist.all_reduce(sums)
        return sums.tolist()

    def close(self) -> None:
        """Take DeepSpeed's hooks off the student, which may then go into another engine; delete offloaded files."""
        self.deepspeed.destroy()
        if self.settings.offload.directory is not None:
            offload.clear(self.config["zero_optimization"], self.rank)
