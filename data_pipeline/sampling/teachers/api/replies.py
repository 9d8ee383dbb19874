"""What a server's answer says: a text and a thought for each choice, or what is wrong with it."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from tracestill.data_pipeline.sampling.teachers import Failed, Said

LEAST = 8  # characters of a key that is hidden: shorter ones (EMPTY, test) are no secrets, and found in any text
JSON = json.JSONDecoder(parse_constant=lambda name: None)  # some servers write NaN and Infinity as log-probabilities
THOUGHTS = ("reasoning_content", "reasoning", "thinking", "thought")  # where servers put it, beside the content


class Malformed(ValueError):
    """It is no answer to what was asked; the message says why."""


class Reply(NamedTuple):
    choices: list[Said | Failed]  # those that can be used, or that the server refuses
    read: int | None  # tokens; None if the server does not say
    written: int | None


def reply_of(data: bytes, n: int, prefill: str = "", hidden: str = "") -> Reply:
    """At most ``n`` choices of a response's body. ``hidden``: a text that is to be found nowhere, the key.

    Raises Malformed if it is no JSON of the expected shape, or holds no choice.
    """
    try:
        found = read(data.decode(), hidden)
    except UnicodeDecodeError as error:
        raise Malformed(f"its answer is no UTF-8, at byte {error.start}") from None
    except (ValueError, RecursionError) as error:
        raise Malformed(f"its answer is no whole JSON ({' '.join(str(error).split())[:80]})") from None
    return reply_in(found, n, prefill)


def read(text: str, hidden: str = "") -> Any:
    """JSON, in which ``hidden`` is found nowhere, however it is escaped. Raises ValueError or RecursionError."""
    return JSON.decode(escaped(hidden).sub("***", text) if len(hidden) >= LEAST else text)


@functools.lru_cache(maxsize=64)
def escaped(key: str) -> re.Pattern[str]:
    """A key as it may stand in JSON: PHP writes a slash as ``\\/``, Go an ampersand as ``\\u0026``."""
    return re.compile(
        "".join(c if c.isalnum() else rf"(?:\\?{re.escape(c)}|\\u(?i:{ord(c):04x}))" for c in key), re.ASCII
    )


def reply_in(found: Any, n: int, prefill: str = "") -> Reply:
    """As ``reply_of``, of JSON that has been read."""
    if not isinstance(found, dict) or not isinstance(found.get("choices"), list):
        raise Malformed(f"its answer holds no choices: {json.dumps(found)[:80]}")
    held = found.get("usage")
    usage: dict[str, Any] = held if isinstance(held, dict) else {}
    read, written = (whole(usage.get(name)) for name in ("prompt_tokens", "completion_tokens"))
    thought = usage.get("completion_tokens_details")
    about = {
        "model": found.get("model") if isinstance(found.get("model"), str) else None,
        "prompt_tokens": read,
        "completion_tokens": written,
        "reasoning_tokens": whole(thought.get("reasoning_tokens")) if isinstance(thought, dict) else None,
        "choices": len(found["choices"]) if len(found["choices"]) > 1 else None,
    }
    choices = [said for choice in found["choices"][:n] if (said := said_of(choice, about, prefill)) is not None]
    if not choices:
        raise Malformed("its answer holds no choice with a text")
    return Reply(choices, read, written)


def whole(value: Any) -> int | None:
    return value if type(value) is int and value >= 0 else None


def said_of(choice: Any, about: Mapping[str, Any], prefill: str) -> Said | Failed | None:
    """What one choice says; None if it says nothing."""
    if not isinstance(choice, dict):
        return None
    finish = choice.get("finish_reason")
    finish = finish if isinstance(finish, str) else ""
    message = choice.get("message")
    reasoning = ""
    if isinstance(message, dict):
        content, reasoning = content_of(message.get("content"))
        reasoning = reasoning or thought_of(message)
        if content is None and isinstance(message.get("refusal"), str):
            return Failed("refused", f"the model refuses: {message['refusal'][:200]}")
    else:
        content = choice.get("text") if isinstance(choice.get("text"), str) else None
    if finish == "content_filter":
        return Failed("refused", "the server's filter held the answer back")
    if content is None and not reasoning:
        return None
    raw = content or ""
    if prefill and not raw.startswith(prefill):
        raw = prefill + raw
    details = {name: value for name, value in about.items() if value is not None}
    if (kept := logprobs_of(choice.get("logprobs"))) is not None:
        details["logprobs"] = kept
    return Said(raw, reasoning, None, finish, details=details)


def content_of(content: Any) -> tuple[str | None, str]:
    """Text and thought of a message's content: a text, or a list of parts."""
    if isinstance(content, str):
        return content, ""
    if not isinstance(content, list):
        return None, ""
    texts: dict[bool, list[str]] = {False: [], True: []}
    for part in content:
        if isinstance(part, dict):
            kind = part.get("type")
            inner = part.get("thinking") if kind == "thinking" else part.get("text")
            if isinstance(inner, list):
                inner = "".join(str(p.get("text", "")) for p in inner if isinstance(p, dict))
            if isinstance(inner, str):
                texts[kind in ("thinking", "reasoning")].append(inner)
    return "".join(texts[False]) if texts[False] else None, "".join(texts[True])


def thought_of(message: Mapping[str, Any]) -> str:
    for name in THOUGHTS:
        if isinstance(message.get(name), str) and message[name].strip():
            return str(message[name])
    parts = message.get("reasoning_details")
    if isinstance(parts, list):
        texts = [p.get("text") or p.get("summary") for p in parts if isinstance(p, dict)]
        return "".join(text for text in texts if isinstance(text, str))
    return ""


def logprobs_of(held: Any) -> list[Any] | None:
    """[token, log-probability, alternatives] of each token; alternatives are [token, log-probability]."""
    if not isinstance(held, dict):
        return None
    if isinstance(held.get("content"), list):  # chat
        said = [token for token in held["content"] if isinstance(token, dict)]
        return [[token.get("token"), token.get("logprob"), top(token)] for token in said]
    tokens, values = held.get("tokens"), held.get("token_logprobs")
    if isinstance(tokens, list) and isinstance(values, list) and len(tokens) == len(values):
        others = held.get("top_logprobs")
        others = others if isinstance(others, list) and len(others) == len(tokens) else [None] * len(tokens)
        alike = [list(map(list, o.items())) if isinstance(o, dict) else [] for o in others]
        return [list(row) for row in zip(tokens, values, alike, strict=True)]
    return None


def top(row: Mapping[str, Any]) -> list[list[Any]]:
    held = row.get("top_logprobs")
    others = held if isinstance(held, list) else []
    return [[other.get("token"), other.get("logprob")] for other in others if isinstance(other, dict)]
