"""Charts stay to scale and inside their frames, and thinned curves keep their ends."""

import itertools
import re
import xml.etree.ElementTree as ElementTree

import pytest

from tracestill.launch.report import charts
from tracestill.launch.report.report import thin


def test_thinning_keeps_the_last_line():
    assert thin(list(range(10)), 20) == list(range(10))
    found = thin(list(range(1001)), 400)
    assert len(found) <= 400
    assert found[-1] == 1000
    assert len({b - a for a, b in itertools.pairwise(found)}) == 1


@pytest.mark.parametrize("values", [[1.0], [0.0, 0.0], [5.0, 5.0, 5.0], [1e-9, 1e3], [2.0, 1.0, 0.5]])
@pytest.mark.parametrize("log", [True, False])
def test_line_charts_stay_inside_their_frame(values, log):
    drawn = charts.lines({"a": list(enumerate(values)), "b": []}, title="t & <t>", width=300, height=200, log=log)
    if log and not any(values):
        assert drawn == ""
        return
    picture = ElementTree.fromstring(drawn).find("svg")
    points = [tuple(map(float, pair.split(","))) for pair in picture.find("polyline").get("points").split()]
    assert len(points) == len(values)
    assert all(0 <= x <= 300 and 0 <= y <= 200 for x, y in points)
    order = sorted(range(len(values)), key=lambda i: values[i])
    heights = [points[i][1] for i in order]
    assert heights == sorted(heights, reverse=True), "greater values stand higher"


def test_stacked_bars_are_to_scale():
    drawn = charts.stacked([("r", [("x", 30.0, "s0"), ("y", 10.0, "s1")]), ("q", [("x", 20.0, "s0")])])
    widths = [float(w) for w in re.findall(r'<rect class="bar [^"]*" x="[\d.]+" y="[\d.]+" width="([\d.]+)"', drawn)]
    assert widths[0] == pytest.approx(3 * widths[1], rel=0.01)
    assert widths[2] == pytest.approx(2 * widths[1], rel=0.01)
    assert drawn.count('class="key"') == 2
    assert charts.stacked([]) == ""


@pytest.mark.parametrize(("low", "high"), [(0.03, 0.9), (1.0, 2.0), (1e-5, 1e4), (3.0, 3.3)])
def test_logarithmic_ticks_lie_inside(low, high):
    found = charts.ticks_log(low, high)
    assert len(found) >= 2
    assert all(low <= value <= high for value in found)


@pytest.mark.parametrize(("count", "limit"), [(0, 4), (1, 4), (4, 4), (5, 4), (101, 10)])
def test_a_thinned_curve_keeps_its_last_point(count, limit):
    found = thin(list(range(count)), limit)
    assert len(found) <= limit
    assert found[-1:] == list(range(count))[-1:]
