"""What a teacher's entries cost the loss: the benchmark runs, and both of its ways compute one gradient."""

import json
import runpy
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_the_benchmark_runs_on_small_shapes(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr(sys, "argv", ["x", "--tiny", "--rounds", "1", "--json", str(tmp_path / "found.json")])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(BENCHMARKS / "linear_cross_entropy_teacher.py"), run_name="__main__")
    assert ended.value.code == 0
    found = json.loads((tmp_path / "found.json").read_text())
    assert set(found["cpu_over_label_alone"]) == {"forward", "reverse", "jsd", "forward, plain PyTorch"}
    assert found["claims"] == []
