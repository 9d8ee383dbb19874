"""Several answers to each question as votes: two that say the same are one, whatever they look like."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
Pair = tuple[str, str, Row]  # two answers, and their question
NONE, RIGHT = -1, 0  # votes
DECIDED = ("right", "wrong")  # verdicts


def votes_of(
    rows: Sequence[Sequence[Row]], questions: Sequence[Row], same: Callable[[Sequence[Pair]], Sequence[bool]]
) -> list[list[int]]:
    """The vote of each answer among those of its question: ``RIGHT`` if it is right, ``NONE`` without an answer, else
    equal numbers for answers of which ``same`` says that they say the same.

    ``rows``: PREDICTION_SCHEMA, by question. Equal texts are not compared; others are, with the first answer of
    each vote so far, in the order of samples; those of all questions at once.
    """
    keys = [
        [None if row["answer"] is None or row["correct"] else key_of(row["answer"]) for row in each] for each in rows
    ]
    texts: list[dict[str, str]] = []  # of each question: key -> the first answer that has it
    for each, of in zip(rows, keys, strict=True):
        texts.append({})
        for row, key in zip(each, of, strict=True):
            if key is not None:
                texts[-1].setdefault(key, row["answer"])
    firsts: list[list[str]] = [[] for _ in rows]  # of each question: an answer of each wrong vote
    vote: list[dict[str, int]] = [{} for _ in rows]
    for turn in range(max(map(len, texts), default=0)):
        now = [(at, list(held.items())[turn]) for at, held in enumerate(texts) if turn < len(held)]
        pairs = [(text, other, questions[at]) for at, (_, text) in now for other in firsts[at]]
        said = iter(same(pairs))
        for at, (key, text) in now:
            alike = [next(said) for _ in firsts[at]]
            found = alike.index(True) if True in alike else len(firsts[at])
            if found == len(firsts[at]):
                firsts[at].append(text)
            vote[at][key] = RIGHT + 1 + found
    return [
        [RIGHT if row["correct"] else NONE if key is None else vote[at][key] for row, key in zip(each, of, strict=True)]
        for at, (each, of) in enumerate(zip(rows, keys, strict=True))
    ]


def count_of(answers: Sequence[Sequence[Row]]) -> list[bool]:
    """Whether the answers to each question count: there is a gold answer, or somebody tells without one. Who told of
    other questions would have told of an answer where there is none."""
    gold = [any(row["gold"].strip() for row in each) for each in answers]
    told = [any(row["verdict"] in DECIDED for row in each) for each in answers]
    tells = any(is_told and not known for is_told, known in zip(told, gold, strict=True))
    silent = [tells and all(row["answer"] is None for row in each) for each in answers]
    return [any(each) for each in zip(gold, told, silent, strict=True)]


def key_of(answer: str) -> str:
    """Equal for answers that are the same but for white space."""
    return " ".join(answer.split())
