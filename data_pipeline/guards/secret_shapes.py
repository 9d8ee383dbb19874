"""What secrets look like, whatever name they stand under. A stranger's text is searched, so each search is linear: what
looks ahead is bounded, and nothing starts in the middle of a run of the characters that it consists of."""

from __future__ import annotations

import re
from collections.abc import Callable

EDGE = r"(?<![A-Za-z0-9])"
ALONE = r"(?<![\w/-])"  # neither inside of a word nor in a path
NO_PATH = r"(?![\w.-]{0,300}/)"
DRAWN = (  # ahead: 16 letters and digits without a break, as drawn by chance
    r"(?=[\w-]{0,120}?(?<![A-Za-z0-9])(?=[A-Za-z]{0,200}\d)(?=\d{0,200}[A-Za-z])[A-Za-z0-9]{16})"
)
BEGIN = r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
END = r"-----END [A-Z0-9 ]{0,40}-----"
NEXT = r"(?:\\r)?(?:\\n|\r?\n)[+-]?[ \t>|]{0,3}"  # the next line, also of a diff or in a JSON text
KNOWN = r"(?:Proc-Type|DEK-Info|Version|Comment|Hash|Charset): [^\n\\]{0,200}"
STOP = r"(?=\r?\n|\\[nr]|[\"']|-----|\Z)"
BODY = rf"(?:{NEXT}(?:{KNOWN})?)*?{NEXT}[A-Za-z0-9+/=]{{8,2000}}{STOP}(?:{NEXT}[A-Za-z0-9+/=]{{0,2000}}{STOP})*"
SHAPES = {
    "a private key": rf"{BEGIN}(?:{BODY}| +[A-Za-z0-9+/=]{{24,}}(?: [A-Za-z0-9+/=]+)*)(?:(?:{NEXT})? ?{END})?",
    "an API key": rf"{ALONE}sk-{NO_PATH}{DRAWN}[\w-]{{16,}}",
    "a token of Hugging Face's": rf"{ALONE}hf_{NO_PATH}(?:(?=[A-Za-z]{{0,40}}\d{{1,20}}[A-Za-z]{{1,40}}\d)"
    r"(?=[a-z\d]{0,60}[A-Z])(?=[A-Z\d]{0,60}[a-z])[A-Za-z0-9]{16,}|[A-Za-z0-9]{30,})(?!\w)",
    "a token of GitHub's": rf"{EDGE}(?:gh[oprsu]_(?=[A-Za-z]{{0,60}}\d)[A-Za-z0-9]{{20,}}"
    r"|github_pat_(?=[A-Za-z_]{0,60}\d)\w{16,})",
    "a token of GitLab's": rf"{EDGE}gl(?:pat|ptt|dt|rt)-(?=[A-Za-z_-]{{0,60}}\d)[\w-]{{12,}}",
    "a key of AWS's": EDGE + r"(?:AKIA|ASIA(?=[A-Z]{0,15}\d))[0-9A-Z]{16}(?![A-Za-z0-9])",
    "a key of Google's": EDGE + r"(?:AIza[\w-]{30,}|ya29\.(?=[\w-]{0,200}\d)[\w-]{12,})",
    "a token of Slack's": EDGE + r"xox[abeoprs]-(?=[A-Za-z-]{0,60}\d)[\w-]{10,}",
    "a token": rf"{ALONE}(?:[rs]k_live_|nvapi-|gsk_|xai-|pplx-|r8_|npm_|pypi-|dop_v1_|tgp_v1_)"
    rf"{NO_PATH}{DRAWN}[\w-]{{16,}}",
    "a JSON web token": r"(?<![\w-])eyJ[\w-]{6,}\.[\w-]{6,}(?:\.[\w-]*)?",
    "a password in a URL": r"(?<=://)(?:[^\s/@:\"']*:(?!<[^<>@]{0,80}>@|\$?\{|[.…*]{1,80}@)[^\s/@\"']+"
    rf"|{DRAWN}[\w-]{{16,}})(?=@)",
    "a header with a credential": r"(?i:\bbearer\s+(?=[a-z.~+/=_-]{0,400}\d)(?=[\d.~+/=_-]{0,400}[a-z])[\w.~+/=-]{8,}"
    r"|\bauthorization[\"']?\s{0,9}[:=]\s{0,9}[\"']?(?:basic|bearer|token|digest|negotiate|apikey) "
    r"(?=[^\s\"']{0,400}(?:[\d=]|(?-i:[a-z][A-Z])))[^\s\"'\\]{8,}"
    r"|\b(?:set-)?cookie[\"']?\s{0,9}:\s{0,9}[\"']?[\w.-]{1,100}="
    r"(?=[^\d\s;,\"']{0,400}\d)(?=[^a-z\s;,\"']{0,400}[a-z])[^\s;,\"']{8,}[^\n\"']*)",
}
"""Kind of secret, for people -> the regular expression that finds one in a text."""
SHAPE = re.compile("|".join(f"(?P<s{at}>{shape})" for at, shape in enumerate(SHAPES.values())))

# Of a private key that comes line by line
OPENS = re.compile(rf"{BEGIN}(?=[\s\"']*$)")
CLOSES = re.compile(END)
SAID_BY = r"(?:[\w.:-]{1,80}: )?"  # pdsh names the host that speaks
OF_KEY = re.compile(rf"{SAID_BY}[+>| \t-]{{0,4}}(?:[A-Za-z0-9+/]{{1,}}={{0,2}}|{KNOWN})?\s*")
LONG = re.compile(rf"{SAID_BY}[+>| \t-]{{0,4}}[A-Za-z0-9+/]{{40,}}={{0,2}}\s*")
ERROR = re.compile(rf"{SAID_BY}error: ")


def shape_of(text: str) -> str | None:
    """What sort of secret a text holds by its shape, in words; None if none."""
    found = SHAPE.search(text)
    return None if found is None else list(SHAPES)[int(str(found.lastgroup)[1:])]


def key_lines(longest: int = 100) -> Callable[[str], bool]:
    """A function that is told one line after the other, and says whether it is the inside of a private key.

    A key has at most ``longest`` lines. Those of others that stand between them are none of it, nor are errors."""
    left, whole = 0, False  # whole: nobody else has spoken since it began

    def inside(line: str) -> bool:
        nonlocal left, whole
        if OPENS.search(line):
            left, whole = longest, True
            return False
        left = max(0, left - 1)
        if not left:
            return False
        if CLOSES.search(line):
            left = 0
            return True
        found = ERROR.match(line) is None and (OF_KEY if whole else LONG).fullmatch(line) is not None
        whole = whole and found
        return found

    return inside
