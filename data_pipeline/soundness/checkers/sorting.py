"""Words sorted by their letters (``sorting``): what is said of letters, of the order, and of the list at the end.

    The second letters: "acton": "c" (3).     "acton" < "alum"     (2) ["bald" ? "bard"] < (3) "coach"

False are a letter that the word does not have at that place, a letter's number, a word before a smaller one, a word
in a group of another letter, words that get lost between a step and the next, and a final list that is not the
question's words in order. Words are ordered by their characters, as Python does. It needs such lines, so it says
nothing of other traces.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise

from tracestill.data_pipeline.soundness.checkers.finding import Finding, Trace

PLACES = {"first": 0, "second": 1, "third": 2, "fourth": 3, "fifth": 4, "sixth": 5, "seventh": 6, "eighth": 7,
          "ninth": 8, "tenth": 9, "eleventh": 10, "twelfth": 11}  # fmt: skip
PLACE = re.compile(rf"\b({'|'.join(PLACES)}) letters?\b")
LETTER = re.compile(r"\"([^\"\n]{1,40})\": ?(?:\"([^\"\n]?)\"|(none|nothing|empty))(?: ?\((\d{1,2})\))?")
QUOTED = r"\"[^\"\n<\[]{1,40}\""
GROUP = rf"(?:\((\d{{1,2}})\) ?)?(\[[^\[\]\n]{{1,4000}}\]|{QUOTED}(?: \? {QUOTED})*)"
CHAIN = re.compile(rf"{GROUP}(?: ?< ?{GROUP})*")
MEMBER = re.compile(GROUP)
WORD = re.compile(r"\"([^\"\n]{1,40})\"")
SORTED_PART = re.compile(r"sort this subpart (\[[^\[\]\n]{1,4000}\])")
FINAL = re.compile(r"\banswer is:? ([^\n\"<\[]{3,4000})")

Groups = list[tuple[int | None, list[str]]]


def sorting(trace: Trace) -> Iterator[Finding]:
    if not LETTER.search(trace.text) and '" < ' not in trace.text:
        return
    words = Counter(trace.question.lower().split())
    known = set(words)
    place, part, whole = 0, list(words.elements()), Groups()
    for line in re.finditer(r"[^\n]+", trace.text):
        start, end = line.span()
        if (sort := SORTED_PART.search(trace.text, start, end)) is not None:
            part = words_of(sort[1])
            if whole and not any(set(part) <= set(group) for _, group in whole):
                yield Finding(*sort.span(1), "false", "there is no such group to sort")
        if (named := PLACE.search(trace.text, start, end)) is not None:
            place = PLACES[named[1]]
        looked = list(LETTER.finditer(trace.text, start, end))
        for found in looked:
            yield about_letter(found, place, known)
        if looked and (lost := missing(part, [found[1] for found in looked])):
            yield Finding(*looked[-1].span(), "false", f"nothing is said of {lost}")
        for at, chain in enumerate(chains(trace.text, start, end)):
            groups = [member_of(found) for found in MEMBER.finditer(chain[0])]
            if len(groups) < 2 and groups[0][0] is None:
                continue
            numbered = all(number is not None for number, _ in groups)
            of = part if numbered and at == 0 else list(words.elements())
            yield about_order(chain, groups, place, of if known else [])
            if not numbered or (at == 0 and len(part) == words.total()):
                whole = groups
    for final in list(FINAL.finditer(trace.text))[-1:]:
        listed = final[1].strip().rstrip(".").lower().replace(",", " ").split()
        if not known or not known.intersection(listed):
            continue
        right = listed == sorted(words.elements())
        yield Finding(*final.span(), "holds" if right else "false", "" if right else fault_of(listed, words))


def about_letter(found: re.Match[str], place: int, known: set[str]) -> Finding:
    word, letter, number = found[1], found[2] or "", found[4]
    has = word[place : place + 1]
    if letter == letters_of(word)[place : place + 1]:
        has = letter
    if known and word.lower() not in known:
        return Finding(*found.span(), "false", f"'{word}' is no word of the question")
    if letter != has:
        return Finding(*found.span(), "false", f"letter {place + 1} of '{word}' is '{has}', not '{letter}'")
    if number and letter.isascii() and letter.isalpha() and int(number) != ord(letter.lower()) - 96:
        return Finding(*found.span(), "false", f"'{letter}' is letter {ord(letter.lower()) - 96}, not {number}")
    return Finding(*found.span(), "holds")


def chains(text: str, start: int, end: int) -> list[re.Match[str]]:
    """What is said of an order, in a step: ``(1) "a" < (2) ["b" ? "c"]``."""
    return [found for found in CHAIN.finditer(text, start, end) if "<" in found[0] or found[0].startswith("(")]


def member_of(found: re.Match[str]) -> tuple[int | None, list[str]]:
    return int(found[1]) if found[1] else None, words_of(found[2])


def words_of(text: str) -> list[str]:
    return WORD.findall(text)


def about_order(chain: re.Match[str], groups: Groups, place: int, of: Sequence[str]) -> Finding:
    """Whether groups stand in order, hold what they should, and lose none of the words ``of``."""
    numbers = [number for number, _ in groups if number is not None]
    if any(left >= right for left, right in pairwise(numbers)):
        return Finding(*chain.span(), "false", f"{numbers} are not in order")
    for number, words in groups if len(numbers) == len(groups) else []:
        for word in words:
            either = {word[place : place + 1].lower(), letters_of(word)[place : place + 1].lower()}
            if all("a" <= letter <= "z" and ord(letter) - 96 != number for letter in either):
                return Finding(*chain.span(), "false", f"letter {place + 1} of '{word}' is no ({number})")
    for (_, left), (_, right) in pairwise(groups):
        if left and right and max(left) > min(right) and max(map(letters_of, left)) > min(map(letters_of, right)):
            return Finding(*chain.span(), "false", f"'{max(left)}' does not come before '{min(right)}'")
    held = [word for _, words in groups for word in words]
    if lost := missing(of, held):
        return Finding(*chain.span(), "false", f"{lost} got lost")
    if of and (more := missing(held, of)):
        return Finding(*chain.span(), "false", f"{more} did not belong to it, or stands there twice")
    return Finding(*chain.span(), "holds")


def letters_of(word: str) -> str:
    """A word without apostrophes and hyphens: ``the second letter of "o's"`` may be either."""
    return word.replace("'", "").replace("-", "")


def missing(words: Sequence[str], among: Sequence[str]) -> str:
    """One of ``words`` that is not ``among`` others as often, quoted; empty if there is none."""
    left = Counter(map(str.lower, words)) - Counter(map(str.lower, among))
    return f"'{next(iter(left))}'" if left else ""


def fault_of(listed: list[str], words: Counter[str]) -> str:
    if lost := missing(list(words.elements()), listed):
        return f"{lost} is missing"
    if more := missing(listed, list(words.elements())):
        return f"{more} is one too many"
    at = next(at for at, (one, other) in enumerate(zip(listed, sorted(listed), strict=True)) if one != other)
    return f"'{listed[at]}' stands in the place of '{sorted(listed)[at]}'"
