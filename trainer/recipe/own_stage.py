"""A stage of the user's own in a recipe."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from tracestill.data_pipeline.guards.names import Name


class OwnStage(BaseModel):
    """An item of a recipe's ``stages`` block."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    use: Name = Field(description="my_pkg.my_module:STAGE, a StageSpec")
    after: Name = Field(description="the stage that it follows")
    options: dict[str, Any] = Field({}, description="the stage's own options")

    @field_validator("use")
    @classmethod
    def _is_path(cls, use: str) -> str:
        if not all(use.partition(":")):
            raise ValueError("expected an import path such as my_pkg.my_module:STAGE")
        return use
