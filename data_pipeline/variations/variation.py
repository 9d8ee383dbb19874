"""What a variation is: a program that asks a question otherwise, and says whether its gold answer stays."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from tracestill.data_pipeline.base.schema import Question

PLAIN = "plain"  # the name of no variation: questions as they are
Rewrite = Callable[[Question, random.Random], "Question | None"]


@dataclass(frozen=True)
class Variation:
    """One way of asking otherwise. One of your own is an object of this class; a recipe names it by its import path.

    ``rewrite(question, draw)`` gives the question as it is to be asked, with its gold answer, or None where it does not
    apply. All that is random in it comes from ``draw``, which follows from seed, variation and question.
    """

    name: str
    rewrite: Rewrite
    family: str = ""  # variations that are looked at together; "": it stands alone
    keeps_gold: bool = True
    is_new: bool = False  # a program makes the whole question anew: gold and numbers are others
    system: str | None = None  # the system prompt that it is asked with; None: the layout's

    @property
    def label(self) -> str:
        """The name of its column: ``wording.polite``."""
        return f"{self.family}.{self.name}" if self.family and self.family != self.name else self.name


def with_text(question: Question, text: str) -> Question:
    """The same question in other words. It keeps its id, by which the ways of asking it are compared."""
    return replace(question, question=text)


def as_it_is(question: Question, draw: random.Random) -> Question:
    """Not rewritten: what changes stands elsewhere."""
    return question
