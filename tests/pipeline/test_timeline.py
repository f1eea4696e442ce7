"""Measured columns against timelines worked by hand, and against the laws they must keep."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pplib.analysis.trials.plausible import check_plausible
from pplib.analysis.trials.timeline import ALL, Parts, measure
from pplib.errors import TrialError
from pplib.links import Direction, LinkProfile
from pplib.pipeline.coordinator.clock import SAME_CLOCK, Clock, ClockOffset, measure_offset
from pplib.pipeline.coordinator.common_time import common_timelines
from pplib.pipeline.monitor.usage import Usage
from pplib.pipeline.wire.messages import Moments, Trace
from pplib.records import StageTimeline


def stage(i, ready, received, start, end, sent, error=0.0):
    return StageTimeline(
        stage_index=i,
        device=f"device-{i}",
        ready_s=ready,
        received_s=received,
        compute_start_s=start,
        compute_end_s=end,
        copy_s=[0.0] * len(received),
        send_start_s=sent,
        clock_error_s=error,
    )


def by_hand():
    """Two microbatches of 4 images; times in s.

    Microbatch 0: computed 0-2 on stage 0, sent at 2, there at 3, computed 3-6.
    Microbatch 1: admitted at 2, computed 2-4, sent at 4, there at 5, waits until 6, computed 6-9.
    """
    return (
        [
            stage(0, [0, 2], [0, 2], [0, 2], [2, 4], [2, 4]),
            stage(1, [0, 0], [3, 5], [3, 6], [6, 9], [6, 9]),
        ],
        [6.5, 9.5],
    )


def test_encoding_and_decoding_are_parts_of_their_own_and_those_of_old_records_are_0():
    """As by hand, but the hop's 1 s is 0.25 s of encoding, 0.5 s of transfer, 0.25 s of decoding."""
    timelines, returned = by_hand()
    before, after = timelines
    before.encode_s, before.send_start_s = [0.25, 0.25], [2.25, 4.25]
    after.received_s, after.decode_s = [2.75, 4.75], [0.25, 0.25]
    got = measure(timelines, returned, measured=ALL, batch_size=4)
    assert [got[f"hop0_{part}_s"] for part in ("encode", "transfer", "decode", "queue")] == [0.25, 0.5, 0.25, 0]
    assert got["stage1_queue_s"] == pytest.approx(0.5)
    parts = ["stage0_compute_s", "stage0_queue_s", "hop0_queue_s", "hop0_encode_s", "hop0_transfer_s"]
    parts += ["hop0_decode_s", "stage1_queue_s", "stage1_compute_s"]
    assert sum(got[part] for part in parts) == pytest.approx(got["latency_mean_s"])
    assert Parts(timelines).latency.sum() == pytest.approx(2 * got["latency_mean_s"])
    before.encode_s = [9, 9]  # the sending thread is the busiest part
    assert measure(timelines, returned, measured=ALL, batch_size=4)["bottleneck"] == "encode 0"
    plain = measure(*by_hand(), measured=ALL, batch_size=4)
    assert plain["hop0_encode_s"] == plain["hop0_decode_s"] == 0


def test_every_column_of_a_timeline_worked_by_hand():
    timelines, returned = by_hand()
    got = measure(timelines, returned, measured=ALL, batch_size=4)
    assert got["latency_s"] == got["latency_mean_s"] == pytest.approx(6.5)  # 6 and 7
    assert got["response_s"] == pytest.approx(7.0)  # 6.5 and 7.5
    assert got["throughput_img_s"] == pytest.approx(4 / 3)  # one more batch within 3 s
    assert got["stage0_compute_s"] == pytest.approx(2)
    assert got["stage1_compute_s"] == pytest.approx(3)
    assert got["hop0_transfer_s"] == pytest.approx(1)
    assert got["stage1_queue_s"] == pytest.approx(0.5)  # 0 and 1
    assert got["hop0_queue_s"] == pytest.approx(0)
    assert got["bottleneck"] == "stage 1"
    assert got["bound_img_s"] == pytest.approx(4 / 3)
    assert got["efficiency"] == pytest.approx(1.0)
    assert got["return_transfer_s"] == pytest.approx(0.5)
    assert got["clock_error_s"] == 0


