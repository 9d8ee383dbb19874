"""Figures of a benchmark's tables."""

import io
from types import SimpleNamespace

import pytest
from fake_run import mini_recipe
from rich.console import Console

from tracestill.launch.bench import report as bench_report
from tracestill.launch.bench.search import own_setting

CASE = {
    "setting": {"name": "zero2-2x256"},
    **{"ranks": 4, "tokens_per_second": 2000.0, "tokens_per_second_lowest_highest": [1500.0, 2500.0]},
    **{"tokens_per_second_per_device": 500.0, "mfu": 0.1234, "memory_gib": 1.25, "step_seconds": 0.25},
    **{"tokens_per_step": 500.0, "others": 0.02},
    "split": {"data": 0.01, "forward": 0.15, "backward": 0.25, "optimizer": 0.05, "communication": 0.04},
}


def test_a_row_of_the_settings_by_hand():
    assert bench_report.cells(CASE) == ["zero2-2x256", "2,000", "50%", "500", "12.3%", "1.25", "250"]
    assert bench_report.cells({**CASE, "mfu": None})[4] == ""
    failed = {"setting": CASE["setting"], "problem": "out of memory"}
    assert bench_report.cells(failed) == ["zero2-2x256", "out of memory", "", "", "", "", ""]


def test_parts_of_a_step_are_microseconds_for_a_thousand_tokens():
    found = {name: amount for name, amount, _ in bench_report.split_of(CASE)}
    wanted = {"data": 2e4, "forward": 3e5, "backward": 5e5, "optimizer": 1e5, "communication": 8e4}
    assert found == pytest.approx(wanted)


def test_what_ranks_say_stands_under_its_operation():
    other = {"setting": {"name": "zero3"}, "collectives": {"all_gather": [8.0, 2e9], "barrier": [1.0, 0.0]}}
    cases = [{**CASE, "collectives": {"reduce": [2.5, 4.2e6]}}, other, {"setting": {"name": "x"}, "problem": "failed"}]
    assert bench_report.spoken(cases) == (
        ["setting", "reduce", "all_gather"],
        [["zero2-2x256", "4.20 (2.5)", ""], ["zero3", "", "2,000.00 (8)"]],
    )
    assert bench_report.spoken([CASE])[1] == [], "one rank says nothing"


def test_what_casts_doubt_on_the_figures():
    steady = {**CASE, "tokens_per_second_lowest_highest": [1900.0, 2100.0]}
    cases = {"a": steady, "b": CASE, "c": {**steady, "others": 0.11}, "d": {**steady, "others": None}}
    cases["e"] = {"problem": "failed"}
    seen = {Named(name): case for name, case in cases.items()}
    assert bench_report.warnings(seen) == [
        "the machine was not quiet: speed changed by more than 10% within b; measure again",
        "the machine was not quiet: other work kept up to 11% of the cores busy during c; measure again",
    ]
    assert bench_report.quietness(seen) == "other work kept 2% to 11% of the cores busy (quiet: at most 10%)"


@pytest.mark.parametrize("own", [None, {"teacher": "none"}])
def test_steps_without_the_texts_that_training_learns_from_are_named(own):
    recipe = mini_recipe(train={"steps": 4, "on_policy": own})
    bench = SimpleNamespace(run=SimpleNamespace(recipe=recipe), arm="traces", warmup=1, steps=2)
    setting = own_setting(recipe)
    steady = {**CASE, "tokens_per_second_lowest_highest": [1900.0, 2100.0]}
    told = bench_report.gather(bench, setting, setting, [], {setting: steady})["warnings"]
    assert ["neither the writing of texts nor a teacher" in warning for warning in told] == [True] * (own is not None)


class Named:
    """As much of a setting as is looked at."""

    def __init__(self, name):
        self.name = name


def test_the_fastest_setting_stands_first():
    slower = {**CASE, "setting": {"name": "zero3-2x256"}, "tokens_per_second": 1000.0}
    failed = {"setting": {"name": "zero0-2x256"}, "problem": "failed"}
    advice = {"name": "zero2-2x256", "reasons": ["because"], "options": []}
    shown = Console(file=io.StringIO(), width=120)
    found = {"cases": [failed, slower, CASE], "recommended": advice, "quiet": "quiet", "warnings": []}
    bench_report.show(found, shown)
    lines = shown.file.getvalue().splitlines()
    assert lines[0].rstrip() == "throughput on 4 rank(s)"
    assert [line.split()[1] for line in lines if "x256 " in line] == ["zero2-2x256", "zero3-2x256", "zero0-2x256"]
    assert lines[-3:] == ["recommended: zero2-2x256", "  because", "  quiet"]


def test_what_is_forecast_says_ranks_and_what_does_not_fit():
    point = {"tokens_per_second": 9e5, "efficiency": 0.5, "memory_gib": 99.0, "room_gib": 100.0, "measured": False}
    stages = {"2": [{**point, "measured": True}, point], "3": [point, {**point, "room_gib": 80.0}]}
    found = bench_report.forecast_rows({"nodes": [1, 3], "devices": 8, "strong": stages}, "strong")
    assert found == (
        ["nodes", "ranks", "ZeRO 2", "ZeRO 3"],
        [["1", "8", "900,000 (50%, measured)", "900,000 (50%)"], ["3", "24", "900,000 (50%)", "needs 99 GiB"]],
    )


def test_efficiency_is_throughput_a_host_over_that_of_the_fewest():
    cases = {
        count: {"step_seconds": 0.5, "tokens_per_second": speed}
        for count, speed in ((2, 1000.0), (4, 1800.0), (8, 2000.0))
    }
    scaling = {"strong": cases, "weak": {1: {"problem": "failed"}, 2: cases[2]}}
    assert bench_report.scaling_rows(scaling) == [
        ["strong", "2", "1,000", "500", "100%"],
        ["strong", "4", "1,800", "500", "90%"],
        ["strong", "8", "2,000", "500", "50%"],
        ["weak", "1", "failed", "", ""],
        ["weak", "2", "1,000", "500", "0%"],
    ]
