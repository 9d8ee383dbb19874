"""What looks like a secret: by the name it stands under, by its shape, or because a variable of such a name holds it.

This is the one list. Recipes and options that hold a secret are refused, whatever else is written or printed is masked.
A recipe names the environment variable that holds a key (``api_key_env: OPENAI_API_KEY``), never the key itself.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from tracestill.data_pipeline.errors import InputError

MASK = "***"
SURE = 3  # strength of a name under which nothing else stands
# Of a name in small letters without what joins its words
ANYWHERE = re.compile(
    r"password|passwd|passphrase|secret|credential|jwt|authoriz|connectionstring|"
    r"(api|access|auth|encryption|private|signing|ssh)key|(access|api|auth|bearer|identity|refresh|session)token"
)
NUMBERS_TOO = re.compile(r"password|passwd|passphrase|pwd")
STRONG = {"bearer", "cookie", "cookies", "creds", "pwd"}  # words, wherever they stand
LAST = {"auth", "key", "pass", "pat", "sig", "signature", "token"}  # words at the end
ENDS = ("key", "token")  # of the last word, as in MYTOKEN
ANIMALS = {"donkey", "monkey", "turkey"}
OF_TEXT = {  # tokens of a text
    *("audio", "begin", "bos", "class", "cls", "control", "decoder", "end", "eos", "first", "image", "last", "mask"),
    *("max", "min", "next", "pad", "per", "sep", "special", "start", "stop", "target", "think", "unk", "video"),
}
PLACES = {"dir", "env", "file", "files", "folder", "path", "sock", "socket", "variable"}  # where a secret lies
VARIABLE = re.compile(r"[A-Za-z_]\w*", re.ASCII)
NOTHING = re.compile(r"<[^<>]*>|\[[^\[\]]*\]|[\d.,]*|null|none|true|false|\*+", re.IGNORECASE)
HIDDEN = re.compile(r"(?=.*\d)(?=.*[A-Za-z])[\w+/=.~@!#$%^&*:-]+", re.ASCII)  # what keys are written in, no code
LEAST = 8  # characters of a variable's value that texts are searched for: a shorter one is found everywhere

EDGE = r"(?<![A-Za-z0-9])"
SHAPES = {
    "a private key": r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----[\s\S]*?(?:-----END [A-Z0-9 ]*-----|\Z)",
    "an API key": EDGE + r"sk-(?=[\w-]*\d)[\w-]{12,}",
    "a token of Hugging Face's": EDGE + r"hf_[A-Za-z0-9]{8,}",
    "a token of GitHub's": EDGE + r"(?:gh[oprsu]_|github_pat_)\w{12,}",
    "a token of GitLab's": EDGE + r"gl(?:pat|ptt|dt|rt)-[\w-]{12,}",
    "a key of AWS's": EDGE + r"(?:AKIA|ASIA)[0-9A-Z]{12,}",
    "a key of Google's": EDGE + r"(?:AIza[\w-]{30,}|ya29\.[\w-]{12,})",
    "a token of Slack's": EDGE + r"xox[abeoprs]-[\w-]{10,}",
    "a token": EDGE + r"(?:[rs]k_live_|nvapi-|gsk_|xai-|pplx-|r8_|npm_|pypi-|dop_v1_|tgp_v1_)(?=[\w-]*\d)[\w-]{12,}",
    "a JSON web token": EDGE + r"eyJ[\w-]{6,}\.[\w-]{6,}(?:\.[\w-]*)?",
    "a password in a URL": r"(?<=://)[^\s/@:\"']*:[^\s/@\"']+(?=@)",
    "a header with a credential": r"(?i:\bbearer\s+(?=[\w.~+/=-]*\d)[\w.~+/=-]{8,}"
    r"|\bauthorization[\"']?\s*[:=]\s*[\"']?\w+ [^\s\"']+|\b(?:set-)?cookie[\"']?\s*:\s*[^\n\"']+)",
}
"""Kind of secret, for people -> the regular expression that finds one in a text."""
SHAPE = re.compile("|".join(f"(?P<s{at}>{shape})" for at, shape in enumerate(SHAPES.values())))
KEY_BEGINS, KEY_ENDS = re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY"), re.compile(r"-----END [A-Z0-9 ]*PRIVATE KEY")
PAIR = re.compile(  # NAME=VALUE, name: value, "name": "value"
    r"(?<![\w-])(?P<name>[A-Za-z_][\w.-]{1,80})(?P<sign>[\"']?(?: ?= ?| ?: ?))"
    r"(?=(?P<value>\"[^\"\n]{0,4096}\"|'[^'\n]{0,4096}'|[^\s\"',;)}\]]{1,4096}))"
)
ENVIRONMENT = re.compile(r"(?<![\w.-])(?P<name>[A-Z][A-Z0-9_]{2,80})=(?P<value>[^\n]+)")  # as `env` prints it


def words_of(name: str) -> list[str]:
    """The words of a name in small letters: of ``HF_TOKEN``, ``apiKey`` and ``x-api-key`` alike."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]


