"""Texts that others wrote (traces, questions, names, a model's output) as they may be shown: nothing in them is obeyed.

A terminal obeys control characters: it moves, clears, sets its title, types. Characters that turn the direction of
writing, or are seen nowhere, make a text read as another one, in a browser too.
"""

from __future__ import annotations

import html
import re

# All but line feed and tab: C0, DEL and C1; line and paragraph separators, which part what is one line; interlinear
# controls; lone surrogates, as file names have them that are no UTF-8; and Default_Ignorable_Code_Point, as Unicode's
# DerivedCoreProperties.txt has it: marks that turn the direction, spaces of no width, fillers, variation selectors,
# tags. Of these, letters and emoji need the joiners U+200C and U+200D, and emoji U+FE0E and U+FE0F, which stay.
HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ufff9-\ufffb\ud800-\udfff"
    "\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0d\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
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
