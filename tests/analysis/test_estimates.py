"""Estimates: what they take out, what their intervals hold, and what few repeats cannot say."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from benchmarks.coverage import COLUMNS, coverage, simulated, truth
from pplib.analysis.estimated.device_ratios import device_ratios
from pplib.analysis.estimated.drift import drift_of
from pplib.analysis.estimated.estimates import estimates
from pplib.analysis.estimated.point_estimates import point_estimates
from pplib.analysis.estimated.stage_levels import stage_levels
from pplib.analysis.estimated.uncertainty import front_probability
from pplib.analysis.statistics import point_table, sorted_trials
from pplib.columns import OBJECTIVES
from pplib.errors import FrameError


@pytest.mark.parametrize("kind", ["none", "walk", "bursts", "busy", "host", "unlike", "rough", "shared"])
def test_intervals_of_three_repeats_hold_differences_as_often_as_they_say(kind):
    table = coverage(kind, repeats=3, sweeps=6, resamples=400)
    assert table["points"].min() > 0.89 and table["points"].max() < 0.99
    assert table["configurations"].min() > 0.88


def test_drift_is_found_where_there_is_some_and_not_where_there_is_none():
    for kind, found in (("none", False), ("walk", True), ("bursts", True)):
        summary, true = simulated(np.random.default_rng(2), kind, repeats=5)
        drift = drift_of(summary)
        error, without = drift.error[0]
        assert (error < 0.7 * without) == found
        weights = summary["stage0_compute_s"]
        off = drift.log_s[:, 0] - true
        left = np.sqrt(np.average((off - np.average(off, weights=weights)) ** 2, weights=weights))
        assert left < (0.6 * true.std() if found else 0.004)


@pytest.mark.parametrize("kind", ["bursts", "host"])
def test_repeats_agree_better_once_divided_by_what_their_stages_took(kind):
    summary, _ = simulated(np.random.default_rng(3), kind, repeats=3)
    for one in estimates(summary, COLUMNS, resamples=10):
        assert max(one.apart_corrected) < 0.6 * min(one.apart)
        assert one.follows == ("path", "cycle" if one.keys["in_flight"] == 2 else "path")


def test_what_does_not_follow_the_stages_is_left_as_measured():
    """A link decides here: the stages' drift is in none of it, and dividing by them would put it in."""
    summary, _ = simulated(np.random.default_rng(3), "host", repeats=3)
    noise = np.exp(np.random.default_rng(5).normal(size=len(summary)) * 0.005)
    summary = summary.assign(latency_s=3.0 * noise, throughput_img_s=2.0 / noise, energy_per_image_j=5.0 * noise)
    for one in estimates(summary, [*COLUMNS, "energy_per_image_j"], resamples=10):
        assert one.follows == ("as measured",) * 3
        assert one.apart_corrected == pytest.approx(one.apart)
        assert one.values[:, 0] == pytest.approx(np.full(20, 3.0), rel=0.01)


def test_a_cut_is_known_from_the_trials_of_all_cuts_where_stages_are_the_sum_of_their_units():
    """Off the true sums by much less than the means of its own trials are, and said so."""
    summary, _ = simulated(np.random.default_rng(6), "host", repeats=3)
    levels = stage_levels(summary, 200, seed=0)
    (found,) = levels.off_units
    assert found <= 0.02
    points = summary.groupby(levels.cell)["partition_point"].first()
    true = np.log([truth("host", "socket", 1, int(point))[:2] for point in points])
    busy = true > np.log(0.02)
    alone = np.log(summary.groupby(levels.cell)[["stage0_compute_s", "stage1_compute_s"]].mean().to_numpy())
    off, off_alone = (np.std((one - true)[busy]) for one in (levels.log_s, alone))
    assert off < 0.6 * off_alone
    assert 0.6 * off < np.std(levels.draws - levels.log_s, axis=0)[busy].mean() < 1.6 * off


def test_devices_that_have_nothing_in_common_are_found_to_be_off_the_sum():
    summary, _ = simulated(np.random.default_rng(6), "unlike", repeats=5)
    assert stage_levels(summary, 10, seed=0).off_units[0] >= 0.08


def test_stages_that_a_summary_does_not_have_and_trials_that_lack_a_time_are_left_out():
    two, _ = simulated(np.random.default_rng(6), "none", repeats=2)
    three = two.assign(num_stages=3, stage2_compute_s=0.05)
    three["partition_point"] = [f"{point}-25" for point in three["partition_point"]]
    three["partition_label"] = "P" + three["partition_point"]
    three.loc[0, "stage1_compute_s"] = np.nan
    both = sorted_trials(pd.concat([two, three], ignore_index=True))
    levels = stage_levels(both, 5, seed=0)
    of_two = both["num_stages"].to_numpy() == 2
    assert (
        np.isfinite(levels.log_s[levels.cell[of_two], :2]).all()
        and np.isnan(levels.log_s[levels.cell[of_two], 2]).all()
    )
    assert np.isfinite(levels.log_s[levels.cell[~of_two]]).all()
    assert len(levels.off_units) == 2
    for one in estimates(both, COLUMNS, resamples=5):
        assert np.isfinite(one.values).all()


