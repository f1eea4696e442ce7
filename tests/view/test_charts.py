"""Every chart validates, encodes only fields its data has, and puts categories in the model's order."""

from __future__ import annotations

import json
from typing import get_args

import numpy as np
import pandas as pd
import pytest

from pplib.analysis.estimated.uncertainty import front_probability
from pplib.analysis.statistics import point_table, representative_trials
from pplib.columns import OBJECTIVES
from pplib.config import Backend
from pplib.errors import FrameError
from pplib.planner.split_prediction import predict_points
from pplib.view import charts
from pplib.view.charts.decomposition import latency_parts
from pplib.view.charts.front import _shapes
from pplib.view.layout.series import palette, with_series

BACKENDS = get_args(Backend)


def views(node, inherited=None):
    """Every (encoding, name of its data) in a specification."""
    data = node.get("data", {}).get("name", inherited)
    if "encoding" in node:
        yield node["encoding"], data
    for group in ("layer", "hconcat", "vconcat", "concat"):
        for child in node.get(group, []):
            yield from views(child, data)


def fields(encoding):
    for channel in encoding.values():
        for one in channel if isinstance(channel, list) else [channel]:
            if "field" in one:
                yield one["field"]


def rows_of(spec):
    return [row for rows in spec["datasets"].values() for row in rows]


def check(chart):
    spec = chart.to_dict()
    seen = 0
    for encoding, data in views(spec):
        rows = spec["datasets"][data]
        assert rows
        for field in fields(encoding):
            assert all(field in row for row in rows), f"{field} is not in the data"
            seen += 1
    assert seen
    assert "http" not in json.dumps({key: value for key, value in spec.items() if key != "$schema"})
    return spec


@pytest.fixture
def points(summary):
    return point_table(summary)


@pytest.fixture
def predicted(profile):
    return predict_points(profile, rate_bit_s=1e9, in_flight=2, batch_size=8, input_bytes=4_816_896)


def test_every_chart_encodes_only_fields_that_its_data_has(summary, profile, timeline, points, predicted):
    check(charts.front_chart(points))
    check(charts.front_per_configuration_chart(points))
    check(charts.backend_chart(points))
    check(charts.decomposition_chart(representative_trials(summary)))
    check(charts.gantt_chart(timeline))
    check(charts.profile_chart(profile))
    check(charts.split_chart(predicted, 7))
    one = points[(points["backend"] == "socket") & (points["in_flight"] == 2)]
    check(charts.split_chart(predicted, 0, measured=one))


def test_fronts_over_each_other_want_two_runs_that_share_a_configuration(summary, points):
    probability = front_probability(summary, OBJECTIVES)
    with pytest.raises(FrameError, match=r"needs two, got \['one'\]"):
        charts.fronts_by_run_chart({"one": (points, probability)}, points.iloc[:0])
    other = summary.assign(batch_size=16)
    runs = {"one": (points, probability), "other": (point_table(other), front_probability(other, OBJECTIVES))}
    with pytest.raises(FrameError, match="one and other: nothing to draw: no configuration"):
        charts.fronts_by_run_chart(runs, points.iloc[:0])
    spec = check(charts.fronts_by_run_chart({**runs, "other": (points, probability)}, points.iloc[:3]))
    assert sum(row.get("ringed", False) for row in rows_of(spec)) == 2 * 3


def test_three_stages_and_several_panels_draw_too(summary_of_three_stages, make_summary):
    check(charts.front_chart(point_table(summary_of_three_stages)))
    check(charts.backend_chart(point_table(summary_of_three_stages)))
    spec = check(charts.decomposition_chart(representative_trials(summary_of_three_stages)))
    assert "hop 1 transfer" in {row["part"] for row in rows_of(spec)}
    many = point_table(make_summary(models=("mobilenet_v2", "alexnet"), links=("none", "wifi"), repeats=1))
    spec = check(charts.front_chart(many))
    assert len(spec["concat"]) == 4
    check(charts.backend_chart(many))
    assert len(check(charts.fronts_by_link_chart(many))["concat"]) == 4


def test_the_front_is_named_and_shown_in_ms(points):
    rows = rows_of(charts.front_chart(points).to_dict())
    drawn = [row for row in rows if "place" in row]
    assert len(drawn) == 4 * 20
    assert min(row["x"] for row in drawn) == pytest.approx(points["latency_s"].min() * 1e3)
    names = {row["partition_label"] for row in rows if "place" not in row}
    assert names == {row["partition_label"] for row in drawn if row["on_front"]}


