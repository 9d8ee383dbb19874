"""What looks like a secret: by the name it stands under, by its shape, or because a variable of such a name holds it.

This is the one list. Recipes and options that hold a secret are refused, whatever else is written or printed is masked.
A recipe leaves the key to the environment, where whoever needs it reads it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.guards.secret_names import (
    NUMBERS_TOO,
    SURE,
    is_hidden,
    is_nothing,
    is_secret_here,
    is_secret_name,
    strength,
    words_of,
)
from tracestill.data_pipeline.guards.secret_shapes import OPENS, SHAPE, key_lines, shape_of

__all__ = ["MASK", "is_secret", "is_secret_name", "mask", "mask_data", "mask_lines", "refuse", "shape_of", "strength"]
MASK = "***"
VARIABLE = re.compile(r"[A-Za-z_]\w*", re.ASCII)
LEAST = 8  # characters of a variable's value that texts are searched for: a shorter one is found everywhere
NAMED_BELOW = {"arms", "kinds", "weights"}  # what stands below bears names of the user's choice
ADVICE = (
    "a recipe is copied into runs, reports and model cards: set an environment variable, and give its name to the code "
    "that needs it"
)
VALUES = {"data", "secret", "text", "value", "values"}  # keys that say nothing, below one that does
NAMES = ("name", "key", "header", "variable")  # in {name: x-api-key, value: …}
PAIR = re.compile(r"(?<![\w-])-{0,2}(?P<name>[A-Za-z_][\w.-]{1,80})(?P<sign>[\"']?(?: ?= ?| ?: ?))")
OPTION = re.compile(r"(?<!\S)--?(?P<name>[A-Za-z_][\w.-]{1,80})(?P<sign> {1,4})(?=[^\s-])")  # --api-key VALUE
VALUE = re.compile(r"\"[^\"\n]{0,1024}\"|'[^'\n]{0,1024}'|[^\s\"',;)}\]&`]{1,1024}")
ENVIRONMENT = re.compile(r"(?<![\w.-])(?P<name>[A-Z][A-Z0-9_]{2,80})=(?P<value>[^\n]+)")  # as `env` prints it


def is_secret(name: str, value: Any) -> bool:
    """Whether a value is a secret, by the name that it stands under or by its shape."""
    if isinstance(value, str):
        return shape_of(value) is not None or is_secret_here(strength(name), value, name)
    number = isinstance(value, int) and not isinstance(value, bool) and abs(value) > 999
    return number and NUMBERS_TOO.search("".join(words_of(name))) is not None and strength(name) > 0


def pairs(text: str, weaker: int = 0) -> Iterator[tuple[int, int]]:
    """Where values stand in a text that are secrets by the name before them: NAME=VALUE, name: value, "name": "value",
    --name value. ``weaker``: by how much less a name says in such a text. A pair may stand in another one's value."""
    done = 0
    found = [*PAIR.finditer(text), *OPTION.finditer(text)]
    for pair in sorted(found, key=re.Match.start):
        name = pair["name"].rpartition(".")[2]
        strong = strength(name) - weaker
        if strong < 1 or pair.start() < done or (match := VALUE.match(text, pair.end())) is None:
            continue
        value = match[0]
        quoted = value[0] in "\"'" and value[-1] == value[0]
        bare = value[1:-1] if quoted else value
        if "cookie" in name.lower() or (not quoted and " " in pair["sign"]):  # prose, or code: `token = tokens[0]`
            strong -= 1
        if is_secret_here(strong, bare) and (quoted or bare.rpartition(".")[2] != name):  # api_key=self.api_key
            done = match.end() - quoted
            yield match.start() + quoted, done


# What a recipe holds


def refuse(data: Any, where: str, field: str = "") -> None:
    """Raise InputError naming each field of nested ``data`` that holds a secret, without saying the secret.

    ``where`` begins each line: the file or option that the data come from.
    """
    faults = list(faults_in(data, field, secrets_held()))
    if faults:
        raise InputError("\n".join(f"{where}: {fault}" for fault in faults))


def faults_in(data: Any, field: str, held: list[str], strong: int = 0) -> Iterator[str]:
    """One line for each secret. ``strong``: the strength of the names above, which holds for what they contain."""
    if isinstance(data, Mapping):
        for key, value, name in named(data, field.rpartition(".")[2]):
            if looks := shape_of(key):
                yield f"a key of {field or 'it'} looks like {looks}; keep secrets in environment variables"
                continue
            inner = f"{field}.{key}" if field else key
            if fault := fault_of(key, name, value, inner):
                yield fault
            else:
                yield from faults_in(value, inner, held, below(strong, key, name))
    elif isinstance(data, list | tuple):
        for at, value in enumerate(data):
            inner = f"{field}.{at}"
            yield from faults_in(value, inner, held, max(strong, by_option(data, at)))
    elif isinstance(data, str) and (looks := shape_of(data)):
        yield f"{field}: looks like {looks}; {ADVICE}"
    elif isinstance(data, str) and (is_secret_here(strong, data) if strong > 1 else any(pairs(data, 1))):
        yield f"{field}: looks like a secret; {ADVICE}"
    elif isinstance(data, str) and any(value in data for value in held):
        yield f"{field}: holds what an environment variable with the name of a secret holds; {ADVICE}"


