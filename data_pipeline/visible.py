"""Texts that others wrote (traces, questions, names, a model's output) as they may be shown: nothing in them is obeyed.

A terminal obeys control characters: it moves, clears, sets its title, types. Characters that turn the direction of
writing, or are seen nowhere, make a text read as another one, in a browser too.
"""

from __future__ import annotations

import html
import re

# All but line feed and tab: C0, DEL and C1; line and paragraph separators, which part what is one line; what turns the
# direction (marks, embeddings, isolates), deprecated and interlinear controls, the byte order mark; lone surrogates, as
# file names have them that are no UTF-8; tags.
HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)


def visible(text: str) -> str:
    """A text with such characters written out, as Python does it: ``\\x1b``, ``\\u202e``. Line feeds and tabs stay."""
    return HIDDEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def one_line(text: str) -> str:
    """``visible``, with ``↵`` for each line feed."""
    return visible(text).replace("\n", "↵")


def in_html(text: str) -> str:
    """``visible``, as text of a page of HTML or SVG, or inside of a quoted attribute."""
    return html.escape(visible(text))
