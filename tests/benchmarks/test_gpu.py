"""benchmarks/gpu.py on a CPU: what it measures runs at tiny sizes, it goes on where it was cut off, it ends in time."""

from __future__ import annotations

import importlib
import json
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
GROUPS = ("ceilings", "loss", "pack", "attention", "generation")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    return importlib.import_module("gpu")


@pytest.fixture
def work(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Groups that measure nothing; which were begun. The first time, `loss` fails."""
    begun: list[str] = []

    def fake(run: Any, group: str, folder: Path) -> None:
        begun.append(group)
        failed = group == "loss" and begun.count("loss") == 1
        if not failed:
            run.complete.append(group)
        run.keep({group: {"error": "out of memory"} if failed else {"figure": len(begun)}})

    monkeypatch.setattr(gpu, "WORK", dict.fromkeys(gpu.SECONDS, fake))
    return begun


@pytest.mark.parametrize("group", GROUPS)
def test_every_group_runs_at_a_tiny_size(gpu: ModuleType, group: str) -> None:
    cases = importlib.import_module("gpu_case")
    found = {name: cases.measured(function) for name, function in cases.GROUPS[group](True)}
    assert len(found) == {"loss": 6, "attention": 5}.get(group, 1)
    assert not [figures["error"] for figures in found.values() if "error" in figures]
    assert all(row[1] for row in gpu.rows_of(found))
    assert gpu.claims_of(found, tiny=True) == []


def test_a_second_run_does_what_is_missing(gpu: ModuleType, work: list[str], tmp_path: Path) -> None:
    path = tmp_path / "gpu.json"
    arguments = ["--tiny", "--json", str(path), "--only", "ceilings", "loss", "pack"]
    assert gpu.main(arguments) == 1
    first = json.loads(path.read_text())
    assert first["complete"] == ["ceilings", "pack"], "what fails stops nothing"
    assert gpu.main(arguments) == 0
    second = json.loads(path.read_text())
    assert work == ["ceilings", "loss", "pack", "loss"]
    assert second["cases"] == first["cases"] | {"loss": {"figure": 4}}


def test_without_time_nothing_is_begun(gpu: ModuleType, work: list[str], tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "gpu.json"
    assert gpu.main(["--tiny", "--json", str(path), "--minutes", "0.05"]) == gpu.MORE
    assert not work
    assert json.loads(path.read_text())["cases"] == {}
    assert f"no time for: {', '.join(gpu.SECONDS)}" in capsys.readouterr().out


def test_another_devices_file_is_left_alone(gpu: ModuleType, work: list[str], tmp_path: Path) -> None:
    path = tmp_path / "gpu.json"
    text = json.dumps({"machine": {"gpu": "NVIDIA H200"}, "tiny": False, "complete": [], "cases": {}})
    path.write_text(text)
    with pytest.raises(SystemExit, match="holds figures of NVIDIA H200"):
        gpu.main(["--tiny", "--json", str(path)])
    assert path.read_text() == text


def test_a_stopped_group_keeps_what_it_had(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And what it started is stopped with it."""
    body = (
        "import json, subprocess, sys, time\n"
        "json.dump({'loss a': {'figure': 1}}, open(sys.argv[2], 'w'))\n"
        f"other = subprocess.Popen(['sleep', '30'])\nopen({str(tmp_path / 'pid')!r}, 'w').write(str(other.pid))\n"
        "time.sleep(30)\n"
    )
    (tmp_path / "gpu_case.py").write_text(body)
    monkeypatch.setattr(gpu, "__file__", str(tmp_path / "gpu.py"))
    monkeypatch.setattr(gpu.Run, "limit", lambda run, seconds: 2.0)
    path, started = tmp_path / "gpu.json", time.monotonic()
    assert gpu.main(["--tiny", "--json", str(path), "--only", "loss"]) == gpu.MORE
    assert time.monotonic() - started < 10
    found = json.loads(path.read_text())
    assert (found["cases"], found["complete"]) == ({"loss a": {"figure": 1}}, [])
    status = Path(f"/proc/{(tmp_path / 'pid').read_text()}/stat")
    assert not status.exists() or ") Z " in status.read_text()


def test_a_peer_that_is_absent_is_left_out_and_fails_where_its_folder_is_named(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    step = {"seconds": 1.0, "lengths": [5, 3], "weighted": 2}
    ran = {"steps": [step], "attention": "sdpa", "peak_gib": None, "peak_tflops": None}
    monkeypatch.setattr(importlib.import_module("trainer_gpu"), "run_case", lambda *_, **__: dict(ran))
    monkeypatch.setattr(gpu, "missing", lambda packages, beside: list(packages))
    path = tmp_path / "gpu.json"
    arguments = ["--tiny", "--json", str(path), "--only", "training"]
    assert gpu.main(arguments) == 0
    cases = json.loads(path.read_text())["cases"]
    assert [next(iter(case)) for case in cases.values()] == ["shape", "left_out", "shape", "left_out"]
    assert gpu.main([*arguments, "--peers", str(tmp_path)]) == 1
    failed = [case["error"] for case in json.loads(path.read_text())["cases"].values() if "error" in case]
    assert failed == ["absent: trl, datasets (see --peers)"] * 2


def test_claims_are_those_of_the_bars(gpu: ModuleType) -> None:
    def loss(share: float, over: float) -> dict[str, Any]:
        bars = {"over_floor": importlib.import_module("gpu_case").BARS[share]}
        return {"best": "ours", "over_floor": {"ours": over}, "bars": bars}

    way = {"shape": "1.7B", "capacity": 16384, "peak_tflops": 989.0}
    cases = {
        "loss x, 0%": loss(0.0, 1.16),
        "loss x, 50%": loss(0.5, 1.16),
        "pack": {"on": "GPU", "40 documents": {"kernel us": 16.0}, "recompilations": 0},
        "training a": {**way, "way": "ours, ZeRO 1", "tokens_per_second": 30.0, "mfu": 0.46},
        "training b": {**way, "way": "TRL + Liger, autocast", "tokens_per_second": 21.0, "mfu": 0.3},
        "training c": {**way, "way": "ours, ZeRO 2", "error": "out of memory"},
    }
    assert [each["holds"] for each in gpu.claims_of(cases, tiny=False)] == [False, True, False, True, False]
