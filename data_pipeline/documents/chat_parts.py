"""What a chat template writes around question, trace and answer, found by rendering it with marks in their place.

The trace is offered as the message's ``reasoning_content`` first, then as a ``<think>`` block in the content. A
template is refused, by name of what it does, if the trace does not come out, if the assistant's turn does not go on
from the generation prompt, or if no symbol ends the turn. With ``encode.turn: generated`` the turn is written here
instead: the generation prompt, what it has not yet opened of the think block, trace, end of the block, answer, and
the template's own end of turn. That is what a student writes when it is used, whatever the template does with turns
of the past.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal, NamedTuple

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.documents.chat_template import ChatTemplate, Refusal
from tracestill.data_pipeline.tokens.forms import Form
from tracestill.data_pipeline.tokens.layout import LayoutConfig
from tracestill.data_pipeline.tokens.render import END_THINK, THINK

QUESTION, TRACE, ANSWER = "qZ7question7Zq", "tZ7trace7Zt", "aZ7answer7Za"  # in no template's own text
SYSTEM = "sZ7system7Zs"
OPENING, CLOSING = f"{THINK}\n", f"\n{END_THINK}\n\n"  # where the template leaves it to us
GENERATED = "set encode.turn: generated (the trace is written after the generation prompt, as the student writes it)"

Way = Literal["reasoning_content", "content", "generated"]


class ChatParts(NamedTuple):
    """The text between the parts: before question header opening trace closing answer tail rest."""

    before: str
    header: str  # from the question to where the model goes on
    opening: str
    closing: str  # of an empty trace, all that stands before the answer
    tail: str  # ends with ``stop``
    rest: str  # after the end of the turn; left out of documents
    stop: str
    way: Way  # how the template is given the trace

    @property
    def prefilled(self) -> str:
        """What the generation prompt already opens of a think block."""
        _, tag, after = self.header.rpartition(THINK)
        return tag + after if tag and END_THINK not in after else ""


def messages_of(
    system: str | None, question: str, *turn: str, way: Way = "reasoning_content", form: Form | None = None
) -> list[dict[str, str]]:
    """The messages of a record; ``turn`` is its trace and answer, and is left out to ask for the turn."""
    messages = [{"role": "system", "content": system}] if system is not None else []
    messages.append({"role": "user", "content": question})
    if turn:
        trace, answer = turn
        if way == "content" and form is not None:
            messages.append({"role": "assistant", "content": form.written(trace, answer)})
        elif way == "content":
            messages.append({"role": "assistant", "content": OPENING + trace + CLOSING + answer})
        elif way == "generated":
            messages.append({"role": "assistant", "content": answer})
        else:  # families differ in the name; transformers offers these too
            named = dict.fromkeys(("reasoning_content", "reasoning", "thinking"), trace)
            messages.append({"role": "assistant", "content": answer, **named})
    return messages


def writes_system(template: ChatTemplate) -> bool:
    """Whether a system prompt comes out of a template: some refuse one, others leave it out without a word."""
    try:
        return SYSTEM in template.render(messages_of(SYSTEM, QUESTION), generation=True)
    except Refusal:
        return False


def find_parts(
    template: ChatTemplate, config: LayoutConfig, symbols: Collection[str], eos: str | None, *, empty: bool
) -> ChatParts:
    """The parts of documents with a trace, or (``empty``) with none. ``symbols`` may end a turn; ``eos`` most likely.

    Raises InputError if the template cannot be trained on, naming what it does and what to set.
    """
    where = f"{template.directory}: its chat template"
    asked = template.render(messages_of(config.system, QUESTION), generation=True)
    if asked.count(QUESTION) != 1:
        raise InputError(f"{where} writes the question {asked.count(QUESTION)} times; give the tokenizer another one")
    before, header = asked.split(QUESTION)
    form = config.marks
    way: Way = "generated" if config.turn == "generated" else way_of(template, config, where)
    if form is not None and ChatParts(before, header, "", "", "", "", "", way).prefilled:
        raise InputError(
            f"{where} opens a think block in the generation prompt, which encode.form would never close; turn it off "
            "by its variable, or leave encode.form out"
        )
    thinks_not = THINK in header and END_THINK in header.rpartition(THINK)[2]
    if thinks_not and not empty and form is None:
        raise InputError(
            f"{where} closes an empty think block in the generation prompt (thinking is off), so that no trace can "
            "follow; turn it on by its variable (such as encode.variables: {enable_thinking: true}) or set "
            "encode.trace: drop"
        )
    written = template.render(messages_of(config.system, QUESTION, "" if empty else TRACE, ANSWER, way=way, form=form))
    if written.count(ANSWER) != 1:
        raise InputError(
            f"{where} writes the answer of the assistant's turn {written.count(ANSWER)} times; set encode.template: "
            "plain, or give the tokenizer another one"
        )
    begun, end = written.split(ANSWER)
    if way == "generated" and form is not None:
        opening, closing = ("", form.closing.lstrip()) if empty else (form.opening, form.closing)
        end = form.ending + end
    elif way == "generated":
        prefilled = ChatParts(before, header, "", "", "", "", "", way).prefilled
        opening = "" if thinks_not or prefilled.endswith("\n") else "\n" if prefilled else OPENING
        closing = "" if thinks_not else CLOSING
    else:
        if not begun.startswith(asked):
            raise InputError(
                f"{where} begins the assistant's turn otherwise than its generation prompt ends "
                f"({shown(begun, asked)}), so that training would not match use; {GENERATED}"
            )
        opening, _, closing = ("", "", begun[len(asked) :]) if empty else begun[len(asked) :].partition(TRACE)
    if empty:
        opening, closing = "", opening + closing
    if way == "generated" and eos and not any(symbol in end for symbol in symbols):
        end += eos  # some families let the header of the next turn end this one
    tail, stop, rest = split_at_stop(end, symbols, eos, where)
    parts = ChatParts(before, header, opening, closing, tail, rest, stop, way)
    if parts.prefilled and THINK in opening:
        raise InputError(f"{where} opens the think block in the generation prompt, and again in the turn; {GENERATED}")
    return parts


def way_of(template: ChatTemplate, config: LayoutConfig, where: str) -> Way:
    """How the template is to be given a trace so that it writes it. Raises InputError if it drops it."""
    ways: tuple[Way, ...] = ("reasoning_content", "content") if config.marks is None else ("content",)
    for way in ways:
        written = template.render(messages_of(config.system, QUESTION, TRACE, ANSWER, way=way, form=config.marks))
        if written.count(TRACE) == 1 and written.index(QUESTION) < written.index(TRACE) < written.rindex(ANSWER):
            return way
    does = "drops the assistant's turn" if ANSWER not in written else "drops the reasoning of the assistant's turn"
    raise InputError(
        f"{where} {does} (given as reasoning_content, or as a think block in the content), so that nothing would be "
        f"trained on the traces; {GENERATED}, or give the tokenizer a template that keeps it"
    )


def split_at_stop(end: str, symbols: Collection[str], eos: str | None, where: str) -> tuple[str, str, str]:
    """What follows the answer up to the symbol that ends the turn, that symbol, and the rest.

    It is ``eos`` if the template writes it, or else the first of ``symbols``.
    """
    chosen = [eos] if eos and eos in end else [symbol for symbol in symbols if symbol in end]
    found = sorted((end.index(symbol), -len(symbol), symbol) for symbol in chosen)
    if not found:
        raise InputError(
            f"{where} writes no special token after the answer ({end!r}), so that the student could not learn to stop; "
            "set encode.turn: generated (the turn then ends with eos_token), or give the tokenizer another template"
        )
    at, _, stop = found[0]
    return end[: at + len(stop)], stop, end[at + len(stop) :]


def earlier_turns(template: ChatTemplate, config: LayoutConfig, way: Way) -> str:
    """What the template does with the reasoning of turns before the last, for the manifest: documents have none."""
    given: Way = "content" if way == "generated" else way
    first = messages_of(config.system, QUESTION, TRACE, ANSWER, way=given, form=config.marks)
    try:
        written = template.render([*first, *messages_of(None, "next"), {"role": "assistant", "content": "next"}])
    except InputError:
        return "refused"
    turn = written.partition(QUESTION)[2].partition("next")[0]
    if TRACE in turn:
        return "kept"
    return "think block emptied" if THINK in turn else "reasoning dropped"


def findings_of(template: ChatTemplate, config: LayoutConfig, parts: ChatParts) -> dict[str, Any]:
    return {
        "trace_given_as": parts.way,
        "prefilled": parts.prefilled,
        "opening": parts.opening,
        "closing": parts.closing,
        "stop": parts.stop,
        "earlier_turns": earlier_turns(template, config, parts.way),
    }


def shown(found: str, wanted: str) -> str:
    """Where two texts part, in a few characters of each."""
    pairs = enumerate(zip(found, wanted, strict=False))
    at = next((i for i, (a, b) in pairs if a != b), min(len(found), len(wanted)))
    return f"{found[max(0, at - 8) : at + 16]!r}, not {wanted[max(0, at - 8) : at + 16]!r}"
