"""Predictions worked by hand."""

from __future__ import annotations

import pandas as pd
import pytest

from pplib.errors import FrameError
from pplib.planner.split_prediction import predict_points

PROFILE = pd.DataFrame(
    {
        "index": [1, 2, 3],
        "name": ["a", "b", "output"],
        "time_s": [0.1, 0.2, 0.3],
        "params": [10, 20, 30],
        "param_bytes": [40, 80, 120],
        "activation_bytes": [4000, 1000, 100],
    }
)


def predict(**more):
    return predict_points(PROFILE, **{"batch_size": 8, "input_bytes": 2000, **more})


def test_every_point_from_everything_last_to_everything_first_is_predicted():
    table = predict()
    assert table["partition_label"].tolist() == ["P0", "P1", "P2", "P3"]
    assert table["partition_name"].tolist() == ["input", "a", "b", "output"]
    assert table["activation_bytes"].tolist() == [2000, 4000, 1000, 100]
    assert table["stage0_params"].tolist() == [0, 10, 30, 60]
    assert table["stage1_param_bytes"].tolist() == [240, 200, 120, 0]
    assert table["stage1_units"].tolist() == [3, 2, 1, 0]


def test_latency_is_the_sum_of_both_stages_and_the_hop():
    table = predict(slowdowns=(2.0, 1.0), rate_bit_s=80e3, delay_s=0.01)
    assert table["predicted_stage0_compute_s"].tolist() == pytest.approx([0.0, 0.2, 0.6, 1.2])
    assert table["predicted_stage1_compute_s"].tolist() == pytest.approx([0.6, 0.5, 0.3, 0.0])
    assert table["predicted_hop0_transfer_s"].tolist() == pytest.approx([0.21, 0.41, 0.11, 0.02])
    assert table["predicted_latency_s"].tolist() == pytest.approx([0.81, 1.11, 1.01, 1.22])
    assert table["predicted_response_s"].tolist() == pytest.approx([0.83, 1.13, 1.03, 1.24])


def test_one_in_flight_waits_for_the_response_and_more_reach_the_bound():
    alone = predict(rate_bit_s=80e3, delay_s=0.01)
    assert alone["predicted_throughput_img_s"].tolist() == pytest.approx((8 / alone["predicted_response_s"]).tolist())
    deep = predict(rate_bit_s=80e3, delay_s=0.01, in_flight=8)
    # Busy: stage 1, stage 1, then stage 0 and 1 alike, then stage 0; the delay keeps nothing busy.
    assert deep["predicted_bound_img_s"].tolist() == pytest.approx([8 / 0.6, 8 / 0.5, 8 / 0.3, 8 / 0.6])
    assert deep["predicted_throughput_img_s"].tolist() == pytest.approx(deep["predicted_bound_img_s"].tolist())


def test_a_delay_does_not_lower_the_bound_but_few_in_flight_feel_it():
    table = predict(delay_s=1.0, in_flight=2)
    assert table["predicted_throughput_img_s"].tolist() == pytest.approx([16 / 2.6] * 4)


def test_a_slow_link_is_the_bottleneck():
    assert predict(rate_bit_s=8e3)["predicted_bottleneck"].tolist() == ["hop 0", "hop 0", "hop 0", "stage 0"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"slowdowns": (1.0,)}, "slowdowns: expected two"),
        ({"slowdowns": (1.0, 0.0)}, r"slowdowns\[1\]: expected a number above 0, got 0.0"),
        ({"rate_bit_s": 0.0}, "rate_bit_s: expected a number above 0"),
        ({"delay_s": -1.0}, "delay_s: expected a number >= 0"),
        ({"in_flight": 0}, "in_flight: expected 1 or more, got 0"),
    ],
)
def test_arguments_that_make_no_sense_are_named(arguments, message):
    with pytest.raises(FrameError, match=message):
        predict(**arguments)


def test_a_profile_with_a_hole_is_refused():
    with pytest.raises(FrameError, match=r"expected units 1..N, each once, got \[1, 3\]"):
        predict_points(PROFILE.drop(index=1), batch_size=8, input_bytes=1)


def test_a_large_result_bounds_throughput_wherever_the_cut_is():
    """Two units of 20 ms, 1 kB between them, a result of 4.8 MB over 100 Mbit/s: 384 ms on its way back."""
    profile = pd.DataFrame(
        {"index": [1, 2], "name": ["a", "b"], "time_s": [0.02, 0.02], "activation_bytes": [1e3, 4.8e6]}
    )
    table = predict_points(profile, rate_bit_s=100e6, in_flight=4, batch_size=8, input_bytes=1000)
    assert table["predicted_bottleneck"].tolist() == ["return", "return", "hop 0"]
    assert table["predicted_bound_img_s"].tolist() == pytest.approx([8 / 0.384] * 3)
