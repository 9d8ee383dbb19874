"""The parts of benchmarks/forecast.py that measure nothing."""

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module", autouse=True)
def on_path():
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))


def test_the_model_meets_the_run_that_it_was_fitted_on():
    import json

    import forecast_published as published

    data = json.loads(published.PUBLISHED.read_text())
    for series in data["series"]:
        gpus, steps, speed = series["points"][0]
        rate = published.rate_from(series, gpus, steps, speed, data["links"])
        assert published.per_gpu(series, gpus, steps, data["links"], rate) == pytest.approx(speed, rel=1e-6)
        assert rate < (312e12 if series["gpu"].startswith("A100") else 989.5e12), "no GPU reaches its peak"


def test_published_runs_are_foreseen_better_than_by_perfect_scaling():
    import forecast_published as published

    found = published.check()
    assert len(found["rows"]) == 52
    by_model = [abs(row["error_of_step_time"]) for row in found["rows"]]
    perfect = [abs(row["change_from_the_fitted"]) for row in found["rows"]]
    assert sum(by_model) < 0.55 * sum(perfect)
    assert all(claim["holds"] for claim in published.claims_of(found))
    worse = [{**row, "error_of_step_time": 0.5} for row in found["rows"]]
    assert not any(claim["holds"] for claim in published.claims_of({"rows": worse})), "the claims can fail"


def test_curves_end_where_scaling_does(tmp_path):
    import forecast_students as students

    def points(*speeds, fits=True):
        return [{"nodes": 2**i, "tokens_per_second": s, "fits": fits} for i, s in enumerate(speeds)]

    assert students.scales_to(points(1, 2, 4, 5, 10)) == 4
    assert students.scales_to(points(1, 1.5, 2.2)) == 4
    assert students.scales_to(points(1, 2, fits=False)) is None
    found = students.curves()
    assert found["70B"]["weak"]["1"]["scales_to_nodes"] is None, "70B fits at ZeRO 3 only"
    assert found["8B"]["strong"]["2"]["scales_to_nodes"] <= students.PACKS // 8
    students.draw(found, tmp_path / "plot.svg")
    assert "</svg>" in (tmp_path / "plot.svg").read_text()


def test_the_claims_about_this_machine_can_fail():
    import forecast

    errors = {(2, 0, None): 0.01, (4, 2, None): 0.2, (3, 3, None): -0.1, (2, 2, 100): -0.16, (2, 3, 100): 0.05}
    cases = [{"ranks": r, "zero": z, "mbits": m, "error": error} for (r, z, m), error in errors.items()]
    held = {claim["name"].split(":")[0]: claim["holds"] for claim in forecast.claims_of({"cases": cases})}
    assert held == {
        "ZeRO 0 to 2, ranks of this machine": False,
        "ZeRO 0 to 2, two hosts": False,
        "ZeRO 3, ranks of this machine": True,
        "ZeRO 3, two hosts": True,
        "median error of all cases": True,
    }
