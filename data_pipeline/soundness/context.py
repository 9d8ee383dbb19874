"""What the words around an equation say about it: that it is rounded, supposed, doubted or taken back."""

from __future__ import annotations

import re

NEAR, FAR = 120, 220  # characters that are looked at before and behind
SENTENCE = re.compile(r"[.!?;]\s|\n")
ROUNDED = re.compile(
    r"round|approx|\babout\b|roughly|nearest|nearly|almost|integer|\bfloor|ceil|decimal|≈|"
    r"redonde|aproxim|gerundet|\betwa\b|ungefähr|environ|arrondi",
    re.I,
)
WHOLE = re.compile(  # behind a result: it counts what is whole
    r"whole|\bfull\b|complete|remain|left ?over|at least|at most|can only|can(?:no|['’])t|half a|partial|fraction of|"
    r"entero|ganze|entier|\bresto?\b|reste\b",
    re.I,
)
CLOCK = re.compile(
    r"clock|\b\d*\s?[ap]\.?m\b|noon|midnight|24-h|uhr\b|reloj|horloge|modul|\bmod\b|days? of the week|weekday", re.I
)
BACK = re.compile(
    r"\b(?:wait|hmm+|oops|sorry|hold on|scratch that)\b|^\W{0,4}(?:no|nope|actually)\b[,:]?\s|"
    r"\b(?:that|this|it|which)(?:['’]s| is| was| does| doesn['’]t| can(?:no|['’])t| isn['’]t)? ?(?:\w+ ){0,2}"
    r"(?:not (?:true|right|correct|match|equal|possible|add up|hold|make sense)|wrong|incorrect|false|impossible|"
    r"contradict\w*|mistake|error|makes? no sense)|"
    r"(?:doesn['’]t|does not|do not|don['’]t|didn['’]t) (?:make sense|match|add up|work|hold|equal|fit)|"
    r"\b(?:made|was|is|be|still) (?:\w+ ){0,2}(?:mistake|error)|contradiction|not true\b|correction\b|"
    r"\b(?:isn['’]t|is not|not) (?:right|correct|true|possible)|"
    r"\blet(?: me|['’]s| us) (?:re-?\w+|correct|fix|check (?:that|this) again|try again)|"
    r"\b(?:espera|incorrecto|me equivoqué|un error|falsch|stimmt nicht|moment|ein fehler)\b|"
    r"\b(?:attends|incorrect|une erreur|c['’]est faux)\b",
    re.I,
)
SUPPOSED = re.compile(
    r"\b(?:suppose|supposing|whether|is it|check if|see if|checking if|verify (?:if|that)|guess|try|trying)\b|"
    r"^\W*(?:do|does|is|are|if we (?:try|take|guess|assume))\b",
    re.I,
)
OPERAND = re.compile(  # what stands before an equation operates on all of it: ``add 20 + 10 to the 29 + 24 = 83``
    r"\b(?:add|subtract|tak|multipl|divid|deduct)\w*\b[^.;=]*\d[^.;=]*\b(?:to|by|from|with|and)\b[^.;=\d]*$", re.I
)
DENIED = re.compile(  # right behind
    r"\W{0,6}(?:evaluates to|comes out to|returns|is|was|would be|can(?:no|['’])t be)?\W{0,3}"
    r"(?:false|wrong|incorrect|impossible|not (?:true|right|correct|possible))\b",
    re.I,
)
DENIES = re.compile(
    r"\b(?:(?:not (?:true|right|correct|the case)|false|wrong|impossible) that|(?:can(?:no|['’])t|never) (?:have|be)"
    r"|(?:might|may|could|would) (?:think|say|write|guess|believe)|(?:mistake|error|wrong|tempting) (?:is )?to \w+"
    r"|mistakenly|wrongly|incorrectly|falsely)\b[^.;=]{0,40}$",
    re.I,
)
BASE = re.compile(r"\bbase[- ]?\d|\bbinary|\bhexadecimal|\boctal", re.I)
IF = re.compile(r"\b(?:if|until|while|when|since|unless|whether|as long as|wenn|si)\b", re.I)
REMAINDER = re.compile(
    r"[^\d.;\n]{0,40}?(?:\bremainder|\bremaining|\br(?=\d)|\br\b|\brest\b|\bresto\b|\breste\b|left ?over)"
    r"(?:\s*(?:of|is|=|:|de|von))?\s*(\d+)?",
    re.I,
)

