"""Pictures of uncertainty and of regret: valid, with the fields they encode, and saying what the frames say."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from pplib.analysis.attainment import attainment
from pplib.analysis.estimated.point_estimates import point_estimates
from pplib.analysis.estimated.uncertainty import front_probability
from pplib.analysis.robust import minimax_regret
from pplib.analysis.statistics import fronts, point_table
from pplib.columns import direction, quantity
from pplib.errors import FrameError
from pplib.view import charts
from pplib.view.display import png_bytes

OBJECTIVES = {"latency_s": "min", "throughput_img_s": "max"}


def rows_of(spec):
    return [row for rows in spec["datasets"].values() for row in rows]


def layers_of(node, inherited=None):
    """Every layer that draws a mark, with the name of its data."""
    data = node.get("data", {}).get("name", inherited)
    if "mark" in node:
        yield node, data
    for group in ("layer", "hconcat", "vconcat", "concat"):
        for child in node.get(group, []):
            yield from layers_of(child, data)


def fields_of(encoding):
    return [one["field"] for channel in encoding.values() for one in np.atleast_1d(channel) if "field" in one]


def check(chart):
    spec = chart.to_dict()
    drawn = list(layers_of(spec))
    assert drawn
    for layer, data in drawn:
        rows = spec["datasets"][data]
        assert rows
        for field in fields_of(layer.get("encoding", {})):
            assert all(field in row for row in rows), f"{field} is not in the data"
    assert png_bytes(chart, ppi=40).startswith(b"\x89PNG")
    return spec


@pytest.fixture
def points(summary):
    return point_table(summary)


@pytest.fixture
def probability(summary):
    return front_probability(summary, OBJECTIVES, resamples=50)


def test_only_points_on_the_front_carry_range_bars(points):
    spec = charts.front_chart(points).to_dict()
    rules = [layer for layer, _ in layers_of(spec) if layer["mark"]["type"] == "rule"]
    assert len(rules) == 2
    assert all({"filter": "datum.on_front"} in layer["transform"] for layer in rules)


def test_bars_are_intervals_where_they_are_known_and_else_the_range_of_repeats(summary, points):
    known = point_estimates(summary, resamples=50)
    for table, low, high in ((points, "min", "max"), (known, "low", "high")):
        rows = [row for row in rows_of(charts.front_chart(table).to_dict()) if "x_min" in row]
        drawn = sorted((row["y_min"], row["y_max"]) for row in rows)
        column = table[table["throughput_img_s"].notna()]
        expected = sorted(zip(column[f"throughput_img_s_{low}"], column[f"throughput_img_s_{high}"], strict=True))
        assert np.allclose(drawn, expected)


def test_marks_show_the_probability_and_the_tooltip_says_it(points, probability):
    for draw in (charts.front_chart, charts.front_per_configuration_chart):
        spec = check(draw(points, probability=probability))
        marks = [layer for layer, _ in layers_of(spec) if layer["mark"]["type"] == "point"]
        assert all(layer["encoding"]["size"]["field"] == "probability" for layer in marks)
        assert all(layer["encoding"]["opacity"]["field"] == "probability" for layer in marks)
        assert "on the front in" in [one["title"] for one in marks[0]["encoding"]["tooltip"]]
    drawn = [row for row in rows_of(spec) if "probability" in row]
    assert len(drawn) == 4 * 20
    assert sum(row["probability"] for row in drawn) == pytest.approx(probability["front_probability"].sum())


def test_probabilities_find_their_points_whatever_the_types_of_the_columns(points, probability):
    odd = probability.assign(in_flight=probability["in_flight"].astype(float), dataset=None)
    spec = charts.front_chart(points.assign(dataset=np.nan), probability=odd).to_dict()
    found = {
        (row["series"], row["partition_label"]): row["probability"] for row in rows_of(spec) if "probability" in row
    }
    row = probability[probability["on_front"]].iloc[-1]
    assert found[f"{row['backend']}, in flight {row['in_flight']}", row["partition_label"]] == row["front_probability"]


def test_without_probabilities_nothing_is_said_about_them(points):
    assert "probability" not in json.dumps(charts.front_chart(points).to_dict())


def test_unknown_probabilities_are_said_to_be_unknown_and_known_ones_stay(points, probability):
    unknown = probability["backend"] == "rpc"
    some = probability.assign(front_probability=probability["front_probability"].mask(unknown))
    spec = check(charts.front_chart(points, probability=some))
    drawn = [row for row in rows_of(spec) if "chance" in row]
    assert {row["chance"] for row in drawn if row["series"].startswith("rpc")} == {"unknown: one repeat"}
    assert all(row["chance"].endswith("%") for row in drawn if row["series"].startswith("socket"))
    none = probability.assign(front_probability=np.nan)
    assert "probability" not in json.dumps(charts.front_chart(points, probability=none).to_dict())


def test_probabilities_of_other_points_are_refused(points, probability):
    with pytest.raises(FrameError, match=r"nothing about .*\|P0: compute them"):
        charts.front_chart(points, probability=probability[probability["partition_point"] > 0])
    with pytest.raises(FrameError, match="no column 'front_probability'"):
        charts.front_chart(points, probability=fronts(points, OBJECTIVES))


def test_the_surfaces_of_every_configuration_are_drawn_from_best_to_worst(summary):
    attained = attainment(summary, OBJECTIVES)
    spec = check(charts.attainment_chart(attained))
    assert len(spec["concat"]) == 4
    corners = [row for row in rows_of(spec) if "surface" in row]
    assert len(corners) == len(attained)
    assert {row["surface"] for row in corners} == {"1 of 3 repeats", "2 of 3 repeats", "3 of 3 repeats"}
    for row in [row for row in rows_of(spec) if "y2" in row]:
        assert row["y"] >= row["y2"]
    assert "latency (ms)" in json.dumps(spec)


def test_surfaces_that_are_to_be_small_on_both_axes_turn_their_stairs(summary):
    both = {"latency_s": "min", "payload_bytes": "min"}
    spec = check(charts.attainment_chart(attainment(summary, both), both))
    for row in [row for row in rows_of(spec) if "y2" in row]:
        assert row["y"] <= row["y2"]
    turned = {"throughput_img_s": "max", "latency_s": "min"}
    spec = check(charts.attainment_chart(attainment(summary, turned), turned))
    for row in [row for row in rows_of(spec) if "y2" in row]:
        assert row["y"] <= row["y2"]
    assert '"step-before"' in json.dumps(spec)


def test_a_single_repeat_has_one_surface_and_no_shade(summary):
    spec = check(charts.attainment_chart(attainment(summary[summary["repeat"] == 1], OBJECTIVES)))
    assert {row["surface"] for row in rows_of(spec) if "surface" in row} == {"1 of 1 repeat"}
    assert "area" not in {layer["mark"]["type"] for layer, _ in layers_of(spec)}


def test_configurations_with_different_numbers_of_repeats_have_a_legend_each(summary):
    fewer = summary[(summary["backend"] == "socket") | (summary["repeat"] < 2)]
    spec = check(charts.attainment_chart(attainment(fewer, OBJECTIVES)))
    assert spec["resolve"]["scale"]["shape"] == "independent"


def test_the_regret_chart_frames_the_minimax_point_and_writes_every_number(make_summary):
    points = point_table(make_summary(links=("none", "wifi"), depths=(2,)))
    spec = check(charts.regret_chart(points))
    assert len(spec["vconcat"]) == 2
    rows = rows_of(spec)
    cells = [row for row in rows if "words" in row]
    assert len(cells) == 2 * 3 * 20
    assert {row["link"] for row in cells} == {"none", "wifi", "worst of them"}
    choice = minimax_regret(points, {"latency_s": "min"})
    # Equal data are stored once: two maps may share a frame.
    framed = {row["partition_label"] for row in rows if "words" not in row}
    assert framed == set(choice[choice["minimax"]]["partition_label"])
    worst = sorted(row["percent"] for row in cells if row["link"] == "worst of them")
    assert worst == pytest.approx(sorted(choice["worst_regret"] * 100))
    assert "minimax point: " + min(framed) in json.dumps(spec)
    orders = [layer["encoding"]["x"]["sort"] for layer, _ in layers_of(spec)]
    assert all(order == [f"P{p}" for p in range(20)] for order in orders)


def test_points_missing_on_a_link_are_grey_and_never_framed(make_summary):
    points = point_table(make_summary(links=("none", "wifi"), depths=(2,), repeats=2))
    gone = points[(points["link"] == "none") | (points["partition_point"] % 2 == 0)]
    rows = rows_of(check(charts.regret_chart(gone, {"throughput_img_s": "max"})))
    missing = [row for row in rows if row.get("words") == "-"]
    assert {row["link"] for row in missing} == {"wifi", "worst of them"}
    assert all(int(row["partition_label"][1:]) % 2 == 0 for row in rows if "words" not in row)
    one = rows_of(check(charts.regret_chart(points[points["link"] == "none"])))
    assert {row["link"] for row in one if "words" in row} == {"none"}


def test_frames_that_hold_nothing_to_draw_are_refused(points, summary):
    with pytest.raises(FrameError, match="nothing to draw"):
        charts.attainment_chart(attainment(summary, OBJECTIVES).iloc[:0])
    with pytest.raises(FrameError, match="two columns"):
        charts.attainment_chart(attainment(summary, OBJECTIVES), ["latency_s"])
    with pytest.raises(FrameError, match="nothing to draw"):
        charts.regret_chart(points.assign(latency_s=np.nan))
    with pytest.raises(FrameError, match="no column 'level'"):
        charts.attainment_chart(points)


def test_shares_are_read_as_percentages_and_more_probability_is_better():
    assert quantity("regret").shown(pd.Series([0.25])).tolist() == [25.0]
    assert quantity("front_probability").title == "on the front in (%)"
    assert direction("front_probability") == "max"
    assert direction("regret") == "min"


def test_several_objectives_are_drawn_in_pairs_and_side_by_side_with_one_selection(summary):
    three = {**OBJECTIVES, "payload_bytes": "min"}
    trials = summary.assign(payload_bytes=summary["partition_point"].astype(float) * 1000)
    probability = front_probability(trials, three, resamples=50)
    points = point_estimates(trials, resamples=50, columns=three)
    spec = charts.objectives_chart(points, three, probability).to_dict()
    assert json.dumps(spec).count('"mark"') >= 3 + 4, "three pairs, and rules, lines and two ends of words"
    assert charts.objectives_chart(points, {"latency_s": "min"}, probability) is None
    with pytest.raises(FrameError, match="three columns or more"):
        charts.several_objectives_chart(points, OBJECTIVES, probability)
