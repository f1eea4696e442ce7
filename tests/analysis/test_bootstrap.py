"""Confidence intervals of medians: what they hold, what few repeats cannot say, and the seed."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pplib.analysis.bootstrap import confidence, range_coverage, repeats_needed, with_confidence
from pplib.analysis.statistics import fronts, point_table
from pplib.errors import FrameError

seconds = st.floats(1e-3, 10, allow_nan=False)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(seconds, seconds), min_size=6, max_size=12), st.integers(0, 5))
def test_an_interval_holds_the_median_and_lies_within_the_range(trials_of, pairs, seed):
    row = confidence(trials_of({4: pairs}), resamples=200, seed=seed).iloc[0]
    for j, name in enumerate(("latency_s", "throughput_img_s")):
        measured = [pair[j] for pair in pairs]
        assert row[name] == np.median(measured)
        assert min(measured) <= row[f"{name}_low"] <= row[name] <= row[f"{name}_high"] <= max(measured)
    assert row["repeats_ok"] == len(pairs)


def test_no_interval_is_claimed_where_even_the_range_of_the_repeats_is_too_narrow(trials_of):
    pairs = [(0.1, 5), (0.3, 7), (0.2, 9), (0.4, 6), (0.5, 8), (0.6, 4)]
    row = confidence(trials_of({1: pairs[:5]})).iloc[0]
    assert row["latency_s"] == 0.3
    assert math.isnan(row["latency_s_low"])
    assert math.isnan(row["throughput_img_s_high"])
    assert row["interval_note"] == "5 ok repeats: 95% needs 6; their range holds the median in 94%"
    assert confidence(trials_of({1: pairs})).iloc[0][["latency_s_low", "latency_s_high"]].notna().all()
    row = confidence(trials_of({1: pairs[:3]}), level=0.75).iloc[0]
    assert (row["latency_s_low"], row["latency_s"], row["latency_s_high"]) == (0.1, 0.2, 0.3)
    assert (row["throughput_img_s_low"], row["throughput_img_s_high"]) == (5, 9)


@pytest.mark.parametrize("repeats", [6, 7, 15])
def test_intervals_of_few_repeats_hold_the_median_nearly_as_often_as_their_level_says(trials_of, repeats):
    # 300 points whose true median is 1; the docstring states these shares.
    drawn = np.random.default_rng(4).lognormal(0, 0.2, (300, repeats))
    table = confidence(trials_of({p: [(value, 1) for value in row] for p, row in enumerate(drawn)}), resamples=400)
    assert 0.83 < ((table["latency_s_low"] <= 1) & (table["latency_s_high"] >= 1)).mean() < 0.97


def test_the_range_of_n_repeats_holds_the_median_as_often_as_claimed():
    drawn = np.random.default_rng(1).random((20_000, 3))
    inside = ((drawn.min(axis=1) < 0.5) & (drawn.max(axis=1) > 0.5)).mean()
    assert inside == pytest.approx(range_coverage(3), abs=0.01)


def test_many_repeats_give_an_interval_narrower_than_the_range_and_no_note(trials_of):
    pairs = [(0.1 + 0.01 * i, 5.0) for i in range(15)]
    row = confidence(trials_of({1: pairs})).iloc[0]
    assert 0.1 < row["latency_s_low"] < row["latency_s"] < row["latency_s_high"] < 0.24
    assert row["interval_note"] is None or pd.isna(row["interval_note"])
    wider = confidence(trials_of({1: pairs}), level=0.999).iloc[0]
    assert wider["latency_s_low"] <= row["latency_s_low"]
    assert wider["latency_s_high"] >= row["latency_s_high"]


@pytest.mark.parametrize("repeats", [[(0.1, 5), (0.2, 6)], [(0.1, 5), None, None], [None, None], [(math.nan, 5)]])
def test_points_with_hardly_a_repeat_have_no_interval_but_a_reason(trials_of, repeats):
    row = confidence(trials_of({1: repeats})).iloc[0]
    assert math.isnan(row["latency_s_low"])
    assert math.isnan(row["throughput_img_s_high"])
    usable = sum(pair is not None and not math.isnan(pair[0]) for pair in repeats)
    assert row["repeats_ok"] == usable
    assert row["interval_note"].startswith(f"{usable} ok repeat")
    assert ": 95% needs 6" in row["interval_note"]


def test_points_get_the_intervals_of_their_own_trials_whatever_the_order_and_the_keys(trials_of):
    few, many = [(0.1, 5)] * 3, [(0.1 + 0.01 * i, 5.0 + i) for i in range(9)]
    summary = pd.concat([trials_of({2: few, 10: many}, dataset=None), trials_of({2: many, 10: [None]}, link="slow")])
    points = fronts(point_table(summary), {"latency_s": "min"})
    table = with_confidence(points[::-1], summary, resamples=200)
    expected = confidence(summary, resamples=200)[::-1].reset_index(drop=True)
    assert list(table.columns[:-5]) == list(points.columns)
    for name in ("latency_s_low", "latency_s_high", "throughput_img_s_low", "throughput_img_s_high"):
        pd.testing.assert_series_equal(table[name].reset_index(drop=True), expected[name])
    found = table.set_index(["link", "partition_label"])
    assert found.loc[("slow", "P10"), "interval_note"] == "0 ok repeats: 95% needs 6"
    assert found.loc[("slow", "P2"), "latency_s_low"] < found.loc[("slow", "P2"), "latency_s"]
    assert len(with_confidence(points.iloc[:0], summary.iloc[:0])) == 0
    with pytest.raises(FrameError, match="the summary: no trial of mobilenet_v2"):
        with_confidence(points, summary[summary["link"] == "slow"])


def test_the_repeats_needed_are_the_fewest_whose_range_is_wide_enough():
    for level in (0.5, 0.9, 0.95, 0.999):
        needed = repeats_needed(level)
        assert range_coverage(needed) >= level > range_coverage(needed - 1)


def test_the_seed_decides_and_neither_order_nor_company_matters(trials_of):
    pairs = [(0.1 * i, 10.0 / i) for i in range(1, 10)]
    alone = trials_of({3: pairs})
    first = confidence(alone, resamples=50, seed=7)
    pd.testing.assert_frame_equal(first, confidence(alone, resamples=50, seed=7))
    assert not first.equals(confidence(alone, resamples=50, seed=8))
    # Company with a missing key turns whole columns into floats and objects.
    company = pd.concat([trials_of({1: pairs}, in_flight=np.nan, dataset=None), alone, trials_of({12: pairs})])
    table = confidence(company.sample(frac=1, random_state=1), resamples=50, seed=7)
    row = table[(table["partition_point"] == 3)].iloc[0]
    for name in ("latency_s_low", "latency_s_high", "throughput_img_s_low"):
        assert row[name] == first[name].iloc[0]


def test_points_stand_in_the_models_order_and_an_empty_summary_gives_an_empty_table(trials_of):
    summary = trials_of({10: [(1, 1)] * 3, 2: [(1, 1)] * 3})
    assert confidence(summary)["partition_point"].tolist() == [2, 10]
    empty = confidence(summary.iloc[:0])
    assert len(empty) == 0
    assert {"latency_s_low", "interval_note", "partition_label"} <= set(empty.columns)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"level": 95}, "level: expected a share between 0 and 1, such as 0.95, got 95"),
        ({"resamples": 0}, "resamples: expected 1 or more, got 0"),
        ({"seed": -1}, "seed: expected 0 or more, got -1"),
        ({"columns": ()}, "columns: expected at least one"),
        ({"columns": ["latency"]}, "no column 'latency'; nearest: latency"),
        ({"columns": ["status"]}, "'status': expected numbers"),
    ],
)
def test_arguments_that_make_no_sense_are_named(trials_of, arguments, message):
    with pytest.raises(FrameError, match=message):
        confidence(trials_of({1: [(1, 1)]}), **arguments)
