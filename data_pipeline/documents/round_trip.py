"""Whether the text of records survives the tokenizer: what it makes ``<unk>``, drops, normalises or respaces.

Question, trace and answer are encoded and decoded, each by itself, and what comes back is compared with what went in:

    lost     a character became the unknown token, vanished, or became another one; or the answer no longer
             means the same. A student that is trained on it cannot write the text, and is never right.
    form     only case or Unicode form differs (NFKC: ``½`` comes back as ``1⁄2``)
    spaces   only white space differs (a newline that becomes a space)

What is lost counts against ``encode.max_lossy``; the other two are only noted.
"""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from tokenizers import Encoding, Tokenizer

from tracestill.data_pipeline.answers.verify import same_answer
from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.base.schema import Record
from tracestill.data_pipeline.documents.document import trace_kinds_and_steps
from tracestill.data_pipeline.tokens.lossless import surely_kept
from tracestill.data_pipeline.tokens.render import load_backend

ITEMS = RECORDS, QUESTIONS = "records", "held-out questions"
NOTES = {"lost": "lossy", "form": "changed_form", "spaces": "changed_spaces"}  # as the manifest counts records
SHOWN = 12  # characters that are told, the most frequent first
EXAMPLE = 60  # characters of a text in an error

Fault = Literal["lost", "form", "spaces"]


class Trip(NamedTuple):
    """What became of one text."""

    encoding: Encoding
    back: str
    fault: Fault | None


@dataclass
class Lost:
    """What was counted of some records and questions, in their order."""

    read: Counter[str] = field(default_factory=Counter)
    lossy: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)  # records by what happened to them
    tokens: Counter[str] = field(default_factory=Counter)  # unknown ones, by kind
    characters: dict[str, Counter[str]] = field(default_factory=lambda: {name: Counter[str]() for name in ITEMS})
    examples: dict[str, dict[str, str]] = field(default_factory=dict)

    def add(self, later: Lost) -> None:
        for own, more in ((self.read, later.read), (self.lossy, later.lossy), (self.notes, later.notes)):
            own.update(more)
        self.tokens.update(later.tokens)
        for name, found in later.characters.items():
            self.characters[name].update(found)
        for what, example in later.examples.items():
            self.keep(what, example)

    def keep(self, what: str, example: dict[str, str]) -> None:
        """The first example; a later one only if it shows an answer and the first does not."""
        if what not in self.examples or (example["part"] == "answer" and self.examples[what]["part"] != "answer"):
            self.examples[what] = example


