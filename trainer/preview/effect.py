"""Does a weighting do anything to this data? Asked before training starts; one line for each fault found."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.trainer.preview.stops import stop_warnings
from tracestill.trainer.weighting import TargetWeights, Weighting

LOOKS = 65  # steps, spread over training, at which the table is looked at
DOCUMENTS = 64  # documents whose token weights are looked at, at a few of these steps


def warnings(
    weights: TargetWeights,
    kinds: Kinds,
    steps: int,
    name: Callable[[int], str] = str,
    learnt: TargetWeights | None = None,
) -> list[str]:
    """What the recipe's author should know before ``steps`` steps; usually nothing. ``name``: the text of a token;
    ``learnt``: what tokens weigh in all terms of the loss, if there are more than the label's."""
    store, weighting = weights.store, weights.weighting
    targets = store.counts.sum(axis=0, dtype=np.int64)
    occurring = [k for k in range(1, len(kinds)) if targets[k]]
    looks = looks_at(steps)
    whole = np.stack([weights.table(step) for step in looks])
    tables = whole[:, occurring]  # (looks, kinds)
    # an encoder's text is never predicted, and the default weighs it 0
    moot = ["prompt"] if store.encoder_lengths.any() and not whole[:, kinds.id("prompt")].any() else []
    found = absent(weighting, kinds, [kinds.names[k] for k in occurring], moot)
    names = ", ".join(kinds.names[k] for k in occurring)
    if not (tables.any() or learnt) or not store.weights.any():
        found.append(f"no token has any weight (kinds in the data: {names}): nothing will be learnt")
    elif same(tables) and weighting.dynamic is None and not learnt and not tells_tokens_apart(weights, looks):
        found.append(
            f"the weighting has no effect: every kind in the data ({names}) has the weight {tables.flat[0]:g}"
            + ("" if same(tables.T) else " in every step, whatever its schedule")
            + rest(weights)
        )
    return found + stop_warnings(learnt or weights, kinds, steps, name)


def looks_at(steps: int) -> list[int]:
    """Steps spread over training, the first and the last among them."""
    return np.unique(np.linspace(0, max(0, steps - 1), LOOKS).astype(int)).tolist()


def absent(weighting: Weighting, kinds: Kinds, occurring: list[str], moot: list[str]) -> list[str]:
    """A line for each kind or group that the recipe names and no target has, but for those that are moot."""
    data = ", ".join(occurring)
    return [
        f"the weighting names '{name}', but no token to be predicted has that kind (in the data: {data})"
        for name in dict.fromkeys(weighting.named())
        if name not in moot and not set(kinds.members(name)) & set(occurring)
    ]


def same(tables: np.ndarray) -> bool:
    """Whether all kinds weigh the same in every row of (looks, kinds)."""
    return bool((tables == tables[:, :1]).all())


def tells_tokens_apart(weights: TargetWeights, looks: list[int]) -> bool:
    """Whether token weights differ within some step, as far as a sample of documents and steps shows."""
    if not weights.by_token:
        return False
    documents = np.unique(np.linspace(0, len(weights.store) - 1, DOCUMENTS).astype(int)).tolist()
    for step in looks[:: max(1, len(looks) // 4)]:
        found = np.concatenate([weights.tokens(d, step)[1:] for d in documents])
        if len(found) and (found != found[0]).any():
            return True
    return False


def rest(weights: TargetWeights) -> str:
    """What still tells tokens apart where kinds do not."""
    store, normaliser = weights.store, weights.normaliser
    left = ["record weights"] if len(store) and (store.weights != store.weights[0]).any() else []
    left += [f"the normaliser {normaliser.name}"] if normaliser.parts else []
    return f"; what is left: {', '.join(left)}" if left else ""
