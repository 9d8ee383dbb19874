"""The report as a PDF: what nobody has scrolled to is drawn before it is printed."""

from __future__ import annotations

import re
import zlib

import pytest
from browser import opened

from tracestill.launch.report.document import document
from tracestill.launch.report.plots.bars import stacked
from tracestill.launch.report.plots.lines import lines

FILL = re.compile(rb"([\d.]+) ([\d.]+) ([\d.]+) (?:rg|RG|scn|SCN)\b")
COLOURS = {"s0": "1f6fb4", "s1": "d9701a", "s3": "9152a8"}  # as the page has them in light


def colours_of(pdf: bytes) -> set[str]:
    """Every colour that a PDF fills or strokes with."""
    found = set()
    for held in re.findall(rb"stream\r?\n(.*?)endstream", pdf, re.S):
        try:
            text = zlib.decompressobj().decompress(held)
        except zlib.error:  # a font, or no compression
            text = held
        found |= {"".join(f"{round(255 * float(part)):02x}" for part in parts) for parts in FILL.findall(text)}
    return found


@pytest.mark.parametrize("dark", [False, True])
def test_plots_below_the_window_are_printed_in_their_colours(tmp_path, dark):
    far = '<div style="height:9000px"></div>'
    bars = stacked([("row", [("x", 30.0, "s1"), ("y", 10.0, "s3")])], title="bars", x="records")
    curve = lines({"a": [(1, 2.0), (2, 1.0)]}, title="curve")
    path = tmp_path / "page.html"
    path.write_text(document("t", "<h1>t</h1>", f"<p>{far}</p>{bars}{curve}"), encoding="utf-8")
    with opened(path, dark=dark) as tab:
        assert tab.page.locator("figure.drawn svg").count() == 0
        printed = colours_of(tab.page.pdf(print_background=True))
        assert set(COLOURS.values()) <= printed
        assert tab.page.locator("figure.drawn svg").count() == 2
        tab.page.evaluate("document.querySelectorAll('.plot').forEach(plot => plot.replaceChildren())")
        emptied = colours_of(tab.page.pdf(print_background=True))
        assert COLOURS["s0"] not in emptied, "a curve's colour is the plot's alone"
        assert tab.errors == []
