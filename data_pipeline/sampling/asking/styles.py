"""Styles: system prompts that ask for a kind of explanation (after Orca, arXiv 2306.02707), ours or yours."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tracestill.data_pipeline.base.kinds import nearest
from tracestill.data_pipeline.guards.names import Name

BUILT_IN = {
    "step_by_step": (
        "Solve the problem in small steps. Say with each step why it is allowed and why it helps. Begin a new line for "
        "each step, and end with a line that gives the final answer."
    ),
    "to_a_child": (
        "Explain the solution to a bright child of ten years. Use short sentences and everyday words, say what every "
        "number stands for, and skip no step. End with a line that gives the final answer."
    ),
    "plan_first": (
        "First write a plan: the quantities that are needed, and the order in which they can be found. Then carry the "
        "plan out, point by point. End with a line that gives the final answer."
    ),
    "terse": "Solve the problem with as few words as you can: one calculation a line, then the final answer.",
}


class StyleConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name | None = Field(None, description=f"one of {', '.join(BUILT_IN)}; null: prompt says it")
    prompt: str | None = Field(None, description="a system prompt of your own, instead of a name")
    tag: str = Field(
        "", description="stands on a line of its own before the question that the student reads; empty: it sees none"
    )

    @model_validator(mode="after")
    def _one(self) -> StyleConfig:
        if (self.name is None) == (self.prompt is None):
            raise ValueError("a style has either a name or a prompt")
        if self.name is not None and self.name not in BUILT_IN:
            raise ValueError(f"unknown style '{self.name}'{nearest(self.name, list(BUILT_IN))}; or give a prompt")
        return self

    @property
    def system(self) -> str:
        return self.prompt if self.prompt is not None else BUILT_IN[self.name or ""]


def prompt_of(style: str | StyleConfig) -> str:
    """The system prompt; a bare text is one, unless it is the name of a style."""
    return style.system if isinstance(style, StyleConfig) else BUILT_IN.get(style, style)


def tagged(question: str, tag: str) -> str:
    """The question as the student reads it."""
    return f"{tag}\n{question}" if tag else question
