"""Random packs, and what packing means written as a loop over positions: the independent reference."""

from itertools import pairwise

import numpy as np
from hypothesis import strategies as st

WEIGHTS = (0.0, 1.0, 0.37, 3.5, 1e-30)  # 1e-30 squared underflows in float32
KINDS = 5


@st.composite
def packs(draw, most_documents=12, longest=40):
    """Arguments of `pack`: any lengths from 1, kinds that may be absent, rows that may be exactly full."""
    lengths = draw(st.lists(st.integers(1, longest), max_size=most_documents))
    n = sum(lengths)
    room = draw(st.one_of(st.just(None), st.just(0), st.integers(1, 50)))
    if n == 0:
        room = room or 7
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    used = draw(st.lists(st.integers(0, KINDS - 1), min_size=1, max_size=KINDS))  # kinds that occur at all
    return {
        "tokens": rng.integers(0, 2**31 - 1, n).astype(np.int32),
        "kinds": rng.choice(used, n).astype(np.uint8),
        "offsets": np.r_[0, np.cumsum(lengths)].astype(np.int64),
        "record_weights": rng.choice(WEIGHTS, len(lengths)).astype(np.float32),
        "table": rng.choice(WEIGHTS, KINDS).astype(np.float32),
        "length": None if room is None else n + room,
        "pad_id": draw(st.sampled_from([0, 3, 151643])),
        "token_weights": rng.choice(WEIGHTS, n).astype(np.float32) if draw(st.booleans()) else None,
    }


def brute_force(tokens, kinds, offsets, record_weights, table, length, pad_id, token_weights):
    """Every field of the batch as a list, one position at a time."""
    n = len(tokens)
    length = n if length is None else length
    rows = {k: [] for k in ("input_ids", "labels", "position_ids", "loss_weight", "kinds", "active")}
    bounds = [int(x) for x in offsets] + ([length] if length > n else [])
    for segment, (start, end) in enumerate(pairwise(bounds)):
        for i in range(start, end):
            rows["position_ids"].append(i - start)
            rows["input_ids"].append(int(tokens[i]) if i < n else pad_id)
            if i >= n or i + 1 == end:
                rows["labels"].append(-100)
                rows["kinds"].append(0)
                rows["loss_weight"].append(np.float32(0))
                continue
            factors = [table[kinds[i + 1]], record_weights[segment]]
            if token_weights is not None:
                factors.append(token_weights[i + 1])
            weight = factors[0]
            for factor in factors[1:]:
                weight = np.float32(weight * factor)
            rows["labels"].append(int(tokens[i + 1]))
            rows["kinds"].append(int(kinds[i + 1]))
            rows["loss_weight"].append(weight)
            if all(factor != 0 for factor in factors):
                rows["active"].append(i)
    longest = max(b - a for a, b in pairwise(bounds))
    return {**rows, "cu_seqlens": bounds, "max_length": longest}
