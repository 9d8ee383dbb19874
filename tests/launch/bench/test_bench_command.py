"""The command ``tracestill bench`` before and after it measures: its options, the data, other work on the machine."""

import subprocess

import pytest
from command_line import program
from fake_run import RECIPE
from rich.console import Console

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.stage import read_manifest
from tracestill.launch.bench import report as bench_report
from tracestill.launch.bench.search import Setting
from tracestill.launch.commands import bench_command

RATE = {"tokens_per_second": 1000.0, "tokens_per_second_lowest_highest": [990.0, 1010.0]}


def test_help_names_the_command():
    found = subprocess.run([program("tracestill"), "bench", "--help"], capture_output=True, text=True, check=True)
    assert "Time a recipe" in found.stdout


def test_numbers_are_read_in_order():
    assert bench_command.numbers("--x", "4, 1,2,2") == [1, 2, 4]
    assert bench_command.numbers("--x", "") == []


def test_the_data_of_a_recipe_is_made_first(tmp_path):
    import yaml

    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    asked = (tmp_path / "recipe.yaml", tmp_path / "run", None, "traces", Console(quiet=True))
    with bench_command.with_data(*asked) as run:
        assert read_manifest(run.stage("traces", "plan")) is not None
        assert not run.stage("answers_only", "plan").exists()
        with pytest.raises(InputError, match="in use by"), bench_command.with_data(*asked):
            pass


def test_other_work_on_the_machine_is_told_and_too_much_of_it_is_warned_of():
    quiet, busy = Setting(2, 256, 2, False), Setting(3, 256, 2, False)
    seen = {quiet: {**RATE, "others": 0.1}, busy: {**RATE, "others": 0.4}}
    assert bench_report.quietness(seen) == "other work kept 10% to 40% of the cores busy (quiet: at most 10%)"
    (said,) = bench_report.warnings(seen)
    assert "other work kept up to 40% of the cores busy during zero3-2x256; measure again" in said
    unknown = {quiet: {**RATE, "others": None}}
    assert bench_report.warnings(unknown) == []
    assert "not known" in bench_report.quietness(unknown)
