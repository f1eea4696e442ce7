"""What a device takes for any stage, from profiles whose truth is known; and the line through what messages take."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pplib.errors import FrameError
from pplib.planner.profiles.device_profile import DeviceProfile, TimedStage, levels, powers_w
from pplib.planner.profiles.hop_profile import fit_line
from pplib.planner.profiles.stage_times import StageTimes

SIZES = [3.0e6, 9.0e6, 5.0e6, 5.0e6, 2.0e6, 1.0e6, 1.0e6, 0.5e6, 0.1e6]
UNITS_S = [0.010, 0.030, 0.020, 0.015, 0.005, 0.010, 0.008, 0.004]
CUTS = (2, 4)
COUNT = len(UNITS_S)


def truth_s(first, last, units_s=UNITS_S, constant_s=0.002, per_byte_s=1e-10):
    """What a stage takes: its units, a call, and the conversion of what comes in and goes out."""
    if first == last:
        return 1e-5
    return constant_s + per_byte_s * (SIZES[first] + SIZES[last]) + sum(units_s[first:last])


def profile(of=truth_s, noise=0.0, drift=0.0, rounds=6, cuts=CUTS, seed=0):
    """A profile of a device that takes what `of` says."""
    draw = np.random.default_rng(seed)
    slowness = drift * draw.standard_normal(rounds)
    borders = [*itertools.pairwise(range(COUNT + 1)), (0, 0), (COUNT, COUNT), (0, COUNT)]
    borders += [(0, cut) for cut in cuts] + [(cut, COUNT) for cut in cuts]
    stages = [
        TimedStage(
            first=first,
            last=last,
            rounds_s=list(of(first, last) * np.exp(slowness + noise * draw.standard_normal(rounds))),
            param_bytes=8 * (last - first),
        )
        for first, last in borders
    ]
    about = {"name": "a", "asked": {}, "found": {}, "began": "", "took_s": 1.0}
    return DeviceProfile(**about, stages=stages, activation_bytes=[round(one) for one in SIZES])


ALL = list(itertools.combinations(range(COUNT + 1), 2))


def off(times, of=truth_s):
    return np.array([np.log(times.at(*place).seconds / of(*place)) for place in ALL])


def test_what_every_unit_pays_alone_a_stage_pays_once():
    found = profile()
    sums = {(a, b): sum(one.rounds_s[0] for one in found.stages[:COUNT][a:b]) for a, b in ALL}
    naive = np.array([np.log(sums[place] / truth_s(*place)) for place in ALL])
    assert np.abs(off(StageTimes(found))).max() < 0.1 < np.abs(naive).max()
    assert np.abs(off(StageTimes(found))).mean() < 0.03 < np.abs(naive).mean() / 2


def test_units_that_fuse_in_one_segment_alone_are_told_apart_by_the_anchors():
    def fused(first, last):
        """Neighbours among units 5 to 8 save a quarter of their time."""
        inside = [i for i in range(first, last) if i >= 4]
        return truth_s(first, last) - 0.25 * sum(UNITS_S[i] for i in inside if len(inside) > 1)

    times = StageTimes(profile(fused))
    longer = [place for place in ALL if place[1] > place[0] + 1]
    far = [abs(np.log(times.at(*place).seconds / fused(*place))) for place in longer]
    assert np.mean(far) < 0.04
    assert StageTimes(profile(fused, cuts=())).model_sd > times.model_sd / 2


def test_drift_from_round_to_round_is_common_to_all_and_changes_nothing():
    calm, drifting = StageTimes(profile(noise=0.02)), StageTimes(profile(noise=0.02, drift=0.3))
    assert drifting.spread < 0.04
    ratio = [np.log(drifting.at(*place).seconds / calm.at(*place).seconds) for place in ALL]
    assert np.std(ratio) < 0.02


@pytest.mark.parametrize("noise", [0.03, 0.1])
def test_intervals_hold_the_truth_about_as_often_as_they_say(noise):
    inside = []
    for seed in range(40):
        times = StageTimes(profile(noise=noise, seed=seed))
        sds = np.array([times.at(*place).log_sd for place in ALL])
        inside.append(np.mean(np.abs(off(times)) < 1.96 * sds))
        assert times.spread == pytest.approx(noise, rel=0.4)
    assert 0.88 <= np.mean(inside) <= 1.0


@settings(max_examples=50)
@given(
    st.lists(st.floats(1e-4, 1.0), min_size=COUNT, max_size=COUNT),
    st.floats(0, 0.01),
    st.floats(0, 1e-9),
    st.floats(1e-3, 1e3),
)
def test_times_are_above_zero_and_scale_with_the_device(units_s, constant_s, per_byte_s, factor):
    def of(first, last):
        return truth_s(first, last, units_s, constant_s, per_byte_s)

    times, others = StageTimes(profile(of)), StageTimes(profile(lambda a, b: factor * of(a, b)))
    for place in ALL:
        assert times.at(*place).seconds > 0
        assert np.isfinite(times.at(*place).log_sd)
        assert others.at(*place).seconds == pytest.approx(factor * times.at(*place).seconds, rel=1e-5)


def test_the_table_has_every_stage_and_nothing_else():
    times = StageTimes(profile())
    seconds, log_sd = times.table()
    assert np.isnan(seconds[np.tril_indices(COUNT + 1, -1)]).all()
    assert np.isfinite(seconds[np.triu_indices(COUNT + 1)]).all()
    assert seconds[2, 5], log_sd[2, 5] == times.at(2, 5)
    assert seconds[0, 0] == pytest.approx(1e-5)
    for wrong in ((-1, 2), (3, 2), (0, COUNT + 1)):
        with pytest.raises(FrameError, match=f"expected 0 <= first <= last <= {COUNT}"):
            times.at(*wrong)


def test_a_model_of_one_unit_is_that_unit():
    stages = [TimedStage(first=a, last=b, rounds_s=[t, t]) for a, b, t in [(0, 1, 0.1), (0, 0, 1e-5), (1, 1, 1e-5)]]
    about = {"name": "a", "asked": {}, "found": {}, "began": "", "took_s": 1.0}
    times = StageTimes(DeviceProfile(**about, stages=stages, activation_bytes=[100, 10]))
    assert times.at(0, 1).seconds == pytest.approx(0.1, rel=0.05)


def test_levels_leave_a_burst_in_one_round_of_one_stage_alone():
    table = np.outer([1.0, 2.0, 3.0, 4.0], [1.0, 1.1, 0.9, 1.0, 1.05])
    table[2, 3] *= 10
    found, slowness, _ = levels(table.tolist())
    assert found == pytest.approx([1.0, 2.0, 3.0, 4.0], rel=1e-6)
    assert np.exp(slowness) == pytest.approx([1.0, 1.1, 0.9, 1.0, 1.05], rel=1e-6)


@settings(max_examples=50)
@given(st.floats(1e-6, 1e-2), st.floats(1e-11, 1e-7), st.integers(0, 2**32))
def test_a_line_is_found_where_one_message_of_eight_was_held_up(fixed_s, per_byte_s, seed):
    sizes = np.geomspace(1e3, 3e7, 8)
    draw = np.random.default_rng(seed)
    times = (fixed_s + per_byte_s * sizes) * np.exp(0.01 * draw.standard_normal((3, 8)))
    times[:, draw.integers(1, 7)] *= 3
    line = fit_line(sizes, times.T.tolist())
    at = [line.at(size) / (fixed_s + per_byte_s * size) for size in sizes]
    assert np.median(np.abs(np.log(at))) < 0.05
    assert line.log_sd > 0.1, "what does not lie on the line is in its error"


def test_a_line_has_no_term_below_zero():
    falling = fit_line([1e3, 1e6], [[2e-3], [1e-3]])
    assert falling.per_byte_s == 0
    assert 1e-3 <= falling.fixed_s <= 2e-3
    steep = fit_line([1e3, 1e6], [[1e-7], [1e-2]])
    assert steep.fixed_s == 0
    assert steep.per_byte_s > 0


def test_powers_are_those_of_the_device_file_where_energy_is_estimated_from_them():
    visits = [(3.0 * (d - b) + 7.0 * b, d, b) for d, b in [(1.0, 0.1), (1.2, 0.9), (0.5, 0.5), (2.0, 0.0)]]
    assert powers_w(visits) == pytest.approx((3.0, 7.0))
    assert powers_w(visits[:2]) is None
    assert powers_w([*visits, (None, 1.0, 0.5)]) is None
    assert powers_w([(1.0, 1.0, 0.5)] * 5) is None, "the two cannot be told apart"
