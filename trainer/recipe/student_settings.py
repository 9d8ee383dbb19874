"""The ``student`` block of a recipe: which model, which of its parameters learn, and how it computes. Imports no
torch, so that a recipe is checked at once."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from tracestill.data_pipeline.base import own_modules
from tracestill.data_pipeline.guards.names import GivenPath, Name

ENCODER_DECODERS = ("t5", "mt5", "umt5", "bart", "mbart")  # model types with an encoder that may be students
PARAMETERS = "embeddings, head, or a pattern of parameter names such as model.layers.0.*"


class LoraConfig(BaseModel):
    """The ``student.lora`` block: low-rank adapters beside linear layers (arXiv 2106.09685), by peft."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    rank: int = Field(16, ge=1, description="of the product that an adapter adds to its layer's matrix")
    alpha: float = Field(32.0, gt=0, description="an adapter's product is scaled by alpha / rank")
    rslora: bool = Field(False, description="scaled by alpha / sqrt(rank) instead (arXiv 2312.03732)")
    dora: bool = Field(False, description="each row's length is learned apart from its direction (arXiv 2402.09353)")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="share of an adapter's inputs left out")
    quantize: Literal["nf4"] | None = Field(
        None, description="the frozen linear layers in 4 bits, by bitsandbytes, on a GPU (QLoRA, arXiv 2305.14314)"
    )
    targets: Literal["auto"] | list[Name] = Field(
        "auto",
        description="linear layers by name, such as [q_proj, v_proj], or by patterns of whole names, such as "
        "['model.layers.1?.*_proj']; auto: every one but the head",
    )
    train: list[Name] = Field([], description=f"trained whole beside the adapters: {PARAMETERS}")
    export: Literal["merged", "apart"] = Field(
        "merged", description="merged: a whole model; apart: peft's adapter, which needs student.pretrained beside it"
    )

    @property
    def kind(self) -> str:
        return "DoRA" if self.dora else "LoRA"

    @property
    def scale(self) -> float:
        """What an adapter's product is multiplied by."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    @model_validator(mode="after")
    def _exportable(self) -> LoraConfig:
        if self.targets == []:
            raise ValueError("student.lora.targets: name at least one layer, or auto")
        if self.train and self.export == "apart":
            raise ValueError("student.lora.export: apart holds adapters only; with student.lora.train use merged")
        return self


class StudentConfig(BaseModel):
    """The ``student`` block: a transformers config to start from nothing, or a directory to start from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    config: dict[str, Any] | None = Field(
        None, description="transformers config with its model_type; the vocabulary follows from the tokenizer"
    )
    pretrained: GivenPath | None = Field(
        None, description="directory of a pretrained AutoModelForCausalLM, or AutoModelForSeq2SeqLM such as T5"
    )
    trust_remote_code: str | None = Field(
        None,
        pattern=r"^sha256:[0-9a-f]{64}$",
        description="digest of the Python code in a model's directory that may run; the refusal of such a model tells "
        "it; null: none runs",
    )
    attention: Name = Field(
        "auto",
        description="auto, a backend by name (flash-4, flash-3, flash-2, varlen, sdpa), or one of your own as "
        "my_pkg.my_module:BACKEND",
    )
    lora: LoraConfig | None = Field(None, description="train low-rank adapters, not the pretrained parameters")
    freeze: list[Name] = Field([], description=f"not trained: {PARAMETERS}")
    router_loss: float | None = Field(
        None,
        ge=0,
        allow_inf_nan=False,
        description="of a mixture of experts: how much of its routers' load-balancing loss is part of the loss; 0: it "
        "is only logged; null: as the model's config says (router_aux_loss_coef, if output_router_logits is true)",
    )
    activation_checkpointing: bool = Field(
        False, description="keep each layer's input only and compute the layer again in backward: less memory, slower"
    )
    liger: Literal["auto"] | bool = Field(
        "auto", description="Liger's RMSNorm, RoPE and SwiGLU; auto: on a GPU, where Liger is installed and knows them"
    )
    compile: bool = Field(False, description="torch.compile of each layer, for any length; not at train.zero 3")

    @field_validator("attention")
    @classmethod
    def _found(cls, attention: str) -> str:
        module = own_attention(attention)
        if module is not None and not own_modules.is_looking() and own_modules.find(module) is None:
            raise ValueError(own_modules.where_missing(module))
        return attention

    @model_validator(mode="after")
    def _one_source(self) -> StudentConfig:
        if (self.config is None) == (self.pretrained is None):
            raise ValueError("give exactly one of student.config and student.pretrained")
        kind = "" if self.config is None else self.config.get("model_type")
        if self.config is not None and (not isinstance(kind, str) or not kind.strip()):
            raise ValueError("student.config needs a model_type, such as llama")
        if self.lora and self.pretrained is None:
            raise ValueError("student.lora adapts a pretrained model (student.pretrained), not one from student.config")
        if self.trust_remote_code and self.lora and self.lora.export == "apart":
            raise ValueError("student.lora.export: apart is not for a model with code of its own; use merged")
        if self.lora and self.freeze:
            raise ValueError("student.freeze: with student.lora all is frozen but the adapters and student.lora.train")
        return self

    @property
    def encoder_decoder(self) -> bool:
        """Whether the question goes to an encoder of its own, which decides the layout of documents."""
        if self.pretrained is not None:
            return holds_encoder_decoder(self.pretrained)
        assert self.config is not None
        return self.config["model_type"] in ENCODER_DECODERS


