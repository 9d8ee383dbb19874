"""The ``score`` block of a recipe: models that read the stored documents, and what they say of each token. Imports no
torch, so that a recipe is checked at once."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.channels import BUILT_IN, Channel
from tracestill.data_pipeline.channels.channel import topk
from tracestill.data_pipeline.guards.names import Name
from tracestill.data_pipeline.sampling.teachers.api.options import ServerConfig

STUDENT = "student"  # the model of a scorer that is the student before training
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")  # of a scorer; behind it stands a point and a channel
TOPK = "topk"
ENTRIES = 32  # a token, in topk
EXACT = "exact"  # how a manifest calls influence that is not approximate


class ScorerConfig(BaseModel):
    """One of the ``score`` block: a model, and what is kept of what it says."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    model: Name = Field(
        description="student: the recipe's before training; else a model's directory, or its name at the server"
    )
    channels: list[Literal["nll", "entropy", "rank", "top1", "influence", "topk"]] = Field(
        min_length=1,
        description="nll, entropy, rank and top1 of each token; influence of each step; topk: the most probable tokens",
    )
    k: int = Field(ENTRIES, ge=1, description="entries a token in topk, 6 bytes each")
    kinds: list[Name] | None = Field(
        None, description="kinds, or groups of them, of the tokens whose topk is kept; null: of all"
    )
    approximate: Literal["attention"] | None = Field(
        None,
        description="attention: influence by hiding a step from the answer in one pass of the document, in place of "
        "reading the document without it; null: exact",
    )
    zero: Literal[0, 3] = Field(
        0,
        description="3: the model's parameters are shared out among the ranks (ZeRO-3), for one that a rank has no "
        "memory for; 0: every rank has all",
    )
    align: Literal["bytes"] | None = Field(
        None, description="bytes: also a model with another tokenizer, for nll and topk; null: it is refused"
    )
    min_coverage: float = Field(
        0.5, ge=0, le=1, description="with align: the least share of targets that have to be known for it to be done"
    )
    server: ServerConfig | None = Field(
        None, description="asks a server that has the model, under that name, in place of reading with it here"
    )
    trust_remote_code: str | None = Field(
        None,
        pattern=r"^sha256:[0-9a-f]{64}$",
        description="digest of the Python code in the model's directory that may run, as student.trust_remote_code",
    )

    @field_validator("channels")
    @classmethod
    def _once(cls, channels: list[str]) -> list[str]:
        if len(set(channels)) < len(channels):
            raise ValueError("names a channel twice")
        return channels

    @model_validator(mode="after")
    def _together(self) -> ScorerConfig:
        if TOPK not in self.channels and (self.kinds is not None or self.k != ENTRIES):
            raise ValueError("k and kinds are for the channel topk; add it, or leave them out")
        if self.align is not None and (set(self.channels) - {"nll", "topk"} or self.server or self.is_student):
            raise ValueError("align: bytes is for the channels nll and topk of a model in a directory")
        if self.server is not None and {"entropy"} & set(self.channels):
            raise ValueError("channels: entropy is of a whole distribution, and a server tells the largest of it only")
        if self.approximate is not None and ("influence" not in self.channels or self.server is not None):
            raise ValueError("approximate: is for the channel influence of a model that is read here; leave it out")
        if self.server is not None and self.zero:
            raise ValueError("zero: is for a model that is read here; leave it out with a server")
        if self.server is not None and self.trust_remote_code is not None:
            raise ValueError("trust_remote_code: is for a model that is read here; leave it out with a server")
        if self.is_student and self.trust_remote_code is not None:
            raise ValueError("trust_remote_code: the student's stands at student.trust_remote_code; leave it out here")
        return self

    def identity(self) -> dict[str, Any]:
        """What of it decides what the channels hold."""
        found = self.model_dump(mode="json", exclude_defaults=True, exclude={"zero"})  # where it lies changes nothing
        if self.server is not None:
            found["server"] = {"form": self.server.form}  # the address is not what it says
        return found

    @property
    def is_student(self) -> bool:
        return self.model == STUDENT and self.server is None

    def written(self, kinds: Kinds) -> tuple[Channel, ...]:
        """The channels that it writes."""
        found: list[Channel] = []
        for name in self.channels:
            found += topk(self.k, self.of_kinds(kinds)) if name == TOPK else [BUILT_IN[name]]
        return tuple(found)

    def of_kinds(self, kinds: Kinds) -> tuple[str, ...]:
        """The kinds whose topk is kept; none: all."""
        chosen = kinds.mask(self.kinds or [])
        return tuple(name for name, one in zip(kinds.names, chosen, strict=True) if one)


def check_names(score: dict[str, Any]) -> dict[str, Any]:
    """Raises ValueError for a name that no directory, or no ``NAME.channel``, may have."""
    for name in score:
        if not NAME.fullmatch(name):
            raise ValueError(f"'{name}' is no name for a scorer (letters, digits, '_', '-', beginning with a letter)")
    return score


def approximately(manifest: Mapping[str, Any]) -> str:
    """What a scorer's manifest says of its influence, in words behind that name; nothing if it is exact."""
    way = manifest.get("influence", EXACT)
    return "" if way == EXACT else f" (by {way})"