def test_a_stage_with_no_unit_between_two_others_takes_what_it_takes():
    """Everything on the last device, or on the first, of three: the middle one hands on."""
    draw, rows = np.random.default_rng(1), []
    whole, nothing = {"P0-0": (0, 0), "P4-4": (4, 4)}, 2e-5
    cuts = whole | {f"P{a}-{b}": (a, b) for a in range(1, 4) for b in range(a + 1, 4)}
    for label, (a, b) in cuts.items():
        for repeat in range(3):
            times = [max(nothing, 0.01 * units) for units in (a, b - a, 4 - b)] * np.exp(0.03 * draw.standard_normal(3))
            more = {f"stage{i}_compute_s": times[i] for i in range(3)}
            rows.append({"partition_point": label[1:], "partition_label": label, "repeat": repeat, **more})
    base = simulated(np.random.default_rng(6), "none", repeats=1)[0].iloc[0]
    dropped = [name for name in base.index if name.endswith("_s") or name in rows[0]]
    summary = sorted_trials(pd.DataFrame(rows).assign(**base.drop(dropped), latency_s=0.04, throughput_img_s=100.0))
    levels = stage_levels(summary.assign(num_stages=3), 50, seed=0)
    assert np.isfinite(levels.draws).all()
    middle = levels.log_s[levels.cell[summary["partition_label"].isin(whole).to_numpy()], 1]
    assert middle == pytest.approx(np.log(nothing), abs=0.1)


def test_two_sweeps_beside_a_load_that_comes_and_goes_agree_on_what_is_usual():
    """The second device is slower for somewhat more, or somewhat less, than half of the time: its median is either."""
    cuts = []
    for seed in range(8):
        summary, _ = simulated(np.random.default_rng([7, seed]), "busy", repeats=3)
        one = estimates(summary, COLUMNS, resamples=10)[0]
        cuts.append(np.log(one.values[2, 0] / one.values[17, 0]))  # the second device does most, and hardly anything
    assert np.std(cuts) < 0.05, "of a device that is 40 % slower, or is not"


def slower_second(kind, by, seed=0):
    """A sweep as it is and one whose second device takes so many times as long, their trials in turns."""
    plain, slow = (simulated(np.random.default_rng([8, seed]), kind, repeats=3)[0] for _ in (0, 1))
    noise = np.exp(0.02 * np.random.default_rng(seed).normal(size=(2, len(slow))))
    slow = slow.assign(stage0_compute_s=slow["stage0_compute_s"] * noise[0])
    slow = slow.assign(stage1_compute_s=slow["stage1_compute_s"] * by * noise[1])
    same = {"cpu": "a CPU", "device_names": "a + b"}
    return pd.concat([plain.assign(setup="plain", **same), slow.assign(setup="slow", **same)], ignore_index=True)


@pytest.mark.parametrize("kind", ["none", "host", "busy"])
def test_a_device_that_is_three_percent_slower_is_found_to_be_so(kind):
    found = {
        (one.keys["setup"], one.keys["backend"], one.keys["in_flight"]): one
        for one in device_ratios(slower_second(kind, 1.03))
    }
    assert len(found) == 6
    changes = []
    for (setup, *rest), one in found.items():
        assert (one.device, one.against) == ("b", "a")
        if setup == "slow":
            changes.append(np.log(one.draws / found["plain", *rest].draws))
    low, high = np.quantile(np.mean(changes, axis=0), [0.025, 0.975])
    assert low < np.log(1.03) < high and high - low < 0.09
    assert low > 0 or kind == "host", "whose 10 % from trial to trial want more repeats"


def test_how_much_longer_a_device_takes_is_told_by_the_cuts():
    summary = slower_second("host", 1.0)
    second = summary["stage1_compute_s"] * 1.5
    for one in device_ratios(summary.assign(stage1_compute_s=second)):
        low, high = np.quantile(one.draws, [0.025, 0.975])
        assert low < 1.5 < high and high / low < 1.25
    once = summary[summary["repeat"] == 0]
    assert device_ratios(once) == [], "how far another sweep might be is not known"
    assert device_ratios(summary.drop(columns="device_names")) == []


@pytest.mark.parametrize("drift", [0.02, 0.1])
def test_a_point_that_is_a_little_worse_in_every_repeat_is_never_on_the_front(drift):
    """Drawn point by point, a drift of 10 % puts it there in a quarter of the resamples."""
    rows = []
    for repeat in range(3):
        for point, worse in ((1, 1.0), (2, 1.03)):
            speed = 1 + drift * (repeat - 1)
            rows.append((repeat, point, 0.1 * worse * speed, 8 / (0.06 * worse * speed), 0.05 * worse * speed))
    frame = pd.DataFrame(rows, columns=["repeat", "partition_point", *COLUMNS, "stage0_compute_s"])
    frame["stage1_compute_s"] = frame["stage0_compute_s"]
    summary, _ = simulated(np.random.default_rng(0), "none", repeats=1)
    same = summary.iloc[0].drop(frame.columns).to_dict()
    at = [f"2026-01-01T00:{repeat:02d}:{point:02d}.000Z" for repeat in range(3) for point in (1, 2)]
    frame = frame.assign(**same).assign(partition_label="P" + frame["partition_point"].astype(str), started_at=at)
    for indifference in (0.0, 0.02):
        found = front_probability(frame, OBJECTIVES, indifference=indifference)
        assert found["front_probability"].tolist() == [1.0, 0.0]