@pytest.mark.parametrize("shift", range(3))
def test_microbatches_that_pass_in_bunches_are_counted_in_whole_bunches_wherever_the_first_one_falls(shift):
    """Three every 3 s, close behind each other, as over a link where TCP waits for what was lost: one per second."""
    ends = np.array([3.0 * (i // 3) + 0.1 * (i % 3) for i in range(30)])[shift:]
    first = stage(0, [0] * len(ends), ends - 1, ends - 1, ends - 0.9, ends - 0.9)
    last = stage(1, [0] * len(ends), ends - 0.8, ends - 0.05, ends, ends)
    for measured in (slice(3, 7), slice(3, 8), slice(3, 14), slice(3, None)):
        got = measure([first, last], ends + 0.01, measured, 1, in_flight=3)
        assert got["throughput_img_s"] == pytest.approx(1.0), measured


@pytest.mark.parametrize(("count", "known"), [(63, []), (64, ["p90"]), (661, ["p90"]), (662, ["p90", "p99"])])
def test_a_percentile_is_told_where_the_microbatches_are_enough_and_the_largest_always(count, known):
    starts = np.arange(count) * 10.0
    ends = starts + np.linspace(1.0, 2.0, count)
    first = stage(0, starts, starts, starts, starts + 0.5, starts + 0.5)
    second = stage(1, starts, starts + 0.6, starts + 0.6, ends, ends)
    got = measure([first, second], ends + 0.1, ALL, 4)
    assert [name for name in ("p90", "p99") if got[f"latency_{name}_s"] is not None] == known
    assert (got["response_p90_s"] is None) == ("p90" not in known)
    assert got["latency_max_s"] == pytest.approx(2.0)
    if "p99" in known:
        assert got["latency_p99_s"] == pytest.approx(1.99)


def test_a_transfer_begins_when_the_one_before_it_has_arrived():
    timelines, _ = by_hand()
    timelines[0].send_start_s = [2, 2.5]
    timelines[0].compute_end_s = [2, 2.5]
    parts = Parts(timelines)
    assert parts.transfer[0] == pytest.approx([1, 2])  # 3 to 5, not 2.5 to 5
    assert parts.hop_queue[0] == pytest.approx([0, 0.5])


def test_waiting_for_room_at_the_receiver_is_queueing_and_not_transfer():
    timelines, _ = by_hand()
    timelines[1].ready_s = [0, 4.75]
    parts = Parts(timelines)
    assert parts.transfer[0] == pytest.approx([1, 0.25])
    assert parts.hop_queue[0] == pytest.approx([0, 0.75])


def test_warm_up_is_left_out_but_still_occupies_the_link():
    got = measure(
        [
            stage(0, [0, 2, 4], [0, 2, 4], [0, 2, 4], [2, 2.5, 6], [2, 2.5, 6]),
            stage(1, [0, 0, 0], [3, 5, 7], [3, 6, 9], [6, 9, 12], [6, 9, 12]),
        ],
        [6.5, 9.5, 12.5],
        measured=slice(1, None),
        batch_size=4,
    )
    assert got["num_microbatches"] == 2
    assert got["hop0_transfer_s"] == pytest.approx((2 + 1) / 2)


def test_a_transfer_faster_than_the_clocks_allow_fails_the_trial():
    timelines, returned = by_hand()
    timelines[1].received_s = [1.5, 5]
    with pytest.raises(TrialError, match=r"hop 0: a transfer took -0\.500000 s"):
        check_plausible(timelines, ALL, [100])
    timelines[1].clock_error_s = 0.6
    check_plausible(timelines, ALL, [100])
    assert measure(timelines, returned, ALL, 4)["clock_error_s"] == pytest.approx(0.6)


def over_a_link(count=4, payload_s=2.0, delay_s=5.0):
    """Microbatches sent at 0, 1, 2, ...: each takes `payload_s` of the link's time, and is there `delay_s` later."""
    sent = [float(n) for n in range(count)]
    received = [n * payload_s + payload_s + delay_s for n in range(count)]
    return [
        stage(0, sent, sent, sent, sent, sent),
        stage(1, [0.0] * count, received, received, received, received),
    ], [one + delay_s for one in received]


def far(**way):
    return LinkProfile(name="far", forward=Direction(**way), backward=Direction(**way))


def test_the_delay_of_a_link_is_part_of_a_transfer_but_the_next_one_need_not_wait_for_it():
    timelines, returned = over_a_link()
    parts = Parts(timelines, propagation_s=5.0)
    assert parts.transfer[0] == pytest.approx([7, 7, 7, 7])
    assert parts.hop_queue[0] == pytest.approx([0, 1, 2, 3])
    assert parts.busy[0] == pytest.approx([2, 2, 2, 2])
    got = measure(timelines, returned, ALL, 4, far(delay_s=5.0))
    assert got["bottleneck"] == "hop 0"
    assert got["bound_img_s"] == pytest.approx(2)
    assert got["efficiency"] == pytest.approx(1)
    assert got["return_transfer_s"] == pytest.approx(5)


def test_a_result_that_takes_longer_to_come_back_than_anything_else_is_the_bottleneck():
    """Two stages of 20 ms, an activation of no size, a result of 4.8 MB over 100 Mbit/s: 384 ms each on its way back.

    Four in flight: a microbatch is admitted when a result is back, so one every 384 ms: 8 / 0.384 = 20.8 img/s.
    """
    count, back_s = 12, 0.384
    returned = [0.04 + back_s * (n + 1) for n in range(count)]
    admitted = [0.02 * n for n in range(4)] + returned[: count - 4]
    done = [one + 0.04 for one in admitted]
    middle = [one + 0.02 for one in admitted]
    timelines = [
        stage(0, admitted, admitted, admitted, middle, middle),
        stage(1, [0.0] * count, middle, middle, done, done),
    ]
    rate = Direction(rate_bit_s=100e6)
    link = LinkProfile(name="slow", forward=rate, backward=rate)
    got = measure(timelines, returned, slice(4, None), 8, link)
    assert got["bottleneck"] == "return"
    assert got["bound_img_s"] == pytest.approx(8 / back_s)
    assert got["throughput_img_s"] == pytest.approx(8 / back_s)
    assert got["efficiency"] == pytest.approx(1.0)
    assert got["return_transfer_s"] == pytest.approx(back_s)


def test_jitter_does_not_change_what_a_hop_is_busy():
    """3.2 ms of the link for each microbatch, over a delay of 20 ms that varies by 10: sent far apart, one by one."""
    jitter = np.random.default_rng(0).uniform(-0.01, 0.01, 4000)
    sent = np.arange(4000) * 0.1
    received = sent + 0.0032 + 0.02 + jitter
    lists = [sent.tolist()] * 5
    timelines = [stage(0, *lists), stage(1, [0.0] * 4000, *[received.tolist()] * 4)]
    got = measure(timelines, (received + 0.03).tolist(), ALL, 8, far(delay_s=0.02, jitter_s=0.01))
    assert got["bottleneck"] == "return"  # 10 ms
    busy = Parts(timelines, propagation_s=0.02).busy[0]
    assert busy.mean() == pytest.approx(0.0032, abs=0.0003)


def test_the_clocks_error_is_told_for_each_hop_and_for_the_way_back():
    timelines = [*by_hand()[0], stage(2, [0, 0], [7, 10], [7, 10], [8, 11], [8, 11], error=0.2)]
    timelines[1].clock_error_s = 0.1
    got = measure(timelines, [9, 12], ALL, 4)
    assert got["hop0_clock_error_s"] == pytest.approx(0.1)
    assert got["hop1_clock_error_s"] == pytest.approx(0.3)
    assert got["clock_error_s"] == got["return_clock_error_s"] == pytest.approx(0.2)


def test_what_is_left_of_a_run_that_failed_is_put_on_one_base_whoever_is_missing():
    def trace(moments, complete):
        ns = [int(one * 1e9) for one in moments]
        return Trace(
            moments=Moments(
                ready_ns=ns,
                received_ns=ns[:complete],
                compute_start_ns=ns[:complete],
                compute_end_ns=ns[:complete],
                copy_ns=[0] * complete,
                send_start_ns=[],
                returned_ns=[],
            ),
            payload_bytes=0,
            num_outputs=0,
            usage=Usage(),
        )

    timelines, returned = common_timelines({1: trace([12.0, 13.0], 1)}, ["a", "b"], [SAME_CLOCK] * 2)
    assert (timelines[0].stage_index, timelines[0].device) == (1, "b")
    assert timelines[0].ready_s == [0.0, 1.0]
    assert timelines[0].received_s == [0.0]
    assert returned == []
    timelines, _ = common_timelines({0: trace([10.0], 1), 1: trace([9.0, 12.0], 1)}, ["a", "b"], [SAME_CLOCK] * 2)
    assert timelines[1].ready_s == [-1.0, 2.0]
    assert common_timelines({}, ["a", "b"], [SAME_CLOCK] * 2) == ([], [])


def test_a_hop_that_carries_more_than_its_rate_fails_the_trial():
    timelines, _ = over_a_link(payload_s=2.0, delay_s=5.0)
    payload = 1_000_000  # in 2 s: 4 Mbit/s
    check_plausible(timelines, ALL, [payload], far(delay_s=5.0, rate_bit_s=4e6))
    with pytest.raises(TrialError, match=r"hop 0: 4 transfers of 1000000 bytes took 8\.000000 s .*more than 3\.000"):
        check_plausible(timelines, ALL, [payload], far(delay_s=5.0, rate_bit_s=3e6))


def test_a_transfer_faster_than_the_delay_fails_the_trial_but_jitter_may_shorten_it():
    timelines, _ = over_a_link(delay_s=5.0)
    check_plausible(timelines, ALL, [100], far(delay_s=7.0004))  # the engine may be so early
    with pytest.raises(TrialError, match=r"took 7\.000000 s, less than the link's delay of 7\.001000 s"):
        check_plausible(timelines, ALL, [100], far(delay_s=7.001))
    check_plausible(timelines, ALL, [100], far(delay_s=8.0, jitter_s=1.5))


def test_what_waited_in_the_receivers_kernel_is_not_taken_for_a_fast_link():
    """The receiver was ready only at 20 s, and then got two microbatches at once from its own memory."""
    timelines, _ = over_a_link(count=4)
    timelines[1].ready_s = [0.0, 20.0, 20.0, 20.0]
    timelines[1].received_s = [7.0, 20.0, 20.001, 20.002]
    check_plausible(timelines, ALL, [1_000_000], far(delay_s=5.0, rate_bit_s=4e6))


@st.composite
def pipelines(draw):
    """Timelines of a random pipeline of 2 to 4 stages that a simulation of the stage loop produces.

    Every hop delays by `delay`, and carries the next microbatch meanwhile.
    """
    delay = draw(st.sampled_from([0.0, 0.05, 3.0]))
    stages, count = draw(st.integers(2, 4)), draw(st.integers(2, 8))
    in_flight = draw(st.integers(1, 4))
    duration = st.floats(1e-4, 2.0)
    compute = [[draw(duration) for _ in range(count)] for _ in range(stages)]
    carry = [[draw(duration) for _ in range(count)] for _ in range(stages)]
    rows = [{key: [] for key in ("ready", "received", "start", "end", "sent")} for _ in range(stages)]
    returned = []
    for n in range(count):
        arrival = returned[n - in_flight] if n >= in_flight else 0.0
        if n:
            arrival = max(arrival, rows[0]["end"][-1])
        for i, row in enumerate(rows):
            start = max(arrival, row["end"][-1] if n else 0.0)
            end = start + compute[i][n]
            sent = max(end, row["sent"][-1] if n else 0.0)
            for key, value in (("ready", 0.0), ("received", arrival), ("start", start), ("end", end), ("sent", sent)):
                row[key].append(value)
            busy_until = (rows[i + 1]["received"][-1] if i + 1 < stages else returned[-1]) if n else 0.0
            arrival = max(sent, busy_until - delay) + carry[i][n] + delay
        returned.append(arrival)
    timelines = [stage(i, r["ready"], r["received"], r["start"], r["end"], r["sent"]) for i, r in enumerate(rows)]
    return timelines, returned, delay


@given(pipelines(), st.integers(1, 16))
@settings(max_examples=150)
def test_the_parts_add_up_to_the_whole_and_no_pipeline_beats_its_bound(pipeline, batch_size):
    timelines, returned, delay = pipeline
    got = measure(timelines, returned, ALL, batch_size, far(delay_s=delay))
    parts = Parts(timelines, propagation_s=delay)
    latency = np.array(timelines[-1].compute_end_s) - np.array(timelines[0].received_s)
    assert parts.latency == pytest.approx(latency, abs=1e-9)
    for one in [*parts.compute, *parts.transfer, *parts.stage_queue, *parts.hop_queue]:
        assert one.min() >= -1e-9
    named = [f"stage{i}_{part}_s" for i in range(len(timelines)) for part in ("compute", "queue")]
    named += [f"hop{i}_{part}_s" for i in range(len(timelines) - 1) for part in ("transfer", "queue")]
    assert sum(got[name] for name in named) == pytest.approx(got["latency_mean_s"], abs=1e-9)
    assert got["compute_s"] + got["transfer_s"] + got["queue_s"] == pytest.approx(got["latency_mean_s"], abs=1e-9)


def test_a_result_that_crosses_the_whole_chain_overlaps_with_the_one_before_for_as_long():
    timelines = [
        stage(0, [0, 0], [0, 1], [0, 1], [1, 2], [1, 2]),
        stage(1, [0, 0], [8, 9], [9, 10], [10, 11], [10, 11]),
    ]
    chain = measure(timelines, [20.0, 21.0], ALL, 4, far(delay_s=5.0), return_hops=2)
    direct = measure(timelines, [20.0, 21.0], ALL, 4, far(delay_s=5.0), return_hops=1)
    assert chain["return_transfer_s"] == pytest.approx((10 + 10) / 2)
    assert direct["return_transfer_s"] == pytest.approx((10 + 6) / 2)


def at(offset_s, error_s, when_s):
    return ClockOffset(round(offset_s * 1e9), round(error_s * 1e9), round(when_s * 1e9))


def steady(offset_s, error_s):
    return Clock(at(offset_s, error_s, offset_s), at(offset_s, error_s, offset_s + 20))


def test_a_clock_that_drifts_is_converted_along_the_way_and_all_of_the_drift_is_in_the_bound():
    clock = Clock(at(5.0, 0.001, 5.0), at(5.004, 0.002, 15.0))  # 4 ms in 10 s
    assert clock.drift_s == pytest.approx(0.004)
    assert clock.error_s == pytest.approx(0.006)
    assert clock.to_ours(5_000_000_000) == 0
    assert clock.to_ours(15_000_000_000) == 9_996_000_000
    assert clock.to_ours(10_000_000_000) == 4_998_000_000
    clock.check("pi")


def test_a_clock_that_jumps_fails_the_trial_and_names_the_device():
    with pytest.raises(TrialError, match=r"pi: its clock moved by 0\.500000 s against ours within 10\.000 s"):
        Clock(at(5.0, 0.001, 5.0), at(5.5, 0.001, 15.0)).check("pi")


def test_one_clock_is_converted_exactly():
    assert SAME_CLOCK.to_ours(987_654_321_987_654_321) == 987_654_321_987_654_321
    assert SAME_CLOCK.error_s == 0


def test_traces_of_two_clocks_come_to_one_base():
    def ran(shift):
        values = [int((t + shift) * 1e9) for t in (10.0, 11.0)]
        return Trace(
            moments=Moments(
                ready_ns=values,
                received_ns=values,
                compute_start_ns=values,
                compute_end_ns=values,
                copy_ns=[0, 0],
                send_start_ns=values,
                returned_ns=values,
            ),
            payload_bytes=0,
            num_outputs=0,
            usage=Usage(),
        )

    clocks = [steady(3.0, 0.001), steady(-5.0, 0.002)]
    timelines, returned = common_timelines({0: ran(3.0), 1: ran(-5.0)}, ["a", "b"], clocks)
    assert timelines[0].received_s == pytest.approx([0, 1], abs=1e-9)
    assert timelines[1].received_s == pytest.approx([0, 1], abs=1e-9)
    assert returned == pytest.approx([0, 1], abs=1e-9)


@pytest.mark.parametrize(("out_ms", "back_ms"), [(1, 1), (4, 0.5)])
def test_the_offset_of_a_shifted_clock_lies_within_its_bound_even_on_an_unequal_path(monkeypatch, out_ms, back_ms):
    now = [1_000_000_000]
    shift_ns = 42_000_000_000

    def ask():
        now[0] += int(out_ms * 1e6)
        theirs = now[0] + shift_ns
        now[0] += int(back_ms * 1e6)
        return theirs

    monkeypatch.setattr("time.monotonic_ns", lambda: now[0])
    offset = measure_offset(ask)
    assert offset.error_ns == pytest.approx((out_ms + back_ms) / 2 * 1e6)
    assert abs(offset.offset_ns - shift_ns) <= offset.error_ns
