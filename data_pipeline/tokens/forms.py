"""The form in which a student writes trace and answer: between think tags, or in a pattern of the user's, whose marks
are plain text and need no new symbols.

    think      <think> trace </think> answer      as the template, or the plain layout, writes it
    sentence   {trace}\\nThe answer is {answer}.
    hashes     {trace}\\n#### {answer}
    boxed      {trace}\\n\\\\boxed{{answer}}
"""

from __future__ import annotations

from typing import NamedTuple

THINK_FORM = "think"
NAMED = {
    "sentence": "{trace}\nThe answer is {answer}.",
    "hashes": "{trace}\n#### {answer}",
    "boxed": "{trace}\n\\boxed{{answer}}",
}
PLACES = "{trace}", "{answer}"


class Form(NamedTuple):
    """What stands around trace and answer."""

    opening: str
    closing: str  # from the trace to the answer; the mark by which they are told apart is in it
    ending: str

    def written(self, trace: str, answer: str) -> str:
        """The text of both. Without a trace nothing is left to part it from."""
        return f"{self.opening}{trace}{self.closing}{answer}{self.ending}" if trace else self.alone(answer)

    def alone(self, answer: str) -> str:
        return f"{self.closing.lstrip()}{answer}{self.ending}"


def form_of(pattern: str) -> Form | None:
    """The form of ``encode.form``; None for think tags. Raises ValueError for a pattern that cannot be read back."""
    if pattern == THINK_FORM:
        return None
    text = NAMED.get(pattern, pattern)
    if any(text.count(place) != 1 for place in PLACES) or text.index(PLACES[0]) > text.index(PLACES[1]):
        names = ", ".join((THINK_FORM, *NAMED))
        raise ValueError(
            f"{pattern!r} is no form; expected {names}, or a text that holds {{trace}} and then {{answer}}"
        )
    opening, _, rest = text.partition(PLACES[0])
    closing, _, ending = rest.partition(PLACES[1])
    if not closing.strip():
        raise ValueError("write a mark between {trace} and {answer}: nobody could tell where the answer begins")
    return Form(opening, closing, ending)
