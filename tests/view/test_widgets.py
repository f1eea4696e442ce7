"""Moving a control changes what is shown; no browser is needed to see that."""

from __future__ import annotations

import pytest

from pplib.errors import FrameError
from pplib.view.widgets import split_html, split_slider


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
