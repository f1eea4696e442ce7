"""Predictions from profiles whose truth is known: by hand for one microbatch, and what holds for all links."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pplib.errors import FrameError
from pplib.links import Direction, LinkProfile
from pplib.planner.cuts import PAYLOAD
from pplib.planner.pipeline_parts import Pipeline
from pplib.planner.prediction import cuts_of, predict_cuts
from pplib.planner.profiles.hop_profile import HopProfile, Line
from pplib.planner.profiles.stage_times import StageTimes
from tests.planner.test_stage_times import COUNT, SIZES, profile, truth_s

ABOUT = {"name": "a-b", "asked": {}, "found": {}, "began": "", "took_s": 1.0}
CUTS = [(point,) for point in range(COUNT + 1)]


def hop(fixed_s=0.001, per_byte_s=1e-9, back_s=0.002, log_sd=0.05, encode=None, decode=None, ratio=1.0):
    line = Line(fixed_s=fixed_s, per_byte_s=per_byte_s, log_sd=log_sd)
    sizes = sorted({round(one) for one in SIZES})
    return HopProfile(
        **ABOUT,
        transfer=line,
        encode=encode,
        decode=decode,
        back=Line(fixed_s=back_s, per_byte_s=0.0, log_sd=log_sd),
        num_bytes=sizes,
        payload_bytes=[one * ratio for one in sizes],
        rounds_s={},
    )


def pipeline(stages=2, of=hop, **more):
    times = [StageTimes(profile())] * stages
    return Pipeline(times, [of()] * (stages - 1), [round(one) for one in SIZES], batch_size=8, **more)


def test_one_microbatch_at_a_time_takes_what_its_stages_and_hops_take():
    found = predict_cuts(pipeline(), CUTS).set_index("partition_label")
    for point in range(1, COUNT):
        takes = truth_s(0, point) + truth_s(point, COUNT) + 0.001 + 1e-9 * SIZES[point]
        row = found.loc[f"P{point}"]
        assert row["predicted_latency_s"] == pytest.approx(takes, rel=0.02)
        assert row["predicted_response_s"] == pytest.approx(takes + 0.002, rel=0.02)
        assert row["predicted_throughput_img_s"] == pytest.approx(8 / (takes + 0.002), rel=0.02)
        assert row["predicted_latency_s_low"] < row["predicted_latency_s"] < row["predicted_latency_s_high"]


def test_a_link_adds_its_delay_and_the_longer_of_its_rate_and_what_software_takes():
    slow = LinkProfile(name="x", forward=Direction(delay_s=0.01, rate_bit_s=1e9), backward=Direction(delay_s=0.03))
    bare, found = (predict_cuts(one, CUTS) for one in (pipeline(), pipeline(link=slow)))
    more = found["predicted_latency_s"] - bare["predicted_latency_s"]
    wire = [size * 8 / PAYLOAD / 1e9 - 1e-9 * size for size in SIZES]
    assert more.tolist() == pytest.approx([0.01 + one for one in wire], abs=1e-9)
    back = found["predicted_response_s"] - found["predicted_latency_s"]
    assert back.tolist() == pytest.approx([0.032] * len(CUTS))
    fast = LinkProfile(name="x", forward=Direction(rate_bit_s=1e12))
    same = predict_cuts(pipeline(link=fast), CUTS)["predicted_latency_s"]
    assert same.tolist() == pytest.approx(bare["predicted_latency_s"].tolist())


def test_what_tcp_may_make_of_small_messages_over_a_long_link_is_in_the_interval_of_those_alone():
    def width(delay_s, rate_bit_s):
        way = Direction(delay_s=delay_s, rate_bit_s=rate_bit_s)
        one = pipeline(link=LinkProfile(name="x", forward=way, backward=way))
        found = predict_cuts(one, CUTS)
        return (found["predicted_latency_s_high"] - found["predicted_latency_s"]).to_numpy()

    small = np.array(SIZES) < 1e8 / 8 * 0.4
    assert small.any() and not small.all()
    more = width(0.2, 1e8) - width(0.0, 1e8)
    assert (more[small] > 0.05).all() and (more[small] < 0.2).all()
    assert (abs(more[~small]) < 0.03).all()  # what else is expected to be off is a share of the whole


def test_with_two_in_flight_the_busiest_part_sets_the_rate_and_is_named():
    found = predict_cuts(pipeline(in_flight=3), CUTS).set_index("partition_label")
    row = found.loc["P2"]
    assert row["predicted_bottleneck"] == "stage 1"
    assert row["predicted_throughput_img_s"] == pytest.approx(8 / truth_s(2, COUNT), rel=0.03)
    slow = LinkProfile(name="x", forward=Direction(rate_bit_s=1e8))
    assert predict_cuts(pipeline(in_flight=3, link=slow), CUTS).loc[1, "predicted_bottleneck"] == "hop 0"


def test_what_is_encoded_takes_the_time_of_its_codec_and_crosses_as_what_it_is_then():
    line = Line(fixed_s=0.004, per_byte_s=0.0, log_sd=0.01)
    plain = predict_cuts(pipeline(), CUTS)["predicted_latency_s"]
    coded = predict_cuts(pipeline(of=lambda: hop(encode=line, decode=line, ratio=0.25)), CUTS)["predicted_latency_s"]
    assert (coded - plain).tolist() == pytest.approx([0.008 - 0.75e-9 * size for size in SIZES])


def test_energy_is_what_devices_take_while_they_compute_and_while_they_wait():
    takes = {"idle_w": (2.0, 1.0), "busy_w": (5.0, 9.0)}
    powers = [{name: values[i] for name, values in takes.items()} for i in range(2)]
    known = replace(pipeline(), stages=[StageTimes(msgspec.structs.replace(profile(), **one)) for one in powers])
    found = predict_cuts(known, CUTS).set_index("partition_label")
    for point in range(1, COUNT):
        first, second = truth_s(0, point), truth_s(point, COUNT)
        whole = first + second + 0.001 + 1e-9 * SIZES[point] + 0.002
        joules = (2.0 * (whole - first) + 5.0 * first + 1.0 * (whole - second) + 9.0 * second) / 8
        row = found.loc[f"P{point}"]
        assert row["predicted_energy_per_image_j"] == pytest.approx(joules, rel=0.02)
        assert row["predicted_energy_per_image_j_low"] < joules < row["predicted_energy_per_image_j_high"]
    half = replace(known, stages=[known.stages[0], StageTimes(profile())])
    assert "predicted_energy_per_image_j" not in predict_cuts(half, CUTS), "of the second device nothing is known"


def test_more_stages_and_what_cannot_be_predicted():
    found = predict_cuts(pipeline(stages=3), [(2, 5), (2, 2)])
    assert found["partition_label"].tolist() == ["P2-5", "P2-2"]
    for bad, what in (([(5, 2)], "in order"), ([(3,)], "expected 2 of 0 to 8"), ([(0, 9)], "expected 2 of 0 to 8")):
        with pytest.raises(FrameError, match=what):
            predict_cuts(pipeline(stages=3), bad)
    with pytest.raises(FrameError, match="expected 2 or more stages"):
        predict_cuts(pipeline(stages=1), [()])


@settings(max_examples=25)
@given(st.integers(0, COUNT), st.integers(1, 4), st.floats(0, 0.2), st.floats(1e6, 1e10))
def test_a_worse_link_is_never_better_and_no_rate_is_above_its_bound(point, depth, delay_s, rate_bit_s):
    way = Direction(delay_s=delay_s, rate_bit_s=rate_bit_s)
    here, there = (
        predict_cuts(pipeline(in_flight=depth, link=LinkProfile(name="x", forward=one)), [(point,)], draws=2).iloc[0]
        for one in (Direction(), way)
    )
    assert there["predicted_response_s"] >= here["predicted_response_s"] * (1 - 1e-9)
    assert there["predicted_throughput_img_s"] <= here["predicted_throughput_img_s"] * (1 + 1e-9)
    assert there["predicted_throughput_img_s"] <= there["predicted_bound_img_s"] * (1 + 1e-9)


@pytest.mark.parametrize("rate_bit_s", [1e7, 1e9, 1e12])
def test_predicted_cuts_over_another_link_are_what_is_predicted_over_it(rate_bit_s):
    line = Line(fixed_s=0.004, per_byte_s=1e-9, log_sd=0.01)
    made = pipeline(of=lambda: hop(encode=line, decode=line, ratio=0.5), in_flight=2, stages=3)
    points = [(0, 4), (2, 5), (7, 8)]
    way = Direction(delay_s=0.003, rate_bit_s=rate_bit_s)
    told = predict_cuts(replace(made, link=LinkProfile(name="x", forward=way, backward=way)), points)
    names = ["latency_s", "response_s", "throughput_img_s"]
    found = cuts_of(made, points).performance(np.array([rate_bit_s]), np.array([0.003]), names)[0]
    assert cuts_of(made, points).labels == told["partition_label"].tolist()
    assert found.tolist() == pytest.approx(told[[f"predicted_{name}" for name in names]].to_numpy())
    with pytest.raises(FrameError, match="in order"):
        cuts_of(made, [(5, 2)])
