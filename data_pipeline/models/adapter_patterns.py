"""The regular expressions in an adapter's config, which peft matches against each name in a model: none may hang.

Python's matcher tries what a pattern leaves open, one way after the other. A repeated group inside which something is
open takes ever so long, and so do many open repetitions in a row; what adapters really hold has neither.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tracestill.data_pipeline.base.errors import InputError

MOST_OPEN = 3  # repetitions without end in one pattern, such as the .* of ".*\.layers\..*\.q_proj"
LONGEST = 2000  # characters
OPEN = re.compile(r"(?<!\\)(?:\\\\)*[*+]|(?<!\\)(?:\\\\)*\{\d*,\d*\}")
REPEATED_GROUP = re.compile(r"\)(?:[*+]|\{\d)")
PATTERNS = ("target_modules", "exclude_modules", "layers_pattern", "modules_to_save", "rank_pattern", "alpha_pattern")


def check_patterns(file: Path, config: Mapping[str, Any]) -> None:
    """Raises InputError naming the file and the key of a pattern that may not end."""
    for key in PATTERNS:
        held = config.get(key)
        for pattern in [held] if isinstance(held, str) else list(held) if isinstance(held, list | dict) else []:
            if isinstance(pattern, str) and (why := fault(pattern)):
                raise InputError(
                    f"{file}: {key} holds the pattern {pattern!r:.80}, which {why}; name the modules in a list"
                )


def fault(pattern: str) -> str:
    """What speaks against a pattern; empty if nothing does."""
    if len(pattern) > LONGEST:
        return f"is longer than {LONGEST} characters"
    if REPEATED_GROUP.search(pattern):
        return "repeats a group, and may take for ever"
    if len(OPEN.findall(pattern)) > MOST_OPEN:
        return f"has more than {MOST_OPEN} repetitions, and may take for ever"
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        return f"is no regular expression ({error})"
    return ""
