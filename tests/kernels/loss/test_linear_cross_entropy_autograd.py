"""What autograd and torch.compile may do with the loss: the gradient once, and a graph around it; the rest is told."""

from __future__ import annotations

import pytest
import torch
import torch._dynamo

from tracestill.kernels.loss import linear_cross_entropy


@pytest.fixture
def leaves():
    torch.manual_seed(0)
    return torch.randn(12, 8, requires_grad=True), torch.randn(20, 8, requires_grad=True)


def make_loss():
    """A function of its own each time: what torch.compile knows of one does not help the next."""
    torch.manual_seed(1)
    targets, weights = torch.randint(0, 20, (12,)), torch.rand(12)
    kinds = torch.ones(12, dtype=torch.uint8)

    def loss(hidden, weight):
        return 3 * linear_cross_entropy(hidden * 2, weight, targets, weights, kinds, num_kinds=2)[0]

    return loss


def test_a_gradient_penalty_is_refused_and_not_silently_zero(leaves):
    loss = make_loss()
    with pytest.raises(RuntimeError, match=r"no second derivative.*gradient penalty .*silently zero"):
        torch.autograd.grad(loss(*leaves), leaves, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        loss(*leaves).backward(create_graph=True)
    with torch.enable_grad():  # which is not the same
        loss(*leaves).backward()
    assert leaves[0].grad.abs().sum() > 0


@pytest.mark.filterwarnings("ignore")
def test_compiled_code_around_the_loss_gives_the_same_bits_and_fullgraph_says_why_not(leaves):
    eager = make_loss()
    value = eager(*leaves)
    gradients = torch.autograd.grad(value, leaves)
    compiled = torch.compile(make_loss(), backend="aot_eager")
    again = compiled(*leaves)
    assert torch.equal(again, value)
    for ours, theirs in zip(torch.autograd.grad(again, leaves), gradients, strict=True):
        assert torch.equal(ours, theirs)
    torch._dynamo.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported, match=r"linear_cross_entropy runs as it is.*leave out fullgraph"):
        torch.compile(make_loss(), backend="aot_eager", fullgraph=True)(*leaves)
