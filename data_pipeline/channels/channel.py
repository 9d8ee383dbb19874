"""What a channel is: one number a token (or k, or one a step) of every document of a token store.

A value stands at the token that it is about, as a document's kinds do: it is what a model said of token i having read
the tokens before it. The first token of a document is never predicted: its value is the channel's ``missing``, and so
is that of any other of which nothing is known, such as one of a kind that was not asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

Per = Literal["token", "step"]
TYPES: dict[str, Any] = {"float16": np.nan, "float32": np.nan, "int32": -1, "uint32": 2**32 - 1, "uint8": 255}
"""Types that a channel may have -> what stands where nothing is known."""


@dataclass(frozen=True)
class Channel:
    """One channel: its name, and what it holds."""

    name: str
    dtype: str = "float16"  # one of TYPES
    per: Per = "token"  # or one value a step of the trace, from step 0
    width: int = 1  # values a token, or a step
    kinds: tuple[str, ...] = ()  # names of the kinds whose targets alone it holds, which saves room; none: all tokens

    def __post_init__(self) -> None:
        """Raise ValueError for what is no channel."""
        if not self.name.isidentifier():
            raise ValueError(f"a channel's name is a word of letters, digits and _, not {self.name!r}")
        object.__setattr__(self, "kinds", tuple(self.kinds))  # JSON has lists
        if self.kinds and self.per != "token":
            raise ValueError(f"channel '{self.name}': a step has no kind")
        if self.dtype not in TYPES or self.per not in ("token", "step") or self.width < 1:
            raise ValueError(
                f"channel '{self.name}': {self.dtype} x {self.width} a {self.per} is none of {list(TYPES)}"
            )

    @property
    def missing(self) -> Any:
        """What stands where nothing is known: NaN, -1, or the type's largest number."""
        return TYPES[self.dtype]

    @property
    def bytes(self) -> int:
        """Bytes a token, or a step."""
        return np.dtype(self.dtype).itemsize * self.width

    @property
    def field(self) -> pa.Field:
        return pa.field(self.name, pa.list_(pa.from_numpy_dtype(np.dtype(self.dtype))))

    def blank(self, n: int) -> np.ndarray:
        """(n,) or (n, width) of ``missing``."""
        return np.full(n if self.width == 1 else (n, self.width), self.missing, self.dtype)


def topk(k: int, kinds: tuple[str, ...] = ()) -> tuple[Channel, Channel]:
    """A model's k most probable tokens, the first the most probable, and their log-probabilities. -1 and NaN: no entry.

    What is left of the mass is 1 - sum of exp, and goes by the log-probabilities as they are stored, in 16 bits.
    """
    how: dict[str, Any] = {"width": k, "kinds": kinds}
    return Channel("topk_ids", "int32", **how), Channel("topk_logprobs", "float16", **how)


BUILT_IN = {
    channel.name: channel
    for channel in (
        Channel("nll"),  # -log p of the token, nats
        Channel("entropy"),  # of the distribution that the token was drawn from, nats
        Channel("rank", "uint32"),  # how many tokens are more probable than this one
        Channel("top1"),  # log-probability of the most probable token: how sure the model was
        Channel("influence", "float32", "step"),  # by how much the answer's nll (sum, nats) rises without the step
    )
}
"""Name -> channel, of those that ``score`` writes with one number; beside them ``topk``."""
