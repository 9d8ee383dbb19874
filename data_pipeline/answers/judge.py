"""The verifier ``judge``: a teacher of the recipe says whether an answer is right, once for each pair.

What it said is kept in a file of lines of JSON, so that nobody is asked the same again, also not by another stage.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tracestill.data_pipeline.answers.verdict import Outcome, Verdict
from tracestill.data_pipeline.base.schema import Question
from tracestill.data_pipeline.sampling.asking.crew import Crew
from tracestill.data_pipeline.sampling.asking.desk import Answer, Note
from tracestill.data_pipeline.sampling.asking.money import Ledger
from tracestill.data_pipeline.sampling.teachers import Ask, Failed, Said, Solution

BY = "judge"
ATTEMPTS = 3
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
STYLE, TEMPERATURE, SEED = "", 0.0, 0


class Judge:
    """A teacher who judges, and the file of what it has said."""

    def __init__(self, teacher: Any, name: str, kept: Path, identity: Any = None) -> None:
        """``identity``: what of its options decides on what it says, as JSON; another judge's words do not count."""
        self.teacher, self.name, self.path = teacher, name, kept
        self.identity = json.dumps(identity, sort_keys=True, default=str)
        self.known: dict[str, str] = {}
        if kept.exists():
            for line in kept.read_text(encoding="utf-8").splitlines():
                try:
                    row = json.loads(line)
                    self.known[row["id"]] = row["said"]
                except (ValueError, KeyError, TypeError):  # cut off by a kill: it is asked again
                    continue

    def verdicts(self, cases: Sequence[tuple[str, str, str]]) -> list[Verdict]:
        """Of each (answer, gold, question). Raises what the teacher raises for what is wrong with every request."""
        texts = [ASKED.format(question=question, gold=gold, answer=answer) for answer, gold, question in cases]
        self.ask(texts)
        found = []
        for (answer, gold, _), text in zip(cases, texts, strict=True):
            said = self.known.get(self.id_of(text))
            last = said.strip().splitlines()[-1] if said and said.strip() else ""
            words = WORD.findall(last)
            clear = len(set(words)) == 1 and not NOT.search(last)
            outcome: Outcome = OUTCOMES[words[0]] if clear else "cannot_tell"
            detail = self.name if clear else f"{self.name} gave no verdict"
            found.append(Verdict(outcome, answer.strip()[:200], gold.strip()[:200], BY, detail))
        return found

    def id_of(self, text: str) -> str:
        return hashlib.sha256(f"{self.name}\n{self.identity}\n{text}".encode()).hexdigest()[:32]

    def ask(self, texts: Sequence[str]) -> None:
        """What is not known yet, each once; a line of the file is on its way to disk before the next answer is read."""
        wanted = [text for text in dict.fromkeys(texts) if self.id_of(text) not in self.known]
        if not wanted:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        torn = self.path.exists() and not self.path.read_bytes().endswith(b"\n") and self.path.stat().st_size
        ledger = Ledger(None)
        with (
            self.path.open("a", encoding="utf-8") as file,
            Crew({self.name: self.teacher}, ATTEMPTS, ledger, {}) as crew,
        ):
            if torn:
                file.write("\n")
            for text in wanted:
                question = Question(self.id_of(text), text, "", "train")
                crew.put(self.name, Ask(self.id_of(text), question, STYLE, TEMPERATURE, 0, SEED, as_is=True))
            for some in crew.answers():
                for one in some:
                    if isinstance(one, Note):
                        one.kept.set()
                    elif isinstance(one, Answer) and isinstance(one.said, Said | Solution):
                        self.known[one.ask.id] = said = text_of(one.said)
                        file.write(json.dumps({"id": one.ask.id, "teacher": self.name, "said": said}) + "\n")
                    elif isinstance(one, Answer) and isinstance(one.said, Failed):
                        continue  # no verdict; a later run asks again
                file.flush()


def text_of(said: Said | Solution) -> str:
    return said.raw if isinstance(said, Said) else said.answer
