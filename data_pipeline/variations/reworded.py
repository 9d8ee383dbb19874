"""A teacher says questions in other words; what it writes is kept in a file, and has to hold the question's numbers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from tracestill.data_pipeline.base.schema import Question
from tracestill.data_pipeline.sampling.asking.kept import Kept
from tracestill.data_pipeline.variations.known import ReworderConfig
from tracestill.data_pipeline.variations.values import values_in
from tracestill.data_pipeline.variations.variation import Variation, with_text

KEPT = "rewordings.jsonl"  # in a run: what teachers have said
ASKED = """\
Here is a question.

{question}

Say the same question in other words: change words, sentences and their order as you like, but nothing that it says. \
Keep every number and every name, add nothing, and do not answer it. This is rewording number {number}; make it unlike \
others that you would write. Reply with the reworded question alone."""
QUOTED = re.compile(r"\A[\"“](.*)[\"”]\Z", re.S)
THOUGHT = re.compile(r"\A.*</think>", re.S)


def reworders(config: ReworderConfig, kept: Kept, questions: Sequence[Question]) -> list[Variation]:
    """The variations of a teacher, which is asked here for all that is not kept yet. One that changes the numbers of a
    question, or was not paid for, does not apply to it. Raises what the teacher raises."""
    kept.ask([asked(each.question, number) for number in range(1, config.count + 1) for each in questions])

    def by(number: int) -> Variation:
        def rewrite(question: Question, draw: object) -> Question | None:
            said = kept.said(asked(question.question, number))
            return None if said is None else fitting(question, said)

        return Variation(str(number), rewrite, f"by_{config.by}")

    return [by(number) for number in range(1, config.count + 1)]


def asked(question: str, number: int) -> str:
    return ASKED.format(question=question, number=number)


def fitting(question: Question, said: str) -> Question | None:
    """The rewording in what a teacher said; None if it holds other numbers than the question."""
    text = THOUGHT.sub("", said).strip()
    quoted = QUOTED.match(text)
    text = quoted[1].strip() if quoted else text
    same = Counter(values_in(text)) == Counter(values_in(question.question))
    return with_text(question, text) if text and same else None
