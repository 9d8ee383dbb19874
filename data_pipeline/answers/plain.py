"""The verifiers ``choice``, ``yes_no`` and ``text``."""

from __future__ import annotations

import re
import unicodedata

from tracestill.data_pipeline.answers.formula import formula_of, is_vague
from tracestill.data_pipeline.answers.numbers.number import UPPER
from tracestill.data_pipeline.answers.numbers.quantity import INNER, LEAD, unframed
from tracestill.data_pipeline.answers.verdict import Verdict

LETTER = re.compile(r"(?:(?:option|choice|answer)\s*:?\s+)?(?:\(([A-Z])\)|\[([A-Z])\]|([A-Z])[).:]?)", re.I)
BARE = re.compile(r"([A-J])\s+(?:[-–—]\s+)?(\S.*)", re.S)  # "B green"
LETTERED = re.compile(r"(?:(?:option|choice|answer)\s+)?(?:\(([A-Z])\)\s*:?|([A-Z])[).:])\s+(\S.*)", re.I | re.S)
OPTION = re.compile(r"(?:(?<=\s)|(?<=^)|(?<=[,;(\[]))\(?([A-J])[).:]\s*(.+?)(?=[,;]?\s+\(?[A-J][).:]|\n|\Z)", re.S)
SAYS = {
    "yes": "yes", "true": "yes", "y": "yes", "no": "no", "false": "no", "n": "no", "sí": "yes", "si": "yes",
    "oui": "yes", "ja": "yes", "是": "yes", "nein": "no", "non": "no", "否": "no", "correct": "yes", "incorrect": "no",
    "yeah": "yes", "yep": "yes", "nope": "no", "да": "yes", "нет": "no", "sim": "yes", "não": "no",
    "はい": "yes", "いいえ": "no",
}  # fmt: skip
FIRST_WORD = re.compile(r"[\s*`\"'(]*([^\W\d_]+)")
HEDGES = re.compile(
    r"\b(?:and|or)\s+(?:yes|no|true|false)\b|\b(?:yes|no)\s*/\s*(?:yes|no)\b|\b(?:if|unless|maybe|depends)\b", re.I
)
DENIES = re.compile(r"(?<!not )\b(?:yes|no|true|false|never|is not|isn't|(?:is|are|does|do) not)\b", re.I)
SETTING = re.compile(r"\\(?:left|right|displaystyle)(?![a-z])|\\[!,;: ]|\^\{?\\circ\}?")
LOWER = re.compile("(?<=(?<![A-Za-z])[A-Za-z])[₀-₉]")  # x₁
ONE = re.compile(r"\{(\w)\}")
QUOTES = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2010": "-", "\u2011": "-"})
ORDINARY = re.compile(r"(?=.{3})(?:[^\W\d_]')?[^\W\d_]?[^\W\d_A-Z]{2,}(?:['-][^\W\d_A-Z]+)*\Z")
SMALL = frozenset({
    "a", "i", "an", "as", "at", "be", "by", "do", "go", "he", "if", "in", "is", "it", "me", "my", "no", "of", "on",
    "or", "so", "to", "up", "us", "we",
})  # fmt: skip
BETWEEN = re.compile(r"(?<=[^\W\d_])[-. ](?=[^\W\d_])|(?<=\.[^\W\d_])\.(?!\S)")
ACCENTS = re.compile("(?<=[A-Za-z])[\u0300-\u036f]+")
MARKS = "equal but for accents or marks between letters"
NON_METALS = frozenset(("H", "B", "C", "N", "O", "F", "Si", "P", "S", "Cl", "Br", "I", "Se"))
WORD = re.compile(r"\w+(?:['-]\w+)*|[^\w\s]", re.U)
PUNCTUATION = frozenset(".,;:!?\"'")


