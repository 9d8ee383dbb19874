"""Plots, and the tables below them, hold the numbers that were given; no text gets out of a figure."""

import hashlib
import itertools
import json
import re
import xml.etree.ElementTree as ElementTree

import pytest

from tracestill.launch.report.document import contents, digest, document
from tracestill.launch.report.page import data
from tracestill.launch.report.plots.bars import intervals, stacked
from tracestill.launch.report.plots.library import FOLDER, listed, plot_scripts
from tracestill.launch.report.plots.lines import lines
from tracestill.launch.report.plots.points import heat, scatter
from tracestill.launch.report.report import thin

EVIL = "</script><img src=x onerror=alert(1)>"


def data_of(figure):
    return json.loads(re.search(r'<script type="application/json">(.*?)</script>', figure, re.S)[1])


def table_of(figure):
    cells = [[cell.text or "" for cell in row] for row in ElementTree.fromstring(figure).iter("tr")]
    return cells[0], cells[1:]


def test_the_library_is_what_its_list_says():
    assert {file["file"] for file in listed()} == {path.name for path in FOLDER.glob("*.js")}
    for file in listed():
        code = (FOLDER / file["file"]).read_bytes()
        assert hashlib.sha256(code).hexdigest() == file["sha256"], (
            "another version needs another digest in library.json"
        )
        assert f"-{file['version']}.tgz" in file["from"]
        assert "Redistribution" in (FOLDER / file["licence"]).read_text()
        if file["name"] != "vega-interpreter":
            assert f'"{file["version"]}"' in code.decode()


def test_scripts_can_stand_in_a_page():
    for script in plot_scripts():
        assert not re.search(r"</script|<!--", script, re.I)
        assert "sourceMappingURL" not in script
        assert not re.search(r"^(import|export) ", script, re.M)
    assert sum("Redistribution" in script for script in plot_scripts()) == len(listed())


@pytest.mark.parametrize("figure", [
    lines({EVIL: [(1, 2.0)]}, title=EVIL, x=EVIL, y=EVIL),
    intervals([(EVIL, 0.5, 0.4, 0.6)], title=EVIL, x=EVIL),
    scatter([(EVIL, 9, 0.5, 0.4, 0.6)], title=EVIL, x=EVIL, y=EVIL),
    heat([(EVIL, EVIL, 0.5, 0.1)], title=EVIL, x=EVIL, y=EVIL),
    stacked([(EVIL, [(EVIL, 3.0, "s0")])], title=EVIL, x=EVIL),
])  # fmt: skip
def test_no_text_gets_out_of_a_figure(figure):
    ElementTree.fromstring(f"<div>{figure}</div>")
    assert "<img" not in figure
    assert figure.count("<script") == figure.count("</script") == 1
    assert EVIL in json.dumps(data_of(figure)).replace("\\\\", "")


def test_names_of_points_stand_in_a_legend_where_they_would_lie_on_each_other():
    rows = [("traces_seed-0", 40, 0.5, 0.4, 0.6), ("traces_seed-1", 44, 0.51, 0.4, 0.6)]
    apart = [rows[0], ("answers", 44, 0.1, 0.0, 0.2)]

    def drawn(rows, colours):
        figure = scatter(rows, title="t", x="tokens", y="share", colours=colours)
        marks = [layer["mark"]["type"] for layer in data_of(figure)["spec"]["layer"]]
        return "text" in marks, 'class="legend"' in figure

    assert drawn(apart, ["s0", "s1"]) == (True, False)
    assert drawn(rows, ["s0", "s1"]) == (False, True)
    assert drawn(rows, ["s7", "s7"]) == (True, False), "colours tell nothing"
    assert drawn([("a", 0, 0, 0, 0), ("b", 0, 0, 0, 0)], ["s0", "s1"]) == (False, True)


def test_a_curve_keeps_its_points_and_its_colour():
    figure = lines({"a": [], "b": [(1, 0.5), (2, 0.25, 0.2, 0.3)]}, {"b": [(2, 0.125)]}, title="t", x="step", log=False)
    found = data_of(figure)
    assert found["names"]["s"] == ["a", "b"]
    assert found["columns"] == {
        "s": [1, 1, 1], "x": [1, 2, 2], "y": [0.5, 0.25, 0.125], "d": [0, 0, 1],
        "low": [None, 0.2, None], "high": [None, 0.3, None],
    }  # fmt: skip
    palette = found["spec"]["layer"][-1]["encoding"]["color"]["scale"]
    assert palette == {"domain": ["a", "b"], "range": ["var(--s0)", "var(--s1)"]}
    heads, rows = table_of(figure)
    assert heads == ["step", "b", "b, dashed"]
    assert rows == [["1", "0.5", ""], ["2", "0.25 (0.2 to 0.3)", "0.125"]]


