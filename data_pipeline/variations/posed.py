"""Questions as they are asked: plain, and in every variation; what cannot be asked is left out for a reason."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import pyarrow as pa

from tracestill.data_pipeline.base import own_modules
from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.schema import Question, content_id
from tracestill.data_pipeline.guards.well_formed import text_fault
from tracestill.data_pipeline.sampling.asking.styles import tagged
from tracestill.data_pipeline.variations.known import FIELD
from tracestill.data_pipeline.variations.values import times_told
from tracestill.data_pipeline.variations.variation import PLAIN, Variation

NOT_APPLICABLE, UNCHANGED, EQUAL, LEAKS = "not_applicable", "unchanged", "equal", "leaks_answer"
NO_SYSTEM, NO_TEXT = "no_system_prompt", "not_a_text"
MOST_LEAKS = 0.5  # share of the questions that a variation applies to; with more it is no variation

ASKED_SCHEMA = pa.schema(
    [
        ("task", pa.string()),
        ("variation", pa.string()),
        ("question_id", pa.string()),  # of the plain question
        ("question", pa.string()),  # null: left out
        ("gold", pa.string()),
        ("metadata", pa.string()),  # JSON
        ("system", pa.string()),  # null: the layout's own system prompt, if it has one
        ("left_out", pa.string()),  # why it is not asked; "": it is
    ]
)


class Posed(NamedTuple):
    """A question of a task in one of its variations."""

    task: str
    variation: str
    question_id: str
    question: str | None  # None: it is left out
    gold: str
    metadata: str
    system: str | None = None
    left_out: str = ""


def posed(
    task: str,
    questions: Sequence[Question],
    variations: Sequence[Variation],
    seed: int,
    *,
    tag: str = "",
    varied: int | None = None,
    takes_system: bool = True,
) -> Iterator[Posed]:
    """Every question plain, then by one variation after the other; as many rows as questions times forms.

    ``tag`` is the style's that questions begin with, and stays where it is; ``varied``: how many of the questions are
    varied, the first ones. Left out are a question that a variation does not apply to or leaves as it is, one that
    comes out equal to another that is asked, and one into which it puts the gold answer. Equal for equal arguments.
    Raises InputError if a variation of the user's fails, or puts the gold answer into most questions.
    """
    seen: set[tuple[str | None, str]] = {(None, content_id(each.question)) for each in questions}
    for each in questions:
        yield row_of(task, PLAIN, each)
    for variation in variations:
        if variation.system is not None and not takes_system:
            yield from (row_of(task, variation.label, each, left_out=NO_SYSTEM) for each in questions[:varied])
            continue
        applied = leaks = 0
        last = ""
        for each in questions[:varied]:
            plain = without_tag(each, tag)
            found = rewritten(variation, plain, seed)
            reason = fault(variation, plain, found)
            if found is not None and not reason:
                found = replace(found, question=tagged(found.question, tag))
                key = variation.system, content_id(found.question)
                reason = EQUAL if key in seen else ""
                seen.add(key)
            applied += reason not in (NOT_APPLICABLE, UNCHANGED)
            leaks += reason == LEAKS
            last = each.question_id if reason == LEAKS else last
            yield row_of(task, variation.label, each if found is None or reason else found, variation.system, reason)
        if leaks > MOST_LEAKS * applied:
            raise InputError(
                f"{FIELD}: {variation.label} puts the gold answer into {leaks} of {applied} questions of {task} (such "
                f"as {last}); what is asked must not hold the answer"
            )


def without_tag(question: Question, tag: str) -> Question:
    """The question without the style's tag that it begins with."""
    return replace(question, question=question.question.removeprefix(tagged("", tag))) if tag else question


def rewritten(variation: Variation, question: Question, seed: int) -> Question | None:
    """What a variation makes of a question, whatever others there are."""
    draw = random.Random(f"{variation.label} {seed} {question.question_id}")
    try:
        found = variation.rewrite(question, draw)
    except InputError:
        raise
    except Exception as error:  # it may be anybody's code
        place = f"{own_modules.place_of(error)}{type(error).__name__}: {error}"
        raise InputError(
            f"{FIELD}: {variation.label} failed on the question {question.question[:60]!r} ({place})"
        ) from error
    if found is not None and not isinstance(found, Question):
        raise InputError(f"{FIELD}: {variation.label} gave {found!r:.80}; expected a Question, or None")
    return found


def fault(variation: Variation, plain: Question, found: Question | None) -> str:
    """Why what a variation made cannot be asked; empty if it can."""
    if found is None:
        return NOT_APPLICABLE
    texts = found.question, found.gold
    if not all(isinstance(text, str) and text.strip() and not text_fault(text) for text in texts):
        return NO_TEXT
    if variation.system is None and content_id(found.question) == content_id(plain.question):
        return UNCHANGED
    if variation.keeps_gold and found.gold != plain.gold:
        raise InputError(
            f"{FIELD}: {variation.label} changed the gold answer {plain.gold!r:.40} to {found.gold!r:.40}; a variation "
            "that may do so has keeps_gold=False"
        )
    asked = f"{variation.system or ''}\n{found.question}"
    if not variation.is_new and times_told(found.gold, asked) > times_told(found.gold, plain.question):
        return LEAKS
    return ""


def row_of(task: str, variation: str, question: Question, system: str | None = None, left_out: str = "") -> Posed:
    metadata = json.dumps(question.metadata, sort_keys=True)
    text = None if left_out else question.question
    return Posed(task, variation, question.question_id, text, question.gold, metadata, system, left_out)