def own_attention(attention: str) -> str | None:
    """The module of the user's that ``student.attention`` names; None for a backend by name."""
    return attention.partition(":")[0] if ":" in attention else None


def holds_encoder_decoder(directory: Path) -> bool:
    """Whether a transformers model, or peft's adapter of one, is an encoder-decoder. False if it cannot be read."""
    for name, key, values in (
        ("config.json", "model_type", ENCODER_DECODERS),
        ("adapter_config.json", "task_type", ("SEQ_2_SEQ_LM",)),
    ):
        try:
            found = json.loads((directory / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):  # loading it will say so
            continue
        return isinstance(found, dict) and found.get(key) in values
    return False


def check_together(student: StudentConfig, zero: int | str, tiled_mlp: int | bool, files: bool = False) -> None:
    """Raises ValueError for what a student cannot do at ZeRO stage ``zero``, with ``train.tiled_mlp``, or with its
    parameters in ``files`` (``train.offload.parameters: nvme``)."""
    if files and (student.lora or student.freeze):
        raise ValueError(
            "train.offload.parameters: nvme keeps no frozen parameters; set it to cpu, or train all of them"
        )
    if student.compile and student.encoder_decoder:
        raise ValueError("student.compile: nobody has tried it with an encoder-decoder; leave it out")
    if student.lora and student.lora.quantize and zero == 3:
        raise ValueError(
            "student.lora.quantize: not at train.zero 3, which would cut up matrices in 4 bits; use stage 0 to 2"
        )
    if student.lora and student.lora.quantize and student.compile:
        raise ValueError("student.compile: nobody has tried it with student.lora.quantize; leave it out")
    if student.compile and zero == 3:
        raise ValueError(
            "student.compile: not at train.zero 3, whose hooks gather parameters while a layer runs; use stage 0 to 2"
        )
    if student.compile and tiled_mlp:
        raise ValueError("student.compile: not with train.tiled_mlp, whose pieces it would leave as they are")


def check_on_policy(recipe: Any) -> None:
    """Raise ValueError naming what a recipe has that does not go with its ``train.on_policy``."""
    own = recipe.train.on_policy
    if own is None:
        return
    faults = {
        "an encoder-decoder: only decoders write here": recipe.student.encoder_decoder,
        "student.lora: adapters would have to be merged before each refresh; train all parameters": recipe.student.lora,
        "train.offload.parameters: nvme: parameters have to be gathered at once to write": (
            recipe.train.offload.parameters == "nvme"
        ),
        "train.local_checkpoints: ranks share what they write": recipe.train.local_checkpoints,
        "distil: it has a teacher of its own; leave distil out (null)": recipe.distil,
        "encode.two_task: which of the two would be written?": recipe.encode.two_task,
        "segment.by: spans: a student's texts have none; let them be cut by flow": recipe.segment.by == "spans",
        "train.label_smoothing: no token is a label here": recipe.train.label_smoothing,
        "train.z_loss: it goes with labels, and a wrong text would turn it round": recipe.train.z_loss,
        f"weighting.use: {recipe.weighting.use}: its tokens weigh by their kinds alone (weighting.weights)": (
            recipe.weighting.use != "span"
        ),
    }
    for what, there in faults.items():
        if there:
            raise ValueError(f"train.on_policy does not go with {what}")