def named(data: Mapping[Any, Any], parent: str) -> Iterator[tuple[str, Any, str]]:
    """Key, value, and the name that tells what the value is: mostly the key, none where the user chooses it."""
    said = next((data[name] for name in NAMES if isinstance(data.get(name), str)), "") if "value" in data else ""
    for key, value in data.items():
        yield str(key), value, "" if parent in NAMED_BELOW else said if key == "value" and said else str(key)


def below(strong: int, key: str, name: str) -> int:
    """The strength for what stands below a key, where it is ``strong`` above it. What credentials hold need not be one:
    ``{provider: aws}``."""
    return SURE if strength(name) == SURE else strong if key in VALUES else min(strong, 2)


def by_option(data: list[Any] | tuple[Any, ...], at: int) -> int:
    """The strength for an item of a command's words: what follows ``--api-key`` is one."""
    before = data[at - 1] if at else None
    return strength(before) if isinstance(before, str) and re.fullmatch(r"--?[A-Za-z][\w.-]{1,80}", before) else 0


def fault_of(key: str, name: str, value: Any, field: str) -> str:
    """What is wrong with a value under its own key; empty if nothing is, or a look inside has to tell."""
    if key.endswith(("_env", "_variable")) and is_secret_name(key.rpartition("_")[0]) and isinstance(value, str):
        if shape_of(value) or not VARIABLE.fullmatch(value):
            return (
                f"{field}: expected the name of an environment variable, such as OPENAI_API_KEY, and not a key itself"
            )
    elif isinstance(value, str | int | float) and shape_of(str(value)) is None and is_secret(name, value):
        return f"{field}: looks like a secret, by its name; {ADVICE}"
    return ""


# What is written and printed


def mask(text: str) -> str:
    """A text without secrets: those of a known shape, those that stand beside a name, and what variables of this
    process hold that have a secret's name."""
    text = SHAPE.sub(MASK, without(text, values_held()))
    return mask_pairs(ENVIRONMENT.sub(masked_variable, text))


def masked_variable(pair: re.Match[str]) -> str:
    first = pair["value"].split(None, 1)[0] if pair["value"].strip() else ""
    strong = strength(pair["name"])
    if strong == SURE and not is_nothing(first.rstrip(".,;:)\"'")):
        return f"{pair['name']}={MASK}"  # it may hold blanks
    hidden = strong > 0 and is_secret_here(strong, first, pair["name"])
    return f"{pair['name']}={MASK}{pair['value'][len(first) :]}" if hidden else pair[0]


def mask_pairs(text: str, weaker: int = 0) -> str:
    """A text without the values that stand beside names of secrets."""
    parts, done = [], 0
    for start, end in pairs(text, weaker):
        parts += [text[done:start], MASK]
        done = end
    return "".join([*parts, text[done:]])


def values_held(environment: Mapping[str, str] = os.environ) -> list[str]:
    """What variables of secret names hold, line by line, the longest first; paths and words such as ``question`` in
    SORT_KEY are no secrets."""
    held = {
        line.strip()
        for name, value in environment.items()
        if (strong := strength(name)) and not (value.startswith(("/", "~", "./")) and Path(value).exists())
        for line in value.splitlines()
        if is_secret_here(strong, line.strip(), name)
    }
    return sorted((line for line in held if len(line) >= LEAST), key=len, reverse=True)


def secrets_held() -> list[str]:
    """Those of ``values_held`` that are no words, which a recipe may hold by chance."""
    return [value for value in values_held() if is_hidden(value, LEAST)]


def mask_data(data: Any) -> Any:
    """JSON data without what ``refuse`` refuses, and without what variables of secret names hold."""
    return masked(data, values_held(), 0)


def mask_recipe(data: Any) -> Any:
    """JSON data without what ``refuse`` refuses."""
    return masked(data, secrets_held(), 0)


def masked(data: Any, held: list[str], strong: int, parent: str = "") -> Any:
    """``strong``: the strength of the names above."""
    if isinstance(data, Mapping):
        return {
            SHAPE.sub(MASK, key): MASK
            if fault_of(key, name, value, "")
            else masked(value, held, below(strong, key, name), key)
            for key, value, name in named(data, parent)
        }
    if isinstance(data, list | tuple):
        return [masked(value, held, max(strong, by_option(data, at))) for at, value in enumerate(data)]
    if not isinstance(data, str):
        return data
    if strong > 1 and is_secret_here(strong, data):
        return MASK
    return mask_pairs(SHAPE.sub(MASK, without(data, held)), 1)


def without(text: str, held: Iterable[str]) -> str:
    for value in held:
        if value not in text:
            continue
        if is_hidden(value, LEAST):
            text = text.replace(value, MASK)
        else:  # words: not inside of others
            start, end = (r"\b" if re.match(r"\w", value[at]) else "" for at in (0, -1))
            text = re.sub(start + re.escape(value) + end, MASK, text)
    return text


def mask_lines(lines: Iterable[str]) -> Iterator[str]:
    """Lines as they come, each without secrets; of a private key, none but the first."""
    inside = key_lines()
    for line in lines:
        if not inside(line):
            yield mask(OPENS.sub(MASK, line.rstrip("\n"))) + ("\n" if line.endswith("\n") else "")
