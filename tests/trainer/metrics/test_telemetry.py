"""What a line of the log says."""

import io
import math
import re

import torch
from rich.console import Console

from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.kernels.loss import Statistic
from tracestill.trainer.metrics.telemetry import Meter, by_kind, line_of, table_of

KINDS = Kinds()


def statistics(**rows):
    """(K, S): weight, weighted nll, count, nll, correct, entropy of some kinds; of a teacher v, v D, count, D."""
    found = torch.zeros(len(KINDS), len(Statistic))
    for name, values in rows.items():
        found[KINDS.id(name), : len(values)] = torch.tensor(values)
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


def test_a_teachers_term_stands_beside_the_labels():
    meter = Meter(KINDS, torch.device("cpu"))
    both = statistics(derive=[0, 0, 0, 0, 0, 0, 0.5, 1.0, 4, 8.0], answer=[1.0, 3.0, 2, 4.0, 1, 0.5, 0.25, 0.5, 1, 2.0])
    meter.add(both)
    meter.end_step(4.5)
    found = meter.read()
    assert found["weighted_tokens"] == 6, "rows of either weight"
    assert found["kinds"]["answer"] == {
        "count": 2, "weight": 1.0, "loss": 2.0, "accuracy": 0.5, "entropy": 0.25, "share": 3 / 4.5,
        "teacher_count": 1, "teacher_weight": 0.25, "divergence": 2.0, "teacher_share": 0.5 / 4.5,
    }  # fmt: skip
    of_teacher = found["kinds"]["derive"]
    assert (of_teacher["divergence"], of_teacher["teacher_share"], of_teacher["weight"]) == (2.0, 1 / 4.5, 0.0)
    assert math.isnan(of_teacher["loss"]), "no sample was taken"
    meter.add(both)
    meter.unweighted.add_(statistics(derive=[0.0, 0.0, 4, 6.0, 1, 2.0]))
    meter.end_step(4.5)
    found = meter.read()
    assert (found["kinds"]["derive"]["loss"], found["kinds"]["derive"]["divergence"]) == (1.5, 2.0)
    numbers = {**found, "grad_norm": 1.0, "tokens_per_second": 1.0, "mfu": None, "memory_gib": 1.0, "data_wait": 0.0}
    line = line_of(1, 2, {**numbers, "seconds": 1.0})
    assert "  derive 1.500 25% D 2.000  answer 2.000 50% D 2.000  " in line
    console = Console(file=io.StringIO(), width=140)
    console.print(table_of(found["kinds"]))
    assert re.search(r"derive .* no weight \(sample\) .* 2.0000 .* 22.2%", console.file.getvalue())