@lru_cache(maxsize=4096)
def strength(name: str) -> int:
    """How surely a secret stands under this name of a key, an option or a variable: 3; 2 (``auth``), 1 (``sort_key``)
    where something else may; or 0."""
    words = words_of(name)
    if not words or (len(words) > 1 and words[-1] in PLACES):
        return 0
    if ANYWHERE.search("".join(words)) or STRONG.intersection(words):
        return SURE
    last = words[-1]
    if last not in LAST and (last in ANIMALS or not last.endswith(ENDS)):
        return 0
    if OF_TEXT.intersection(words[:-1]):
        return 0
    if last.endswith("key"):
        return 1
    return SURE if last.endswith("token") and words != ["token"] else 2


def is_secret_name(name: str) -> bool:
    """Whether a variable of this name is to be taken for a secret, whatever it holds."""
    return strength(name) > 0


def is_secret(name: str, value: Any) -> bool:
    """Whether a value is a secret, by the name that it stands under or by its shape."""
    if isinstance(value, str):
        return shape_of(value) is not None or is_secret_here(strength(name), value)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and NUMBERS_TOO.search("".join(words_of(name))) is not None and strength(name) > 0


def is_secret_here(strength: int, value: str) -> bool:
    """Whether a text is a secret where it stands under a name of this strength."""
    if strength == SURE:
        return NOTHING.fullmatch(value.strip()) is None
    return strength > 0 and is_hidden(value, 7 if strength == 2 else 16)


def is_hidden(value: str, least: int) -> bool:
    """Whether a text of at least so many characters looks like a key or a password, and not like words, a column's name
    or a path."""
    if len(value) < least or HIDDEN.fullmatch(value) is None:
        return False
    parts = re.split(r"[._/:-]", value)
    return len(parts) == 1 or not all(re.fullmatch(r"[A-Za-z]*\d{0,2}", part) for part in parts)


def shape_of(text: str) -> str | None:
    """What kind of secret a text holds by its shape, in words; None if none."""
    found = SHAPE.search(text)
    return None if found is None else list(SHAPES)[int(str(found.lastgroup)[1:])]


# What a recipe holds


def refuse(data: Any, where: str, field: str = "") -> None:
    """Raise InputError naming each field of nested ``data`` that holds a secret, without saying the secret.

    ``where`` begins each line: the file or option that the data come from.
    """
    faults = list(faults_in(data, field))
    if faults:
        raise InputError("\n".join(f"{where}: {fault}" for fault in faults))


def faults_in(data: Any, field: str, strong: int = 0) -> Iterator[str]:
    """One line for each secret. ``strong``: the strength of the names above, which holds for what they contain."""
    if isinstance(data, Mapping):
        for key, value in data.items():
            if isinstance(key, str) and (kind := shape_of(key)):
                yield f"a key of {field or 'it'} looks like {kind}; keep secrets in environment variables"
                continue
            inner = f"{field}.{key}" if field else str(key)
            if fault := fault_of(str(key), value, inner):
                yield fault
            else:
                yield from faults_in(value, inner, max(strong, strength(str(key))))
    elif isinstance(data, list | tuple):
        for at, value in enumerate(data):
            yield from faults_in(value, f"{field}.{at}", strong)
    elif isinstance(data, str) and (kind := shape_of(data)):
        yield f"{field}: looks like {kind}; {advice(field)}"
    elif isinstance(data, str) and strong == SURE and is_secret_here(strong, data):
        yield f"{field}: looks like a secret; {advice(field)}"