@pytest.mark.parametrize(("values", "kept"), [([0.0, 0.0], 0), ([1.0, 0.0, -1.0, 0.5], 2), ([float("nan"), 3.0], 1)])
def test_what_a_logarithm_cannot_show_is_left_out(values, kept):
    figure = lines({"a": list(enumerate(values))}, title="t")
    assert (len(data_of(figure)["columns"]["y"]) if figure else 0) == kept


def test_unknown_and_endless_values_are_left_out():
    figure = lines({"a": [(1, None), (2, float("inf")), (3, 1.0)]}, title="t", log=False)
    assert data_of(figure)["columns"]["x"] == [3]
    assert lines({"a": []}, title="t") == ""


def test_the_table_of_a_long_curve_has_its_ends_in_a_few_rows():
    _, rows = table_of(lines({"a": [(at, 1.0 + at) for at in range(1, 401)]}, title="t"))
    assert len(rows) <= 12
    assert rows[-1] == ["400", "401"]


def test_a_reliability_plot_has_its_diagonal_and_all_its_points():
    figure = lines({"a": [(at / 40, 0.5) for at in range(40)]}, title="t", log=False, percent=True, square=True)
    assert data_of(figure)["spec"]["layer"][0]["data"]["values"] == [{"x": 0, "y": 0}, {"x": 1, "y": 1}]
    assert len(table_of(figure)[1]) == 40


def test_stacked_bars_are_to_scale_and_alike_names_stay_apart():
    html = stacked([("r", [("x", 30.0, "s0"), ("y", 10.0, "s1")]), ("r", [("x", 20.0, "s0"), ("y", 0.0, "s1")])],
                   title="t", x="records")  # fmt: skip
    found = data_of(html)
    assert found["columns"] == {
        "name": [0, 0, 1], "part": [0, 1, 0], "from": [0, 30, 0], "to": [30, 40, 20], "amount": [30, 10, 20]
    }  # fmt: skip
    assert found["names"] == {"name": ["r", "r (2)"], "part": ["x", "y"]}
    assert html.count('class="key"') == 2
    assert stacked([], title="t", x="x") == ""


def test_a_map_tells_a_difference_only_where_one_was_compared():
    figure = heat([("plain", "sums", 0.5, None), ("terse", "sums", 0.25, -0.3)], title="t", x="task", y="form")
    assert table_of(figure)[1] == [["plain", "sums", "50.0%", ""], ["terse", "sums", "25.0%", "-30.0 points"]]
    columns = data_of(figure)["columns"]
    assert columns["told"] == ["50.0% right", "25.0% right, -30.0 points"]
    assert columns["strength"] == [0, 0.85]
    assert columns["sign"][1] == "lost"


def test_reasons_of_two_selections_have_a_colour_each():
    rejected = [{"false_equation": 1, "wrong_answer": 2}, {"overlong": 3, "wrong_answer": 4}]
    chosen = [{"in": 9, "out": 2, "rejected": one} for one in rejected]
    found = {
        "sample": None,
        "kinds": [],
        "arms": {str(at): {"selection": one, "data": None} for at, one in enumerate(chosen)},
    }
    shown = re.findall(r'<i class="(s\d)"></i>([^<]+)', data(found))
    assert [part for _, part in shown] == ["kept", "false equation", "wrong answer", "overlong"]
    assert len({colour for colour, _ in shown}) == 4


def test_a_page_without_a_plot_carries_no_library():
    assert "vega" not in document("t", "<h1>t</h1>", "<p>nothing</p>")
    twice = document("t", "<h1>t</h1>", lines({"a": [(1, 1.0)]}, title="t") * 2)
    assert twice.count("/*! vega 6") == 1


def test_the_policy_names_every_script_and_no_other():
    page = document("t", "<h1>t</h1>", lines({"a": [(1, 1.0)]}, title="t"), scripts=["let own = 1;"])
    policy = re.search(r'content="(default-src .*?)"', page)[1]
    scripts = re.findall(r"<script>(.*?)</script>", page, re.S)
    assert re.findall(r"'sha256-\S+'", policy) == [digest(script) for script in scripts]
    assert scripts[-1] == "let own = 1;"
    assert "unsafe-eval" not in policy
    assert "'unsafe-inline'" not in policy.partition("style-src")[0]


def test_contents_name_the_headings():
    listed_, body = contents("<h2>One &amp; two</h2><p></p><h2>b</h2><h2>c</h2>")
    assert '<a href="#part-1">One &amp; two</a>' in listed_
    assert '<h2 id="part-3">c</h2>' in body
    assert contents("<h2>a</h2>")[0] == ""


@pytest.mark.parametrize(("count", "limit"), [(0, 4), (1, 4), (4, 4), (5, 4), (101, 10), (1001, 400)])
def test_a_thinned_curve_keeps_its_last_point(count, limit):
    found = thin(list(range(count)), limit)
    assert len(found) <= limit
    assert found[-1:] == list(range(count))[-1:]
    assert len({b - a for a, b in itertools.pairwise(found)}) <= 1
