"""The Triton kernels alone, with what no caller on a CPU lets through; test_linear_cross_entropy_triton.py runs it."""

import pytest
import torch
from linear_cross_entropy_cases import DEVICE

from tracestill.kernels.loss.options import RowOptions, Rows, Seen
from tracestill.kernels.loss.triton_pass import chunk_pass
from tracestill.kernels.loss.triton_scale import scaled

ROWS, V, STRIDE = 6, 45, 48


def passed(targets, *, teacher_ids=None, gradient=True):
    """What the pass leaves of logits inside of a buffer of 7.0, and what it saw; weights 2.0."""
    buffer = torch.full((ROWS + 2, STRIDE), 7.0, device=DEVICE)
    logits = buffer[1:-1, :V]
    logits.copy_(torch.randn(ROWS, V, generator=torch.Generator().manual_seed(0)))
    before = logits.clone()
    teacher = [None] * 3
    if teacher_ids is not None:
        quarter = torch.full(teacher_ids.shape, 0.25, device=DEVICE).log()
        teacher = [teacher_ids.to(DEVICE), quarter, torch.ones(ROWS, device=DEVICE)]
    rows = Rows(targets.to(DEVICE), torch.full((ROWS,), 2.0, device=DEVICE), None, *teacher)
    seen = Seen(*torch.full((6, ROWS), float("nan"), device=DEVICE))
    chunk_pass(logits, rows, RowOptions(), seen, gradient=gradient, short_cut=False)
    return buffer.cpu(), before.cpu(), Seen(*(of.cpu() for of in seen[:-1]))


@pytest.mark.parametrize("bad", [-1, V, V + 1, 10**12, -(10**12)])
def test_a_weighted_target_outside_the_vocabulary_makes_its_loss_nan_and_touches_nothing(bad):
    targets = torch.arange(ROWS)
    targets[2] = bad
    buffer, before, seen = passed(targets)
    assert seen.nll.isnan().tolist() == [False, False, True, False, False, False]
    assert (buffer[[0, -1]] == 7).all(), "rows beside the chunk"
    expected = 2 * torch.softmax(before.double(), 1)
    good = [0, 1, 3, 4, 5]
    expected[good, good] -= 2
    assert (buffer[1:-1, :V].double() - expected)[good].abs().max() < 1e-6


@pytest.mark.parametrize("bad", [V, 10**12])
def test_a_teachers_token_outside_the_vocabulary_makes_the_divergence_nan_and_touches_nothing(bad):
    ids = torch.arange(ROWS)[:, None] * 3 + torch.arange(3)
    ids[4, 1] = bad
    buffer, _, seen = passed(torch.arange(ROWS), teacher_ids=ids)
    assert seen.divergence.isnan().tolist() == [False, False, False, False, True, False]
    assert (buffer[[0, -1]] == 7).all()
    assert buffer[1:-1, :V][[0, 1, 2, 3, 5]].isfinite().all()


def test_every_other_reference_nll_of_a_tensor_is_read():
    from linear_cross_entropy_cases import case, distance, ours

    from tracestill.kernels.loss import Excess

    data = case()
    wide = torch.linspace(0, 12, 46).reshape(23, 2)
    strided = ours(data, dynamic=Excess(0.25), reference_nll=wide[:, 1])
    for a, b in zip(strided, ours(data, dynamic=Excess(0.25), reference_nll=wide[:, 1].contiguous()), strict=True):
        assert distance(a, b) == 0


@pytest.mark.parametrize("shape", [(1,), (4096,), (4097,), (3, 5000), (0, 8)])
def test_a_gradient_is_scaled_as_float64_says(shape):
    kind = torch.bfloat16 if DEVICE == "cuda" else torch.float32  # the interpreter cuts bf16 off
    grad = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    factor = torch.tensor(0.3, device=DEVICE)
    found = scaled(grad, factor, kind)
    assert found.shape == grad.shape
    assert torch.equal(found, (grad.double() * factor.double()).to(torch.float32).to(kind))
