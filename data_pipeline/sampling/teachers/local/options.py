"""What a recipe says of a model in this process, and which of it decides what the model says."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

HOW = {"device", "batch"}  # options that change nothing of what is said, but for rounding


class TeacherOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Path = Field(description="directory: a model with its tokenizer, an exported student, or a LoRA of peft's")
    device: str = Field("auto", description="cpu, cuda, cuda:1…; auto: the first GPU if there is one")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="number format; auto: float32 on a CPU, else as it was saved"
    )
    batch: int = Field(16, ge=1, description="samples at a time; halved while a GPU's memory does not hold so many")
    template: str = Field("{question}", description="what is asked, around {question}")
    prefill: str = Field("", description="how the answer begins; the model goes on from there")
    max_tokens: int = Field(1024, ge=1, description="tokens of one answer")
    top_p: float | None = Field(None, gt=0, le=1, description="share of the probability that is drawn from")
    top_k: int | None = Field(None, ge=1, description="number of likeliest tokens that are drawn from")
    stop: tuple[str, ...] = Field((), description="texts at which an answer ends")

    def identity(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude_defaults=True, exclude=HOW)