class RoundTrip:
    """Counts what the tokenizer in a directory does to the records of an encode stage."""

    def __init__(self, directory: Path, kinds: Kinds, *, with_trace: bool) -> None:
        self.kinds, self.with_trace = kinds, with_trace
        self.backend = load_backend(directory / "tokenizer.json")
        self.unknown = unknown_id(directory / "tokenizer.json", self.backend)
        self.is_kept = surely_kept(directory / "tokenizer.json", self.backend)  # such texts need no trip
        self.lost = Lost()
        self.alone: dict[str, bool] = {}  # whether a character by itself is unknown

    def of(self, records: Sequence[Record]) -> Lost:
        """What there is to count of some records alone. Raises as ``add`` does."""
        self.lost = Lost()
        self.add(records)
        return self.lost

    def add(self, records: Sequence[Record]) -> None:
        """Count some records. Raises InputError naming the record whose spans are bad."""
        parts = ("question", "trace", "answer") if self.with_trace else ("question", "answer")
        texts = (getattr(record, part) for record in records for part in parts)
        trips = self.trips(text for text in texts if not self.is_kept(text))
        for record in records:
            found = {part: trips[text] for part in parts if (text := getattr(record, part)) in trips}
            faults = {part: trip.fault for part, trip in found.items()}
            answer = found.get("answer")
            wrong = answer and answer.fault and not same_answer(answer.back, record.answer, record.question)
            if wrong and record.answer.strip():
                faults["answer"] = "lost"
            self.lost.notes.update({NOTES[fault]: 1 for fault in faults.values() if fault})
            self.lost.read[RECORDS] += 1
            lost = [part for part, fault in faults.items() if fault == "lost"]
            if lost:
                self.lost.lossy[RECORDS] += 1
                part = lost[-1]  # the answer, if it is among them
                who = f"record {record.record_id} (question {record.question_id})"
                self.keep(RECORDS, who, part, getattr(record, part), found[part].back)
            for part in lost:
                self.count_unknown(record, part, found[part].encoding)

    def add_questions(self, questions: Sequence[dict[str, Any]]) -> None:
        """Count held-out questions: is what is asked read whole, and can the gold be written so that it is right?"""
        trips = self.trips(row[part] for row in questions for part in ("question", "gold"))
        for row in questions:
            self.lost.read[QUESTIONS] += 1
            gold = trips[row["gold"]]
            wrong = (
                gold.fault is not None
                and not same_answer(self.written(gold), row["gold"], row["question"])
                and row["gold"].strip()
            )
            if not wrong and trips[row["question"]].fault != "lost":
                continue
            self.lost.lossy[QUESTIONS] += 1
            part = "gold" if wrong else "question"
            self.count_lost(QUESTIONS, row[part], trips[row[part]].encoding)
            self.keep(QUESTIONS, f"question {row['question_id']}", part, row[part], trips[row[part]].back)

    def trips(self, texts: Iterable[str]) -> dict[str, Trip]:
        """Each distinct text there and back."""
        distinct = list(dict.fromkeys(texts))
        encoded = self.backend.encode_batch(distinct, add_special_tokens=False)
        ids = [encoding.ids for encoding in encoded]
        backs = self.backend.decode_batch(ids, skip_special_tokens=False)
        return {
            text: Trip(encoding, back, fault_of(text, back, self.unknown is not None and self.unknown in own))
            for text, encoding, own, back in zip(distinct, encoded, ids, backs, strict=True)
        }

    def written(self, trip: Trip) -> str:
        """What a reader of answers sees of a text: nothing where the unknown token stands."""
        return self.backend.decode([i for i in trip.encoding.ids if i != self.unknown], skip_special_tokens=True)

    def count_unknown(self, record: Record, part: str, encoding: Encoding) -> None:
        """Count a lossy part's unknown tokens by kind, and the characters that are lost."""
        self.count_lost(RECORDS, getattr(record, part), encoding)
        where = np.array(encoding.ids, np.int64) == (-1 if self.unknown is None else self.unknown)
        if part == "trace":
            kinds, _ = trace_kinds_and_steps(record, encoding, self.kinds)
            self.lost.tokens.update(self.kinds.names[kind] for kind in kinds[where])
        else:
            self.lost.tokens["prompt" if part == "question" else "answer"] += int(where.sum())

    def count_lost(self, name: str, text: str, encoding: Encoding) -> None:
        """Count the characters of a lossy text that are unknown by themselves, or else the pieces that are."""
        pairs = zip(encoding.ids, encoding.offsets, strict=True)
        covered = [text[begin:end] for token, (begin, end) in pairs if token == self.unknown]
        for piece in covered or [text]:
            own = [character for character in piece if self.is_lost(character)]
            self.lost.characters[name].update(own or ([piece] if covered else []))

    def is_lost(self, character: str) -> bool:
        if character not in self.alone:
            self.alone[character] = self.trips([character])[character].fault == "lost"
        return self.alone[character]

    def keep(self, what: str, who: str, part: str, text: str, back: str) -> None:
        self.lost.keep(what, {"what": who, "part": part, "text": text, "back": back})

    def trace_tokens(self, record: Record) -> dict[str, int]:
        """Kind -> tokens of a record's trace."""
        encoding = self.backend.encode(record.trace, add_special_tokens=False)
        if not encoding.ids:
            return {}
        kinds, _ = trace_kinds_and_steps(record, encoding, self.kinds)
        return {self.kinds.names[kind]: int(n) for kind, n in enumerate(np.bincount(kinds)) if n}

    def unknown_tokens(self) -> dict[str, int]:
        """Kind -> tokens that are the unknown one."""
        return {name: self.lost.tokens[name] for name in self.kinds.names if self.lost.tokens[name]}

    def warnings(self) -> list[str]:
        return [self.described(name) for name, count in self.lost.lossy.items() if count]

    def findings(self) -> dict[str, Any]:
        """For the manifest; empty if nothing is lost."""
        if not any(self.lost.lossy.values()):
            return {}
        return {
            "lossy": {name: n for name, n in self.lost.lossy.items() if n},
            "characters": {
                name: dict(found.most_common(SHOWN)) for name, found in self.lost.characters.items() if found
            },
            "examples": self.lost.examples,
        }

    def check_setting(self, key: str, text: str) -> None:
        """Raises InputError if a text that the recipe puts into every document, by its key, loses characters."""
        trip = self.trips([text])[text]
        if trip.fault == "lost":
            raise InputError(f"{key}: the tokenizer loses characters of it: {text!r} comes back as {trip.back!r}")

    def check(self, most: float, where: str) -> None:
        """Raises InputError if more than the share ``most`` of records, or of held-out questions, are lossy."""
        for name, count in self.lost.lossy.items():
            if count > most * self.lost.read[name]:
                raise InputError(
                    f"{where}: {self.described(name)}; take a tokenizer that knows them (with byte fallback, or one "
                    f"trained here: encode.tokenizer.vocab_size), or allow it with encode.max_lossy (now {most:g})"
                )

    def described(self, name: str) -> str:
        """How many are lossy, which characters are lost, and an example."""
        example = self.lost.examples[name]
        text, back = (shorten(example[key], example["text"], example["back"]) for key in ("text", "back"))
        characters = ", ".join(f"{character!r} {n:,}" for character, n in self.lost.characters[name].most_common(SHOWN))
        return (
            f"the tokenizer loses characters of {self.lost.lossy[name]:,} of {self.lost.read[name]:,} {name}"
            f" ({self.lost.lossy[name] / self.lost.read[name]:.1%}"
            + (f"; {characters}" if characters else "")
            + f"): such as {example['what']}, whose {example['part']} {text!r} comes back as {back!r}"
        )


def fault_of(text: str, back: str, unknown: bool) -> Fault | None:
    """What differs between a text and what came back of it."""
    if unknown:
        return "lost"
    if back == text:
        return None
    if unspaced(back) == unspaced(text):
        return "spaces"
    return "form" if folded(back) == folded(text) else "lost"


def unspaced(text: str) -> str:
    return "".join(text.split())


def folded(text: str) -> str:
    return unspaced(unicodedata.normalize("NFKC", text).casefold())


def shorten(text: str, one: str, other: str) -> str:
    """A stretch of a text around the place where two texts begin to part."""
    pairs = enumerate(zip(one, other, strict=False))
    at = next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))
    start = max(0, at - EXAMPLE // 3)
    return ("…" if start else "") + text[start : start + EXAMPLE] + ("…" if len(text) > start + EXAMPLE else "")


def unknown_id(path: Path, backend: Tokenizer) -> int | None:
    """The id that the tokenizer's model writes for what it does not know; None if it has none.

    It stands in the model, not in tokenizer_config.json, whose ``unk_token`` is often the end of text.
    """
    if hasattr(backend.model, "unk_token"):
        token = backend.model.unk_token
        return None if token is None else backend.token_to_id(token)
    return json.loads(path.read_text(encoding="utf-8"))["model"].get("unk_id")
