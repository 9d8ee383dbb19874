"""Whether a training has finished is asked before ranks meet, unless hosts do not see each other's files."""

from types import SimpleNamespace

import pytest

from tracestill.data_pipeline.base.errors import InputError
from tracestill.trainer import train


@pytest.fixture
def join(monkeypatch):
    """Calls ``join_others`` with what this host and the first one's ranks know; what it did, in order."""

    def call(*, local, here, there=False):
        did = []

        def note(what, answer):
            return lambda *_: did.append(what) or answer

        monkeypatch.setattr(train, "is_done", note("looked", here))
        monkeypatch.setattr(train, "connect", note("met", None))
        monkeypatch.setattr(train.checkpoint_local, "refuse_mixed", note("compared", None))
        monkeypatch.setattr(train.checkpoint_local, "is_done_on_first_host", note("asked", there))
        settings = SimpleNamespace(local_checkpoints=local)
        run = SimpleNamespace(recipe=SimpleNamespace(for_arm=lambda arm: SimpleNamespace(train=settings)))
        return train.join_others(run, "traces"), did

    return call


def test_a_finished_training_needs_no_other_rank(join):
    assert join(local=False, here=True) == (False, ["looked"])


def test_for_an_unfinished_one_the_ranks_meet(join):
    assert join(local=False, here=False) == (True, ["looked", "met", "compared"])


@pytest.mark.parametrize("here", [True, False])
@pytest.mark.parametrize("there", [True, False])
def test_hosts_that_share_nothing_meet_to_ask_the_first(join, here, there):
    assert join(local=True, here=here, there=there) == (not there, ["met", "compared", "asked"])


def test_hosts_whose_recipes_differ_are_refused_before_they_are_asked(join, monkeypatch):
    def refuse(local):
        raise InputError("differs")

    join(local=True, here=False)
    monkeypatch.setattr(train.checkpoint_local, "refuse_mixed", refuse)
    monkeypatch.setattr(train.checkpoint_local, "is_done_on_first_host", lambda *_: pytest.fail("asked"))
    settings = SimpleNamespace(train=SimpleNamespace(local_checkpoints=True))
    with pytest.raises(InputError, match="differs"):
        train.join_others(SimpleNamespace(recipe=SimpleNamespace(for_arm=lambda arm: settings)), "traces")
