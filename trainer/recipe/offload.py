"""The block ``train.offload``: what of a training lies outside of the GPU. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, StrictBool

Where = Literal["none", "cpu", "nvme"]
BLOCKS = {"optimizer": "offload_optimizer", "parameters": "offload_param"}  # DeepSpeed's names
OWN = ("device", "pin_memory", "nvme_path")  # keys of DeepSpeed's blocks that train.offload stands for
REFUSED: dict[str, tuple[Any, str]] = {
    "ratio": (1.0, "a part of AdamW's states would lie in a second optimizer, which checkpoints do not hold"),
    "super_offload": (False, "its AdamW, and with it its states, live in a process that checkpoints do not reach"),
}
"""Keys of DeepSpeed's block offload_optimizer that may only have this value, and why."""


class OffloadConfig(BaseModel):
    """The ``train.offload`` block: ZeRO-Offload (cpu) and ZeRO-Infinity (nvme)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    optimizer: Where = Field(
        "none",
        description="where AdamW works, and its states and the fp32 parameters lie: cpu: in the host's memory, from "
        "ZeRO-1 on; nvme: in files between two updates, ZeRO-3 only",
    )
    parameters: Where = Field(
        "none",
        description="where this rank's part of the parameters lies while no layer computes with it; ZeRO-3 only",
    )
    directory: str | None = Field(
        None, description="nvme only: a directory on each host's own fast disk, for files that live while it trains"
    )
    pin: StrictBool = Field(
        True, description="host memory is page-locked: copies are fast, but the host cannot swap it out"
    )

    @property
    def used(self) -> bool:
        return (self.optimizer, self.parameters) != ("none", "none")

    def check(self, zero: int | str, optimizer: str) -> None:
        """Raises ValueError for what DeepSpeed does not do at a ZeRO stage (it would pass over some in silence), and
        for optimizers whose states nobody has tried elsewhere."""
        if self.optimizer != "none" and optimizer != "adamw":
            raise ValueError(
                f"train.offload.optimizer: {self.optimizer} is for adamw, not for train.optimizer: {optimizer}"
            )
        if self.used and zero not in self.stages:
            asked = {name: where for name in BLOCKS if (where := getattr(self, name)) != "none"}
            said = ", ".join(f"{name}: {where}" for name, where in asked.items())
            stages = " or ".join(map(str, self.stages))
            raise ValueError(f"train.offload ({said}) needs train.zero: {stages}, not {zero}")
        nvme = "nvme" in (self.optimizer, self.parameters)
        if nvme != (self.directory is not None):
            raise ValueError("train.offload.directory belongs to nvme, which needs it: a directory on a fast disk")

    @property
    def stages(self) -> tuple[int, ...]:
        """The ZeRO stages that can do it, lowest first."""
        if self.parameters != "none" or self.optimizer == "nvme":
            return (3,)
        return (0, 1, 2, 3) if self.optimizer == "none" else (1, 2, 3)

    def zero_keys(self, block: Mapping[str, Any]) -> dict[str, Any]:
        """DeepSpeed's keys of ``zero_optimization`` for this, ``block`` merged in: that of a recipe."""
        found = {}
        for name, key in BLOCKS.items():
            if (device := getattr(self, name)) != "none" or key in block:
                found[key] = {**(block.get(key) or {}), "device": device, "pin_memory": self.pin}
            if device == "nvme":
                found[key]["nvme_path"] = self.directory
        return found


def adopt(data: Any) -> Any:
    """A recipe whose ``deepspeed`` block says by DeepSpeed's own names what ``train.offload`` is for, with that moved
    there; what else these blocks hold, such as ``buffer_count``, stays. Data that is no recipe is given back as it is.

    Raises ValueError where both say it, and not the same.
    """
    block, train = (data.get(key) for key in ("deepspeed", "train")) if isinstance(data, Mapping) else (None, None)
    zero = block.get("zero_optimization") if isinstance(block, Mapping) else None
    if not isinstance(zero, Mapping) or not isinstance(train, Mapping) or not set(BLOCKS.values()) & zero.keys():
        return data
    asked = train.get("offload") or {}
    if not isinstance(asked, Mapping):
        return data
    offload, rest = dict(asked), dict(zero)
    for name, key in BLOCKS.items():
        theirs = rest.pop(key, None)
        if theirs is None:
            continue
        field = f"deepspeed.zero_optimization.{key}"
        if not isinstance(theirs, Mapping):
            raise ValueError(f"{field}: expected a mapping, got {theirs!r}")
        for said, own in (("device", name), ("pin_memory", "pin"), ("nvme_path", "directory")):
            if said not in theirs:
                continue
            if said == "device" and theirs[said] not in get_args(Where):
                raise ValueError(f"{field}.device: expected {', '.join(get_args(Where))}, got {theirs[said]!r}")
            value, held = theirs[said], offload.get(own, OffloadConfig.model_fields[own].default)
            if held not in (value, OffloadConfig.model_fields[own].default):
                raise ValueError(f"{field}.{said} is {value!r}, but train.offload.{own} is {held!r}: say it once")
            offload[own] = value
        if kept := {said: value for said, value in theirs.items() if said not in OWN}:
            rest[key] = kept
    left: dict[str, Any] = {key: value for key, value in data["deepspeed"].items() if key != "zero_optimization"}
    if rest:
        left["zero_optimization"] = rest
    return {**data, "deepspeed": left, "train": {**train, "offload": offload}}
