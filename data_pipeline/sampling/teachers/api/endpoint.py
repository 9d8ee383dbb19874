"""A served model that is to be evaluated: ``evaluate.endpoints.NAME``."""

from __future__ import annotations

from typing import Any

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from tracestill.data_pipeline.sampling.teachers.api.options import TeacherOptions
from tracestill.data_pipeline.tokens.forms import form_of

ELSEWHERE = {  # options of teachers that evaluation says otherwise
    "max_tokens": "evaluate.max_new_tokens",
    "prefill": "evaluate.budgets",
    "thinking_budget": "evaluate.budgets",
    "batch": "the evaluation, which waits for no day",
}


class EndpointConfig(TeacherOptions):
    """A server as teachers have it (``sample.teachers``, ``use: api``), and what an evaluation adds to that."""

    budget: float | None = Field(None, gt=0, description="what all answers may cost, in the unit of price")
    attempts: int = Field(3, ge=1, description="times that one answer is asked for while the server fails")
    form: str | None = Field(None, description="how the model parts trace and answer; null: as encode.form")
    going_on: dict[str, Any] = Field(
        {"continue_final_message": True, "add_generation_prompt": False},
        description="further fields of a chat request whose answer has been begun, by which vLLM and SGLang go on",
    )

    @model_validator(mode="after")
    def _evaluated(self) -> EndpointConfig:
        for name, where in ELSEWHERE.items():
            if name in self.model_fields_set:
                raise ValueError(f"{name}: leave it out, {where} says it")
        if self.budget is not None and self.price is None:
            raise ValueError("budget: needs price, or nobody knows what an answer costs")
        if self.form is not None:
            form_of(self.form)
        return self

    @model_serializer(mode="wrap")
    def _written(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what is refused here: the recipe that a run keeps is read again."""
        return {key: value for key, value in write(self).items() if key not in ELSEWHERE}

    def identity(self) -> dict[str, Any]:
        """What decides what is answered."""
        found = super().identity()
        return {key: value for key, value in found.items() if key not in ("budget", "attempts", "form")}