COUNTED = re.compile(
    r"\b(?:number of|how many|n[úu]mero de|cu[áa]nt[oa]s|anzahl der|nombre de|combien de)\s+"
    r"([^\W\d_ ]+(?: [^\W\d_]+)?)",
    re.I,
)
NEEDED = re.compile(r"\b(?:need|require|must|ha[sv]e? to|necesit|brauch|besoin)", re.I)
AFFORDED = re.compile(r"\b(?:afford|(?:can|could) (?:buy|make|fill|fit|get|have))\b", re.I)


def before(text: str, start: int) -> str:
    """The sentence up to ``start``."""
    return SENTENCE.split(text[max(0, start - NEAR) : start])[-1]


def behind(text: str, end: int) -> str:
    """The rest of the sentence."""
    return SENTENCE.split(text[end : end + NEAR], maxsplit=1)[0]


def is_rounded_by_words(text: str, start: int, end: int) -> bool:
    rest = text[start:end] + behind(text, end)
    return bool(ROUNDED.search(before(text, start)) or ROUNDED.search(rest) or WHOLE.search(rest))


def is_rounded_later(text: str, end: int) -> bool:
    """Whether the next words, of another sentence too, speak of rounding: ``365 / 7 = 52. We round down.``"""
    return "round" in text[end : end + NEAR].lower()


def roundings(text: str, start: int, end: int) -> tuple[bool, bool]:
    """Whether a count of whole things may be rounded down, and up: what is needed is not rounded down (``he needs 104 /
    24 = 4 trays``), what can be afforded not up."""
    said = f"{before(text, start)} {behind(text, end).partition(',')[0]}"
    return NEEDED.search(said) is None, AFFORDED.search(said) is None


def counted(text: str, start: int, end: int, number: str) -> list[str]:
    """Words that say what the sentence counts: behind the same number elsewhere in it (``52 weeks, as 365 / 7 = 52``),
    or ``the number of buses``."""
    ahead = before(text, start)
    again = re.findall(
        rf"(?<![\d.,$€£/]){re.escape(number)} ([^\W\d_]+(?: [^\W\d_]+)?)", f"{ahead}; {behind(text, end)}"
    )
    found = again or COUNTED.findall(ahead)
    return found[-1].split() if found else []


def is_on_clock(text: str, start: int, end: int) -> bool:
    return bool(CLOCK.search(before(text, start)) or CLOCK.search(behind(text, end)))


def is_taken_back(text: str, end: int) -> bool:
    """Whether the next two sentences or so say that it is wrong."""
    return bool(DENIED.match(text, end, end + NEAR) or BACK.search(text[end : end + FAR]))


def is_supposed(text: str, start: int, end: int, compares: bool) -> bool:
    """Whether the sentence asks, supposes or denies, operates on the whole, or counts to another base than ten; a
    comparison also by ``if``."""
    ahead, rest = before(text, start), behind(text, end)
    if rest.lstrip().startswith("?") or text[end : end + 1] == "?" or (compares and IF.search(ahead)):
        return True
    return any(pattern.search(ahead) for pattern in (SUPPOSED, DENIES, OPERAND, BASE)) or bool(
        BASE.search(text[start:end] + rest)
    )


def scales(text: str, start: int) -> list[int]:
    """Sizes that were spoken of just before, and may be left out: ``5 * 3 = $15,000``, ``900 - 100 = $8``."""
    ahead = text[max(0, start - NEAR) : start].lower()
    return [size for word, size in (("cent", 100), ("thousand", 1000), ("million", 10**6)) if word in ahead]


def remainder(text: str, end: int) -> str | None:
    """The remainder that is named behind a quotient, "" where one is named without its number; None: none is."""
    match = REMAINDER.match(text, end, end + NEAR)
    return None if match is None else match[1] or ""
