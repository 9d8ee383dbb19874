"""Figures of a benchmark's tables."""

from tracestill.launch import bench_report


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
