"""Documents for encoder-decoders: what the encoder reads, then what the decoder writes.

    text  question </s> <think> trace   </think> answer </s>
    kind  pad      pad  control by span control  answer control
          encoder       decoder

What only an encoder reads is never predicted, so it has the kind ``pad``, whose weight is 0 in every weighting, and
counts, weights and normalisers hold as they are. A decoder's document begins with a control symbol or a prompt,
never with ``pad``: the leading tokens of that kind tell the two layouts, and the two sides, apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.base.schema import Record
from tracestill.data_pipeline.tokens.layout import Document, Encoded, Layout, Reading
from tracestill.data_pipeline.tokens.render import TraceTokenizer

PAD = 0


class EncoderDecoderLayout:
    """The documents of a plain layout (one task or two) with the question on a side of its own."""

    def __init__(self, plain: Layout, tokenizer: TraceTokenizer) -> None:
        self.plain, self.tokenizer = plain, tokenizer
        self.backend, self.size, self.pad, self.stops = plain.backend, plain.size, plain.pad, plain.stops
        self.special_ids, self.findings = plain.special_ids, plain.findings
        self.chat_template: str | None = None
        self.takes_system = plain.takes_system
        if plain.chat_template is not None:
            self.chat_template = plain.chat_template.replace("{{ bos_token }}", "") + "{{ eos_token }}"

    def encode(self, records: Sequence[Record], kinds: Kinds) -> list[Encoded]:
        return [
            encoded._replace(
                documents={end: self.with_sides(made, kinds) for end, made in encoded.documents.items()},
            )
            for encoded in self.plain.encode(records, kinds)
        ]

    def with_sides(self, document: Document, kinds: Kinds) -> Document:
        """A decoder's document in the layout above."""
        prompt = np.flatnonzero(document.kinds == kinds.id("prompt"))
        end = int(prompt[-1]) + 1 if len(prompt) else 1
        tokens = np.concatenate([document.tokens[1:end], [self.tokenizer.eos], document.tokens[end:]])
        kind = np.concatenate([np.full(end, PAD), document.kinds[end:]])
        return Document(tokens.astype(np.int32), kind.astype(np.uint8), document.steps)

    def prompt_ids(self, question: str, system: str | None = None) -> list[int]:
        return [*self.plain.prompt_ids(question)[1:], self.tokenizer.eos]

    def begun_ids(self, trace: str, *, closed: bool) -> list[int]:
        return self.plain.begun_ids(trace, closed=closed)

    def control_in(self, question: str) -> str | None:
        return self.plain.control_in(question)

    def asking(self, question: str) -> tuple[list[dict[str, str]], dict[str, Any]]:
        return self.plain.asking(question)

    def read(self, ids: Sequence[int]) -> Reading:
        return self.plain.read(ids)


def encoder_lengths(
    kinds: np.ndarray,  # (n,) of documents one after the other
    starts: np.ndarray,  # (D,) where each begins; they end where the next one begins, or somewhere before
) -> np.ndarray:
    """(D,) int64: leading tokens of each document that only an encoder reads; 0 for a decoder's document."""
    found = np.zeros(len(starts), np.int64)
    both = np.flatnonzero(kinds[starts] == PAD)
    if len(both):  # a store of a decoder's documents is not scanned
        written = np.flatnonzero(kinds != PAD)
        following = np.searchsorted(written, starts[both])
        found[both] = np.append(written, len(kinds))[following] - starts[both]
    return found


def widths(lengths: Sequence[int] | np.ndarray, read: np.ndarray) -> np.ndarray:
    """(D,) the longer side of each document: packs that hold so many tokens keep both sides within the capacity."""
    return np.maximum(read, np.asarray(lengths) - read)
