"""The block ``train.optimizer``: which optimizer, its own options, and what it keeps for each parameter. Imports no
torch, so that a recipe is checked at once; ``trainer/optimizers`` holds what it names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tracestill.data_pipeline.base import own_modules
from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.kinds import nearest
from tracestill.data_pipeline.base.options import check_options
from tracestill.data_pipeline.guards.names import Name

Share = Annotated[float, Field(ge=0, lt=1)]
KEY = "train.optimizer"


class NoOptions(BaseModel):
    """AdamW's rates and moments stand in ``train.lr``, ``train.betas``, ``train.eps`` and ``train.weight_decay``."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class MuonOptions(BaseModel):
    """Muon's (https://kellerjordan.github.io/posts/muon), for the matrices inside of layers. Embeddings, head, norms
    and biases get AdamW with ``train.betas`` and ``train.eps``."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    momentum: Share = Field(0.95, description="share of the momentum that stays from step to step")
    nesterov: bool = Field(True, description="look ahead by the momentum")
    iterations: int = Field(5, ge=1, le=20, description="of Newton and Schulz, which make the update orthogonal")
    scale: Literal["match_rms_adamw", "original"] = Field(
        "match_rms_adamw",
        description="match_rms_adamw: updates as large as AdamW's, so that train.lr serves both (arXiv 2502.16982); "
        "original: the square root of rows over columns, if above 1",
    )
    rate: float = Field(
        1.0, gt=0, description="Muon's learning rate as a multiple of train.lr, through all of a schedule"
    )


class LionOptions(BaseModel):
    """Lion's (arXiv 2302.06675). ``train.lr`` should be 3 to 10 times below AdamW's, the decay as much above."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    betas: tuple[Share, Share] = Field((0.9, 0.99), description="of the update's sign, and of the momentum")


class AdafactorOptions(BaseModel):
    """Adafactor's (arXiv 1804.04235), as torch's. ``train.lr`` is relative to the size of a parameter, such as 1e-2."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    decay: float = Field(-0.8, le=0, description="of the second moment: 1 - beta2 is the step to this power")
    smallest: float = Field(1e-3, ge=0, description="root mean square that a parameter counts as having at least")
    clip: float = Field(1.0, gt=0, description="root mean square that an update has at most")


class Adam8bitOptions(BaseModel):
    """bitsandbytes' AdamW with moments in 8 bits (arXiv 2110.02861)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    from_elements: int = Field(4096, ge=1, description="parameters with fewer elements keep moments in fp32")


@dataclass(frozen=True)
class OptimizerSpec:
    """An optimizer that recipes name."""

    options: type[BaseModel]
    made_by: str  # module:function of trainer.optimizers
    layer_bytes: float  # of its state, an element of the matrices inside of layers
    other_bytes: float  # and of every other parameter


OPTIMIZERS: dict[str, OptimizerSpec] = {
    "adamw": OptimizerSpec(NoOptions, "tracestill.trainer.optimizers.adamw:make", 8, 8),
    "muon": OptimizerSpec(MuonOptions, "tracestill.trainer.optimizers.muon:make", 4, 8),
    "lion": OptimizerSpec(LionOptions, "tracestill.trainer.optimizers.lion:make", 4, 4),
    "adafactor": OptimizerSpec(AdafactorOptions, "tracestill.trainer.optimizers.adafactor:make", 0, 0),
    "adam8bit": OptimizerSpec(Adam8bitOptions, "tracestill.trainer.optimizers.adam8bit:make", 2 + 8 / 256, 2 + 8 / 256),
}
"""Those built in. All are exact at every ZeRO stage and on any number of ranks; one of the user's own is tried."""


class OptimizerConfig(BaseModel):
    """The ``train.optimizer`` block; a bare name, such as ``optimizer: muon``, is one without options."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    use: Name = Field("adamw", description=f"{', '.join(OPTIMIZERS)}, or a function of yours as my_pkg.my_module:make")
    options: dict[str, Any] = Field({}, description="the optimizer's own")

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, data: Any) -> Any:
        return {"use": data} if isinstance(data, str) else data

    @model_validator(mode="after")
    def _known(self) -> OptimizerConfig:
        module = own_optimizer(self)
        if module is not None:
            if not own_modules.is_looking() and own_modules.find(module) is None:
                raise ValueError(own_modules.where_missing(module))
            return self
        if self.use not in OPTIMIZERS:
            if own_modules.find(self.use) is not None:
                raise ValueError(f"'{self.use}' is a module; name its function, as in {self.use}:make")
            raise ValueError(f"no optimizer '{self.use}'{nearest(self.use, list(OPTIMIZERS))}")
        try:
            options = check_options(OPTIMIZERS[self.use].options, self.options, "options")
        except InputError as error:
            raise ValueError(str(error)) from error
        object.__setattr__(self, "options", options.model_dump(mode="json"))  # the resolved recipe says all of them
        return self


def own_optimizer(config: OptimizerConfig) -> str | None:
    """The module of the user's that ``train.optimizer`` names; None for one built in."""
    return config.use.partition(":")[0] if ":" in config.use else None


def optimizer_bytes(optimizer: str, layers: float, others: float) -> int:
    """Bytes of an optimizer's state for so many elements of matrices inside of layers, and of other parameters. One of
    the user's own counts as AdamW."""
    spec = OPTIMIZERS.get(optimizer, OPTIMIZERS["adamw"])
    return round(spec.layer_bytes * layers + spec.other_bytes * others)


def without_foreign_options(base: Mapping[str, Any], over: Any) -> Any:
    """An arm's ``train`` block, whose optimizer does not take over the options of the one that it takes the place of;
    ``base`` is the main arm's."""
    if not isinstance(over, Mapping) or "optimizer" not in over:
        return over
    own = over["optimizer"]
    own = {"use": own} if isinstance(own, str) else own
    if isinstance(own, Mapping) and own.get("use", base["optimizer"]["use"]) != base["optimizer"]["use"]:
        own = {"options": {}, **own}
    return {**over, "optimizer": own}
