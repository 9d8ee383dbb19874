"""Whether a value from outside can be kept, hashed and written: text that is Unicode, JSON of bounded depth."""

from __future__ import annotations

from collections.abc import Iterator
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
    place: list[str] = []  # keys and positions that lead to the value in hand
    waiting: list[Iterator[tuple[Any, Any]]] = [iter([("", value)])]
    while waiting:
        step = next(waiting[-1], None)
        if step is None:
            waiting.pop()
            if place:
                place.pop()
            continue
        key, held = step
        if not isinstance(key, str):
            return "not_json", f"{named(place, 'the object')} has the key {key!r:.80}, expected a text"
        if fault := text_fault(key):
            return "not_text", f"a key of {named(place, 'the object')} holds {fault}"
        here = [*place, key] if len(waiting) > 1 else []
        if isinstance(held, str):
            if fault := text_fault(held):
                return "not_text", f"{named(here, 'text')} holds {fault}"
        elif isinstance(held, dict | list | tuple):
            if len(here) == MAX_DEPTH:
                return "nested", f"{named(here[:1], 'value')} is nested deeper than {MAX_DEPTH}"
            place = here
            parts = held.items() if isinstance(held, dict) else ((str(at), part) for at, part in enumerate(held))
            waiting.append(iter(parts))
        elif not (held is None or isinstance(held, bool | int | float)):
            return "not_json", f"{named(here, 'value')} is of {type(held).__name__}, which JSON does not know"
    return None


def named(place: list[str], otherwise: str) -> str:
    """``a.0.b``, each part cut to a few characters."""
    return ".".join(part[:40] for part in place) or otherwise
