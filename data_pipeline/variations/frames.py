"""What stands around a question: the tone, the format and the language of the instruction, other templates."""

from __future__ import annotations

import random
import re

from tracestill.data_pipeline.answers.numbers.number import number
from tracestill.data_pipeline.base.schema import Question
from tracestill.data_pipeline.variations.story import story_of
from tracestill.data_pipeline.variations.values import FORMULA
from tracestill.data_pipeline.variations.variation import Rewrite, Variation, as_it_is, with_text

WORDING = {  # before the question, and after it
    "polite": ("Could you please help me with the following?", "Thank you very much in advance!"),
    "terse": ("Solve:", ""),
    "exam": ("Written examination. Read the task with care, and show how you come to your answer.", ""),
    "parent": ("My child brought this home from school and we are stuck:", "Can you explain it step by step?"),
    "passive": ("The following problem is to be solved, and it has to be shown how the answer is found.", ""),
    "informal": ("hey, quick question:", "thx!"),
    "doubtful": ("I am not sure how to go about this.", "What would you say?"),
    "command": ("Answer the question below. Do not leave out any step.", ""),
}
FORMAT = {
    "json": ("", 'Reply with a JSON object that has the keys "reasoning" and "answer", and with nothing else.'),
    "bullets": ("", "Write your reasoning as bullet points, and give the answer in the last bullet point."),
    "xml": ("<problem>\n", "\n</problem>\n<task>Solve the problem and give the answer.</task>"),
}
LANGUAGE = {
    "es": ("Responde a la siguiente pregunta:", "Explica cómo has llegado a la respuesta."),
    "de": ("Beantworte die folgende Frage:", "Erkläre, wie du auf die Antwort kommst."),
    "fr": ("Réponds à la question suivante :", "Explique comment tu arrives à la réponse."),
    "it": ("Rispondi alla domanda seguente:", "Spiega come arrivi alla risposta."),
}
TEMPLATE = {  # of other people's prompts
    "q_a": ("Q: ", "\nA:"),
    "instruction": ("### Instruction:\n", "\n\n### Response:\n"),
    "markdown": ("## Problem\n\n", "\n\n## Solution\n"),
}
SYSTEM = {
    "tutor": "You are a patient tutor. Explain every step before you state the answer.",
    "brief": "You answer in as few words as possible.",
    "captain": "You are the captain of an old sailing ship, and you speak like a captain.",
}
WORDY = 20  # letters from which on a text can be written in capitals or without punctuation
PUNCTUATION = re.compile(r"[.,;:!?\"“”](?!\d)|(?<!\d)[,;:!?\"“”]")  # and no decimal points


def around(before: str, after: str) -> Rewrite:
    """Texts before and after the question, on lines of their own if it has several. What ends or begins with a line
    break stands as it is."""

    def rewrite(question: Question, draw: random.Random) -> Question:
        text = question.question.strip()
        gap = "\n\n" if "\n" in text else " "
        start = before + (gap if before and not before[-1].isspace() else "")
        end = (gap if after and not after[0].isspace() else "") + after
        return with_text(question, start + text + end)

    return rewrite


def calculate(question: Question, draw: random.Random) -> Question | None:
    """Asked as a calculation; only where the answer is a number."""
    if number(question.gold) is None:
        return None
    return around("Calculate the answer to the following problem.", "")(question, draw)


def question_first(question: Question, draw: random.Random) -> Question | None:
    """What is asked, and then what is known."""
    story = story_of(question.question)
    if story is None or not story.facts:
        return None
    return with_text(question, story.told([story.opening(), "This is what is known:", *story.facts]))


def question_last(question: Question, draw: random.Random) -> Question | None:
    """What is known, as a list, and then what is asked."""
    story = story_of(question.question)
    if story is None or len(story.facts) < 2:
        return None
    known = "\n".join(f"- {fact}" for fact in story.facts)
    return with_text(question, f"Here is what is known.\n{known}\n{story.told([f'Question: {story.asking}'])}")


def in_capitals(question: Question, draw: random.Random) -> Question | None:
    return with_text(question, question.question.upper()) if is_wordy(question.question) else None


def without_punctuation(question: Question, draw: random.Random) -> Question | None:
    if not is_wordy(question.question):
        return None
    return with_text(question, re.sub(r" {2,}", " ", PUNCTUATION.sub("", question.question)).strip())


def is_wordy(text: str) -> bool:
    """Whether a text is made of words: in formulas and programs, case and punctuation mean something."""
    return sum(map(str.isalpha, text)) >= WORDY and not FORMULA.search(text)


def framed(family: str, frames: dict[str, tuple[str, str]]) -> list[Variation]:
    return [Variation(name, around(*frame), family) for name, frame in frames.items()]


BUILT_IN = [
    *framed("wording", WORDING),
    Variation("calculate", calculate, "wording"),
    Variation("question_first", question_first, "wording"),
    Variation("question_last", question_last, "wording"),
    *framed("format", FORMAT),
    Variation("capitals", in_capitals, "format"),
    Variation("no_punctuation", without_punctuation, "format"),
    *framed("language", LANGUAGE),
    *framed("template", TEMPLATE),
    *(Variation(name, as_it_is, "system", system=text) for name, text in SYSTEM.items()),
]
