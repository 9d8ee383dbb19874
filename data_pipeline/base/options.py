"""Options of a teacher, a source or a weighting, checked by its own model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.kinds import nearest

Model = TypeVar("Model", bound=BaseModel)


def check_options(model: type[Model], options: Mapping[str, Any], field: str) -> Model:
    """Options as their model. Raises InputError: one line that names each wrong field and the nearest known one."""
    try:
        return model.model_validate(dict(options))
    except ValidationError as error:
        raise InputError("; ".join(complaint(item, model, field) for item in error.errors())) from error


def complaint(item: Any, model: type[BaseModel], field: str) -> str:
    where = ".".join([field, *(str(part) for part in item["loc"])])
    if item["type"] == "extra_forbidden":
        known = list(model.model_fields)
        return f"{where}: unknown key" + (nearest(str(item["loc"][-1]), known) if known else "; none is known here")
    return f"{where}: {item['msg'].removeprefix('Value error, ')}, got {item['input']!r}"