def fault_of(key: str, value: Any, field: str) -> str:
    """What is wrong with a value under its own key; empty if nothing is, or a look inside has to tell."""
    if key.endswith(("_env", "_variable")) and is_secret_name(key.rpartition("_")[0]) and isinstance(value, str):
        if shape_of(value) or not VARIABLE.fullmatch(value):
            return (
                f"{field}: expected the name of an environment variable, such as OPENAI_API_KEY, and not a key itself"
            )
    elif isinstance(value, str | int | float) and shape_of(str(value)) is None and is_secret(key, value):
        return f"{field}: looks like a secret, by its name; {advice(field)}"
    return ""


def advice(field: str) -> str:
    name = field.rpartition(".")[2]
    name = "api_key" if name.isdecimal() or not VARIABLE.fullmatch(name) else name
    return (
        f"a recipe is copied into runs, reports and model cards: set an environment variable, and give its name "
        f"({name}_env: NAME)"
    )


# What is written and printed


def mask(text: str) -> str:
    """A text without secrets: those of a known shape, those that stand beside a name, and what variables of this
    process hold that have a secret's name."""
    text = SHAPE.sub(MASK, without(text, values_held()))
    return mask_pairs(ENVIRONMENT.sub(masked_variable, text))


def masked_variable(pair: re.Match[str]) -> str:
    hidden = is_secret_name(pair["name"]) and NOTHING.fullmatch(pair["value"].strip()) is None
    return f"{pair['name']}={MASK}" if hidden else pair[0]


def mask_pairs(text: str) -> str:
    """A text without the values that stand beside names of secrets. A pair may stand in another one's value."""
    parts, done = [], 0
    for pair in PAIR.finditer(text):
        value = pair["value"]
        bare = value.strip("\"'")
        strong = strength(pair["name"].rpartition(".")[2])
        if " " in pair["sign"] and bare == value:  # prose, or code as in `token = tokens[0]`
            strong = min(strong, 2)
        if pair.start() >= done and is_secret_here(strong, bare):
            quote = "" if bare == value else value[0]
            parts += [text[done : pair.start("value")], quote, MASK, quote]
            done = pair.end("value")
    return "".join([*parts, text[done:]])


def values_held(environment: Mapping[str, str] = os.environ) -> list[str]:
    """What variables of secret names hold, line by line, the longest first; paths are no secrets."""
    held = {
        line.strip()
        for name, value in environment.items()
        if is_secret_name(name) and not (value.startswith(("/", "~", "./")) and Path(value).exists())
        for line in value.splitlines()
    }
    return sorted((line for line in held if len(line) >= LEAST), key=len, reverse=True)


def mask_data(data: Any) -> Any:
    """JSON data without what ``refuse`` refuses, and without what variables of secret names hold."""
    return masked(data, values_held(), 0)


def masked(data: Any, held: list[str], strong: int) -> Any:
    """``strong``: the strength of the names above."""
    if isinstance(data, Mapping):
        return {
            SHAPE.sub(MASK, str(key)): MASK
            if fault_of(str(key), value, "")
            else masked(value, held, max(strong, strength(str(key))))
            for key, value in data.items()
        }
    if isinstance(data, list | tuple):
        return [masked(value, held, strong) for value in data]
    if not isinstance(data, str):
        return data
    return MASK if strong == SURE and is_secret_here(strong, data) else SHAPE.sub(MASK, without(data, held))


def without(text: str, held: Iterable[str]) -> str:
    for value in held:
        text = text.replace(value, MASK)
    return text


def mask_lines(lines: Iterable[str]) -> Iterator[str]:
    """Lines as they come, each without secrets; of a private key, none but the first."""
    inside = False
    for line in lines:
        if inside:
            inside = KEY_ENDS.search(line) is None
            continue
        inside = KEY_BEGINS.search(line) is not None and KEY_ENDS.search(line) is None
        yield mask(line.rstrip("\n")) + ("\n" if line.endswith("\n") else "")
