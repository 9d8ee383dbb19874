"""A word problem in its parts: the sentences that tell, the one that asks, and what follows it; in another order, or
with a sentence more."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from tracestill.data_pipeline.base.schema import Question
from tracestill.data_pipeline.granularity.phrases import DEFAULT, language_of, phrases_of
from tracestill.data_pipeline.segmentation.parts import step_ends
from tracestill.data_pipeline.variations.values import PROGRAM, unlike
from tracestill.data_pipeline.variations.variation import Variation, with_text
from tracestill.data_pipeline.variations.words import DISTRACTORS, PERSONAL, only_person

ASKS = re.compile(r"\s*(?:find|calculate|determine|compute|work out|tell|say)\b", re.I)
LEANS = re.compile(  # on what stands before, or on the order in which things happen
    r"\b(?:it|its|they|them|their|theirs|this|that|these|those|such|same|others?|another|remain\w*|rest|left|then|now|"
    r"after\w*|before|until|when|while|if|once|later|next|first|second|third|last|finally|again|also|too|still|more|"
    r"less|fewer|twice|doubl\w+|tripl\w+|half|halves|quarter|thirds?|times|percent|as|than|total|so|but|however|because|"
    r"since|instead|both|all|every\w*|average|chang\w+|increas\w+|decreas\w+|ris\w+|fell|drop\w*|gave|lost|return\w*|"
    r"we|us|our|one|ones|some|any|only|just|even|due|another|extra|additional)\b|%|\d/\d|[\"“”:]",
    re.I,
)
SUM = re.compile(  # after a word or sign that leaves it whole, and up to what ends it: "2 + 3 + 4 squared" is no sum
    r"(?:(?<=[(\[=])|(?<=[=:] )|(?<=\bis )|(?<=\bare )|(?<=\bcompute )|(?<=\bcalculate )|(?<=\bevaluate )|^)"
    r"\d+(?: ?\+ ?\d+){2,}(?= ?(?:[)\]=?;]|[.,](?!\d)|\Z))",
    re.I,
)
HOLDS = re.compile(r"\b(?:has|have|had|holds?|held|contains?|owns?|owned|there (?:is|are|was|were))\b", re.I)
CHANGES = re.compile(  # what is had: of sentences that say both, the order is that in which it happens
    r"\b(?:giv\w+|gave|tak\w+|took|eat\w*|ate|us(?:es?|ed|ing)|spen[dt]\w*|sell\w*|sold|buy\w*|bought|finds?|found|"
    r"puts?|add\w*|remov\w+|mov\w+|pick\w*|gets?|got|receiv\w+|sen[dt]\w*|pay\w*|paid|thr[eo]w\w*|br(?:eak|oke)\w*|"
    r"los\w+|lend\w*|lent|borrow\w*|drink\w*|drank|cut\w*|join\w*|arriv\w+|enter\w*|comes?|came|goes|went|go|away|"
    r"flew|fl(?:y|ies)|donat\w+|shar\w+|trad\w+|w[io]ns?|earn\w*|collect\w*|c(?:atch|aught)\w*|di(?:e|es|ed)|pour\w*|"
    r"leak\w*|fill\w*|empt\w+|st(?:eal|ole)\w*|grow\w*|grew|deliver\w*|burn\w*|leav\w+|rip\w*|pop\w*)\b",
    re.I,
)
TRIES = 9  # of a shuffle, until the order is another one
SHORT = re.compile(r"\b(?:[A-Z]|\d* ?(?:ft|in|oz|lbs?|hrs?|mins?|secs?)|Rs|No|vs|approx|Jr|Sr|St|Dr)\.\s*\Z")  # no end
SIGNS = "+-−*/×÷=^%),;.:"  # what begins no sentence: 5! + 2 are not two
THE = re.compile(r"\bthe\b", re.I)
PRONOUN = re.compile(r"\b(?:he|she|him|his|hers?)\b", re.I)


class Story(NamedTuple):
    """Texts without white space around them."""

    facts: tuple[str, ...]
    asking: str
    after: str  # instructions, options
    lines: bool  # it has several

    def opening(self) -> str:
        """The sentence that asks, as a text can begin with it."""
        plain = self.asking[phrases_of(DEFAULT).strip(self.asking)[0] :]
        return plain[:1].upper() + plain[1:]

    def told(self, sentences: Sequence[str]) -> str:
        """Sentences as a text, and then what follows the question, on a line of its own where it stood on one."""
        text = " ".join(sentences)
        return f"{text}\n{self.after}" if self.lines and self.after else f"{text} {self.after}".rstrip()


def story_of(text: str) -> Story | None:
    """The parts of a problem; None if there is no telling what asks, or lines part what it tells."""
    if PROGRAM.search(text):
        return None
    ends = step_ends(text)
    steps = [text[start:end] for start, end in zip((0, *ends), ends, strict=False)]
    asking = [at for at, step in enumerate(steps) if step.rstrip().endswith("?")]
    if not asking and steps and ASKS.match(steps[-1]):
        asking = [len(steps) - 1]
    if not asking:
        return None
    first, last = asking[0], asking[-1]
    if "\n" in "".join(steps[:last]) or any(map(SHORT.search, steps[:last])):
        return None
    if any(step[0] in SIGNS or step[0].islower() for step in steps[1 : last + 1]):
        return None
    facts = tuple(step.strip() for step in steps[:first])
    after = "".join(steps[last + 1 :])
    asked = "".join(steps[first : last + 1])
    return Story(facts, asked.strip(), after.strip(), "\n" in asked[len(asked.rstrip()) :])


def sentences(question: Question, draw: random.Random) -> Question | None:
    """Sentences that lean on nothing, in another order; the question stays last. Of English ones only: what leans on
    what is told by words."""
    story = story_of(question.question)
    if story is None or language_of(question.question) != DEFAULT:
        return None
    told = " ".join(story.facts)
    if HOLDS.search(told) and CHANGES.search(told):
        return None
    alone = only_person(question.question) is not None
    free = [stands_alone(fact, alone) for fact in story.facts]
    if free and not re.search(r"\d", story.facts[0]):
        free[0] = False  # it says who and what the others speak of
    if free and (PRONOUN.search(question.question) or THE.search(told)):
        free[0] = False
    runs = [[at for at, _ in run] for is_free, run in groupby(enumerate(free), key=lambda one: one[1]) if is_free]
    places = max(runs, key=len, default=[])
    if len(places) < 2:
        return None
    shuffled = list(places)
    while shuffled == places:
        draw.shuffle(shuffled)
    facts = list(story.facts)
    for at, source in zip(places, shuffled, strict=True):
        facts[at] = story.facts[source]
    return with_text(question, story.told([*facts, story.asking]))


def terms(question: Question, draw: random.Random) -> Question | None:
    """The numbers of each sum in another order, where nothing but sums and brackets is around them."""

    def put(match: re.Match[str]) -> str:
        numbers, signs = re.findall(r"\d+", match[0]), re.findall(r"[^\d]+", match[0])
        draw.shuffle(numbers)
        return "".join(number + sign for number, sign in zip(numbers, [*signs, ""], strict=True))

    text = question.question
    for _ in range(TRIES):
        if (found := SUM.sub(put, text)) != text:
            return with_text(question, found)
    return None


def stands_alone(fact: str, one_person: bool) -> bool:
    """Whether a sentence says the same wherever it stands. ``one_person``: so that nobody else can be meant by he."""
    return fact.endswith((".", "!")) and not LEANS.search(fact) and (one_person or not PRONOUN.search(fact))


def distracted(question: Question, draw: random.Random, *, inside: bool) -> Question | None:
    """A sentence with a number that does not matter, about nothing that the problem speaks of: before all others, or
    before the one that asks."""
    story = story_of(question.question)
    text = question.question.lower()
    fitting = [said for said, words in DISTRACTORS.items() if not any(word in text for word in words)]
    if story is None or not fitting or (inside and not story.facts):
        return None
    said = draw.choice(fitting).format(n=unlike(question, draw))
    facts = [*story.facts, said] if inside else [said, *story.facts]
    return with_text(question, story.told([*facts, story.asking]))


def told_of_a_person(question: Question, draw: random.Random) -> Question | None:
    """A number that does not matter, about the only person of the problem."""
    story, person = story_of(question.question), only_person(question.question)
    text = question.question.lower()
    fitting = [said for said, words in PERSONAL.items() if not any(word in text for word in words)]
    if story is None or not story.facts or person is None or not fitting:
        return None
    said = draw.choice(fitting).format(name=person, n=unlike(question, draw))
    return with_text(question, story.told([*story.facts, said, story.asking]))


BUILT_IN = [
    Variation("sentences", sentences, "order"),
    Variation("terms", terms, "order"),
    Variation("before", lambda question, draw: distracted(question, draw, inside=False), "distractor"),
    Variation("inside", lambda question, draw: distracted(question, draw, inside=True), "distractor"),
    Variation("person", told_of_a_person, "distractor"),
]