def test_the_table_has_estimates_beside_what_was_measured(trials_of):
    values = {1: [(1.0, 10.0), (1.1, 9.0), (1.2, 8.0)], 2: [(2.0, 5.0), (2.1, 5.1), None]}
    table = point_estimates(trials_of(values))
    raw = point_table(trials_of(values))
    assert table["latency_s_raw"].tolist() == raw["latency_s"].tolist() == [1.1, 2.05]
    assert (table["latency_s_low"] < table["latency_s"]).all() and (table["latency_s"] < table["latency_s_high"]).all()
    assert table["latency_s"].tolist() == pytest.approx([1.1, 2.05], rel=0.01)
    assert table["interval_note"].isna().all()
    wide = point_estimates(trials_of(values), level=0.99)
    assert (wide["throughput_img_s_high"] > table["throughput_img_s_high"]).all()


def test_without_repeats_there_is_a_value_and_no_interval_but_a_reason(trials_of):
    table = point_estimates(trials_of({1: [(1.0, 10.0)], 2: [(2.0, 5.0)], 3: [None]}))
    assert table["latency_s"].tolist()[:2] == pytest.approx([1.0, 2.0])
    assert table["latency_s_low"].isna().all() and table["throughput_img_s_high"].isna().all()
    assert table["interval_note"].tolist()[1:] == [
        "one repeat of every point: how far another would be from it is not known",
        "no ok repeat",
    ]
    assert math.isnan(table["latency_s"].iloc[2])


def test_one_repeat_beside_points_with_several_is_as_noisy_as_they_are(trials_of):
    table = point_estimates(trials_of({1: [(1.0, 10.0)], 2: [(2.0, 5.0), (2.1, 5.1), (1.9, 4.9)]}))
    width = np.log(table["latency_s_high"] / table["latency_s_low"])
    assert width.iloc[0] > 1.3 * width.iloc[1]


def test_one_repeat_that_is_far_off_moves_an_estimate_little(trials_of):
    steady = {p: [(1.0, 10.0), (1.01, 9.9), (0.99, 10.1)] for p in range(9)}
    odd = {**steady, 9: [(1.0, 10.0), (1.01, 9.9), (3.0, 3.0)]}
    assert point_estimates(trials_of(odd))["latency_s"].iloc[9] == pytest.approx(1.0, abs=0.03)


def test_the_seed_decides_and_neither_order_nor_other_devices_matter():
    summary, _ = simulated(np.random.default_rng(4), "walk", repeats=3)
    first = point_estimates(summary, resamples=50, seed=7)
    pd.testing.assert_frame_equal(first, point_estimates(summary.sample(frac=1, random_state=1), resamples=50, seed=7))
    assert not first.equals(point_estimates(summary, resamples=50, seed=8))
    others = summary.assign(device_names="c, d", setup="other devices")
    both = point_estimates(pd.concat([summary, others], ignore_index=True), resamples=50, seed=7)
    kept = both[both["setup"] == ""].reset_index(drop=True)
    assert kept["latency_s_low"].tolist() == pytest.approx(first["latency_s_low"].tolist())


def test_where_every_trial_failed_there_is_no_drift(trials_of):
    summary = trials_of({1: [None, None]}, started_at="2026-01-01T00:00:00.000Z")
    assert drift_of(summary).log_s.shape == (2, 0)
    assert drift_of(summary.assign(stage0_compute_s=np.nan)).log_s[:, 0].tolist() == pytest.approx(
        [np.nan] * 2, nan_ok=True
    )
    assert drift_of(summary.iloc[:0].assign(stage0_compute_s=[])).log_s.shape == (0, 1)


def test_an_empty_summary_gives_an_empty_table(trials_of):
    empty = point_estimates(trials_of({1: [(1, 1)] * 3}).iloc[:0])
    assert len(empty) == 0
    assert {"latency_s_low", "latency_s_raw", "interval_note"} <= set(empty.columns)


def test_arguments_that_make_no_sense_are_named(trials_of):
    summary = trials_of({1: [(1, 1)]})
    with pytest.raises(FrameError, match=r"level: expected a share between 0 and 1, such as 0\.95, got 95"):
        point_estimates(summary, level=95)
    for arguments, message in (
        ({"columns": COLUMNS, "resamples": 0}, "resamples: expected 1 or more, got 0"),
        ({"columns": COLUMNS, "seed": -1}, "seed: expected 0 or more, got -1"),
        ({"columns": ()}, "columns: expected at least one"),
        ({"columns": ["latency"]}, "no column 'latency'; nearest: latency"),
        ({"columns": ["status"]}, "'status': expected numbers"),
    ):
        with pytest.raises(FrameError, match=message):
            estimates(summary, **arguments)
