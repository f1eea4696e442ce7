"""Links requested and measured: one row per link, engine and hop, by hand."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from pplib.analysis.links import MEASURED, link_table
from pplib.errors import FrameError

SLOW = {
    "link": "slow",
    "link_engine": "userspace",
    "link_requested_rtt_s": 0.4,
    "link_requested_forward_bit_s": 5e6,
    "link_requested_backward_bit_s": 5e6,
    "link_requested_loss": 0.01,
}


def measured(hop, rtt_s, bit_s):
    return {
        f"hop{hop}_rtt_before_s": rtt_s,
        f"hop{hop}_rtt_after_s": rtt_s * 1.01,
        f"hop{hop}_rtt_p99_before_s": rtt_s * 1.1,
        f"hop{hop}_rtt_p99_after_s": rtt_s * 1.2,
        f"hop{hop}_forward_before_bit_s": bit_s,
        f"hop{hop}_forward_after_bit_s": bit_s * 0.99,
        f"hop{hop}_backward_before_bit_s": bit_s * 0.98,
        f"hop{hop}_backward_after_bit_s": bit_s * 0.97,
    }


def test_a_configuration_counts_once_however_many_trials_it_has(trials_of):
    summary = pd.concat(
        [
            trials_of({1: [(1, 1)] * 9}, **SLOW, **measured(0, 0.401, 4.8e6)),
            trials_of({1: [(1, 1)]}, in_flight=2, **SLOW, **measured(0, 0.403, 4.7e6)),
            trials_of({1: [None]}, in_flight=4, **SLOW, **measured(0, 0.402, 4.6e6)),
        ]
    )
    table = link_table(summary)
    assert len(table) == 1
    row = table.iloc[0]
    assert (row["link"], row["link_engine"], row["hop"], row["configurations"]) == ("slow", "userspace", 0, 3)
    assert (row["requested_rtt_s"], row["requested_forward_bit_s"], row["requested_loss"]) == (0.4, 5e6, 0.01)
    assert row[["rtt_before_s", "rtt_before_s_min", "rtt_before_s_max"]].tolist() == [0.402, 0.401, 0.403]
    assert row["rtt_p99_after_s_max"] == pytest.approx(0.403 * 1.2)
    ends = row[["forward_before_bit_s", "forward_before_bit_s_min", "forward_before_bit_s_max"]]
    assert ends.tolist() == [4.7e6, 4.6e6, 4.8e6]
    assert row["backward_after_bit_s"] == pytest.approx(4.7e6 * 0.97)


def test_links_engines_and_hops_have_rows_of_their_own(trials_of):
    two_hops = {**SLOW, "link_engine": "tc", **measured(0, 0.4, 5e6), **measured(1, 0.41, 5e6)}
    bare = {"link_engine": "none", "link_requested_rtt_s": np.nan}
    summary = pd.concat(
        [
            trials_of({1: [(1, 1)]}, **two_hops),
            trials_of({1: [(1, 1)]}, **SLOW, **measured(0, 0.4, 5e6)),
            trials_of({1: [(1, 1)]}, **bare, **measured(0, 0.0001, 1e10)),
        ]
    )
    table = link_table(summary)
    assert table[["link", "link_engine", "hop"]].to_numpy().tolist() == [
        ["none", "none", 0],
        ["slow", "tc", 0],
        ["slow", "tc", 1],
        ["slow", "userspace", 0],
    ]
    assert math.isnan(table.loc[0, "requested_rtt_s"])
    assert table.loc[2, "rtt_before_s"] == 0.41


def test_older_summaries_without_the_columns_or_without_values_give_no_rows(trials_of):
    old = trials_of({1: [(1, 1)]})
    for summary in (old, old.assign(link_engine=None, hop0_rtt_before_s=np.nan), old.iloc[:0]):
        table = link_table(summary)
        assert len(table) == 0
        assert {"link", "link_engine", "hop", "requested_loss", *MEASURED} <= set(table.columns)
    both = pd.concat([old, trials_of({1: [(1, 1)]}, **SLOW, **measured(0, 0.4, 5e6))])
    assert link_table(both)["link"].tolist() == ["slow"]


def test_what_was_not_measured_stays_empty(trials_of):
    row = link_table(trials_of({1: [(1, 1)]}, hop0_rtt_before_s=0.1)).iloc[0]
    assert row["rtt_before_s"] == 0.1
    assert row[["rtt_after_s", "forward_before_bit_s_max", "requested_rtt_s"]].isna().all()


def test_columns_that_hold_no_numbers_are_refused(trials_of):
    with pytest.raises(FrameError, match="'hop0_rtt_before_s': expected numbers"):
        link_table(trials_of({1: [(1, 1)]}, hop0_rtt_before_s="fast"))
    with pytest.raises(FrameError, match="no column 'backend'"):
        link_table(trials_of({1: [(1, 1)]}).drop(columns="backend"))
