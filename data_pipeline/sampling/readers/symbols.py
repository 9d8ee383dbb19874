"""Control symbols as models and servers write them into plain text: at the end they are stripped, within they are a
fault."""

from __future__ import annotations

import re

SYMBOL = re.compile(  # <|im_end|>, <｜end▁of▁sentence｜>, </s>, <eos>, <end_of_turn>, [INST], <<SYS>>…
    r"<[|｜][\w▁.:/-]{1,40}[|｜]>|</?s>|</?(?:bos|eos|pad|unk|start_of_turn|end_of_turn|extra_id_\d+)>"
    r"|\[/?(?:INST|PAD|CLS|SEP|UNK|EOS|BOS)\]|<</?SYS>>|<(?:BOS|EOS|PAD)_TOKEN>",
)
ENDS = re.compile(rf"(?:\s*(?:{SYMBOL.pattern}))+\s*\Z")
START = re.compile(  # what a template writes before the assistant's turn
    r"\s*(?:<s>|<bos>|<\|begin_of_text\|>|<｜begin▁of▁sentence｜>|<\|im_start\|>assistant\s|<｜Assistant｜>"
    r"|<\|start_header_id\|>assistant<\|end_header_id\|>|<start_of_turn>model\s"
    r"|(?:<\|start\|>assistant)?<\|channel\|>final<\|message\|>|<\|start\|>assistant(?=<\|channel\|>))\s*"
)
TAIL = 1 << 12  # characters from the end in which symbols are looked for first


def without_ends(text: str) -> str:
    """Text without the control symbols at its end (``18</s></s>``) and those it begins with."""
    while True:  # a long row of them is cut piece by piece, so that the search stays linear
        cut = max(0, len(text) - TAIL)
        found = ENDS.search(text, cut) if text[-1:] in ">]" or text[-8:].rstrip()[-1:] in (">", "]") else None
        if found is None:
            break
        text = text[: found.start()]
    start = START.match(text)
    return text[start.end() :] if start else text


def symbol_in(text: str) -> str:
    """The first control symbol in a text; empty if there is none."""
    if "<" not in text and "[" not in text:
        return ""
    found = SYMBOL.search(text)
    return found[0] if found else ""
