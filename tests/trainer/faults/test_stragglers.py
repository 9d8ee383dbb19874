"""Which phases may tell a slow rank: those in which it waits for nobody."""

import pytest
import torch

from tracestill.trainer.faults.stragglers import phases_alone
from tracestill.trainer.recipe.settings import TrainConfig


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"zero": 2}, ("data", "forward")),
        ({"zero": 3}, ("data",)),
        ({"zero": 2, "sequence_parallel": 2, "ranks": 2}, ("data",)),
    ],
)
def test_a_phase_with_a_collective_in_it_tells_nothing(keys, expected):
    assert phases_alone(TrainConfig(steps=1, **keys), torch.device("cpu")) == expected


def test_the_host_of_a_gpu_sees_its_data_only():
    assert phases_alone(TrainConfig(steps=1, zero=0), torch.device("cuda")) == ("data",)
