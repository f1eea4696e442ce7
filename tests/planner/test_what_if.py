"""What a quicker device or link would bring, by hand; and that another cut may be the best one then."""

from __future__ import annotations

import pandas as pd
import pytest

from pplib.analysis.repeats import POINT_KEYS
from pplib.planner.changes.what_if import DEPTH, LINK, changes_that_help

BOTH = {"latency_s": "min", "throughput_img_s": "max"}


def trial(point, stage0, hop, stage1, back=0.0, depth=1, **more):
    """One trial of eight images a microbatch; seconds."""
    keys = dict.fromkeys(POINT_KEYS, "x") | {
        "partition_label": f"P{point}",
        "in_flight": depth,
        "batch_size": 8,
        "num_stages": 2,
    }
    parts = {"stage0_compute_s": stage0, "stage1_compute_s": stage1, "hop0_transfer_s": hop, "return_transfer_s": back}
    return {**keys, "status": "ok", **parts, **more}


def gains(*trials, objectives=BOTH):
    return {one.part: one.gains for one in changes_that_help(pd.DataFrame(trials), objectives)}


def test_one_microbatch_at_a_time_takes_the_sum_and_a_second_one_overlaps():
    found = gains(trial(7, 0.04, 0.01, 0.05, hop0_forward_before_bit_s=1e9, hop0_payload_bytes=1e6))  # wire: 8 ms
    assert found[0]["latency_s"] == pytest.approx(0.1 / 0.08)
    assert found[1]["latency_s"] == pytest.approx(0.1 / 0.075)
    assert found[LINK]["latency_s"] == pytest.approx(0.1 / 0.096)
    assert found[1]["throughput_img_s"] == pytest.approx(0.1 / 0.075)
    assert found[DEPTH]["throughput_img_s"] == pytest.approx(0.1 / 0.05)
    assert found[DEPTH]["latency_s"] <= 1


def test_with_a_quicker_device_another_cut_is_the_best():
    found = gains(trial(3, 0.02, 0.0, 0.10, depth=2), trial(7, 0.06, 0.0, 0.06, depth=2), objectives=BOTH)
    assert found[0]["throughput_img_s"] == pytest.approx(1.0), "the second stage still takes 60 ms"
    assert found[1]["throughput_img_s"] == pytest.approx(0.06 / 0.05), "with P3, whose second stage takes 50 ms"


def test_the_delay_of_a_link_keeps_nobody_waiting_and_only_what_is_wire_gets_quicker():
    shaped = {"link_requested_rtt_s": 0.04, "link_requested_backward_bit_s": 1e6}
    measured = {"hop0_forward_before_bit_s": 1e6, "hop0_payload_bytes": 1e4}
    found = gains(trial(7, 0.01, 0.12, 0.01, back=0.03, depth=8, **shaped, **measured))  # 20 ms of each are delay
    assert found[LINK]["throughput_img_s"] == pytest.approx(0.1 / 0.06), "80 of 100 ms are the wire"
    assert found[0]["throughput_img_s"] == pytest.approx(1.0)


def test_what_does_not_tell_its_parts_or_is_no_time_says_nothing():
    whole = trial(7, 0.04, 0.01, 0.05)
    assert changes_that_help(pd.DataFrame([whole]), {"payload_bytes": "min"}) == []
    assert changes_that_help(pd.DataFrame([whole]).drop(columns="return_transfer_s"), BOTH) == []
    assert changes_that_help(pd.DataFrame([{**whole, "status": "failed"}]), BOTH) == []
