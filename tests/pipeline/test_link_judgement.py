"""Jitter and loss of a link: a right one passes, one that does other than asked for is told, by simulation."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from pplib.links import UNSHAPED, Direction, HopMeasurement, LinkProfile, loss_range
from pplib.pipeline.coordinator.link_judgement import deviations
from pplib.pipeline.coordinator.link_measurement import spreads

TRIES = 5000


def both(**way):
    return LinkProfile(name="asked", forward=Direction(**way), backward=Direction(**way))


def hop(rtts_s=(0.004,) * 9, profile=UNSHAPED, **losses):
    rtts = np.asarray(rtts_s)
    spread_s, low_spread_s = spreads(rtts, profile)
    return HopMeasurement(
        rtt_s=float(np.median(rtts)),
        rtt_min_s=float(rtts.min()),
        rtt_p90_s=float(np.quantile(rtts, 0.9)),
        rtt_p99_s=float(np.quantile(rtts, 0.99)),
        exchanges=len(rtts),
        forward_bit_s=1e6,
        backward_bit_s=1e6,
        rtt_spread_s=spread_s,
        rtt_low_spread_s=low_spread_s,
        **losses,
    )


def told_of_jitter(asked, forward_s, backward_s, exchanges, late_s=0.0, late=0.0):
    """In what share of simulated measurements the spread is told to be wrong; `late` of the echoes are late."""
    rng = np.random.default_rng(1)
    shape = (TRIES, exchanges)
    rtts = asked.rtt_s + rng.uniform(-forward_s, forward_s, shape) + rng.uniform(-backward_s, backward_s, shape)
    rtts += rng.exponential(late_s, shape) * (rng.random(shape) < late) if late else 0.0
    found = [deviations(asked, [hop(one, asked)]) for one in rtts]
    return sum(any("spread" in words for words in one) for one in found) / TRIES


@pytest.mark.parametrize("exchanges", [9, 60, 180, 400])
def test_jitter_as_asked_for_passes_in_999_of_1000_measurements(exchanges):
    asked = both(delay_s=0.015, jitter_s=0.01)
    assert told_of_jitter(asked, 0.01, 0.01, exchanges) <= 0.001


def test_a_busy_host_that_delays_a_quarter_of_the_echoes_by_ms_fails_no_right_link():
    wifi = both(delay_s=0.0015, jitter_s=0.0005)
    assert told_of_jitter(wifi, 0.0005, 0.0005, 400, late_s=0.004, late=0.25) <= 0.001
    calm = both(delay_s=0.002)
    assert told_of_jitter(calm, 0.0, 0.0, 400, late_s=0.004, late=0.25) <= 0.001


@pytest.mark.parametrize("factor", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("ratio", [1.0, 0.3])
def test_twice_or_half_the_jitter_or_none_is_told(factor, ratio):
    asked = LinkProfile(
        name="asked",
        forward=Direction(delay_s=0.05, jitter_s=0.01),
        backward=Direction(delay_s=0.05, jitter_s=0.01 * ratio),
    )
    assert told_of_jitter(asked, 0.01 * factor, 0.01 * factor * ratio, 180) >= 0.99


def test_much_jitter_that_nobody_asked_for_is_told_and_the_words_say_what_to_do():
    asked = both(delay_s=0.05)
    assert told_of_jitter(asked, 0.03, 0.03, 60) >= 0.99
    (words,) = deviations(asked, [hop(np.linspace(0.05, 0.15, 101), asked)])
    assert words == (
        "hop 0: round trips spread over 80.000 ms (10th to 90th percentile of 101), requested no jitter, "
        "at most 26.000 ms: name the link's jitter in its profile"
    )


def test_round_trips_in_which_something_was_lost_are_no_jitter():
    asked = both(delay_s=0.015, jitter_s=0.001, loss=0.1)
    assert spreads(np.array([0.03] * 80 + [0.25] * 20), asked) == (0.0, 0.0)


@pytest.mark.parametrize(("loss", "segments"), [(0.01, 300), (0.01, 5000), (0.001, 5000), (0.1, 2000), (0.3, 1000)])
def test_loss_as_asked_for_passes_in_999_of_1000_measurements(loss, segments):
    shares = np.random.default_rng(2).binomial(segments, loss, 100_000) / segments
    least, most = loss_range(loss, segments)
    assert ((shares < least) | (shares > most)).mean() <= 0.001


@pytest.mark.parametrize("real", [0.0, 0.01 / 3, 0.03])
def test_a_third_or_three_times_the_loss_or_none_is_told_from_12000_segments(real):
    shares = np.random.default_rng(3).binomial(12000, real, TRIES) / 12000
    asked = both(loss=0.01, rate_bit_s=1e9)
    told = [bool(deviations(asked, [hop(forward_loss=one, forward_segments=12000)])) for one in shares]
    assert np.mean(told) >= 0.99


def test_the_words_on_loss_say_requested_measured_and_what_would_have_been_right():
    asked = both(loss=0.01, rate_bit_s=1e9)
    assert deviations(asked, [hop(backward_loss=0.0, backward_segments=4000)]) == [
        "hop 0 backward: loss 0.000 % of 4000 segments, requested 1.000 %, which gives 0.302 to 2.057 % of so many"
    ]


def test_too_few_segments_fail_nothing():
    assert deviations(both(loss=0.01, rate_bit_s=1e9), [hop(forward_loss=0.0, forward_segments=300)]) == []


def test_loss_where_none_was_asked_for_is_told_only_of_a_direction_with_a_rate():
    lossy = hop(forward_loss=0.03, forward_segments=4000)
    found = deviations(both(rate_bit_s=1e6), [lossy])
    assert any("forward: loss 3.000 % of 4000 segments, requested 0.000 %" in words for words in found)
    assert deviations(both(), [lossy]) == []


def test_a_measurement_of_an_older_record_is_read_and_judged_by_what_it_has():
    old = msgspec.json.decode(
        b'{"rtt_s":0.03,"rtt_min_s":0.03,"rtt_p90_s":0.03,"rtt_p99_s":0.03,"exchanges":60,'
        b'"forward_bit_s":1e6,"backward_bit_s":1e6}',
        type=HopMeasurement,
    )
    assert deviations(both(delay_s=0.015, jitter_s=0.01, loss=0.1), [old]) == []
