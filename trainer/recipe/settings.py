"""The blocks ``train`` and ``evaluate`` of a recipe, and the learning rate. Imports no torch, so that a recipe is
checked at once."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, field_validator, model_validator

from tracestill.data_pipeline.guards.names import Name
from tracestill.data_pipeline.rounds.on_policy import OnPolicyConfig
from tracestill.data_pipeline.sampling.teachers.api.endpoint import EndpointConfig
from tracestill.data_pipeline.variations.further import HELD_OUT, AlsoConfig
from tracestill.data_pipeline.variations.known import ReworderConfig, VariationsConfig
from tracestill.trainer.measures.settings import BudgetsConfig, CauseConfig, GeneralConfig, QualityConfig, SamplesConfig
from tracestill.trainer.recipe.monitor import MonitorConfig
from tracestill.trainer.recipe.offload import OffloadConfig
from tracestill.trainer.recipe.optimizers import OptimizerConfig
from tracestill.trainer.recipe.student_settings import StudentConfig as StudentConfig

BUCKET = 200_000_000  # elements of gradients that ZeRO reduces at a time; never more than learn
PIECE = 2**19
"""Elements a rank of such a bucket at stages 1 and 2 over gloo, where gradients are reduced to who keeps them: n ranks
then send (n + 1) / 2n of an all-reduce's bytes, and no backward pass took longer; gloo sends more of a message beyond
2 MiB a rank (``benchmarks/reduction.py``). DeepSpeed's ``reduce_scatter`` is an all-reduce there, and gloo's own sends
as much."""
UNITS = {"h": 3600, "m": 60, "s": 1}
GENERATION = "generation"  # in train.metric: the answers that the student writes by itself
UNTRAINED = "none"  # as `train: none`
METRIC = re.compile(r"(\S+)\.(loss|accuracy)")
Share = Annotated[float, Field(ge=0, lt=1)]


def own_bucket(trained: int, pieces: int) -> int:
    """Elements of a bucket where no recipe says how many, of ``trained`` that learn; ``pieces``: the ranks, where
    gradients are reduced to who keeps them, else 0."""
    return min(PIECE * pieces if pieces else BUCKET, max(trained, 2))


class WatchdogConfig(BaseModel):
    """The ``train.watchdog`` block: seconds after which a rank is given up, and with it the training."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    silence: float = Field(30, ge=2, description="seconds without a sign of life from a rank")
    step: float = Field(600, ge=1, description="seconds without progress inside a phase of a step")
    save: float = Field(1800, ge=1, description="seconds that saving, loading or measuring may take")
    start: float = Field(1800, ge=1, description="seconds that starting may take, and each phase of the first step")