def normal_text(text: str) -> str:
    """Text without differences of case, white space, Unicode form and a final full stop. Superscripts are exponents."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", UPPER.sub(_exponent, text))
    return " ".join(text.casefold().split()).removesuffix(".").rstrip()


def _exponent(match: re.Match[str]) -> str:
    found = unicodedata.normalize("NFKC", match[0]).replace("\u2212", "-")
    return f"^{found}" if len(found) == 1 else f"^({found})"


def cased_text(text: str) -> str:
    """As ``normal_text``, with case kept, and without how Markdown and LaTeX set it."""
    if not text.isascii():
        text = LOWER.sub(lambda match: f"_{match[0]}", text)
        text = unicodedata.normalize("NFKC", UPPER.sub(_exponent, text)).translate(QUOTES)
    plain = unframed(text)
    if "\\" in plain or "^" in plain or "_{" in plain:
        plain = SETTING.sub("", INNER.sub(r"\1", plain)).replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
        if "\\" in plain or "^" in plain or "_{" in plain:
            plain = ONE.sub(r"\1", "".join(plain.split()))
    plain = " ".join(plain.split()).removesuffix(".").rstrip()
    if len(plain) > 2 and plain[0] == plain[-1] and plain[0] in "\"'" and plain[0] not in plain[1:-1]:
        plain = plain[1:-1].strip()
    return plain


def is_prose(text: str) -> bool:
    """Whether case says nothing in a text: it holds an ordinary word, or shouts. "CO", "pH", "NaCl", "AaBb" do not."""
    words = re.findall(r"[^\W\d_]+(?:['-][^\W\d_]+)*", text)
    if any(ORDINARY.match(word) and not is_genotype(word) for word in words):
        return True
    long = [word for word in words if len(word) > 4 and not is_genotype(word) and not set(word) <= set("ACGTU")]
    return bool(long) and all(word.isupper() for word in words)


def is_genotype(word: str) -> bool:
    """ "AaBb", "aabb": pairs of one letter each, big or small."""
    low = word.lower()
    return len(low) % 2 == 0 and all(low[at] == low[at + 1] for at in range(0, len(low), 2))


def folds(word: str) -> bool:
    """Whether case says nothing in a word of prose."""
    if word.casefold() in SMALL or (ORDINARY.match(word) and not is_genotype(word)):
        return True
    return len(word) > 4 and word.isupper()


def same_words(said: list[str], wanted: list[str]) -> bool:
    """Whether words are the same, up to case where it says nothing in the wanted ones."""
    return len(said) == len(wanted) and all(
        one == other or (one.casefold() == other.casefold() and folds(other))
        for one, other in zip(said, wanted, strict=True)
    )


def verify_text(answer: str, gold: str, question: str = "") -> Verdict:
    """Right if both are the same text; case counts unless the gold answer is prose, and there punctuation does not.
    ``cannot_tell`` if one holds the other: "Paris, France" for "Paris"."""
    wanted, said = cased_text(gold), cased_text(answer)
    if (reference := formula_of(unframed(gold))) and (mine := formula_of(unframed(answer))):
        if is_vague(mine, reference):
            metal = set(re.findall("[A-Z][a-z]?", mine)) - NON_METALS
            return Verdict("right" if metal else "cannot_tell", mine, reference, "text", "where the charge begins")
        return Verdict("right" if mine == reference else "wrong", mine, reference, "text")
    if said == wanted or (len(wanted) == 1 and said == f"({wanted})") or (len(said) == 1 and wanted == f"({said})"):
        return Verdict("right", said, wanted, "text")
    if lead := LEAD.match(said):
        said = said[lead.end() :]
    if said == wanted:
        return Verdict("right", said, wanted, "text")
    alike = are_alike(said, wanted)
    if not is_prose(wanted):
        return Verdict("cannot_tell" if alike else "wrong", said, wanted, "text", MARKS if alike else "")
    one, other = ([word for word in WORD.findall(text) if word not in PUNCTUATION] for text in (said, wanted))
    if one and same_words(one, other):
        return Verdict("right", said, wanted, "text")
    if alike and said.casefold() != wanted.casefold():
        return Verdict("cannot_tell", said, wanted, "text", MARKS)
    one, other = ([word.casefold() for word in words] for words in (one, other))
    if one and other and one != other and (_holds(one, other) or _holds(other, one)):
        return Verdict("cannot_tell", said, wanted, "text", "one holds the other")
    return Verdict("wrong", said, wanted, "text")


def are_alike(one: str, other: str) -> bool:
    """Whether texts are equal without accents, and without points and dashes between letters; case folded in prose."""
    bare = [
        unicodedata.normalize("NFC", BETWEEN.sub("", ACCENTS.sub("", unicodedata.normalize("NFD", text))))
        for text in (one, other)
    ]
    folded = [text.casefold() for text in bare]
    if folded[0] != folded[1]:
        return False
    return (folded[0] if is_prose(one) else bare[0]) == (folded[1] if is_prose(other) else bare[1])


def _holds(long: list[str], short: list[str]) -> bool:
    size = len(short)
    return any(long[at : at + size] == short for at in range(len(long) - size + 1))


def letter_of(text: str) -> str:
    """The letter that the whole of a text is, big: "(b)", "B.", "option B"; else ""."""
    match = LETTER.fullmatch(text)
    return "" if match is None else (match[1] or match[2] or match[3]).upper()


def options_of(question: str) -> dict[str, str]:
    """Letter -> text of the choices that a question offers."""
    found = {letter: text.strip(" ,;)") for letter, text in OPTION.findall(question[-4000:])}
    return found if {"A", "B"} <= found.keys() else {}


def verify_choice(answer: str, gold: str, question: str = "") -> Verdict:
    """Right if the answer is the letter of the gold one, with or without its text, or the text of that choice in the
    question. ``cannot_tell`` for a text where the question's choices cannot be read."""
    wanted = letter_of(unframed(INNER.sub(r"\1", gold)))
    plain = unframed(INNER.sub(r"\1", unicodedata.normalize("NFKC", answer)))
    plain = LEAD.sub("", plain, count=1).strip()
    plain = unframed(plain)
    plain = plain[1:-1] if plain[:2] == "[[" and plain[-2:] == "]]" else plain
    if said := letter_of(plain):
        return Verdict("right" if said == wanted else "wrong", said, wanted, "choice")
    offered = options_of(question)
    if match := LETTERED.fullmatch(plain):
        letter, text = (match[1] or match[2]).upper(), match[3]
        if re.search(r"\b(?:or|and)\s+\(?[A-J]\b\)?\.?\Z", text):
            return Verdict("wrong", plain, wanted, "choice", "two choices")
        if any(normal_text(text) == normal_text(other) and at != letter for at, other in offered.items()):
            return Verdict("cannot_tell", plain, wanted, "choice", "the letter of one choice, the text of another")
        return Verdict("right" if letter == wanted else "wrong", letter, wanted, "choice")
    if (bare := BARE.fullmatch(plain)) and normal_text(offered.get(bare[1], "")) == normal_text(bare[2]):
        return Verdict("right" if bare[1] == wanted else "wrong", bare[1], wanted, "choice")
    same = [letter for letter, text in offered.items() if normal_text(text) == normal_text(plain)]
    first, _, rest = plain.partition("\n")
    if (said := letter_of(first)) and not re.search(r"\b[A-Z]\b", rest):
        return Verdict("right" if said == wanted else "wrong", said, wanted, "choice", "in the first line")
    if not offered:
        outcome = "wrong" if len(plain) == 1 else "cannot_tell"
        return Verdict(outcome, plain, wanted, "choice", "no letter, and the question's choices cannot be read")  # type: ignore[arg-type]
    if len(same) == 1:
        return Verdict("right" if same[0] == wanted else "wrong", same[0], wanted, "choice", "by its text")
    return Verdict("cannot_tell", plain, wanted, "choice", "no letter, and not the text of one choice")


def says(text: str) -> str:
    """yes, no, or "" for a text that says neither first."""
    match = FIRST_WORD.match(unframed(LEAD.sub("", INNER.sub(r"\1", unframed(text)), count=1)))
    if match is None or HEDGES.search(text):
        return ""
    words = re.findall(r"[^\W\d_]+", text.casefold())
    if len(words) == 2 and {SAYS.get(word) for word in words} == {"yes", "no"}:  # "Yes, no"
        return ""
    return SAYS.get(unicodedata.normalize("NFKC", match[1]).casefold(), "")


def verify_yes_no(answer: str, gold: str, question: str = "") -> Verdict:
    """Right if both begin with the same of yes and no; true is yes and false is no."""
    wanted, said = says(gold), says(answer)
    if not said:
        told = HEDGES.search(answer) or DENIES.search(answer)
        return Verdict("cannot_tell" if told else "wrong", said, wanted, "yes_no", "neither yes nor no first")
    return Verdict("right" if said == wanted else "wrong", said, wanted, "yes_no")
