"""Texts on which two readings of one tokenizer part if they part anywhere that matters: of every script and form that
traces hold, and of what the vocabulary itself has learnt.

A fixed text shows a difference only where the vocabulary merges across it: one that knows ``202`` but not ``20`` parts
at ``12023`` and nowhere else. So its own numbers are tried at each place where groups of digits may begin.
"""

from __future__ import annotations

import unicodedata

from tokenizers import Tokenizer

PROBE = (
    "What is (7 + 14) mod 10?\nSo 3 * 2 = 6, or 12.5%. Größe",
    "2023 is 202 + 1821; 1,234,567.891 / 3 = 411522.63; 0x1F4, 1e-05, 12345678901234567890, $1,000.50, 3/4",
    "cafe\u0301 and café, A\u030angstro\u0308m, n\u0303, Việt, ÉCOLE, Straße, ﬁne, x², ½, Ⅷ, ٣٤٥ and \uff11\uff12",
    "三百二十五を足すと、答えは25です。你好，世界！한국어 문장 하나. Привет, мир; καλημέρα; שלום; سلام; नमस्ते",
    "so 😀👍\U0001f3fd 👩\u200d👩\u200d👧 \U0001f1e9\U0001f1ea 3\ufe0f\u20e3 ✅ → ≤ ∞ ∑ “quoted” it\u2019s — \u2013…",
    r"\frac{1}{2} + \sqrt{x_1^2} \leq y~\{a, b\} $$E=mc^2$$ \boxed{42} <<48/2=24>> #### 24 **bold** `code` [a](b)",
    "def f(x):\n    return x**2  # twice\n\tif not x: pass\n\n\n  for(int i=0;i<n;++i){a[i]+=1;}\r\nfooBar HTTPServer",
    " leading,  double   and trailing  \n\n\t tab\u00a0no-break\u3000wide\u200bzero \n",
    "don't WE'LL I'm they've O'Neil's e.g. U.S.A. Mr. 3rd 10x 5km 7am A1 b2c3 -5 +5 --5 ... ?! ;) http://a.b/c?d=e",
)
PIECES = 4096  # of a larger vocabulary, every n-th is tried
ALIGNED = 2000  # numbers of the vocabulary that are tried at each alignment
LINE = 16  # pieces in one text: where two readings part, a short one shows it


def probes(backend: Tokenizer) -> list[str]:
    """The texts for a tokenizer: PROBE, its own numbers behind no, one and two further digits, and its other pieces."""
    added = set(backend.get_added_tokens_decoder())
    ids = sorted(i for i in backend.get_vocab(with_added_tokens=True).values() if i not in added)
    texts = dict.fromkeys(text.strip() for text in backend.decode_batch([[i] for i in ids], skip_special_tokens=False))
    numbers = [text for text in texts if len(text) > 1 and text.isdecimal()]
    aligned = [before + n + "7" for n in evenly(numbers, ALIGNED) for before in ("", "1", "12")]
    words = evenly([text for text in texts if not text.isdecimal() and plain(text)], PIECES)
    lines = [" ".join(group[at : at + LINE]) for group in (aligned, words) for at in range(0, len(group), LINE)]
    return [*PROBE, *lines]


def evenly(texts: list[str], most: int) -> list[str]:
    return texts[:: max(1, -(-len(texts) // most))]


def plain(text: str) -> bool:
    """Whether a piece is text by itself: no part of a character, nothing that is not written."""
    return bool(text) and "\ufffd" not in text and not any(unicodedata.category(c)[0] == "C" for c in text)


def first_difference(backend: Tokenizer, ours: list[int], theirs: list[int]) -> str:
    """Where two lists of ids part, as text, one token from the next by ``|``."""
    pairs = enumerate(zip(ours, theirs, strict=False))
    at = next((i for i, (a, b) in pairs if a != b), min(len(ours), len(theirs)))
    known = backend.decode(ours[max(0, at - 4) : at], skip_special_tokens=False)
    cut = ["|".join(backend.id_to_token(i) or f"<{i}>" for i in ids[at : at + 3]) for ids in (theirs, ours)]
    return f"after {known!r}: {cut[0]!r}, not {cut[1]!r}"
