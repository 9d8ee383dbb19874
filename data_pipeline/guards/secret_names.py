"""Under which names secrets stand, and whether what stands there is one: a tool about tokens has many that hold none.

The last words of a name say what it is: ``api_key`` is a key, ``api_key_count`` a count.
"""

from __future__ import annotations

import re
from functools import lru_cache

SURE = 3  # strength of a name under which nothing else stands
ANY = "access|api|auth|deploy|private|secret|session|signing"  # before a key or a token
OF_SERVICES = (
    "anthropic|aws|azure|cohere|comet|deepseek|fireworks|gemini|github|gitlab|google|groq|hf|hub|huggingface|langfuse|"
    "mistral|mlflow|neptune|npm|nvidia|ngc|openai|openrouter|perplexity|pypi|replicate|slack|together|wandb|xai"
)
# Of the last words of a name in small letters, one after the other without what joins them
WHOLE = re.compile(
    r"password|passwd|passphrase|passkey|secrets?|credentials?|creds|jwt|authorization|connectionstring|"
    rf"(?:{ANY}|{OF_SERVICES}|account|encryption|master|ssh|storage)key|"
    rf"(?:{ANY}|{OF_SERVICES}|bearer|identity|jwt|keyring|oauth|personal|refresh|service|vault)token"
)
NUMBERS_TOO = re.compile(r"password|passwd|passphrase|pwd")
STRONG = {"bearer", "cookie", "cookies", "pwd"}  # words, wherever they stand
LAST = {"auth", "key", "pass", "pat", "sig", "signature", "token"}  # words at the end
ENDS = ("key", "token")  # of the last word, as in MYTOKEN
ANIMALS = {"donkey", "monkey", "turkey"}
OF_TEXT = {  # tokens of a text
    *("audio", "begin", "bos", "class", "cls", "control", "decoder", "end", "eos", "first", "image", "last", "mask"),
    *("max", "min", "next", "pad", "per", "sep", "special", "start", "stop", "target", "think", "unk", "video"),
}
PLACES = {  # where a secret lies, or what it is called
    *("dir", "env", "file", "files", "folder", "name", "names", "path", "sock", "socket", "variable"),
}
NOTHING = re.compile(  # in place of a secret: no value, or where it comes from
    r"(?i:[\d.,]*|null|none|nil|true|false|yes|no|on|off|empty|default|dummy|auto|unused|anonymous|not[ _-]?needed|"
    r"not[ _-]?used|n/a|[x*._…-]*)|\$[A-Z_][A-Z0-9_]*|os\.environ/\w+|env:\w+"
)
WRAPPED = re.compile(r"<([^<>]*)>|\[([^\[\]]*)\]|\$\{([^{}]*)\}|\{\{([^{}]*)\}\}|\{(\w*)\}")
SCHEME = re.compile(r"(?:basic|bearer|token|apikey) +", re.IGNORECASE)
OTHER_NAME = re.compile(r"[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+")  # of a variable
HIDDEN = re.compile(  # what keys are written in, no code
    r"(?=[^\d\n]*\d)(?=[^A-Za-z\n]*[A-Za-z])[\w+/=.~@!#$%^&*:-]+", re.ASCII
)
LETTERS, WORDS = re.compile(r"[A-Za-z]{20,200}"), re.compile(r"[a-z]{0,19}(?:[A-Z][a-z]{2,19})+")
AMOUNT = re.compile(r"[$€£]?\d{1,5}(?:[.,]\d{1,5})*[A-Za-z%]{0,20}(?:/[A-Za-z]{1,20}){0,3}")
DIGEST = re.compile(r"(?:md5|sha\d{1,3})[:-][0-9a-f]{8,}|[0-9a-f]{40}|[0-9a-f]{64}")


def words_of(name: str) -> list[str]:
    """The words of a name in small letters: of ``HF_TOKEN``, ``apiKey`` and ``x-api-key`` alike."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]


@lru_cache(maxsize=4096)
def strength(name: str) -> int:
    """How surely a secret stands under this name of a key, an option or a variable: 3; 2 (``step_token``), 1
    (``sort_key``) where something else may, so that what stands there has to look like one; or 0."""
    words = words_of(name[-200:])
    if not words or (len(words) > 1 and words[-1] in PLACES):
        return 0
    joined, last = "".join(words), words[-1]
    begins = [len("".join(words[:at])) for at in range(len(words))]
    if any(WHOLE.fullmatch(joined, at) for at in (*begins[:-1], *range(begins[-1], len(joined)))):
        return SURE
    if any(WHOLE.match(joined, at) for at in begins) or STRONG.intersection(words):
        return 2
    if last not in LAST and (last in ANIMALS or not last.endswith(ENDS)):
        return 0
    if OF_TEXT.intersection(words[:-1]):
        return 0
    return 1 if last.endswith("key") else 2


def is_secret_name(name: str) -> bool:
    """Whether a variable of this name is to be taken for a secret, whatever it holds."""
    return strength(name) > 0


def is_secret_here(strong: int, value: str, name: str = "") -> bool:
    """Whether a text is a secret where it stands under a name of this strength."""
    if strong == SURE:
        digits = bool(name and NUMBERS_TOO.search("".join(words_of(name)))) and re.fullmatch(r"\d{4,}", value)
        return bool(digits) or not is_nothing(value)
    if strong == 2:
        return is_hidden(value, 7) or (LETTERS.fullmatch(value) is not None and WORDS.fullmatch(value) is None)
    return strong == 1 and is_hidden(value, 16) and DIGEST.fullmatch(value) is None


def is_nothing(value: str) -> bool:
    """Whether a text stands where a secret would, and is none: ``EMPTY``, ``<your key>``, ``${OPENAI_API_KEY}``."""
    value = value.strip()
    if scheme := SCHEME.match(value):
        value = value[scheme.end() :]
    if NOTHING.fullmatch(value):
        return True
    if inside := WRAPPED.fullmatch(value):
        words = (inside[inside.lastindex or 1] or "").split()
        return not any(is_hidden(word, 8) for word in words)
    return OTHER_NAME.fullmatch(value) is not None and is_secret_name(value)


def is_hidden(value: str, least: int) -> bool:
    """Whether a text of at least so many characters looks like a key or a password, and not like words, a column's name
    or a path."""
    if len(value) < least:
        return False
    if HIDDEN.fullmatch(value) is None or AMOUNT.fullmatch(value):
        return False
    parts = re.split(r"[._/:-]", value)
    return len(parts) == 1 or not all(re.fullmatch(r"[A-Za-z]*\d{0,2}", part) for part in parts)
