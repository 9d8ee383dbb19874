"""What in a trace breaks students later, each with a name; the recipe says what is done about it."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict, Field

from tracestill.data_pipeline.answers.find import numbers_in
from tracestill.data_pipeline.answers.numbers.number import number
from tracestill.data_pipeline.answers.plain import normal_text
from tracestill.data_pipeline.sampling.readers.symbols import symbol_in
from tracestill.data_pipeline.sampling.readers.thought import tag_in
from tracestill.data_pipeline.selection.repetition import Policy, loop

CUT = ("length", "max_tokens", "model_length", "max_length")  # what servers call an end that the model did not choose


class ChecksConfig(BaseModel):
    """reject: the trace is left out, for this reason; count: it stays, and is counted; ignore: it is not looked for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    unfinished: Policy = Field("reject", description="a thought that opens and never closes, or was cut at its length")
    second_close: Policy = Field("reject", description="a thought that closes twice, or text with tags after it")
    control_symbol: Policy = Field(
        "reject", description="a control symbol such as <|im_end|>, or a tag such as <think>, inside of the text"
    )
    repeats: Policy = Field("reject", description="a trace that ends in one piece repeated four times or more")
    after_answer: Policy = Field("count", description="text behind the answer; it is no part of the trace")
    answer_not_in_text: Policy = Field("count", description="an answer given apart that the text never says")
    no_trace: Policy = Field("count", description="an answer without a trace")

    def wanted(self) -> frozenset[str]:
        return frozenset(name for name in type(self).model_fields if getattr(self, name) != "ignore")


def faults(
    trace: str, answer: str, after: str, *, thought_fault: str, finish: str, given: bool, wanted: frozenset[str]
) -> Iterator[tuple[str, str]]:
    """(reason, detail) of each check that a trace fails.

    ``thought_fault``: of ``Thought.fault``; ``finish``: why the server says it ended; ``given``: the answer did not
    come from the text.
    """
    if "unfinished" in wanted and (thought_fault == "unfinished" or finish.lower() in CUT):
        yield "unfinished", f"it ended by {finish!r}" if finish.lower() in CUT else "its thought opens and never closes"
    if "second_close" in wanted and thought_fault == "second_close":
        yield "second_close", "its thought closes twice"
    if "control_symbol" in wanted and (symbol := symbol_in(trace) or symbol_in(answer) or tag_in(trace)):
        yield "control_symbol", f"it holds {symbol!r} as text"
    if "repeats" in wanted and (piece := loop(trace)):
        yield "repeats", f"it ends in {piece!r:.80} again and again"
    if "after_answer" in wanted and after.strip("`*$.,;:!'\"()[]{}| \n\t"):
        yield "after_answer", f"behind the answer stands {after!r:.80}"
    if "answer_not_in_text" in wanted and given and trace and not says(trace + "\n" + after, answer):
        yield "answer_not_in_text", f"the text never says {answer!r:.80}"
    if "no_trace" in wanted and not trace.strip():
        yield "no_trace", "nothing stands before the answer"


def says(text: str, answer: str) -> bool:
    """Whether an answer stands in a text: in the same characters, or as a number written in another way."""
    if answer in text:
        return True
    if (wanted := number(answer)) is not None:
        return any(number(found) == wanted for found in numbers_in(text))
    return normal_text(answer) in normal_text(text)
