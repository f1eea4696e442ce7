"""Trials that may not be believed, each check with a case just inside and just outside its limit."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from pplib.analysis.stability import (
    CLOCK_LIMIT,
    EFFICIENCY_TOLERANCE,
    REPEAT_LIMIT,
    TAIL_LIMIT,
    noise,
    unstable_trials,
    worst_trials,
)
from pplib.errors import FrameError

CALM = {p: [(0.100, 50.0), (0.101, 50.2), (0.102, 49.8)] for p in range(5)}


def test_a_calm_sweep_has_nothing_to_say(trials_of):
    found = unstable_trials(trials_of(CALM))
    assert len(found) == 0
    assert list(found.columns)[-5:] == ["check", "value", "limit", "reason", "remedy"]


@pytest.mark.parametrize(
    ("check", "column", "inside", "outside"),
    [
        ("tail", "latency_p90_s", 0.1 * (1 + TAIL_LIMIT) - 1e-9, 0.1 * (1 + TAIL_LIMIT) + 1e-9),
        ("efficiency", "efficiency", 1 + EFFICIENCY_TOLERANCE - 1e-9, 1 + EFFICIENCY_TOLERANCE + 1e-9),
        ("clock", "clock_error_s", 0.1 * CLOCK_LIMIT - 1e-9, 0.1 * CLOCK_LIMIT + 1e-9),
    ],
)
def test_a_trial_beyond_a_limit_is_named_with_reason_and_remedy(trials_of, check, column, inside, outside):
    summary = trials_of(CALM)
    assert summary.loc[6, "latency_s"] == 0.1
    summary.loc[6, column] = inside
    assert len(unstable_trials(summary)) == 0
    summary.loc[6, column] = outside
    row = unstable_trials(summary).iloc[0]
    assert (row["partition_label"], row["repeat"], row["check"]) == ("P2", 0, check)
    assert row["value"] > row["limit"]
    assert "limit" in row["reason"]
    assert row["remedy"]


def test_a_repeat_far_from_its_point_is_named_where_the_others_agree(trials_of):
    far = {**CALM, 3: [(0.100, 50.0), (0.101, 50.2), (0.120, 49.8)]}
    row = unstable_trials(trials_of(far))
    assert row["check"].tolist() == ["repeats"]
    assert (row["partition_label"].item(), row["repeat"].item()) == ("P3", 2)
    assert row["value"].item() == pytest.approx(0.19 / 1.01)
    assert row["limit"].item() == REPEAT_LIMIT
    assert "latency 18.8% from its point's median" in row["reason"].item()


def test_where_all_points_are_noisy_only_the_whole_is_named(trials_of):
    noisy = {p: [(0.100, 50.0), (0.08, 50.2), (0.120, 49.8)] for p in range(5)}
    summary = trials_of(noisy)
    assert len(unstable_trials(summary)) == 0
    row = noise(summary).iloc[0]
    assert row["latency_noise"] == pytest.approx(0.2)
    assert row["throughput_noise"] == pytest.approx(0.004)
    assert "20.0%" in row["warning"]
    assert "more repeats" in row["warning"]
    calm = noise(trials_of(CALM)).iloc[0]
    assert calm["warning"] is None or pd.isna(calm["warning"])


def test_trials_failing_several_checks_count_once(trials_of):
    summary = trials_of(CALM)
    summary.loc[6, ["latency_p90_s", "efficiency", "clock_error_s"]] = [1.0, 2.0, 1.0]
    assert unstable_trials(summary)["check"].tolist() == ["tail", "efficiency", "clock"]
    row = noise(summary).iloc[0]
    assert (row["trials"], row["unstable"]) == (15, 1)


def test_single_repeats_failed_trials_and_missing_values_are_not_held_against_a_point(trials_of):
    summary = trials_of({1: [(0.1, 50)], 2: [None, (0.9, 5)], 3: [(0.1, 50), (0.1, math.nan)]})
    summary["latency_p90_s"] = np.nan
    assert len(unstable_trials(summary)) == 0
    assert len(unstable_trials(summary.iloc[:0])) == 0
    assert len(noise(summary.iloc[:0])) == 0


def test_with_too_few_microbatches_for_a_percentile_the_slowest_is_looked_at(trials_of):
    summary = trials_of(CALM)
    summary["latency_p90_s"] = [np.nan] * 7 + summary["latency_p90_s"].tolist()[7:]
    summary["latency_max_s"] = summary["latency_s"] * ([1.1] * 6 + [1.2] * (len(summary) - 6))
    found = unstable_trials(summary)
    assert found["check"].tolist() == ["tail"]
    assert found["value"].tolist() == pytest.approx([0.2])


def test_configurations_are_judged_by_their_own_noise_even_with_missing_keys(trials_of):
    noisy = {p: [(0.100, 50.0), (0.07, 50.2), (0.130, 49.8)] for p in range(5)}
    far = {**CALM, 3: [(0.100, 50.0), (0.101, 50.2), (0.120, 49.8)]}
    both = pd.concat([trials_of(noisy, backend="rpc", dataset=None), trials_of(far, dataset=None)])
    found = unstable_trials(both)
    assert found[["backend", "partition_label"]].to_numpy().tolist() == [["socket", "P3"]]
    table = noise(both).set_index("backend")
    assert table.loc["rpc", "latency_noise"] == pytest.approx(0.3)
    assert table.loc["socket", "unstable"] == 1


def test_a_summary_without_what_is_checked_is_refused(trials_of):
    with pytest.raises(FrameError, match="no column 'clock_error_s'"):
        unstable_trials(trials_of(CALM).drop(columns="clock_error_s"))


def test_the_worst_trials_are_those_furthest_beyond_their_limit(trials_of):
    summary = trials_of(CALM)
    summary.loc[[0, 4, 8], "clock_error_s"] = [0.02, 0.05, 0.01]
    found = unstable_trials(summary)
    assert len(found) == 3
    assert worst_trials(found, 2)["partition_label"].tolist() == ["P1", "P0"]
    assert len(worst_trials(found)) == 3
    assert list(worst_trials(unstable_trials(trials_of(CALM))).columns) == list(found.columns)


def test_a_hop_shorter_than_the_clocks_error_allows_is_not_to_be_compared_but_the_trial_is_sound(trials_of):
    summary = trials_of(CALM).assign(hop0_transfer_s=0.002, hop0_clock_error_s=0.002 * CLOCK_LIMIT - 1e-9)
    assert len(unstable_trials(summary)) == 0
    summary.loc[6, "hop0_clock_error_s"] = 0.0005
    row = unstable_trials(summary).iloc[0]
    assert (row["partition_label"], row["repeat"], row["check"]) == ("P2", 0, "clock")
    assert row["reason"] == "hop0_transfer_s is known within 25.0% only, by the clocks' error (limit 5.0%)"
    assert noise(summary)["unstable"].tolist() == [0]
