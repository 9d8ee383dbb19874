"""What a line of the log says."""

import io
import re

import torch
from rich.console import Console

from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.trainer.metrics.telemetry import Meter, by_kind, line_of, table_of

KINDS = Kinds()


def statistics(**rows):
    """(K, 6): weight, weighted nll, count, nll, correct, entropy of some kinds."""
    found = torch.zeros(len(KINDS), 6)
    for name, values in rows.items():
        found[KINDS.id(name)] = torch.tensor(values)
    return found


def test_means_are_over_tokens_and_shares_over_the_weighted_loss():
    sums = statistics(derive=[4.0, 6.0, 8, 12.0, 6, 2.0], answer=[2.0, 2.0, 2, 2.0, 1, 1.0])
    found = by_kind(KINDS, sums, 1)
    assert found["derive"] == {
        "count": 8, "weight": 4.0, "loss": 1.5, "accuracy": 0.75, "entropy": 0.25, "share": 0.75,
    }  # fmt: skip
    assert found["answer"]["share"] == 0.25
    assert set(found) == {"derive", "answer"}, "a kind that did not occur has no line"


def test_a_meter_sums_micro_steps_averages_steps_and_begins_anew():
    meter = Meter(KINDS, torch.device("cpu"))
    part = statistics(answer=[1.0, 3.0, 2, 4.0, 1, 0.5])
    for loss in (4.0, 2.0):
        meter.add(part)
        meter.add(part)
        meter.end_step(loss)
    found = meter.read()
    assert (found["loss"], found["weighted_tokens"]) == (3.0, 8)
    assert found["kinds"]["answer"]["loss"] == 2.0
    meter.add(part)
    meter.end_step(1.0)
    again = meter.read()
    assert (again["loss"], again["weighted_tokens"]) == (1.0, 2)


def test_a_faulty_step_leaves_no_trace():
    meter = Meter(KINDS, torch.device("cpu"))
    good = statistics(answer=[1.0, 3.0, 2, 4.0, 1, 0.5])
    for part, loss, faulty in ((good, 2.0, False), (good * float("nan"), float("nan"), True), (good, 4.0, False)):
        meter.add(part)
        meter.end_step(loss, faulty=faulty)
    found = meter.read()
    assert (found["loss"], found["weighted_tokens"]) == (3.0, 4)
    assert found["kinds"]["answer"]["loss"] == 2.0


def test_a_kind_without_weight_shows_its_sample_and_says_so():
    meter = Meter(KINDS, torch.device("cpu"))
    of_sample = statistics(prose=[0.0, 0.0, 4, 6.0, 1, 2.0], answer=[0.0, 0.0, 5, 9.0, 5, 5.0])
    for faulty in (False, True):
        meter.add(statistics(answer=[1.0, 3.0, 2, 4.0, 1, 0.5]))
        meter.unweighted.add_(of_sample)
        meter.end_step(1.0, faulty=faulty)
    meter.end_step(1.0)  # a step without any weight is one of the mean
    found = meter.read()
    assert found["weighted_tokens"] == 2
    assert found["kinds"] == {
        "prose": {"count": 4, "weight": 0.0, "loss": 1.5, "accuracy": 0.25, "entropy": 0.5, "share": 0.0},
        "answer": {"count": 2, "weight": 0.5, "loss": 2.0, "accuracy": 0.5, "entropy": 0.25, "share": 1.0},
    }
    assert list(found["kinds"]) == ["prose", "answer"], "in the kinds' order"
    numbers = {**found, "grad_norm": 1.0, "tokens_per_second": 1.0, "mfu": None, "memory_gib": 1.0, "data_wait": 0.0}
    assert "  (prose 1.500 25%)  answer 2.000 50%  " in line_of(1, 2, {**numbers, "seconds": 1.0})
    console = Console(file=io.StringIO(), width=100)
    console.print(table_of(found["kinds"]))
    assert re.search(r"prose .* 4 .* 1.5000 .* no weight \(sample\)", console.file.getvalue())
    assert meter.read()["kinds"] == {}, "the sample begins anew as well"


def test_the_table_at_the_end_shows_every_kind():
    kinds = by_kind(KINDS, statistics(derive=[4.0, 6.0, 8, 12.0, 6, 2.0], answer=[2.0, 2.0, 2, 2.0, 1, 1.0]), 1)
    console = Console(file=io.StringIO(), width=100)
    console.print(table_of(kinds))
    rows = [re.findall(r"[\w.%]+", line) for line in console.file.getvalue().splitlines()]
    assert ["derive", "8", "1.5000", "75.0%", "0.2500", "75.0%"] in rows
    assert ["answer", "2", "1.0000", "50.0%", "0.5000", "25.0%"] in rows
