"""The recipe's `select`: which records are worth imitating."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from tracestill.data_pipeline.base import own_modules
from tracestill.data_pipeline.guards.names import Name
from tracestill.data_pipeline.selection import record_weights
from tracestill.data_pipeline.selection.paths import PathsConfig
from tracestill.data_pipeline.selection.policy import PolicyName
from tracestill.data_pipeline.selection.repetition import Policy

BEFORE = ("answer", "equations", "unique_paths")  # how earlier versions said policy and paths.same


class SelectConfig(BaseModel):
    """With policy none, paths.same off and no maximum, only records without an answer are rejected: unfiltered."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    policy: PolicyName = Field(
        "strict",
        description="strict: right answer and sound trace; answer: right answer, whatever the trace; none: all that "
        "have an answer",
    )
    paths: PathsConfig = Field(PathsConfig(), description="which traces of a question reason alike, and which stay")
    max_per_question: int | None = Field(None, ge=1, description="records kept of one question; null: all")
    max_per_teacher: int | None = Field(
        None, ge=1, description="records kept of one question and one teacher; null: all"
    )
    repeats: Policy = Field(
        "count",
        description="a trace that says the same again and again, at its end or elsewhere; reject: it is left out; "
        "count: it stays, and is counted; ignore: it is not looked for",
    )
    copies_question: Policy = Field("count", description="a trace that holds nearly all of the question, word for word")
    weight: Name = Field(
        "given",
        description="how much each kept record counts: given (as its question and teacher say, else 1), per_question "
        "(that, divided by the number of its question's kept records of a weight above 0), or "
        "my_pkg.my_module:my_weights",
    )
    workers: int | None = Field(
        None,
        ge=1,
        description="processes that check records; null: as many as cores, one for few records. What is kept is the "
        "same for any number",
    )

    @model_validator(mode="before")
    @classmethod
    def _as_before(cls, given: Any) -> Any:
        """Recipes of earlier versions, and their arms, go on to mean what they meant."""
        if not isinstance(given, dict) or not any(isinstance(given.get(key), bool) for key in BEFORE):
            return given
        found = {key: value for key, value in given.items() if key not in BEFORE}
        answer, equations = given.get("answer", True), given.get("equations", True)
        if "answer" in given or "equations" in given:
            if equations and not answer:
                raise ValueError("answer: false is now policy: none, which rejects no false equation either")
            found["policy"] = "none" if not answer else "strict" if equations else "answer"
        if "unique_paths" in given:
            same = "equations" if given["unique_paths"] else "off"
            found["paths"] = {**found.get("paths", {}), "same": same}
        return found

    @field_validator("weight")
    @classmethod
    def _found(cls, weight: str) -> str:
        if record_weights.own_module(weight) is None or not own_modules.is_looking():
            record_weights.find(weight)
        return weight
