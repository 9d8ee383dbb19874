"""Collectives are counted inside of a block, and torch is as it was behind it."""

import pytest
import torch
import torch.distributed as dist

from tracestill.trainer.ranks.collective_stats import WHOLE, counted_collectives


def functions():
    return [getattr(module, name) for name in WHOLE for module in (dist, dist.distributed_c10d)]


def test_calls_and_bytes_are_counted_while_the_block_lasts(monkeypatch):
    said = []

    def plain(tensor, group=None):
        said.append(len(tensor))

    for module in (dist, dist.distributed_c10d):
        monkeypatch.setattr(module, "all_reduce", plain)
    with counted_collectives() as stats:
        dist.all_reduce(torch.zeros(3))
        dist.distributed_c10d.all_reduce(tensor=torch.zeros(2, dtype=torch.float64))
    assert dist.distributed_c10d.all_reduce is plain
    dist.all_reduce(torch.zeros(5))
    assert said == [3, 2, 5]
    assert {name: pair for name, pair in stats.state().items() if pair[0]} == {"all_reduce": (2, 3 * 4 + 2 * 8)}
    assert stats.seconds > 0


def test_torch_gets_its_functions_back_even_from_a_failure():
    before = functions()

    def fail():
        with counted_collectives():
            assert not any(now is then for now, then in zip(functions(), before, strict=True))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert functions() == before


def test_it_refuses_to_begin_where_ranks_have_met(monkeypatch):
    """DeepSpeed would go on with functions that do not count."""
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    before = functions()
    with pytest.raises(RuntimeError, match="before ranks meet"), counted_collectives():
        pass
    assert functions() == before
