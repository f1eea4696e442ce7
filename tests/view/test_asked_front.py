"""A front that one can ask: it holds the parts and the timeline of every point, and shows those of one."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from pplib.analysis.estimated.point_estimates import point_estimates
from pplib.analysis.estimated.uncertainty import front_probability, with_fronts
from pplib.analysis.repeats import point_name
from pplib.analysis.statistics import representative_trials
from pplib.columns import OBJECTIVES
from pplib.errors import FrameError
from pplib.view.asked_front import asked_front_chart
from pplib.view.display import draw


@pytest.fixture(scope="module")
def measured(summary):
    probability = front_probability(summary, OBJECTIVES)
    points = with_fronts(point_estimates(summary), probability)
    return points, OBJECTIVES, probability, representative_trials(summary)


def rows_with(spec, *names):
    return [row for rows in spec["datasets"].values() for row in rows if set(names) <= set(row)]


def chosen_point(spec):
    (one,) = [param for param in spec["params"] if param["name"] == "asked"]
    return one["value"][0]["point_id"]


def test_the_point_that_is_shown_first_is_on_the_front_and_its_parts_add_up(measured, make_timeline):
    points, _, _, trials = measured
    timelines = {point_name(row): make_timeline() for row in trials.to_dict("records")}
    spec = asked_front_chart(*measured, timelines).to_dict()
    first = chosen_point(spec)
    assert points["on_front"].iloc[first]
    assert points["throughput_img_s"].iloc[first] == points.loc[points["on_front"], "throughput_img_s"].max()
    row = trials[[point_name(one) == point_name(points.iloc[first]) for one in trials.to_dict("records")]]
    (parts,) = [one for one in rows_with(spec, "part") if one["point_id"] == first]
    assert sum(parts["time"]) == pytest.approx(row["latency_mean_s"].item() * 1e3, abs=0.01)
    assert parts["start"][1:] == pytest.approx(np.cumsum(parts["time"])[:-1], abs=0.01)
    drawn = draw(asked_front_chart(*measured, timelines)).svg
    assert f">{points['partition_label'].iloc[first]} " in drawn
    assert "stage 1" in drawn and ">transfer<" in drawn


def test_one_selection_is_of_all_panels_and_every_mark_can_be_chosen(make_summary, make_timeline):
    summary = make_summary(models=("mobilenet_v2", "alexnet"), links=("none", "wifi"), depths=(2,), repeats=1)
    probability = front_probability(summary, OBJECTIVES)
    points, trials = with_fronts(point_estimates(summary), probability), representative_trials(summary)
    spec = asked_front_chart(points, OBJECTIVES, probability, trials, {}).to_dict()
    assert len(spec["vconcat"][0]["concat"]) == 4
    (asked,) = spec["params"]
    clicked = {view["name"] for panel in spec["vconcat"][0]["concat"] for view in panel["layer"] if "name" in view}
    assert len(clicked) == 4 and clicked <= set(asked["views"])
    marks = {row["point_id"] for row in rows_with(spec, "point_id", "place")}
    assert marks == {row["point_id"] for row in rows_with(spec, "point_id", "part")}
    assert len(marks) == len(trials)


def test_a_timeline_in_a_chart_is_the_trials_own_from_its_first_event_on(measured, make_timeline):
    points, _, _, trials = measured
    names = [point_name(row) for row in trials.to_dict("records")]
    slow = make_timeline(20, stages=(90, 45))
    spec = asked_front_chart(*measured, {names[0]: slow, names[1]: make_timeline(4)}).to_dict()
    ids = {point_name(row): i for i, row in enumerate(points.to_dict("records"))}
    lanes = rows_with(spec, "lane", "start")
    assert {row["point_id"] for row in lanes} == {ids[names[0]], ids[names[1]]}
    (stage,) = [
        one for one in lanes if (one["point_id"], one["lane"], one["event"]) == (ids[names[0]], "stage 0", "compute")
    ]
    expected = slow.query("lane == 'stage 0' and event == 'compute' and microbatch < 12").sort_values("microbatch")
    assert stage["microbatch"] == list(range(12))
    assert stage["start"] == pytest.approx(expected["start_s"] * 1e3, abs=1e-3)
    assert stage["duration"] == pytest.approx((expected["end_s"] - expected["start_s"]) * 1e3, abs=1e-3)
    words = {row["point_id"]: row["words"] for row in rows_with(spec, "words")}
    assert "the first 12 of 20 microbatches." in words[ids[names[0]]]
    assert "all 4 microbatches." in words[ids[names[1]]]
    assert "its timeline is not here." in words[ids[names[2]]]


def test_without_any_timeline_the_parts_are_shown_alone(measured):
    spec = asked_front_chart(*measured, {point_name(measured[3].iloc[0]): pd.DataFrame([])}).to_dict()
    assert rows_with(spec, "part") and not rows_with(spec, "lane")
    assert len(spec["vconcat"][2]["hconcat"]) == 1


def test_a_front_of_which_no_trial_tells_its_parts_is_refused(measured):
    points, _, _, trials = measured
    with pytest.raises(FrameError, match="expected one of a point on the front"):
        asked_front_chart(*measured[:3], trials.iloc[:0], {})
    with pytest.raises(FrameError, match="on_front"):
        asked_front_chart(points.drop(columns="on_front"), *measured[1:], {})
    unmeasured = trials.drop(columns=[name for name in trials if str(name).startswith(("stage", "hop"))])
    with pytest.raises(FrameError, match="nothing to draw"):
        asked_front_chart(*measured[:3], unmeasured, {})


def test_the_way_back_comes_after_the_latency(measured):
    trials = measured[3].assign(return_transfer_s=0.002)
    spec = asked_front_chart(*measured[:3], trials, {}).to_dict()
    parts = rows_with(spec, "part")
    assert len(parts) == len(trials) and {row["part"][-1] for row in parts} == {"return"}
    assert {row["time"][-1] for row in parts} == {2.0}
    latency = np.sort(trials["latency_mean_s"] * 1e3)
    assert np.sort([row["start"][-1] for row in parts]) == pytest.approx(latency, abs=0.01)
