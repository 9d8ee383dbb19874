"""How long chunks are, and the power of two that weights are divided by."""

import pytest
import torch
from linear_cross_entropy_cases import case

from tracestill.kernels.loss import chunks, linear_cross_entropy
from tracestill.kernels.loss.chunks import chunk_size, power_of_two, rows_of_chunk
from tracestill.kernels.loss.options import Rows


@pytest.mark.parametrize(("vocabulary", "itemsize"), [(128256, 2), (151936, 2), (32000, 2), (257, 4), (10**9, 2)])
def test_chunks_on_a_gpu_take_two_gib_in_whole_tiles(vocabulary, itemsize):
    rows = rows_of_chunk(vocabulary, itemsize, cuda=True)
    assert rows % 128 == 0
    assert rows == 128 or rows * vocabulary * itemsize <= 2**31 < (rows + 128) * vocabulary * itemsize
    assert rows_of_chunk(vocabulary, itemsize, cuda=False) == 4096


@pytest.mark.parametrize("chunk_rows", [None, 300])
def test_chunks_are_few_equal_and_tiles_where_nobody_says_how_long(chunk_rows, monkeypatch):
    hidden, head, _, targets, weights, kinds = case(n=700, v=33, zero=0.0)
    seen, plain = [], chunks.reference.chunk_pass
    monkeypatch.setattr(chunks, "rows_of_chunk", lambda *_, **__: 384)
    monkeypatch.setattr(chunks.reference, "chunk_pass", lambda z, *a, **k: seen.append(len(z)) or plain(z, *a, **k))
    linear_cross_entropy(hidden, head, targets, weights, kinds, num_kinds=5, chunk_rows=chunk_rows)
    assert seen == ([384, 316] if chunk_rows is None else [234, 234, 232])
    assert chunk_size(700, 384) == 350


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_power_of_two_is_one_and_just_above_the_largest_weight(dtype):
    exponents = torch.arange(-99, 100)
    for factor in (1.0, 1.37, 1.999):
        for exponent in exponents.tolist():
            weights = torch.tensor([0.0, factor * 2.0**exponent], dtype=torch.float32)
            found = power_of_two(Rows(weights.long(), weights, None, None, None, None), dtype)
            assert found.dtype == dtype
            assert float(found) == 2.0 ** (exponent + 1)
    huge = torch.tensor([3e38])
    assert float(power_of_two(Rows(huge.long(), huge, None, None, None, None), dtype)) == 2.0**100


def test_memory_for_logits_is_kept_for_the_next_call_and_lent_to_one_at_a_time():
    chunks.keep(torch.empty(12, 5))
    lent, other = (chunks.scratch(10, 5, torch.float32, torch.device("cpu")) for _ in range(2))
    assert lent.shape == other.shape == (10, 5)
    assert lent.untyped_storage().nbytes() == 240, "not what was kept"
    assert lent.data_ptr() != other.data_ptr()
    chunks.keep(lent)
    assert chunks.scratch(100, 5, torch.float32, torch.device("cpu")).shape == (100, 5)  # too small: gone
    with torch.inference_mode():
        chunks.keep(torch.empty(3, 5))  # could not be written to outside
    chunks.keep(torch.empty(1).expand(chunks.KEPT_BYTES // 4 + 1))  # too large
    assert torch.float32 not in chunks._spare


@pytest.mark.parametrize("left", [torch.nan, torch.inf])
def test_what_a_call_left_behind_reaches_no_other(left):
    hidden, head, _, targets, weights, kinds = case(n=70, v=33, zero=0.3)
    call = (hidden.float(), head.float(), targets, weights, kinds)
    chunks._spare.clear()
    with torch.inference_mode():
        fresh = linear_cross_entropy(*call, num_kinds=5, chunk_rows=16)
    chunks.keep(torch.full((24, 33), left))
    used = linear_cross_entropy(*call, num_kinds=5, chunk_rows=16)
    for a, b in zip(fresh, used, strict=True):
        assert a.equal(b)
