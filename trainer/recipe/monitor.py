"""Where a run's numbers go beside its log: TensorBoard, Weights & Biases, Comet. Imports no torch."""

from __future__ import annotations

import importlib.util
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.guards.names import Name

PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "comet": "comet_ml"}
LEFT_OUT = ("step", "epoch", "event")


class WandbConfig(BaseModel):
    """Weights & Biases. Who logs in stands in its own settings or in WANDB_API_KEY, never in a recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    project: Name = Field(description="project that the run belongs to")
    group: Name | None = Field(None, description="group of runs inside the project")
    team: Name | None = Field(None, description="team or user that owns the project; null: your default one")


class CometConfig(BaseModel):
    """Comet. Who logs in stands in its own settings or in COMET_API_KEY, never in a recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    project: Name = Field(description="project that the run belongs to")
    workspace: Name | None = Field(None, description="workspace of the project; null: your default one")
    experiment_name: Name | None = Field(None, description="name of the run; null: Comet makes one up")


class MonitorConfig(BaseModel):
    """The ``train.monitor`` block: what else rank 0 writes every line of ``log.jsonl`` to."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tensorboard: bool = Field(False, description="event files in the train directory's folder tensorboard")
    wandb: WandbConfig | None = Field(None, description="Weights & Biases")
    comet: CometConfig | None = Field(None, description="Comet")

    def wanted(self) -> list[str]:
        return [name for name in PACKAGES if getattr(self, name)]


def check_installed(config: MonitorConfig) -> None:
    """Raises InputError naming the package that is missing."""
    for name in config.wanted():
        package = PACKAGES[name]
        if importlib.util.find_spec(package) is None:
            raise InputError(
                f"train.monitor.{name}: {package} is not installed; pip install {package}, or leave it out"
            )


def events(line: dict[str, Any]) -> list[tuple[str, float, int]]:
    """The numbers of a line of the log as (name, value, step), such as ``train/answer/loss`` and ``train/lr``."""
    prefix = line.get("event", "train")
    found: list[tuple[str, float, int]] = []
    for key, value in line.items():
        if key == "kinds" and isinstance(value, dict):
            for kind, numbers in value.items():
                found += [(f"{prefix}/{kind}/{name}", number, line["step"]) for name, number in numbers.items()]
        elif key in ("routers", "time") and isinstance(value, dict):
            found += [(f"{prefix}/{key}/{name}", number, line["step"]) for name, number in value.items()]
        elif key not in LEFT_OUT:
            found.append((f"{prefix}/{key}", value, line["step"]))
    return [event for event in found if isinstance(event[1], int | float) and not isinstance(event[1], bool)]
