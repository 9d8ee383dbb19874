"""Property test of the packing kernel under Triton's interpreter (TRITON_INTERPRET=1), outputs poisoned first."""

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from pack_cases import KINDS, WEIGHTS, packs

from tracestill.kernels.pack import check, pack, pack_reference
from tracestill.kernels.pack import triton_pack as pack_triton

FIELDS = ("input_ids", "labels", "position_ids", "loss_weight", "kinds", "cu_seqlens", "active")


def compare(arguments):
    source = check(**arguments)
    staged = pack_triton.Staging("cpu").put(source)
    # pointers that were aligned at times only would make Triton compile again
    assert all(t.data_ptr() % pack_triton.ALIGN == 0 for t in staged.sections.values())
    outputs = pack_triton.allocate(staged)
    for tensor in outputs.values():
        tensor.fill_(float("nan") if tensor.is_floating_point() else 113)
    pack_triton.launch(staged, outputs)
    got, wanted = pack_triton.batch_of(staged, outputs), pack_reference(source)
    for name in FIELDS:
        a, b = getattr(got, name), getattr(wanted, name)
        assert a.dtype == b.dtype, name
        assert a.shape == b.shape, name
        assert torch.equal(a, b), (name, arguments)
    assert got.max_length == wanted.max_length
    moved, least = pack_triton.bytes_moved(staged)
    assert least <= moved


def large(lengths, length=None, token_weights=False, seed=0):
    rng = np.random.default_rng(seed)
    n = int(np.sum(lengths))
    return {
        "tokens": rng.integers(0, 1000, n).astype(np.int32),
        "kinds": rng.integers(0, KINDS, n).astype(np.uint8),
        "offsets": np.r_[0, np.cumsum(lengths)],
        "record_weights": rng.choice(WEIGHTS, len(lengths)).astype(np.float32),
        "table": rng.choice(WEIGHTS, KINDS).astype(np.float32),
        "length": length,
        "pad_id": 5,
        "token_weights": rng.choice(WEIGHTS, n).astype(np.float32) if token_weights else None,
    }


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(packs(longest=400))
def any_pack(arguments):
    compare(arguments)


any_pack()
compare(large([1] * 2500))  # many documents in a block
compare(large([5000]))  # one document over many blocks
compare(large([1023, 1, 1, 1023], 2048))  # borders at and around a block's, capacity exactly full
compare(large([1024, 1024], 4096))  # a block of padding alone
compare(large(np.random.default_rng(1).integers(1, 60, 300), 10000, token_weights=True))

# the way in that trainers use, twice through the ring of staging buffers, with growing sizes
for size in (10, 3000, 40, 9000, 5):
    arguments = large([size, size])
    a, b = pack(**arguments, backend="triton"), pack(**arguments, backend="reference")
    assert all(torch.equal(getattr(a, f), getattr(b, f)) for f in FIELDS), size
print("ok")
