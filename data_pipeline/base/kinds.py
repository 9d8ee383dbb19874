"""Span kinds: the small integers that say what part of an example a token belongs to.

Kind 0 is ``pad``, so that a zero-filled buffer of kinds means padding.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

BUILT_IN = ("pad", "prompt", "plan", "derive", "check", "prose", "answer", "control")
TRACE = ("plan", "derive", "check", "prose")
MAX_KINDS = 255
NAME = re.compile(r"\w[\w.-]*")


def nearest(name: str, known: Sequence[str]) -> str:
    """``; did you mean 'x'?`` for the known name closest to ``name``, or the list of known names."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean '{close[0]}'?" if close else f"; known: {', '.join(known)}"


@dataclass(frozen=True)
class Kinds:
    """The kinds of one recipe: names (the index is the id stored in the data) and groups of names.

    A user's own kinds come after the built-in ones; a kind of the user's may join the group ``trace``.
    """

    names: tuple[str, ...] = BUILT_IN
    groups: tuple[tuple[str, tuple[str, ...]], ...] = (("trace", TRACE),)

    @classmethod
    def with_extra(cls, extra: Mapping[str, str | None]) -> Kinds:
        """Built-in kinds plus ``extra``: name -> group it joins (``trace``), or None.

        Raises ValueError for a name that exists, an unknown group, or more than 255 kinds.
        """
        trace = list(TRACE)
        for name, group in extra.items():
            if not NAME.fullmatch(name):
                raise ValueError(f"kinds: {name!r} is no name for a kind (letters, digits, '_', '.' and '-')")
            if name in BUILT_IN or name == "trace":
                raise ValueError(f"kind '{name}' is built in; choose another name")
            if group not in (None, "trace"):
                raise ValueError(f"kind '{name}' joins unknown group '{group}'; known: trace")
            if group == "trace":
                trace.append(name)
        names = BUILT_IN + tuple(extra)
        if len(names) > MAX_KINDS:
            raise ValueError(f"{len(names)} kinds; at most {MAX_KINDS} fit the uint8 that stores them")
        return cls(names, (("trace", tuple(trace)),))

    def __len__(self) -> int:
        return len(self.names)

    def id(self, name: str) -> int:
        """The integer stored for kind ``name``. Raises ValueError naming the nearest known kind."""
        if name not in self.names:
            raise ValueError(f"unknown span kind '{name}'{nearest(name, self.names)}")
        return self.names.index(name)

    def members(self, name: str) -> tuple[str, ...]:
        """The kinds that ``name`` stands for: those of the group, or the kind itself."""
        groups = dict(self.groups)
        if name in groups:
            return groups[name]
        if name not in self.names:
            raise ValueError(f"unknown span kind or group '{name}'{nearest(name, [*self.names, *groups])}")
        return (name,)

    def table(self, values: Mapping[str, float], default: float) -> np.ndarray:
        """(K,) float32: the value of each kind. A kind's own name wins over its group; ``pad`` is always 0."""
        table = np.full(len(self), default, dtype=np.float32)
        groups = dict(self.groups)
        for name, value in sorted(values.items(), key=lambda item: item[0] not in groups):  # groups first
            for member in self.members(name):
                table[self.id(member)] = value
        table[0] = 0.0
        return table

    def mask(self, names: Sequence[str]) -> np.ndarray:
        """(K,) bool: the kinds that ``names`` of kinds and groups stand for. Raises ValueError as ``members``."""
        return self.table({member: 1.0 for name in names for member in self.members(name)}, default=0.0) != 0
