"""Moving a control changes what is shown; no browser is needed to see that."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from pplib.errors import FrameError, WorkerError
from pplib.view.planned.phases_chart import predicted_phases_chart
from pplib.view.planned.plan_explorer import PlanExplorer
from pplib.view.widgets import split_html, split_slider
from tests.planner.test_prediction import CUTS, pipeline


@pytest.fixture
def slider(profile):
    return split_slider(profile, batch_size=8, input_bytes=4_816_896, point=7, rate_bit_s=1e9, in_flight=1)


def test_the_slider_offers_every_point_with_its_module(slider):
    labels = [label for label, _ in slider.point.options]
    assert labels[0] == "P0 input"
    assert labels[7] == "P7 features.6"
    assert labels[-1] == "P19 output"


def test_moving_the_point_changes_table_and_picture(slider):
    table, picture = slider.table.value, bytes(slider.picture.value)
    assert "units 1 to 7" in table
    assert "output of features.6" in table
    assert bytes(picture).startswith(b"\x89PNG")
    slider.point.value = 0
    assert "nothing" in slider.table.value
    assert "the input images, 4.817 MB" in slider.table.value
    assert bytes(slider.picture.value) != picture


@pytest.mark.parametrize(
    ("control", "value"), [("rate", 5e6), ("delay", 200.0), ("slowdown0", 3.0), ("slowdown1", 3.0), ("in_flight", 4)]
)
def test_every_other_control_changes_the_prediction(slider, control, value):
    before = slider.predicted
    shown = slider.table.value
    getattr(slider, control).value = value
    assert not slider.predicted.equals(before)
    assert slider.table.value != shown


def test_a_rate_of_ones_own_is_among_the_choices(profile):
    slider = split_slider(profile, 8, 4_816_896, rate_bit_s=7e6)
    assert slider.rate.value == 7e6
    assert ("7 Mbit/s", 7e6) in slider.rate.options


def test_it_starts_at_the_highest_predicted_throughput(profile):
    slider = split_slider(profile, 8, 4_816_896, in_flight=2)
    throughput = slider.predicted["predicted_throughput_img_s"]
    assert throughput.iloc[slider.point.value] == pytest.approx(throughput.max())


def test_an_executed_copy_keeps_the_table_and_the_picture(slider):
    bundle = slider._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert "units 1 to 7" in bundle["text/html"]
    assert "data:image/png;base64," in bundle["text/html"]
    assert slider.still().data == bundle["text/html"]


def test_names_are_escaped(profile):
    profile.loc[6, "name"] = "<b>"
    slider = split_slider(profile, 8, 1000, point=7)
    assert "&lt;b&gt;" in split_html(slider.predicted, 7)
    assert "<b>," not in slider.table.value


def test_a_point_that_does_not_exist_is_refused(profile):
    with pytest.raises(FrameError, match=r"point: expected one of 0..19, got 20"):
        split_slider(profile, 8, 1000, point=20)


def explorer(measure=None):
    return PlanExplorer(pipeline(in_flight=2), CUTS, ["edge", "<server>"], measure)


def test_a_plan_follows_its_link_its_depth_and_its_limit():
    one = explorer()
    fast = one.point.value
    assert one.predicted["predicted_throughput_img_s"].argmax() == fast
    assert "&lt;server&gt;" in one.table.value
    before = one.picture.value
    one.latency_limit.value = one.latency_limit.options[0][1]
    assert one.point.value == one.predicted["predicted_latency_s"].argmin(), "no cut is within it"
    one.latency_limit.value = math.inf
    one.rate.value = 1e6
    slow = one.predicted["predicted_latency_s"].copy()
    assert one.predicted["predicted_bottleneck"].iloc[1] == "hop 0"
    one.in_flight.value = 4
    assert not slow.equals(one.predicted["predicted_latency_s"])
    assert one.picture.value != before
    assert one.still().data == one._repr_mimebundle_()["text/html"]


def test_the_button_of_a_plan_measures_the_chosen_cut_and_lays_it_over_the_prediction():
    asked = []

    def measure(points):
        asked.append(points)
        if len(asked) == 2:
            raise WorkerError("b: is <gone>")
        return SimpleNamespace(metrics={"latency_s": 0.25, "throughput_img_s": 40.0})

    one = explorer(measure)
    one.point.value = 3
    before = one.picture.value
    one.button.click()
    assert asked == [(3,)]
    assert one.measured.to_dict("records") == [{"partition_label": "P3", "latency_s": 0.25, "throughput_img_s": 40.0}]
    assert "P3 measured: 250 ms, 40 img/s" in one.said.value
    assert one.picture.value != before
    one.button.click()
    assert "error: b: is &lt;gone&gt;" in one.said.value
    assert not one.button.disabled
    assert len(one.measured) == 1
    one.button.click()
    assert len(one.measured) == 1, "the same cut once"
    none = explorer()
    assert none.button not in none.children


def test_the_predicted_phases_name_the_cut_that_is_best_over_a_link():
    one = pipeline(in_flight=2)
    spec = predicted_phases_chart(one, CUTS).to_dict()
    named = {row["cut"] for rows in spec["datasets"].values() for row in rows if "cut" in row}
    assert f"P{explorer().point.value}" in named, "over a fast link"
    assert named <= {f"P{point}" for (point,) in CUTS}
    assert len(named) > 1
    assert "predicted" in str(spec["title"]["subtitle"])
