"""A teacher that is asked for verdicts: once for each text, what it said kept in a file, and never beyond a budget.

The file holds lines of JSON: what was said (``id``, ``teacher``, ``said``), and what has been spent so far (``spent``;
ahead of the requests under way, so that a run that is killed counts them). Nobody is asked the same again, also not by
another stage; what there was no money for is asked by a run with a larger budget.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.schema import Question
from tracestill.data_pipeline.sampling.asking.crew import Crew
from tracestill.data_pipeline.sampling.asking.desk import Answer, NotAsked, Note
from tracestill.data_pipeline.sampling.asking.money import Ledger
from tracestill.data_pipeline.sampling.teachers import Ask, Failed, Said, Solution

BUDGET, FREE = "budget", object()
STYLE, TEMPERATURE = "", 0.0


class Kept:
    """A teacher, and the file of what it has said."""

    def __init__(
        self,
        teacher: Any,
        name: str,
        path: Path | None,
        identity: Any = None,
        *,
        budget: float | None = None,
        attempts: int = 3,
    ) -> None:
        """``path``: None keeps nothing beyond this object. ``identity``: what of its options decides on what it says,
        as JSON; another teacher's words do not count. ``budget``: what asking may cost, in the unit of its price, over
        all runs that keep this file; None: no bound."""
        self.teacher, self.name, self.path = teacher, name, path
        self.identity = json.dumps(identity, sort_keys=True, default=str)
        self.budget, self.attempts = budget, attempts
        self.known: dict[str, str] = {}
        self.unpaid: set[str] = set()  # ids of what there was no money for
        self.failed: dict[str, str] = {}  # id -> why
        self.spent = 0.0
        for line in path.read_text(encoding="utf-8").splitlines() if path is not None and path.exists() else ():
            try:
                row = json.loads(line)
                if "spent" in row:
                    self.spent = float(row["spent"])
                else:
                    self.known[row["id"]] = row["said"]
            except (ValueError, KeyError, TypeError):  # cut off by a kill: it is asked again
                continue

    def said(self, text: str) -> str | None:
        """What it said to a text; None: nothing yet."""
        return self.known.get(self.id_of(text))

    def id_of(self, text: str) -> str:
        return hashlib.sha256(f"{self.name}\n{self.identity}\n{text}".encode("utf-8", "surrogatepass")).hexdigest()[:32]

    def ask(self, texts: Sequence[str]) -> None:
        """What is not known yet, each once. Raises what the teacher raises for what is wrong with every request."""
        wanted = [text for text in dict.fromkeys(texts) if self.id_of(text) not in self.known]
        if not wanted:
            return
        ledger = Ledger(self.budget, self.spent)
        with self.opened() as file:
            try:
                with Crew({self.name: self.teacher}, self.attempts, ledger, {}) as crew:
                    for text in wanted:
                        question = Question(self.id_of(text), text, "", "train")
                        seed = int(self.id_of(text)[:15], 16)
                        crew.put(self.name, Ask(self.id_of(text), question, STYLE, TEMPERATURE, 0, seed, as_is=True))
                    for some in crew.answers():
                        for one in some:
                            self.keep(one, file)
                        file.flush()
            finally:
                if ledger.drawn or ledger.spent:
                    self.keep_spent(ledger.close(), file)

    def opened(self) -> IO[str]:
        """The file, at the beginning of a line."""
        if self.path is None:
            return io.StringIO()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        torn = self.path.exists() and self.path.stat().st_size and not self.path.read_bytes().endswith(b"\n")
        file = self.path.open("a", encoding="utf-8")
        file.write("\n" if torn else "")
        return file

    def keep(self, one: Answer | Note, file: IO[str]) -> None:
        if isinstance(one, Note):
            if one.name == BUDGET and one.value is not None:
                self.keep_spent(float(one.value), file)
            one.kept.set()
            return
        self.unpaid.discard(one.ask.id)
        self.failed.pop(one.ask.id, None)
        if isinstance(one.said, Said | Solution):
            self.known[one.ask.id] = said = text_of(one.said)
            file.write(json.dumps({"id": one.ask.id, "teacher": self.name, "said": said}) + "\n")
        elif isinstance(one.said, NotAsked):
            self.unpaid.add(one.ask.id)
        elif isinstance(one.said, Failed):  # a later run asks again
            self.failed[one.ask.id] = one.said.detail

    def keep_spent(self, spent: float, file: IO[str]) -> None:
        """On disk before anybody is asked for it."""
        self.spent = spent
        file.write(json.dumps({"spent": spent}) + "\n")
        file.flush()
        if self.path is not None:
            os.fsync(file.fileno())


def text_of(said: Said | Solution) -> str:
    parts = (said.reasoning, said.raw) if isinstance(said, Said) else (said.trace, said.answer)
    return "\n".join(filter(None, parts))


def refuse_without_price(teacher: Any, budget: float | None, field: str, price: str) -> None:
    """Raise InputError if a budget is set for a teacher whose costs nobody knows."""
    if budget is not None and hasattr(teacher, "answer") and getattr(teacher, "price", FREE) is None:
        raise InputError(f"{price}: {field} is set, so what this teacher costs has to be known")
