"""The teacher term where one model is certain: its tail counts with 1e-6, and nothing becomes NaN."""

import pytest
import torch
from linear_cross_entropy_cases import case, distance, jsd_of, naive, ours

from tracestill.kernels.loss import TeacherTopK


@pytest.mark.parametrize("divergence", ["forward", "reverse", "jsd"])
@pytest.mark.parametrize("mass", [[1.0], [0.5 + 1e-7, 0.5 + 1e-7], [1.0, 0.0]])  # of its tokens; more than 1: rounded
def test_a_sure_teachers_tail_counts_with_the_least_probability(mass, divergence):
    data = case(n=3, v=50, zero=0.0, seed=2)
    hidden, head, *_ = data
    q = torch.tensor(mass, dtype=torch.float64).float()
    ids = torch.tensor([[7, 11][: len(mass)]] * 3)
    teacher = TeacherTopK(ids, q.log().expand(3, -1), torch.ones(3), divergence=divergence)
    got = ours(data, teacher=teacher)
    # by definition, with a tail of 1e-6, in fp64; the gradient of its divergence by autograd
    x = hidden.double().requires_grad_()
    log_p = torch.log_softmax(x @ head.double().t(), 1)
    at, q = log_p.gather(1, ids)[:, q > 0], q[q > 0].double()
    tail, floor = torch.log1p(-at.exp().sum(1)), torch.tensor(1e-6, dtype=torch.float64)
    if divergence == "jsd":
        listed = torch.cat([at, tail[:, None]], 1)
        term = torch.stack([jsd_of(torch.cat([q.log(), floor.log()[None]]), row, 0.5) for row in listed]).sum()
    elif divergence == "reverse":
        term = (at.exp() * (at - q.log())).sum() + (tail.exp() * (tail - floor.log())).sum()
    else:
        term = (q * (q.log() - at)).sum() + (floor * (floor.log() - tail)).sum()
    (term + (data[4].double() * -log_p.gather(1, data[3][:, None])[:, 0]).sum()).backward()
    wanted = naive(data, torch.float64)[0] + term.detach()
    assert distance(got[0], wanted) < 1e-5
    assert distance(got[2], x.grad) < 1e-4


@pytest.mark.parametrize("divergence", ["forward", "reverse", "jsd"])
def test_a_sure_student_of_a_sure_teacher_learns_no_nan(divergence):
    """Both are certain of the same token: nothing is left but 1e-6, which the tail adds to the teacher's mass."""
    data = case(n=2, v=9, zero=0.0)
    hidden, head = torch.eye(37)[:2] * 100, torch.zeros(9, 37)
    head[4, :2] = 10.0  # a logit of 1,000
    data = (hidden, head, data[2], torch.tensor([4, 4]), *data[4:])
    log_probs = torch.tensor([[0.0, float("-inf")]] * 2)
    got = ours(data, teacher=TeacherTopK(torch.tensor([[4, 0]] * 2), log_probs, torch.ones(2), divergence=divergence))
    assert float(got[0]) == 0.0
    assert float(got[2].abs().max()) < 1.1e-6 * 10
    assert float(got[3].abs().max()) < 1.1e-6 * 100
