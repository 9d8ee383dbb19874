"""Where a text may be cut so that its pieces, tokenised one by one, give the tokens of the whole. Two makes are known:

- BPE on the words of a byte-level cutter, by one of the patterns in ``PATTERNS``. None of them matches a space behind
  anything that is none, so a word ends before it, and none looks back. A normalizer may be NFC, which composes nothing
  with a space. A piece of ASCII characters is cut into its words: the pattern, whose classes are then sets of ASCII.
- BPE on the whole text that writes U+2581 for the space, if no token has U+2581 behind another character, since what
  is no token is never merged. A text that holds U+2581 itself is not cut. If no token joins two of
  letters, other characters and digits, nor digits, a piece of ASCII characters is cut between these, too.

Added tokens are found in the text first, so none may hold a space or look at what is beside it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from tokenizers import Tokenizer
from tokenizers.models import BPE

SPACE = "\u2581"
HELD = "\x1f"  # in a key: a space that begins no piece
RUN = re.compile(r" (?<=\s )")  # a space behind white space
PIECE = re.compile(r"(?<=\S)(?= )")
RUNS = re.compile(r" ?(?:[A-Za-z]+|[0-9]|[^A-Za-z0-9 ]+)| ")
CLASSES = re.compile(r"\[(\^?)([^\]]*)\]|\\p\{\w+\}|\\[sS]")
IN_ASCII = {
    **{r"\p{L}": "A-Za-z", r"\p{N}": "0-9", r"\p{Lu}": "A-Z", r"\p{Ll}": "a-z", r"\s": r" \t\n\r\x0b\x0c"},
    **{rf"\p{{{name}}}": "" for name in ("Lt", "Lm", "Lo", "M")},
}
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CONTRACTIONS, ENDS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)", r"\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
PATTERNS = {
    *(  # of Llama 3 and of Qwen 2
        rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{number}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{ENDS}"
        for number in (r"\p{N}{1,3}", r"\p{N}")
    ),
    # of GPT-4o
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{CONTRACTIONS}?|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{CONTRACTIONS}?"
    rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{ENDS}",
}


class Cuts(NamedTuple):
    """How one tokenizer's texts may be cut."""

    uncut: str  # a text that holds it is not cut; "": there is nothing
    words: re.Pattern[str] | None  # the words of a piece of ASCII characters; None: it is not cut
    added: re.Pattern[str]  # tokens that are found in a text before all else
    text: re.Pattern[str]  # tokens that would be, if they were not read as text

    def keys(self, text: str) -> list[str]:
        """The keys of a text's pieces: a piece without the space that it begins with, others in it as HELD. That of
        the first piece has a space before it, that of a text that is not cut two."""
        if (self.uncut and self.uncut in text) or HELD in text:
            return ["  " + text]
        if "  " in text or "\n " in text:
            text = text.replace("  ", " " + HELD).replace("\n ", "\n" + HELD).replace(HELD + " ", HELD + HELD)
        if RUN.search(text):
            words = [piece[at > 0 :].replace(" ", HELD) for at, piece in enumerate(PIECE.split(text))]
        else:
            words = text.split(" ")
        words[0] = " " + words[0]
        return words

    @staticmethod
    def piece(key: str) -> str:
        """The piece of a key."""
        if key[:2] == "  ":
            return key[2:]
        return (key[1:] if key[:1] == " " else " " + key).replace(HELD, " ")

    def finer(self, piece: str) -> list[str]:
        """The words of a piece, if they can be told."""
        if self.words is None or not piece.isascii() or (self.uncut and "  " in piece):  # spaces may be merged
            return [piece]
        if self.text.search(piece):
            return [piece]
        parts = self.added.split(piece)  # what is between, and the tokens
        found = [w for at, part in enumerate(parts) for w in ([part] if at % 2 else self.words.findall(part))]
        return found or [piece]


def cuts_of(backend: Tokenizer) -> Cuts | None:
    """None: no text may be cut."""
    model = backend.model
    if type(model) is not BPE or model.dropout or model.continuing_subword_prefix or model.end_of_word_suffix:
        return None
    normalizer, cutter = state(backend.normalizer), state(backend.pre_tokenizer)
    if not all(plain_end(step) for step in steps(state(backend.post_processor), "processors")):
        return None
    added = list(backend.get_added_tokens_decoder().values())
    for token in added:
        if " " in token.content or token.lstrip or token.rstrip or token.single_word:
            return None
        if normalizer is not None and token.normalized:
            return None
    literal = [token.content for token in added if token.special and backend.encode_special_tokens]
    own, text = any_of({token.content for token in added}.difference(literal)), any_of(literal)
    if cutter is None and normalizer == {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}:
        vocabulary = backend.get_vocab(with_added_tokens=False).keys() - {token.content for token in added}
        if SPACE not in vocabulary or any(SPACE in token.lstrip(SPACE) for token in vocabulary):
            return None
        joined = any(len(RUNS.findall(token.lstrip(SPACE))) > 1 for token in vocabulary if is_text(token))
        return Cuts(SPACE, None if joined else RUNS, own, text)
    pattern = pattern_of(cutter)
    if normalizer not in (None, {"type": "NFC"}) or pattern is None:
        return None
    return Cuts("", re.compile(in_ascii(pattern)) if pattern else None, own, text)


def any_of(texts: Iterable[str]) -> re.Pattern[str]:
    """Finds the first of some texts in another one, of those at one place the longest."""
    longest = sorted(texts, key=lambda text: (-len(text), text))
    return re.compile("(" + ("|".join(map(re.escape, longest)) or "(?!)") + ")")


def is_text(token: str) -> bool:
    return token.replace(SPACE, " ").isascii() and not re.fullmatch("<0x[0-9A-F]{2}>", token)


def state(part: Any) -> Any:
    """A part of a tokenizer as tokenizer.json has it."""
    return None if part is None else json.loads(part.__getstate__())


def steps(part: dict[str, Any] | None, name: str) -> list[dict[str, Any]]:
    return [] if part is None else part[name] if part["type"] == "Sequence" else [part]


def plain_end(step: dict[str, Any]) -> bool:
    """Whether a step behind the tokens changes neither them nor where they stand."""
    return step["type"] == "TemplateProcessing" or (step["type"] == "ByteLevel" and not step["trim_offsets"])


def pattern_of(cutter: dict[str, Any] | None) -> str | None:
    """The pattern by which a cutter makes words of bytes, "" if it cuts in other ways besides; None if it is not known
    that no word goes on with a space."""
    *before, last = steps(cutter, "pretokenizers") or [{"type": ""}]
    if last["type"] != "ByteLevel" or last["add_prefix_space"]:
        return None
    found = [GPT2] if last["use_regex"] else []
    for step in before:
        if step["type"] == "Split" and step["behavior"] == "Isolated" and not step["invert"]:
            found.append(step["pattern"].get("Regex", ""))
        elif step["type"] != "Digits":
            return None
    if not found or not {*found} <= {*PATTERNS, GPT2}:
        return None
    return found[0] if len(found) == 1 and len(before) + last["use_regex"] == 1 else ""


def in_ascii(pattern: str) -> str:
    """The pattern for texts of ASCII characters, with classes that Python knows."""

    def written(match: re.Match[str]) -> str:
        if match[2] is None:
            own = IN_ASCII[match[0].lower() if match[0] == r"\S" else match[0]]
            return f"[^{own}]" if match[0] == r"\S" else f"[{own}]"
        inside = re.sub(r"\\p\{\w+\}|\\s", lambda name: IN_ASCII[name[0]], match[2])
        return f"[{match[1]}{inside}]"

    return CLASSES.sub(written, pattern)
