"""benchmarks/machine.py: what is written is JSON, whatever was measured."""

import json
import math

import numpy as np
import pytest
from real_data import benchmark


def test_what_was_not_measured_is_null(tmp_path, capsys):
    with benchmark("machine") as machine:
        claims = [machine.claim("two ways", math.nan, ">", 0.5), machine.claim("one", 1.0, ">", 0.5)]
        figures = {"by_seed": {"0": [math.nan, 0.25], "1": (math.inf, 3)}, "low": np.float64("nan"), "name": "NaN"}
        assert machine.finish(figures, claims, tmp_path / "new/found.json") == 1
    assert "nan" in capsys.readouterr().out
    held = json.loads((tmp_path / "new/found.json").read_text(), parse_constant=pytest.fail)
    assert {name: held[name] for name in figures} == {
        **{"by_seed": {"0": [None, 0.25], "1": [None, 3]}, "low": None, "name": "NaN"}
    }
    assert [(each["measured"], each["holds"]) for each in held["claims"]] == [(None, False), (1.0, True)]
    assert math.isnan(figures["by_seed"]["0"][0]), "the caller's own stay as they are"


def test_neither_do_the_files_of_gpus_hold_what_is_no_json(tmp_path):
    path, cases = tmp_path / "found.json", [{"mfu": math.nan, "tokens": 1}]
    with benchmark("gpu_case") as gpu_case, benchmark("trainer_gpu") as trainer_gpu:
        gpu_case.write(path, {"loss": cases[0]})
        assert json.loads(path.read_text(), parse_constant=pytest.fail) == {"loss": {"mfu": None, "tokens": 1}}
        trainer_gpu.write_partial(path, cases)
        assert json.loads(path.read_text(), parse_constant=pytest.fail)["cases"] == [{"mfu": None, "tokens": 1}]
