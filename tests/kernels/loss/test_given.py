"""A multiplier that is given, of either sign: the gradient of a row of factor -1 is that of factor 1 turned round."""

from __future__ import annotations

import pytest
import torch

from tracestill.kernels.loss import Given, PowerOfP, linear_cross_entropy


def loss_and_gradient(factors, dynamic):
    torch.manual_seed(0)
    hidden, head = torch.randn(6, 4, requires_grad=True), torch.randn(11, 4)
    weights, kinds = torch.tensor([1.0, 2.0, 0.0, 1.0, 0.5, 1.0]), torch.zeros(6, dtype=torch.uint8)
    targets = torch.arange(6)
    loss, statistics = linear_cross_entropy(
        hidden, head, targets, weights, kinds, num_kinds=1, dynamic=dynamic, reference_nll=factors
    )
    loss.backward()
    exact = (hidden.detach().double() @ head.double().t()).log_softmax(1)
    nll = -exact[torch.arange(6), targets]
    return loss, hidden.grad, (weights.double() * (1 if factors is None else factors.double()) * nll).sum(), statistics


def test_factors_below_zero_turn_the_gradient_round():
    ones = torch.ones(6)
    loss, gradient, exact, _ = loss_and_gradient(ones, Given())
    assert float(loss) == pytest.approx(float(exact), rel=1e-6)
    other, turned, exact, statistics = loss_and_gradient(-ones, Given())
    assert float(other) == pytest.approx(float(exact), rel=1e-6)
    assert torch.equal(turned, -gradient)
    assert float(statistics[0, 0]) == 5.5, "what the weights add up to has no sign"
    mixed = torch.tensor([1.0, -1.0, 1.0, 0.0, -2.0, 1.0])
    loss, gradient, exact, _ = loss_and_gradient(mixed, Given())
    assert float(loss) == pytest.approx(float(exact), rel=1e-6)
    assert not gradient[3].any()
    assert not gradient[2].any()


def test_without_any_it_is_one_and_others_may_not_be_negative():
    loss, _, exact, _ = loss_and_gradient(None, Given())
    assert float(loss) == pytest.approx(float(exact), rel=1e-6)
    loss_and_gradient(None, PowerOfP())
    with pytest.raises(ValueError, match="factors of dynamic"):
        loss_and_gradient(None, lambda nll, p, entropy: -nll)
