"""The ``deepspeed`` block of a recipe: what DeepSpeed would pass over, and what the trainer owns."""

import pytest

from tracestill.data_pipeline.errors import InputError
from tracestill.trainer.deepspeed_keys import OTHERS, OWNED, check


class Watched(dict):
    """A config that notes which keys are looked up."""

    def __init__(self, **values):
        super().__init__(**values)
        self.asked = set()

    def get(self, key, default=None):
        self.asked.add(key)
        return super().get(key, default)

    def __contains__(self, key):
        self.asked.add(key)
        return super().__contains__(key)

    def keys(self):
        return self if self.asked else super().keys()


def test_the_keys_are_those_that_deepspeed_reads():
    from tracestill.trainer import engine

    config = Watched(train_micro_batch_size_per_gpu=1, gradient_accumulation_steps=1, zero_optimization={"stage": 2})
    engine.deepspeed.DeepSpeedConfig(config)
    of_initialize = {"sequence_parallel_size", "data_parallel_size"}  # read there, or once the ranks have met
    top = {key for key in OWNED if "." not in key} - of_initialize
    assert {key for key in config.asked if isinstance(key, str)} == {*OTHERS, *top}


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"sequence_parallel_size": 2}, r"set train\.sequence_parallel"),
        ({"gradient_cliping": 1}, "knows no such key; did you mean 'gradient_clipping'"),
        ({"wall_clock_brakedown": True}, "did you mean 'wall_clock_breakdown'"),
        ({"train_batch_size": 8}, "plan.packs_per_step"),
        ({"zero_optimization": {"stage": 3}}, r"deepspeed\.zero_optimization\.stage: set train\.zero"),
        ({"zero_optimization": 3}, "expected a mapping"),
        ({2: 3}, r"deepspeed\.2: DeepSpeed knows no such key"),
    ],
)
def test_a_key_is_refused_by_name(raw, message):
    with pytest.raises(InputError, match=message):
        check(raw)


def test_other_keys_pass():
    check({"wall_clock_breakdown": True, "zero_optimization": {"overlap_comm": True}})
