"""Charts as SVG: round ticks, gaps where a value is no number, names escaped."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from provision.launch.plot import bar_chart, label, line_chart, lines_chart, thinned, ticks


@pytest.mark.parametrize(
    ("low", "high", "first", "last", "step"),
    [(0, 10, 0, 10, 2), (2.31, 2.94, 2.2, 3.0, 0.2), (0, 3e-5, 0, 3e-5, 1e-5), (5, 5, 5, 6, 1)],
)
def test_ticks_are_round_and_span_the_values(low, high, first, last, step):
    found = ticks(low, high)
    assert found[0] == pytest.approx(first)
    assert found[-1] == pytest.approx(last)
    assert found[1] - found[0] == pytest.approx(step)


def test_labels():
    assert [label(n) for n in (0, 0.002, 1500, 2e6, 3e-5)] == ["0", "0.002", "1.5k", "2M", "3e-05"]


def test_a_line_with_a_gap():
    svg = line_chart("loss <of> it", [(1, 2.0), (2, 1.5), (3, None), (4, 1.0), (5, 0.5)])
    figure = ET.fromstring(svg)  # well-formed
    assert svg.count("<polyline") == 2
    assert svg.count('class="bad"') == 1
    assert figure.findtext("figcaption") == "loss <of> it, last 0.5"


def test_one_point_and_none():
    assert '<circle class="p"' in line_chart("x", [(3, 1.0)])
    assert line_chart("x", [(1, None)]) == ""
    assert bar_chart("x", []) == ""


def test_bars():
    svg = bar_chart("memory", [("rank <0>", 2.0), ("rank 1", 1.0)], " GB")
    ET.fromstring(svg)
    assert "rank &lt;0&gt;" in svg
    assert svg.count("<rect") == 2


def test_a_long_run_is_thinned_to_what_a_screen_shows():
    points = [(float(i), float(i)) for i in range(100_000)]
    few = thinned(points)
    assert len(few) <= 1202
    assert (few[0], few[-1]) == (points[0], points[-1])


def test_of_several_lines_the_highest_stands_out_and_is_named():
    lines = {"rank 0": [(1, 1.0), (2, 9.0), (3, 1.0)], "rank 1": [(1, 2.0), (2, 2.0), (3, 2.5)]}
    svg = lines_chart("pass", lines, " s")
    assert "<figcaption>pass, rank 1 the highest, last 2.5 s</figcaption>" in svg
    assert svg.count('class="l"') == svg.count('class="o"') == 1
    assert lines_chart("pass", {}) == lines_chart("pass", {"rank 0": [(1, None)]}) == ""
