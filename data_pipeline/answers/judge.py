"""The verifier ``judge``: a teacher of the recipe says whether an answer is right, once for each pair."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tracestill.data_pipeline.answers.verdict import Outcome, Verdict
from tracestill.data_pipeline.sampling.asking.kept import Kept

BY = "judge"
BUDGET = "verify.budget"
ASKED = """\
Here are a question, its reference answer, and an answer that somebody gave.

Question:
{question}

Reference answer:
{gold}

Answer given:
{answer}

Does the answer given say the same as the reference answer? How it is written does not matter, only what it says. End \
with one line that holds RIGHT, WRONG or UNSURE, and nothing else."""
WORD = re.compile(r"\b(RIGHT|WRONG|UNSURE)\b")
NOT = re.compile(r"\bnot\b|n['’]t\b", re.I)  # "it is not RIGHT"
OUTCOMES: dict[str, Outcome] = {"RIGHT": "right", "WRONG": "wrong", "UNSURE": "cannot_tell"}


class Judge:
    """A teacher who judges."""

    def __init__(self, kept: Kept) -> None:
        self.kept = kept

    def verdicts(self, cases: Sequence[tuple[str, str, str]]) -> list[Verdict]:
        """Of each (answer, gold, question). ``cannot_tell`` where it gave no clear one, or the budget did not pay for
        asking. Raises what the teacher raises for what is wrong with every request."""
        texts = [ASKED.format(question=question, gold=gold, answer=answer) for answer, gold, question in cases]
        self.kept.ask(texts)
        return [
            self.verdict(text, answer.strip()[:200], gold.strip()[:200])
            for (answer, gold, _), text in zip(cases, texts, strict=True)
        ]

    def verdict(self, text: str, answer: str, gold: str) -> Verdict:
        said, name = self.kept.said(text), self.kept.name
        if said is None and self.kept.id_of(text) in self.kept.unpaid:
            unpaid = f"{BUDGET} = {self.kept.budget} does not pay for asking {name}"
            return Verdict("cannot_tell", answer, gold, BY, unpaid)
        last = said.strip().splitlines()[-1] if said and said.strip() else ""
        words = WORD.findall(last)
        clear = len(set(words)) == 1 and not NOT.search(last)
        outcome: Outcome = OUTCOMES[words[0]] if clear else "cannot_tell"
        return Verdict(outcome, answer, gold, BY, name if clear else f"{name} gave no verdict")
