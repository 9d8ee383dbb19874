"""Where a thought ends: tags that reasoning models put around it, the opening one perhaps given in the prompt."""

from __future__ import annotations

import re
from typing import NamedTuple

NAMES = "think|thinking|thought|thoughts|reasoning|reason|scratchpad|reflection|analysis|seed:think|longcat_think"
TAG = re.compile(
    rf"(?i:<(?P<shut>/?)(?P<name>{NAMES})>)"
    r"|(?P<open>◁think▷|\[THINK\]|<\|begin_of_thought\|>|<\|START_THINKING\|>|<\|channel\|>analysis<\|message\|>)"
    r"|(?P<close>◁/think▷|\[/THINK\]|<\|end_of_thought\|>|<\|END_THINKING\|>"
    r"|<\|end\|>(?:<\|start\|>assistant)?<\|channel\|>final<\|message\|>)"
)
BARE = re.compile(r"\s*(?P<open>analysis)(?=\S).*?(?P<close>assistantfinal)(?=\S)", re.S)
AROUND = re.compile(
    r"^\s*(?:<(answer|response|solution)>|<\|begin_of_solution\|>|<\|START_RESPONSE\|>)"
    r"|(?:</(?:answer|response|solution)>|<\|end_of_solution\|>|<\|END_RESPONSE\|>)\s*$"
)


class Thought(NamedTuple):
    """What a text holds of a thought, and what follows it."""

    thought: str
    rest: str
    fault: str = ""  # unfinished: it opens and never closes; second_close: it closes twice


def split_thought(text: str) -> Thought | None:
    """The thought and the rest; None if the text has no tags of one.

    A closing tag alone ends a thought that the prompt opened. Tags inside of a thought that has closed already are a
    fault, as is one that never closes; the text is then all thought.
    """
    if bare := BARE.match(text):  # channels, once a decoder has left their symbols out
        return Thought(text[bare.end("open") : bare.start("close")].strip(), text[bare.end() :].strip())
    if not any(mark in text for mark in "<◁["):
        return None
    tags = [(match, bool(match["shut"] or match["close"])) for match in TAG.finditer(text)]
    if not tags:
        return None
    first, closes = tags[0]
    before = "" if closes else text[: first.start()].strip()
    shut = [match for match, is_close in tags if is_close]
    if before and not shut:
        return None  # words before it, and no end: the tag is spoken of
    begin = 0 if closes else first.end()
    if not shut:
        return Thought(text[begin:].strip(), "", "unfinished")
    inside, rest = text[begin : shut[0].start()].strip(), text[shut[0].end() :]
    thought = f"{before}\n{inside}".strip()  # what it says before it thinks
    fault = "second_close" if len(shut) > 1 else "unfinished" if reopened(tags, shut[0]) else ""
    return Thought(thought, AROUND.sub("", AROUND.sub("", rest)).strip(), fault)


def reopened(tags: list[tuple[re.Match[str], bool]], closed: re.Match[str]) -> bool:
    """Whether a thought is opened again behind the place where it closed, and stays open."""
    return any(not is_close and match.start() > closed.start() for match, is_close in tags)


def tag_in(text: str) -> str:
    """The first tag of a thought that stands in a text; empty if none does."""
    found = TAG.search(text) if any(mark in text for mark in "<◁[") else None
    return found[0] if found else ""
