"""Documents longer than the capacity: stop, leave them out, or cut the middle of the trace.

The stage that writes tokens calls ``fit_document`` for every document, so that the plan only ever sees documents
that fit. Nothing is lost silently: every outcome says which tokens went. Of a document for an encoder-decoder (see
``sides``) each side has to fit; the encoder's holds no trace that could be cut.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.tokens.sides import encoder_lengths

PAD = 0  # the kind whose weight is zero in every weighting
CAPACITY, POSITIONS = "plan.capacity", "the student's max_position_embeddings"


@dataclass(frozen=True)
class Fit:
    """What became of one document.

    tokens, kinds, steps  (n,) int32, uint8 and the steps' type: what is left; empty if the document is dropped
    outcome               kept (unchanged), dropped or trimmed
    cuts                  (c,) positions in the result of the first token after each cut; their kind is now ``pad``,
                          so they carry no weight: they follow text that they did not follow when they were sampled
    lost                  (m,) uint8: the kind of each token that was removed (count them with ``np.bincount``)
    """

    tokens: np.ndarray
    kinds: np.ndarray
    steps: np.ndarray
    outcome: Literal["kept", "dropped", "trimmed"]
    cuts: np.ndarray
    lost: np.ndarray


def fit_document(
    name: str,  # how an error names the document
    tokens: np.ndarray,  # (n,) int32
    kinds: np.ndarray,  # (n,) uint8
    steps: np.ndarray,  # (n,) index of the trace's step each token lies in
    capacity: int,
    policy: Literal["error", "drop", "trim_trace"],
    trace_kinds: np.ndarray,  # (t,) ids of the kinds that may be cut
    bound: str = CAPACITY,
) -> Fit:
    """Apply the policy to one document; one that fits comes back unchanged. ``bound``: whose number ``capacity`` is.

    Raises InputError naming the document if it does not fit and the policy is ``error``, or if ``trim_trace``
    cannot make it fit because what is not trace exceeds the capacity alone.
    """
    none = np.empty(0, dtype=np.int64)
    if read := int(encoder_lengths(kinds, np.zeros(1, np.int64))[0]):
        return fit_sides(name, tokens, kinds, steps, capacity, policy, trace_kinds, read, bound)
    if len(tokens) <= capacity:
        return Fit(tokens, kinds, steps, "kept", none, kinds[:0])
    if policy == "drop":
        return Fit(tokens[:0], kinds[:0], steps[:0], "dropped", none, kinds)
    if policy == "trim_trace":
        return trim_trace(name, tokens, kinds, steps, capacity, trace_kinds, bound)
    raise InputError(
        f"{name}: {len(tokens)} tokens exceed {bound} {capacity}; raise it, or set plan.overlong to 'drop' or "
        "'trim_trace'"
    )


def fit_sides(
    name: str,
    tokens: np.ndarray,  # (n,) int32
    kinds: np.ndarray,  # (n,) uint8
    steps: np.ndarray,  # (n,)
    capacity: int,
    policy: Literal["error", "drop", "trim_trace"],
    trace_kinds: np.ndarray,  # (t,)
    read: int,  # leading tokens that the encoder reads
    bound: str,
) -> Fit:
    """``fit_document`` for an encoder-decoder's document: the policy applies to the decoder's side."""
    if read > capacity and policy != "drop":
        raise InputError(
            f"{name}: {read} tokens for the encoder exceed {bound} {capacity} alone; raise it, reject the "
            "document, or set plan.overlong to 'drop'"
        )
    fit = fit_document(
        f"{name}, decoder", tokens[read:], kinds[read:], steps[read:], capacity, policy, trace_kinds, bound
    )
    if fit.outcome == "dropped" or read > capacity:
        return Fit(tokens[:0], kinds[:0], steps[:0], "dropped", fit.cuts[:0], kinds)
    left, right = (tokens, kinds, steps), (fit.tokens, fit.kinds, fit.steps)
    whole = [np.concatenate([own[:read], rest]) for own, rest in zip(left, right, strict=True)]
    return Fit(whole[0], whole[1], whole[2], fit.outcome, fit.cuts + read, fit.lost)


def trim_trace(
    name: str,
    tokens: np.ndarray,  # (n,) int32, n > capacity
    kinds: np.ndarray,  # (n,) uint8
    steps: np.ndarray,  # (n,)
    capacity: int,
    trace_kinds: np.ndarray,  # (t,)
    bound: str,
) -> Fit:
    """Remove the middle of the trace so that exactly ``capacity`` tokens are left.

    Trace tokens are those of a kind in ``trace_kinds``; all others stay. The first half of the trace that is left
    is never longer than the second, so a cut is followed by trace wherever any is left. Where other tokens
    (delimiters) lie inside the part removed, there is more than one cut. Raises InputError if the tokens that are
    not trace exceed the capacity alone.
    """
    where = np.flatnonzero(np.isin(kinds, trace_kinds))  # positions of trace tokens
    excess = len(tokens) - capacity
    if excess > len(where):
        raise InputError(
            f"{name}: {len(tokens) - len(where)} tokens besides the trace exceed {bound} {capacity} alone; raise "
            "it, reject the document, or set plan.overlong to 'drop'"
        )
    begin = (len(where) - excess) // 2
    keep = np.ones(len(tokens), dtype=bool)
    keep[where[begin : begin + excess]] = False
    after = np.flatnonzero(keep[1:] & ~keep[:-1]) + 1  # kept, and the token before it is not
    cuts = np.cumsum(keep)[after] - 1
    kinds_left = kinds[keep]
    kinds_left[cuts] = PAD
    return Fit(tokens[keep], kinds_left, steps[keep], "trimmed", cuts, kinds[~keep])