class TrainConfig(BaseModel):
    """The ``train`` block. Accumulation is not in it: it follows from ``plan.packs_per_step`` and ``ranks``.

    ``train: none`` stands for ``steps: 0``: the student is evaluated as it is, and an arm keeps the main one's other
    settings.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    steps: int | None = Field(
        None, ge=0, description="optimizer updates; give this or epochs; 0, or train: none: not trained, a baseline"
    )
    epochs: int | None = Field(None, ge=1, description="passes over the documents; give this or steps")
    ranks: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto",
        description="processes started on this host; auto: one a GPU, or on a CPU as many as have a core, and no more "
        "than packs_per_step; cores that are left become threads",
    )
    sequence_parallel: int = Field(
        1, ge=1, description="ranks that share each row of tokens; divides the ranks and the student's attention heads"
    )
    tiled_mlp: Annotated[int, Field(ge=2)] | StrictBool = Field(
        False,
        description="pieces of a row that pass a layer's MLP one by one and are computed again in the backward pass; "
        "true: pieces of about hidden_size tokens",
    )
    zero: Literal[0, 1, 2, 3, "auto"] = Field(
        2,
        description="DeepSpeed ZeRO stage; auto: on one rank 1 (fp32: 0), on more the lowest from 1 on whose "
        "parameters, gradients and optimizer take at most 60 % of a device's memory",
    )
    offload: OffloadConfig = Field(OffloadConfig(), description="what lies outside of the GPU, for large students")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 on a GPU, fp32 on a CPU")
    optimizer: OptimizerConfig = Field(OptimizerConfig(), description="which optimizer, and its own options")
    lr: float = Field(3e-4, gt=0, description="peak learning rate")
    schedule: Literal["cosine", "linear", "constant", "wsd"] = Field(
        "cosine", description="what follows the warm-up; wsd = warm-up, stable, decay"
    )
    warmup: int = Field(0, ge=0, description="steps over which the rate rises linearly from 0 to lr")
    decay: int = Field(0, ge=0, description="wsd only: last steps over which the rate falls linearly")
    final_lr: float = Field(0.0, ge=0, description="rate at the last step of a decaying schedule, as a share of lr")
    weight_decay: float = Field(0.1, ge=0, description="every optimizer's; not for norms, biases and embeddings")
    betas: tuple[Share, Share] = Field((0.9, 0.95), description="AdamW's, also of what Muon leaves to it")
    eps: float = Field(1e-8, gt=0, description="AdamW's, also of what Muon leaves to it")
    clip: float = Field(1.0, ge=0, description="bound on the norm of the true gradient; 0 = no clipping")
    ema: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="decay a step of an average of the parameters, such as 0.999, which is then measured on held-out "
        "documents and exported; null: none",
    )
    chunk_rows: int | None = Field(
        None, ge=1, description="rows of logits that exist at a time; null: as take 2 GiB on a GPU, 4096 on a CPU"
    )
    label_smoothing: Share = Field(
        0.0, description="share of each target's weight that all tokens of the vocabulary have in common"
    )
    z_loss: float = Field(
        0.0, ge=0, description="factor of the squared logarithm of the softmax's sum, added to each target's nll"
    )
    log_every: int = Field(10, ge=1, description="steps between two lines of log.jsonl")
    held_out_every: int = Field(
        0, ge=0, description="steps between two measurements of the loss by kind on held-out documents; 0 = none"
    )
    held_out_documents: int = Field(128, ge=1, description="held-out documents measured on")
    held_out_questions: int = Field(
        0, ge=0, description="held-out questions that the student answers at each of these measurements"
    )
    checkpoint_every: int = Field(
        0, ge=0, description="steps between two checkpoints; 0 = as checkpoint_interval says, and after the last step"
    )
    checkpoint_interval: str | None = Field(
        "10m", description="time between two checkpoints at most, such as 10m, rounded up to whole steps; null: any"
    )
    async_save: bool = Field(True, description="training goes on while a checkpoint is written")
    local_checkpoints: bool = Field(
        False,
        description="for hosts that share no file system: each keeps a run directory of its own and its ranks' part of "
        "every checkpoint, and training resumes on the same hosts only",
    )
    keep: int = Field(
        2, ge=0, description="newest checkpoints kept, besides the best one; 0: none once the student is exported"
    )
    metric: str | None = Field(
        None,
        description="<kind or group>.loss or .accuracy on validation documents, or generation.accuracy on validation "
        "questions, by which a checkpoint is best",
    )
    patience: int | None = Field(
        None, ge=1, description="training ends after this many measurements without a better train.metric; null: never"
    )
    export: Literal["last", "best"] = Field("last", description="the student that is exported; best: by train.metric")
    stop_after: str | None = Field(
        None, description="save, and stop with exit code 3, after this time, such as 55m, 90s or 1h30m"
    )
    skip_limit: int = Field(
        10, ge=1, description="steps in a row whose loss or gradient is not finite before training gives up"
    )
    peak_tflops: float | None = Field(
        None,
        gt=0,
        description="TFLOP/s that one device reaches at most, for the MFU; null: known for common GPUs in bf16, else "
        "there is no MFU",
    )
    monitor: MonitorConfig = Field(MonitorConfig(), description="what else the log's numbers are written to")
    on_policy: OnPolicyConfig | None = Field(
        None, description="the student learns from texts of its own, in place of the plan's documents; null: from these"
    )

    watchdog: WatchdogConfig = Field(WatchdogConfig(), description="when a rank that is dead or stuck ends the others")

    @model_validator(mode="before")
    @classmethod
    def _none(cls, data: Any) -> Any:
        if data is None or (isinstance(data, str) and data != UNTRAINED):
            raise ValueError(f"expected a mapping of keys, or {UNTRAINED} for a student that is not trained")
        return {"steps": 0} if data == UNTRAINED else data

    @property
    def trains(self) -> bool:
        return self.steps != 0

    @property
    def loss_terms(self) -> dict[str, float]:
        """What a target costs beside its nll. Losses of trainings that differ in it do not compare."""
        return {"label_smoothing": self.label_smoothing, "z_loss": self.z_loss}

    @field_validator("stop_after", "checkpoint_interval")
    @classmethod
    def _duration(cls, text: str | None) -> str | None:
        if text is not None:
            seconds_of(text)
        return text

    @model_validator(mode="after")
    def _measured(self) -> TrainConfig:
        if self.metric is None:
            for key, given in (("patience", self.patience is not None), ("export: best", self.export == "best")):
                if given:
                    raise ValueError(f"train.{key} needs train.metric, such as answer.loss")
        elif not METRIC.fullmatch(self.metric):
            raise ValueError(f"train.metric: expected <kind or group>.loss or .accuracy, got '{self.metric}'")
        elif not self.held_out_every:
            raise ValueError("train.metric needs train.held_out_every: the steps between two measurements")
        elif self.metric.startswith(f"{GENERATION}.") and (self.metric.endswith("loss") or not self.held_out_questions):
            raise ValueError("train.metric: generation.accuracy needs train.held_out_questions, and has no loss")
        if self.held_out_questions and not self.held_out_every:
            raise ValueError("train.held_out_questions needs train.held_out_every: the steps between two measurements")
        return self

    @model_validator(mode="after")
    def _shared_rows(self) -> TrainConfig:
        if self.ranks != "auto" and self.ranks % self.sequence_parallel:
            raise ValueError(
                f"train.ranks ({self.ranks}) must be a multiple of train.sequence_parallel ({self.sequence_parallel})"
            )
        return self

    @model_validator(mode="after")
    def _combinations(self) -> TrainConfig:
        self.offload.check(self.zero, self.optimizer.use)
        if self.ema is not None and self.offload.optimizer == "nvme":
            raise ValueError(
                "train.ema: the average is kept in memory; leave it out, or set train.offload.optimizer: cpu"
            )
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give exactly one of train.steps and train.epochs")
        if self.on_policy is not None and not self.steps:
            raise ValueError("train.on_policy needs train.steps: its texts have no epochs")
        if self.steps and self.warmup >= self.steps:
            raise ValueError(f"train.warmup ({self.warmup}) must be smaller than train.steps ({self.steps})")
        if (self.schedule == "wsd") != (self.decay > 0):
            raise ValueError("train.decay belongs to train.schedule: wsd, which needs it")
        if self.steps and self.warmup + self.decay > self.steps:
            raise ValueError("train.warmup + train.decay must not exceed train.steps")
        return self


def seconds_of(duration: str) -> float:
    """Seconds in a duration such as ``55m``, ``90s``, ``1.5h`` or ``1h30m``. Raises ValueError if it is none."""
    parts = re.findall(r"(\d+(?:\.\d+)?)([hms])", duration)
    seconds = sum(float(number) * UNITS[unit] for number, unit in parts)
    if "".join(number + unit for number, unit in parts) != duration or not seconds:
        raise ValueError(f"expected a duration above 0 with units h, m or s, such as 55m or 1h30m, got '{duration}'")
    return seconds


CHOOSING = ("held_out_every", "held_out_documents", "held_out_questions")
BOOKKEEPING = {
    "student": ("activation_checkpointing", "trust_remote_code"),
    "weighting": ("allow_unstoppable",),
    "train": (
        *("ranks", "sequence_parallel", "tiled_mlp", "offload", "log_every"),
        *CHOOSING,
        *("checkpoint_every", "checkpoint_interval", "async_save", "local_checkpoints", "keep", "stop_after"),
        *("skip_limit", "watchdog", "peak_tflops", "monitor"),
    ),
}
"""Settings that change neither the student nor the documents of a step: but where ``train.metric`` chooses a
checkpoint, those of CHOOSING do."""


# of ``evaluate``: how questions are put
ANSWERING = ("questions", "max_new_tokens", "batch_size", "batch_tokens", "temperature")


def learning_rate(settings: TrainConfig, step: int, steps: int) -> float:
    """The rate of optimizer step ``step`` (from 0) of ``steps``; it would reach ``final_lr * lr`` one step later."""
    if step < settings.warmup:
        return settings.lr * (step + 1) / settings.warmup
    low = settings.final_lr
    if settings.schedule == "constant":
        return settings.lr
    if settings.schedule == "wsd":
        start = steps - settings.decay
        share = (step + 1 - start) / (settings.decay + 1) if step >= start else 0.0
        return settings.lr * (1 - (1 - low) * share)
    share = (step - settings.warmup) / (steps - settings.warmup)
    if settings.schedule == "linear":
        return settings.lr * (1 - (1 - low) * share)
    return settings.lr * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * share)))


class EvaluateConfig(BaseModel):
    """The ``evaluate`` block: generation on held-out questions, and the parts that measure more."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    questions: int | None = Field(None, ge=1, description="held-out questions used; null = all")
    max_new_tokens: int = Field(256, ge=1, description="tokens generated at most; a trace cut off has no answer")
    batch_size: int = Field(128, ge=1, description="questions generated at a time")
    batch_tokens: int | None = Field(
        None, ge=1, description="tokens of questions and answers in memory at a time, at most; null: batch_size decides"
    )
    temperature: float = Field(0.0, ge=0, description="0 = greedy")
    ranks: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto", description="processes that write answers on this host; auto: one a GPU, on a CPU one with all cores"
    )
    endpoints: dict[str, EndpointConfig] = Field(
        {}, description="served models, for `tracestill evaluate RUN --endpoint NAME`: name -> server and model"
    )
    samples: SamplesConfig | None = Field(None, description="several answers to each question: votes, pass@k; {}: on")
    budgets: BudgetsConfig | None = Field(
        None, description="accuracy against tokens allowed for the thought: a list of budgets, such as [32, 64, 128]"
    )
    cause: CauseConfig | None = Field(None, description="does the trace cause the answer; {}: on")
    quality: QualityConfig | None = Field(None, description="traces beside accuracy: sound, alike, long; {}: on")
    general: GeneralConfig | None = Field(None, description="the loss on general text, before training and after")
    variations: VariationsConfig | None = Field(
        None, description="the questions are asked in other forms too, whose gold answer is known; a list, or all"
    )
    also: dict[Name, AlsoConfig] = Field(
        {}, description="questions of further sources that are asked besides: name -> which, and how many"
    )

    @property
    def reworders(self) -> tuple[ReworderConfig, ...]:
        """Teachers that say the questions in other words."""
        return () if self.variations is None else self.variations.reworders

    @property
    def transfer(self) -> bool:
        """Whether it is measured what carries over to other forms, or other tasks."""
        return self.variations is not None or bool(self.also)

    @field_validator("also")
    @classmethod
    def _own_names(cls, also: dict[str, AlsoConfig]) -> dict[str, AlsoConfig]:
        if HELD_OUT in also:
            raise ValueError(f"'{HELD_OUT}' stands for the run's own questions; name the source otherwise")
        return also

    @model_validator(mode="after")
    def _budgets_fit(self) -> EvaluateConfig:
        if self.budgets is not None and (most := max(self.budgets.tokens)) > self.max_new_tokens:
            raise ValueError(f"budgets: {most} tokens are more than max_new_tokens, which is {self.max_new_tokens}")
        return self
