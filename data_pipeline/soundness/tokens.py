"""Arithmetic in running text as tokens: numbers of both conventions, signs, LaTeX, words that mean a sign."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from tracestill.data_pipeline.soundness.units import RATES, units_of

MAX_DIGITS = 40  # of a number; longer ones are identifiers
CURRENCY = r"(?:(?:US|CA|AU|NZ|HK|R)?\$|[€£¥₹₩₽]|(?:Rs\.?|USD|EUR|GBP)(?=\s?\d))"
SEPARATOR = r"(?:,|\{,\}|\\,|[\u00a0\u202f])"
PERCENT = r"(?:\s?(?:\\?%(?!\s*[\d(])|％)|\s(?:percent|per\scent|[Pp]rozent|por\sciento|pour\scent)\b)"
VULGAR = {"½": "1/2", "⅓": "1/3", "⅔": "2/3", "¼": "1/4", "¾": "3/4", "⅛": "1/8", "⅜": "3/8", "⅝": "5/8", "⅞": "7/8"}
LABELS = "day|night|week|month|year|step|part|round|game|level|case|class|grade|person|box|group|team|question|option"
TOKEN = re.compile(
    rf"""
    (?P<label>\b(?i:{LABELS})\s\d{{1,3}}(?::|(?=:\d))(?!\d\d(?!\d)\s?[ap]\.?m))
  | (?P<time>(?<![\d:.])\d{{1,2}}:\d\d(?::\d\d)?(?![\d:]))
  | (?P<number>(?:{CURRENCY}\s?)?
      (?:\d{{1,3}}(?:{SEPARATOR}\d{{3}})+(?:\.\d+)?(?!,?\d)   # 1,500.25
        |\d{{1,3}}(?:\.\d{{3}})+,\d+(?![,.]?\d)                 # 1.500,25
        |\d{{1,3}}(?:\.\d{{3}}){{2,}}(?![,.]?\d)                # 1.500.000
        |\d+,\d{{1,2}}(?![,.]?\d|[-+*/×])                         # 2,5
        |\d+(?:\.\d+)?(?:[eE][-+]?\d{{1,3}}(?!\w))?
        |\.\d+)
      (?:(?:\.{{2,3}}|…)(?=\s?(?:\\?%|[-+*/×÷=≈)])))?[{"".join(VULGAR)}]?{PERCENT}?
     |[{"".join(VULGAR)}]{PERCENT}?)
  | (?P<break>\n(?![ \t]{{0,40}}&?[ \t]{{0,9}}(?:[=≈]|\\approx))|\\\\(?!\s?&?\s?[=≈])|[;?](?=\s|$)
      |!(?=\s+[^\W\d]|$)|[.](?!\d)|,(?=\s|$)|(?<!\d):|:(?!\d)|[-=]>|[≠→⇒∴]|!=|/=|=/=|\\(?:implies|iff|Rightarrow|rightarrow|to|therefore|neq?)\b)
  | (?P<relation>={{1,2}}|[≈≃≅≤≥]|<=|>=|[<>](?![<>])|\\(?:approx|leq?|geq?|lt|gt)\b)
  | (?P<operator>\*\*|//|[-+*/^×÷·⋅∙∗−–:]|\\(?:times|cdot|div|ast|bmod)\b|(?<=[\d)])\s?\\?%(?=\s*[\d(]))
  | (?P<factorial>!)
  | (?P<superscript>[²³⁴])
  | (?P<open>[(\[{{])
  | (?P<close>[)\]}}])
  | (?P<sized>(?:[^\W\d_]{{1,30}}/)?(?:[^\W\d_]{{2,30}}|[ms])(?:\^\{{?-?\d\}}?|[²³]))
  | (?P<command>\\[a-zA-Z]+|√|π)
  | (?P<word>[^\W\d_]+(?:['’\-/][^\W\d_]+)*|[°¢€])
  | (?P<space>[^\S\n]+|\n)
  | (?P<unknown>.)
    """,
    re.X,
)
SIGNS = {
    **dict.fromkeys(("×", "·", "⋅", "∙", "∗", "\\times", "\\cdot", "\\ast"), "*"),
    **{"÷": "/", "\\div": "/", "−": "-", "–": "-", "**": "^", "\\bmod": "mod", "==": "="},
    **{"≃": "≈", "≅": "≈", "\\approx": "≈", "<=": "≤", "\\le": "≤", "\\leq": "≤", ">=": "≥", "\\ge": "≥", "\\geq": "≥"},
    **{"\\lt": "<", "\\gt": ">"},
}
WORDS = {
    **dict.fromkeys(("times", "x", "X", "multiplied-by", "mal", "por", "fois"), "*"),
    **dict.fromkeys(("plus", "más"), "+"),
    **dict.fromkeys(("minus", "menos", "moins"), "-"),
    **{"mod": "mod", "modulo": "mod", "of": "of", "divided-by": "/"},
}
PHRASES = {  # first word -> the words behind it -> what they mean
    "divided": (("by",), "divided-by"),
    "multiplied": (("by",), "multiplied-by"),
    "is": (("equal", "to"), "equals"),
    "are": (("equal", "to"), "equals"),
    "es": (("igual", "a"), "equals"),
    "ist": (("gleich",), "equals"),
}
POWERS = {"squared": "2", "cubed": "3"}
WORDED = "equals"  # the sign that stands for an equality in words
EQUALS = ("equals", "equal", "égale")
IS = ("is", "ist", "est", "es")  # weaker: see ``equations``
NAMED = "int floor ceil ceiling round abs min max gcd lcm log ln lg sqrt cbrt"
FUNCTIONS = frozenset(NAMED.split())
COMMANDS = {"\\frac": "frac", "\\dfrac": "frac", "\\tfrac": "frac", "\\sqrt": "sqrt", "√": "sqrt"}
COMMANDS |= {"\\log": "log", "\\ln": "ln", "\\max": "max", "\\min": "min", "\\gcd": "gcd"}
BEGINS = (  # words that stand in no unit: behind them something new is said
    "to gives give giving is are was were because we so then have has had which that or and but since if when where "
    "while get gets got he she they it you i will would can must leaves leaving therefore thus hence makes means "
    "y o porque entonces que und oder weil also dann wir et ou car donc puis"
)
CLAUSE = frozenset(BEGINS.split())
OF_WORDS = ("the", "these", "those", "his", "her", "their", "its", "all")
ARTICLES = ("a", "A", "I", "y", "e", "o", "à")


LETTER = "?"  # begins the unit of a number that stands in the place of a letter


def _blank(match: re.Match[str]) -> str:
    return " " * len(match[0])


def _keep(match: re.Match[str]) -> str:
    return " " * (match.start(1) - match.start()) + match[1] + " " * (match.end() - match.end(1))


MARKUP = (
    (re.compile(r"(?m)^[ \t]*(?:[-*•+]|\d{1,3}[.)])(?:[ \t]|$)"), _blank),  # list items
    (
        re.compile(
            r"(?<![\w)*\s])\*\*(?=\S)|(?<=\S)\*\*(?![\w(*\s])|^\*\*(?=\S)|(?<=\s)\*\*(?=\S)|(?<=\S)\*\*(?=\s|$)"
        ),
        _blank,
    ),
)
LATEX = (
    (re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox|operatorname)\s?\{([^{}\\]{0,80})\}"), _keep),
    (re.compile(r"\\(?:left|right|[bB]igg?[lr]?|displaystyle|quad|qquad|boxed|pmod)(?![a-zA-Z])"), _blank),
    (re.compile(r"\^\s?\\circ|\^\{\s?\\circ\s?\}"), _blank),
    (re.compile(r"\\(?:begin|end)\{[a-z]{1,12}\*?\}"), _blank),
    (re.compile(r"\\[();!\[\]]|(?<!\d)\\,|\\,(?!\d{3})|\\(?=[$])|&"), _blank),
)
DOLLARS = (re.compile(r"\$\$|\$(?![\s\d.])|\$(?=\s*(?:[.,;]|$))|(?<=[\d})\]])\$(?!\d)"), _blank)


class Token(NamedTuple):
    type: str  # number, time, operator, relation, function, open, close, word, break, unknown, ...
    text: str  # normalised: operators as + - * / ^ mod of; numbers without separators
    start: int
    end: int
    other: str = ""  # of a number: its text under the other convention of separators
    unit: str = ""  # of a number: its currency


def without_markup(text: str) -> str:
    """As long as the text, with blanks for what sets it: lists, emphasis, commands of LaTeX."""
    for pattern, blank in (*MARKUP, *(LATEX if "\\" in text else ()), DOLLARS):
        text = pattern.sub(blank, text)
    return text


def tokens_of(text: str) -> list[Token]:
    """Tokens of a text; offsets are those of the text. Markup is blanked first."""
    text = without_markup(text)
    found: list[Token] = []
    for match in TOKEN.finditer(text):
        type_ = str(match.lastgroup)
        if type_ != "space":
            add(found, type_, match[0], match.start(), match.end())
    joined = [settled(found, at) for at in range(len(found)) if not is_article(found, at)]
    return phrased(joined) if any(token.text in PHRASES for token in joined) else joined


def add(found: list[Token], type_: str, raw: str, start: int, end: int) -> None:
    """Append a match as one or two tokens, or change what stands before it."""
    glued = bool(found) and found[-1].end == start
    before = found[-1] if found else Token("break", "", 0, 0)
    if type_ == "number":
        glued_word = glued and before.type == "word" and before.text not in ("x", "X")
        if glued_word:
            found[-1] = before._replace(type="unknown")  # an identifier such as a1
        bad = glued_word or len(raw) > MAX_DIGITS or (glued and before.type in ("number", "unknown"))
        found.append(Token("unknown", raw, start, end) if bad else number_token(raw, start, end))
    elif type_ in ("break", "label"):
        if raw != "\n" or before.type not in ("operator", "relation"):
            found.append(Token("break", raw, start, end))
    elif type_ == "superscript":
        power = {"²": "2", "³": "3", "⁴": "4"}[raw]
        found += [Token("operator", "^", start, end), Token("number", power, start, end)]
    elif type_ == "word" and raw.lower() in POWERS and before.type in ("number", "close"):
        found += [Token("operator", "^", start, end), Token("number", POWERS[raw.lower()], start, end)]
    elif type_ == "command":
        kind = "function" if raw in COMMANDS else "pi" if raw in ("\\pi", "π") else "unknown"
        found.append(Token(kind, COMMANDS.get(raw, raw), start, end))
    elif type_ == "operator" and "%" in raw:
        found.append(Token(type_, "mod", start, end))
    elif type_ in ("word", "sized"):
        raw = RATES.get(raw, raw)
        if type_ == "word" and glued and before.type in ("number", "close") and raw not in ("x", "X"):
            known = len(raw) > 2 or (len(raw) > 1 and units_of(raw)) or raw in "°¢€"  # 2y, 4Pa, 5th are no units
            type_ = "word" if known else "unknown"
        found.append(Token("word" if type_ == "sized" else type_, raw, start, end))
    else:
        found.append(Token(type_, SIGNS.get(raw, raw), start, end))


def number_token(raw: str, start: int, end: int) -> Token:
    sign = re.match(CURRENCY, raw)
    digits = raw[sign.end() :].strip() if sign else raw
    percent = re.search(PERCENT + "$", digits)
    digits = (digits[: percent.start()] if percent else digits).rstrip(".…")
    part = VULGAR.get(digits[-1], "")
    digits = re.sub(r"\{,\}|\\,|[\u00a0\u202f]", ",", digits[:-1] if part else digits)
    other = ""
    if re.fullmatch(r"\d{1,3}(?:\.\d{3})+,\d+", digits) or re.fullmatch(r"\d+,\d{1,2}", digits):
        digits = digits.replace(".", "").replace(",", ".")
    elif re.fullmatch(r"\d{1,3}(?:\.\d{3}){2,}", digits):
        digits = digits.replace(".", "")
    elif re.fullmatch(r"[1-9]\d{0,2}\.\d{3}", digits):
        other = digits.replace(".", "")
    elif re.fullmatch(r"\d{1,3},\d\d[1-9]", digits):
        digits, other = digits.replace(",", ""), digits.replace(",", ".")
    digits = digits.replace(",", "")
    tail = "%" if percent else ""
    if part:
        top, bottom = part.split("/")
        digits = f"{int(digits or 0) * int(bottom) + int(top)}/{bottom}" if "." not in digits else digits
    return Token("number", digits + tail, start, end, other + tail if other else "", sign[0].strip() if sign else "")


def is_article(tokens: Sequence[Token], at: int) -> bool:
    """Whether a word stands between ``of`` and its number: ``2/3 of the 30 students``."""
    if tokens[at].text not in OF_WORDS or not 0 < at < len(tokens) - 1:
        return False
    return tokens[at - 1].text == "of" and tokens[at + 1].type == "number"


def settled(tokens: Sequence[Token], at: int) -> Token:
    """A token once its neighbours are known: words that are operators, relations, variables; slashes of units."""
    token = tokens[at]
    if token.type == "word":
        return settled_word(tokens, at)
    if token.type == "operator" and token.text in "/-" and 0 < at < len(tokens) - 1:
        before, after = tokens[at - 1], tokens[at + 1]
        touches = before.end == token.start and after.start == token.end
        if touches and after.type == "word" and len(after.text) > 1 and before.type in ("number", "word"):
            return token._replace(type="word")  # $76/share, 45-minute
    return token


def settled_word(tokens: Sequence[Token], at: int) -> Token:
    token = tokens[at]
    before = tokens[at - 1] if at else None
    after = tokens[at + 1] if at + 1 < len(tokens) else None
    if after is not None and token.text == "of" and after.text in OF_WORDS and at + 2 < len(tokens):
        after = tokens[at + 2]
    follows = after is not None and after.type in ("number", "open", "function", "pi")
    if after is not None and after.text == "-" and len(token.text) > 1 and at + 2 < len(tokens):
        follows = tokens[at + 2].type == "number" and tokens[at + 2].start == after.end  # 5 times -3
    low = token.text.lower()
    if low in FUNCTIONS and after is not None and after.type == "open" and after.start == token.end:
        return token._replace(type="function", text=low)
    if before is not None and follows and before.type in ("number", "close", "word"):
        if token.text in WORDS and (token.text != "of" or before.text.endswith("%") or is_fraction(tokens, at)):
            if token.text in ("por", "mal", "fois") and before.type == "word":
                return token
            return token._replace(type="operator", text=WORDS[token.text])
        if low in EQUALS:
            return token._replace(type="relation", text=WORDED)
        if low in IS:
            return token._replace(type="relation", text="is")
    if len(token.text) == 1 and token.text.isalpha() and token.text not in ARTICLES:
        size = token.text in "mshglL" and before is not None and before.type == "number"
        return token if size else token._replace(type="unknown")
    return token


def phrased(tokens: list[Token]) -> list[Token]:
    """``divided by`` and ``is equal to`` as one token each, where a number follows."""
    found: list[Token] = []
    at = 0
    while at < len(tokens):
        token = tokens[at]
        rest, means = PHRASES.get(token.text, ((), ""))
        last = at + len(rest)
        words = tuple(one.text for one in tokens[at + 1 : last + 1])
        follows = tokens[last + 1].type if last + 1 < len(tokens) else ""
        if rest and words == rest and follows in ("number", "open", "function"):
            type_, sign = ("relation", WORDED) if means == "equals" else ("operator", WORDS[means])
            token = Token(type_, sign, token.start, tokens[last].end)
            at = last
        found.append(token)
        at += 1
    return found


def is_fraction(tokens: Sequence[Token], at: int) -> bool:
    """Whether the two numbers before position ``at`` form a fraction such as 1/2."""
    if tokens[at - 1].type == "number" and "/" in tokens[at - 1].text:
        return True
    return (
        at >= 3 and tokens[at - 1].type == "number" and tokens[at - 2].text == "/" and tokens[at - 3].type == "number"
    )
