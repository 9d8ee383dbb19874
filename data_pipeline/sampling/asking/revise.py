"""A teacher criticises a trace by stated principles, then writes it anew (after arXiv 2212.08073)."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from tracestill.data_pipeline.guards.names import Name

PRINCIPLES = (
    "Every step follows from the question or from a step before it.",
    "Every calculation is right, and what it finds is named.",
    "Nothing is repeated, and nothing is said that does not help to reach the answer.",
    "The last line gives the answer that was asked for, and nothing else.",
)
CRITICISE = """\
Here are a problem and a solution that somebody wrote.

Problem:
{question}

Solution:
{trace}
Answer: {answer}

Principles of a good solution:
{principles}

Say, point by point, where the solution breaks one of the principles, and how that can be mended. Quote the words that \
you mean. If it breaks none, say so. Do not write a new solution yet."""
REWRITE = """\
Here are a problem, a solution that somebody wrote, and a criticism of it.

Problem:
{question}

Solution:
{trace}
Answer: {answer}

Criticism:
{critique}

Write the solution anew, as if for the first time: mend what the criticism is right about, keep what was good, and \
mention neither the old solution nor the criticism. End with a line "The answer is ..."."""


class ReviseConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    teacher: Name = Field(description="who criticises and rewrites: the name of one of sample.teachers")
    principles: tuple[str, ...] = Field(PRINCIPLES, min_length=1, description="what a good trace keeps to")
    of: tuple[Name, ...] = Field((), description="whose traces: names of teachers; none named: everybody's")
    temperature: float = Field(0.7, ge=0, description="of criticism and rewriting")


def criticise(config: ReviseConfig, question: str, trace: str, answer: str) -> str:
    """What the teacher is asked first."""
    principles = "\n".join(f"{at}. {text}" for at, text in enumerate(config.principles, 1))
    return CRITICISE.format(question=question, trace=trace, answer=answer, principles=principles)


def rewrite(question: str, trace: str, answer: str, critique: str) -> str:
    """What it is asked then."""
    return REWRITE.format(question=question, trace=trace, answer=answer, critique=critique)
