"""What a training does that ends because its texts grew too long, and was killed while it did so."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from tracestill.data_pipeline.base.errors import InputError
from tracestill.trainer.checkpoint.best import Best
from tracestill.trainer.faults.leaving import Left
from tracestill.trainer.on_policy.on_policy import OnPolicy
from tracestill.trainer.train import is_measured

HELD_OUT, ANSWERS = {"event": "held_out", "step": 5}, {"event": "answers", "step": 5}


def job(directory, told, *, best=None, every=4, answers=None):
    (directory / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in told))
    return SimpleNamespace(
        directory=directory,
        engine=SimpleNamespace(rank=0),
        progress=SimpleNamespace(step=5, best=best),
        recipe=SimpleNamespace(train=SimpleNamespace(held_out_every=every)),
        **{"held_out": object(), "answers": answers},
    )


def test_a_measurement_that_no_checkpoint_knows_of_is_made_again(tmp_path):
    """A kill between the line of the log and the checkpoint that names the best student, which is exported."""
    before, then = Best("all.loss", None), Best("all.loss", None)
    before.step, then.step = 4, 5
    assert not is_measured(job(tmp_path, [HELD_OUT], best=before))
    assert is_measured(job(tmp_path, [HELD_OUT], best=then))
    assert is_measured(job(tmp_path, [HELD_OUT])), "no student is the best one"


def test_all_of_a_measurement_has_to_be_told(tmp_path):
    assert not is_measured(job(tmp_path, [{**HELD_OUT, "step": 4}, {"event": "refresh", "step": 5}]))
    assert not is_measured(job(tmp_path, [HELD_OUT], answers=object()))
    assert is_measured(job(tmp_path, [HELD_OUT, ANSWERS], answers=object()))


def test_a_step_that_is_measured_anyway_was_so_before_it_was_saved(tmp_path):
    best = Best("all.loss", None)
    best.step = 0
    assert is_measured(job(tmp_path, [], best=best, every=5))


@pytest.mark.parametrize(("learnt", "wanted"), [("", (1, "held")), ("new", (2, "new"))])
def test_a_checkpoint_names_what_was_learnt_from_even_if_nothing_was_since(learnt, wanted):
    own = OnPolicy.__new__(OnPolicy)
    own.own = SimpleNamespace(refresh=2)
    own.samples = SimpleNamespace(first=4 if learnt else 0, texts=SimpleNamespace(digest=learnt))
    own.all_spent = {}
    own.load_state({"refresh": 1, "written": "held", "seconds": {"writing": 3.0}})
    assert own.state() == {"refresh": wanted[0], "written": wanted[1], "seconds": {"writing": 3.0}}


@pytest.mark.parametrize("failed", [True, False])
def test_a_refresh_that_all_leave_says_what_had_failed_in_it(tmp_path, capsys, failed):
    def renew(number, step):
        raise Left from InputError("no room") if failed else None

    own = OnPolicy.__new__(OnPolicy)
    own.own, own.number, own.renew = SimpleNamespace(refresh=2), None, renew
    own.job = SimpleNamespace(console=SimpleNamespace(print=lambda *told, **how: None), leads=False)
    assert own.enter(4, bool) == "left"
    assert ("refresh 2: had failed before: no room" in capsys.readouterr().err) == failed
