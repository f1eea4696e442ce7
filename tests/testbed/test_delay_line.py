"""The delay line on a clock of the test's own: every figure follows from the profile and the seed."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pplib.links import MIN_QUEUE_BYTES, UNLIMITED_BYTES, Direction, queue_bytes
from pplib.testbed.emulation.delay_line import DelayLine

directions = st.builds(
    Direction,
    delay_s=st.floats(0.2, 1),
    jitter_s=st.floats(0, 0.2),
    loss=st.floats(0, 0.5),
    rate_bit_s=st.none() | st.floats(1e4, 1e9),
)
arrivals = st.lists(st.tuples(st.floats(0, 0.1), st.integers(40, 65_000)), max_size=60)


def drain(line):
    out = []
    while (due := line.next_due_s) is not None:
        out.append(line.pop(due))
    return out


def feed(line, gaps_and_sizes):
    now, entered = 0.0, []
    for number, (gap, size) in enumerate(gaps_and_sizes):
        now += gap
        if line.push(now, size, number):
            entered.append((number, now, size))
    return entered


@given(directions, arrivals, st.text(max_size=5))
def test_packets_keep_their_order_and_are_never_early(direction, packets, seed):
    line = DelayLine(direction, seed)
    entered = feed(line, packets)
    left = drain(line)
    assert [packet for _, _, packet in left] == [number for number, _, _ in entered]
    assert len(left) + line.lost + line.dropped == len(packets)
    s_per_byte = 8 / direction.rate_bit_s if direction.rate_bit_s else 0.0
    for (due, _, _), (_, now, size) in zip(left, entered, strict=True):
        assert due >= now + size * s_per_byte + direction.delay_s - direction.jitter_s - 1e-9


@given(directions, arrivals, st.text(max_size=5))
def test_the_same_seed_gives_the_same_losses_and_times(direction, packets, seed):
    first, second = DelayLine(direction, seed), DelayLine(direction, seed)
    assert feed(first, packets) == feed(second, packets)
    assert drain(first) == drain(second)


@given(directions, arrivals)
def test_no_more_leaves_than_the_rate_allows(direction, packets):
    line = DelayLine(Direction(delay_s=direction.delay_s, rate_bit_s=direction.rate_bit_s), "")
    feed(line, packets)
    left = drain(line)
    if direction.rate_bit_s and len(left) > 1:
        seconds = left[-1][0] - left[0][0]
        carried = sum(size for _, size, _ in left[1:])
        assert carried * 8 <= direction.rate_bit_s * seconds * (1 + 1e-9) + 1e-6


def test_loss_and_jitter_are_as_asked():
    direction = Direction(delay_s=0.05, jitter_s=0.02, loss=0.1)
    line = DelayLine(direction, "7")
    count = 20_000
    entered = feed(line, [(0.1, 100)] * count)  # further apart than the jitter reaches
    delays = [due - now for (due, _, _), (_, now, _) in zip(drain(line), entered, strict=True)]
    assert line.lost / count == pytest.approx(0.1, abs=0.01)
    assert statistics.mean(delays) == pytest.approx(0.05, rel=0.02)
    assert min(delays) >= 0.03 - 1e-9 and max(delays) <= 0.07 + 1e-9
    assert statistics.pstdev(delays) == pytest.approx(0.02 / 3**0.5, rel=0.03)  # of an even spread


def test_a_steady_stream_gets_the_rate_and_the_queue_is_bounded():
    direction = Direction(rate_bit_s=8e6)  # 1 byte per microsecond
    line = DelayLine(direction, "")
    feed(line, [(0.0005, 1000)] * 4000)  # twice the rate for two seconds
    left = drain(line)
    assert left[-1][0] - left[0][0] == pytest.approx((len(left) - 1) * 0.001)
    queue = queue_bytes(direction)
    assert queue == 100_000
    # What came in is what went out in those two seconds, the full queue, and what was dropped.
    assert len(left) == pytest.approx(2000 + queue / 1000, abs=3)
    assert line.dropped == 4000 - len(left)


def test_the_queue_grows_with_the_delay_and_has_a_floor():
    assert queue_bytes(Direction(rate_bit_s=1e5)) == MIN_QUEUE_BYTES
    assert queue_bytes(Direction(rate_bit_s=1e8, delay_s=0.2)) == round(1e8 / 8 * 0.5)
    assert queue_bytes(Direction(delay_s=1.0)) == UNLIMITED_BYTES


def test_without_a_rate_packets_under_way_are_bounded():
    line = DelayLine(Direction(delay_s=1.0), "")
    feed(line, [(0.0, 65_536)] * 2000)
    assert len(drain(line)) == UNLIMITED_BYTES // 65_536
    assert line.push(5.0, 65_536, 0)  # empty again


def test_a_new_profile_holds_for_new_packets_and_order_is_kept():
    line = DelayLine(Direction(delay_s=1.0), "")
    line.push(0.0, 100, "slow")
    line.configure(Direction(), "")
    assert not line.transparent
    line.push(0.1, 100, "fast")
    assert line.pop(0.999) is None
    assert [packet for _, _, packet in drain(line)] == ["slow", "fast"]
    assert line.transparent