def test_every_backend_has_a_hue_and_a_shape_of_its_own_and_sockets_come_first(make_summary):
    rows = make_summary(repeats=1)
    both = [
        rows[rows["backend"] != "rpc"],
        *(rows[rows["backend"] == "rpc"].assign(backend=one) for one in BACKENDS[1:]),
    ]
    points = point_table(pd.concat(both, ignore_index=True))
    for chart in (charts.front_chart(points, OBJECTIVES), charts.backend_chart(points)):
        assert {row["series"].partition(",")[0] for row in rows_of(check(chart)) if "series" in row} == set(BACKENDS)
    series, colours = palette(with_series(points))
    assert [one.partition(",")[0] for one in series[:2]] == ["socket", "socket"]
    assert len(set(colours)) == len(series) == 2 * len(BACKENDS)
    shapes = _shapes(series, None, None).to_dict()["scale"]["range"]
    assert len(set(shapes)) == len(BACKENDS)


def test_small_multiples_name_every_point_of_every_configuration(points):
    spec = charts.front_per_configuration_chart(points).to_dict()
    assert len(spec["concat"]) == 4
    names = [row for row in rows_of(spec) if "place" not in row]
    assert len(names) == 4 * 20


def test_points_that_were_never_measured_are_left_out_of_the_pictures(points):
    points.loc[points["partition_point"] == 3, ["latency_s", "throughput_img_s"]] = np.nan
    for chart in (charts.front_chart(points), charts.backend_chart(points)):
        assert "P3" not in {row.get("partition_label") for row in rows_of(chart.to_dict())}


def test_other_objectives_bring_their_own_units_and_directions(points):
    chart = charts.front_chart(points, {"payload_bytes": "min", "efficiency": "max"})
    text = json.dumps(check(chart))
    assert "payload (MB)" in text
    assert '"efficiency"' in text


def test_partition_points_stand_in_the_models_order(points):
    spec = charts.backend_chart(points).to_dict()
    orders = [encoding["x"]["sort"] for encoding, _ in views(spec) if "sort" in encoding.get("x", {})]
    assert orders
    assert all(order == [f"P{p}" for p in range(20)] for order in orders)


def test_the_parts_drawn_add_up_to_the_mean_latency(summary):
    trials = representative_trials(summary)
    rows = rows_of(charts.decomposition_chart(trials).to_dict())
    for series in {row["series"] for row in rows}:
        total = sum(row["time"] for row in rows if row["series"] == series and row["partition_label"] == "P7")
        backend, depth = series.split(", in flight ")
        chosen = (trials["backend"] == backend) & (trials["in_flight"] == int(depth)) & (trials["partition_point"] == 7)
        assert total == pytest.approx(trials[chosen]["latency_mean_s"].item() * 1e3)


def test_parts_are_in_the_order_a_microbatch_meets_them():
    columns = ["hop0_queue_s", "stage1_queue_s", "stage1_compute_s", "stage0_compute_s", "hop0_transfer_s", "queue_s"]
    assert list(latency_parts(columns)) == [
        "stage0_compute_s",
        "hop0_queue_s",
        "hop0_transfer_s",
        "stage1_queue_s",
        "stage1_compute_s",
    ]


def test_the_gantt_chart_keeps_lanes_in_pipeline_order_and_limits_what_it_shows(make_timeline):
    spec = charts.gantt_chart(make_timeline(20, 3, (30, 50, 20))).to_dict()
    lanes = next(encoding["y"]["sort"] for encoding, _ in views(spec) if "y" in encoding)
    assert lanes == ["stage 0", "hop 0", "stage 1", "hop 1", "stage 2"]
    assert {row["microbatch"] for row in rows_of(spec)} == set(range(12))
    whole = charts.gantt_chart(make_timeline(20), first=None).to_dict()
    assert {row["microbatch"] for row in rows_of(whole)} == set(range(20))


def test_frames_that_hold_nothing_to_draw_are_refused(points, profile, timeline, predicted, summary):
    unmeasured = points.assign(latency_s=np.nan)
    for draw in (charts.front_chart, charts.front_per_configuration_chart, charts.backend_chart):
        with pytest.raises(FrameError, match="nothing to draw"):
            draw(unmeasured)
    with pytest.raises(FrameError, match="two columns"):
        charts.front_chart(points, ("latency_s",))
    with pytest.raises(FrameError, match="nothing to draw"):
        charts.gantt_chart(timeline.iloc[:0])
    with pytest.raises(FrameError, match="nothing to draw"):
        charts.profile_chart(profile.iloc[:0])
    with pytest.raises(FrameError, match="nothing to draw"):
        charts.decomposition_chart(summary[["model", "latency_s"]])
    with pytest.raises(FrameError, match=r"point 20: expected one of 0\.\.19"):
        charts.split_chart(predicted, 20)


def test_every_one_of_many_series_has_a_colour_of_its_own(make_summary):
    summary = make_summary(depths=(2,), repeats=1)
    one = summary[summary["backend"] == "socket"]
    many = pd.concat([one.assign(runtime=f"r{i}") for i in range(14)], ignore_index=True)
    names, colours = palette(with_series(many))
    assert len(set(names)) == len(set(colours)) == 14
