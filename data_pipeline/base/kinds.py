"""Span kinds: the small integers that say what part of an example a token belongs to.

Kinds form a tree, and a name stands for all that hangs below it, the most specific name winning:

    trace
      plan      decomposes the task: names what is to be found, or an operation
      derive    brings a value; what is not cut any finer is ``derive`` itself
        expression  operands and operators
        result      the value that is new
        statement   the words that say what the value is
      check     verifies, computes again, notices or repairs an error
      prose     connects, repeats what is known
    prompt, answer, control (delimiters, end of text), pad

Kind 0 is ``pad``, so that a zero-filled buffer of kinds means padding. Numbers are those of ``BUILT_IN`` in its order,
which only ever grows at its end; a token store keeps the names of its own, and is refused where they differ.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

BUILT_IN = (
    *("pad", "prompt", "plan", "derive", "check", "prose", "answer", "control"),
    *("expression", "result", "statement"),
)
ROOT = "trace"  # names a group alone: no token is of this kind
PARENTS = (
    *((name, ROOT) for name in ("plan", "derive", "check", "prose")),
    *((name, "derive") for name in ("expression", "result", "statement")),
)
MAX_KINDS = 255
NAME = re.compile(r"\w[\w.-]*")


def nearest(name: str, known: Sequence[str]) -> str:
    """``; did you mean 'x'?`` for the known name closest to ``name``, or the list of known names."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean '{close[0]}'?" if close else f"; known: {', '.join(known)}"


@dataclass(frozen=True)
class Kinds:
    """The kinds of one recipe: names (the index is the id stored in the data) and the tree that they form.

    A user's own kinds come after the built-in ones; one may hang below ``trace`` or any kind of it.
    """

    names: tuple[str, ...] = BUILT_IN
    parents: tuple[tuple[str, str], ...] = PARENTS  # (kind, what it hangs below)

    @classmethod
    def with_extra(cls, extra: Mapping[str, str | None]) -> Kinds:
        """Built-in kinds plus ``extra``: name -> what it hangs below (``trace`` or a kind of it), or None.

        Raises ValueError for a name that exists, something that is no kind of the trace, a circle, or more than 255
        kinds.
        """
        below = dict(PARENTS)
        for name in extra:
            if not NAME.fullmatch(name):
                raise ValueError(f"kinds: {name!r} is no name for a kind (letters, digits, '_', '.' and '-')")
            if name in BUILT_IN or name == ROOT:
                raise ValueError(f"kind '{name}' is built in; choose another name")
        below |= {name: parent for name, parent in extra.items() if parent is not None}
        for name in extra:
            up, seen = below.get(name, ROOT), [name]
            while up != ROOT:
                if up not in below or up in seen:
                    known = [ROOT, *(other for other in below if other not in seen)]
                    what = f"hangs below itself ('{up}')" if up in seen else f"joins unknown group '{up}'"
                    raise ValueError(f"kind '{name}' {what}; known: {', '.join(known)}")
                seen.append(up)
                up = below[up]
        names = BUILT_IN + tuple(extra)
        if len(names) > MAX_KINDS:
            raise ValueError(f"{len(names)} kinds; at most {MAX_KINDS} fit the uint8 that stores them")
        return cls(names, tuple(below.items()))

    def __len__(self) -> int:
        return len(self.names)

    def id(self, name: str) -> int:
        """The integer stored for kind ``name``. Raises ValueError naming the nearest known kind."""
        if name not in self.names:
            raise ValueError(f"unknown span kind '{name}'{nearest(name, self.names)}")
        return self.names.index(name)

    @cached_property
    def lineages(self) -> dict[str, tuple[str, ...]]:
        """Kind -> itself and what it hangs below, nearest first; in the order of ids."""
        below, found = dict(self.parents), {}
        for name in self.names:
            line = [name]
            while line[-1] in below:
                line.append(below[line[-1]])
            found[name] = tuple(line)
        return found

    def members(self, name: str) -> tuple[str, ...]:
        """The kinds that ``name`` stands for: itself, if it is a kind, and all that hang below it."""
        if name not in self.names and name != ROOT:
            raise ValueError(f"unknown span kind or group '{name}'{nearest(name, [*self.names, ROOT])}")
        return tuple(kind for kind, line in self.lineages.items() if name in line)

    def decided(self, names: Sequence[str]) -> dict[str, list[int]]:
        """Name -> ids of the kinds that it decides, of several names: the most specific one wins. Raises ValueError as
        ``members``."""
        found: dict[str, list[int]] = {name: [] for name in names if self.members(name)}
        for index, line in enumerate(self.lineages.values()):
            for name in line:
                if name in found:
                    found[name].append(index)
                    break
        return found

    def table(self, values: Mapping[str, float], default: float) -> np.ndarray:
        """(K,) float32: the value of each kind. The most specific name wins; ``pad`` is always 0."""
        table = np.full(len(self), default, dtype=np.float32)
        for name, ids in self.decided(list(values)).items():
            table[ids] = values[name]
        table[0] = 0.0
        return table

    def mask(self, names: Sequence[str]) -> np.ndarray:
        """(K,) bool: the kinds that ``names`` of kinds and groups stand for. Raises ValueError as ``members``."""
        return self.table(dict.fromkeys(names, 1.0), default=0.0) != 0
