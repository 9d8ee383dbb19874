"""Conversations: lists of messages as chat APIs and ShareGPT write them, cut into a question and what was answered."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from tracestill.data_pipeline.sampling.files.lines import Bad

ROLES = {
    "system": "system", "developer": "system", "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "model": "assistant", "bot": "assistant", "chatgpt": "assistant",
    "bing": "assistant", "bard": "assistant",
    "tool": "tool", "function": "tool", "function_call": "tool", "observation": "tool", "ipython": "tool",
}  # fmt: skip
THOUGHTS = ("reasoning_content", "reasoning", "thinking", "thought")
SPOKEN = {"user": "User", "assistant": "Assistant", "tool": "Tool"}


class Message(NamedTuple):
    role: str
    text: str
    reasoning: str = ""
    calls: str = ""  # of tools, as JSON


class Talk(NamedTuple):
    """What the last speaker was asked, and what it said; ``question`` of several turns names who speaks."""

    question: str
    system: str
    answer: Message | None


def is_messages(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(item, dict) for item in value)
        and (("role" in value[0]) or ("from" in value[0]))
    )


def talk_of(value: Any, field: str) -> Talk:
    """A conversation. Raises Bad if it is none, or ends without an answer of the assistant's to something."""
    messages = [message_of(item, f"{field}.{at}") for at, item in enumerate(value)]
    system = "\n\n".join(each.text for each in messages if each.role == "system")
    turns = [each for each in messages if each.role != "system"]
    answer = turns.pop() if turns and turns[-1].role == "assistant" else None
    if answer is not None and answer.calls:
        raise Bad("bad_message", f"'{field}' ends in a call of a tool ({answer.calls:.80}), and no answer follows")
    if not any(each.role == "user" and each.text.strip() for each in turns):
        raise Bad("no_question", f"'{field}' holds no message of a user before the last one of the assistant")
    return Talk(as_question(turns), system, answer)


def as_question(turns: list[Message]) -> str:
    if len(turns) == 1:
        return turns[0].text
    return "\n\n".join(f"{SPOKEN[turn.role]}: {f'{turn.text.strip()} {turn.calls}'.strip()}" for turn in turns)


def message_of(item: Any, field: str) -> Message:
    """One message. Raises Bad for a role or a content that cannot be read."""
    if not isinstance(item, dict):
        raise Bad("bad_message", f"'{field}' must be a message with role and content, got {type(item).__name__}")
    given = item.get("role", item.get("from"))
    role = ROLES.get(given.strip().lower()) if isinstance(given, str) else None
    if role is None:
        raise Bad("bad_message", f"'{field}' is of the unknown role {given!r:.40}; known: {', '.join(ROLES)}")
    content = item.get("content", item.get("value", item.get("text")))
    thought = next((item[name] for name in THOUGHTS if isinstance(item.get(name), str)), "")
    if isinstance(content, list):
        thought = thought or "\n".join(
            content_of(thought_in(part), field, empty=False) for part in content if is_thought(part)
        )
        content = [part for part in content if not is_thought(part)]
    calls = json.dumps(item["tool_calls"], ensure_ascii=False) if item.get("tool_calls") else ""
    return Message(role, content_of(content, field, empty=bool(thought) or role != "user"), thought, calls)


def is_thought(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") in THOUGHTS


def thought_in(part: dict[str, Any]) -> Any:
    """What a part of a message holds that is a thought: a text, or a list of parts."""
    return next((part[name] for name in (*THOUGHTS, "text") if name in part), None)


def content_of(content: Any, field: str, *, empty: bool) -> str:
    """The text of a message: a text, or the texts in a list of parts. Raises Bad for anything else."""
    if isinstance(content, str):
        return content
    if content is None and empty:
        return ""
    if isinstance(content, list):
        texts = [
            part if isinstance(part, str) else part.get("text") if isinstance(part, dict) else None for part in content
        ]
        if all(isinstance(text, str) for text in texts):
            return "".join(str(text) for text in texts)
        raise Bad("bad_message", f"'{field}' holds a part that is no text; images and sounds are not read")
    raise Bad("not_text", f"'{field}' must hold a text, got {type(content).__name__}")
