"""Whether a value from outside can be kept, hashed and written: text that is Unicode, JSON of bounded depth."""

from __future__ import annotations

from typing import Any

MAX_DEPTH = 64  # lists and objects within each other; json itself fails at a depth that depends on its caller
HALF = "half a character: the surrogate U+{:04X} at position {}"


def text_fault(text: str) -> str:
    """What makes a str no Unicode text, in words; empty if nothing does.

    JSON's ``\\ud83d`` alone, or a cut between the halves of an emoji, gives a str that no file can hold as UTF-8.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return HALF.format(ord(text[error.start]), error.start)
    return ""


def json_fault(value: Any) -> tuple[str, str] | None:
    """(reason, detail) if a value that ``json`` has read, or that a module gives as such, cannot be kept, else None.

    Reasons: ``nested`` deeper than MAX_DEPTH, ``not_text`` for half a character in a text or key, ``not_json`` for what
    JSON does not know.
    """
    waiting: list[tuple[Any, str, int]] = [(value, "", 0)]
    while waiting:
        held, where, depth = waiting.pop()
        if isinstance(held, str):
            if fault := text_fault(held):
                return "not_text", f"{where or 'text'} holds {fault}"
        elif isinstance(held, dict | list | tuple):
            if depth == MAX_DEPTH:
                return "nested", f"{where.partition('.')[0]} is nested deeper than {MAX_DEPTH}"
            parts = list(held.items()) if isinstance(held, dict) else list(enumerate(held))
            for key, part in parts:
                if isinstance(held, dict) and not isinstance(key, str):
                    return "not_json", f"{where or 'object'} has the key {key!r}, expected a text"
                if isinstance(key, str) and (fault := text_fault(key)):
                    return "not_text", f"a key of {where or 'the object'} holds {fault}"
                waiting.append((part, f"{where}.{key}" if where else str(key), depth + 1))
        elif not (held is None or isinstance(held, bool | int | float)):
            return "not_json", f"{where or 'value'} is of {type(held).__name__}, which JSON does not know"
    return None
