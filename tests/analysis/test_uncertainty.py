"""The probability of being on the front and ties, against brute force and cases that are plain."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pplib.analysis.estimated.estimates import estimates
from pplib.analysis.estimated.point_estimates import point_estimates
from pplib.analysis.estimated.uncertainty import front_probability, ties, with_fronts
from pplib.analysis.pareto import pareto_mask
from pplib.analysis.statistics import GIVEN_KEYS, fronts
from pplib.errors import FrameError
from pplib.view.words.ties import tie_lines

OBJECTIVES = {"latency_s": "min", "throughput_img_s": "max"}

few = st.integers(1, 4).map(float)
repeats = st.lists(st.none() | st.tuples(few, few), min_size=1, max_size=4)
summaries = st.dictionaries(st.integers(0, 19), repeats, min_size=1, max_size=6)


def probabilities(table):
    return dict(zip(table["partition_label"], table["front_probability"], strict=True))


def tied(table):
    return dict(zip(table["partition_label"], table["tied_with"], strict=True))


@settings(max_examples=40)
@given(summaries, st.integers(0, 3))
def test_probabilities_equal_brute_force_over_the_same_draws(trials_of, values, seed):
    summary = trials_of(values)
    table = front_probability(summary, OBJECTIVES, resamples=20, seed=seed)
    (one,) = estimates(summary, list(OBJECTIVES), 20, seed)
    share = np.mean([pareto_mask(pd.DataFrame(drawn, columns=list(OBJECTIVES)), OBJECTIVES) for drawn in one.draws], 0)
    for i, point in enumerate(one.points):
        found = table["front_probability"].iloc[i]
        unknown = point.count == 0 or all(other.count < 2 for other in one.points)
        assert math.isnan(found) if unknown else found == pytest.approx(share[i])


@settings(max_examples=40)
@given(summaries)
def test_called_on_the_front_is_what_is_on_that_of_estimates_and_not_by_luck(trials_of, values):
    summary = trials_of(values)
    table = front_probability(summary, OBJECTIVES, resamples=40)
    known = fronts(point_estimates(summary), OBJECTIVES)["on_front"].to_numpy()
    called, share = table["on_front"].to_numpy(), table["front_probability"].to_numpy()
    assert not (called & ~known).any() and called.any() == known.any()
    assert called[known & ~(share < 0.5)].all()
    if not (share[known] >= 0.5).any() and np.isfinite(share[known]).any():
        assert called[known & (share == np.max(share[known]))].all()
    assert ties(summary, OBJECTIVES, resamples=40)["on_front"].tolist() == called.tolist()
    assert with_fronts(point_estimates(summary), table)["on_front"].tolist() == called.tolist()


def test_a_point_that_always_wins_has_probability_one_and_one_always_dominated_zero(trials_of):
    table = front_probability(
        trials_of({1: [(1, 9), (1.2, 8), (1.1, 7)], 2: [(5, 3), (4, 4), (3, 5)], 3: [(0.5, 1), (0.6, 2), (0.7, 1)]}),
        OBJECTIVES,
    )
    assert probabilities(table) == pytest.approx({"P1": 1.0, "P2": 0.0, "P3": 1.0}, abs=0.02)
    assert table["on_front"].tolist() == [True, False, True]


def test_where_several_are_equally_good_one_of_them_is_called_and_leaves_no_hole(trials_of):
    """Each of them is off the front more often than not, but always one of them is on it."""
    noise = np.random.default_rng(1)
    values = {0: [(0.1, 50.0)] * 3}
    values |= {
        point: [(0.12 * a, 100 * b) for a, b in noise.normal(1, 0.03, (3, 2))] for point in range(1, 7)
    }  # fmt: skip
    table = front_probability(trials_of(values), OBJECTIVES, indifference=0.0)
    share, called = probabilities(table), table.loc[table["on_front"], "partition_label"].tolist()
    assert share["P0"] == 1 and called[0] == "P0"
    assert 1 <= len(called) - 1 < 4
    assert max(share[one] for one in called[1:]) == max(share[f"P{point}"] for point in range(1, 7))


def test_two_points_alike_share_the_front_and_repeats_stay_paired(trials_of):
    # Paired, every repeat of P1 is as good as its partner; drawn apart, (1, 1) would be dominated.
    same = [(1, 1), (2, 2), (3, 3)]
    table = front_probability(trials_of({1: same, 2: same}), OBJECTIVES, resamples=400)
    assert probabilities(table) == {"P1": 1.0, "P2": 1.0}


def test_a_close_call_is_undecided(trials_of):
    # Both are as quick, and as noisy; the other objective is the same: each is the better one in half of the cases.
    noise = [0.97, 1.01, 1.0, 0.98, 1.03, 1.02, 0.99]
    values = {1: [(2 * one, 5) for one in noise], 2: [(2 * one, 5) for one in noise[::-1]]}
    found = probabilities(front_probability(trials_of(values), OBJECTIVES, resamples=20_000))
    assert found["P1"] == pytest.approx(0.5, abs=0.03)
    assert found["P2"] == pytest.approx(0.5, abs=0.03)


def test_failed_and_incomplete_trials_count_for_nothing(trials_of):
    summary = trials_of({1: [(1, 9), (1, 9), (1, math.nan)], 2: [None, None], 3: [(2, 8), (2, 8), (2, 8)]})
    table = front_probability(summary, OBJECTIVES)
    assert table["repeats_ok"].tolist() == [2, 0, 3]
    assert table["front_probability"].tolist()[0] == 1.0
    assert math.isnan(table["front_probability"].iloc[1])
    assert table["front_probability"].iloc[2] == 0.0
    assert table["front_note"].iloc[1] == "no ok repeat"
    assert table["front_note"].isna().tolist() == [True, False, True]


def test_where_every_point_has_one_repeat_nothing_is_said_about_their_configuration(trials_of):
    summary = trials_of({1: [(1, 9), None], 2: [(2, 8)], 3: [None]})
    both = pd.concat([summary, trials_of({1: [(1, 9)] * 2, 2: [(2, 8)] * 2}, backend="rpc", dataset=None)])
    table = front_probability(both, OBJECTIVES)
    assert table["front_probability"].isna().tolist() == [True, True, True, False, False]
    assert table["front_note"].tolist()[:3] == ["noise unknown: one repeat of every point"] * 2 + ["no ok repeat"]
    assert ties(both, OBJECTIVES)["tied_with"].isna().tolist() == [True, True, False, False, False]


def test_configurations_do_not_dominate_each_other_nor_change_each_others_draws(trials_of):
    noisy = {p: [(1 + 0.1 * p, 5), (1.2 - 0.1 * p, 6), (1, 4 + p)] for p in range(4)}
    one = front_probability(trials_of(noisy), OBJECTIVES, seed=3)
    both = pd.concat([trials_of(noisy), trials_of({1: [(0.1, 99)]}, backend="rpc", dataset=None)])
    two = front_probability(both, OBJECTIVES, seed=3)
    assert two[two["backend"] == "socket"]["front_probability"].tolist() == one["front_probability"].tolist()
    assert two[two["backend"] == "rpc"]["front_probability"].isna().tolist() == [True]
    assert one.equals(front_probability(trials_of(noisy), OBJECTIVES, seed=3))
    assert not one.equals(front_probability(trials_of(noisy), OBJECTIVES, seed=4))


def test_one_front_over_all_configurations_is_that_of_all_points_together(trials_of):
    quick = trials_of({1: [(1.0, 5.0), (1.01, 5.1)], 2: [(2.0, 9.0), (2.01, 9.1)]})
    slow = trials_of({1: [(1.5, 4.0), (1.51, 4.1)], 2: [(3.0, 12.0), (3.1, 12.1)]}, backend="rpc")
    elsewhere = trials_of({1: [(9.0, 1.0), (9.1, 1.1)]}, link="slow")
    all_of_them = pd.concat([quick, slow, elsewhere], ignore_index=True)
    found = front_probability(all_of_them, OBJECTIVES, within=GIVEN_KEYS)
    named = {(row["backend"], row["link"], row["partition_label"]): row for row in found.to_dict("records")}
    on_front = {key for key, row in named.items() if row["on_front"]}
    assert on_front == {
        ("socket", "none", "P1"),
        ("socket", "none", "P2"),
        ("rpc", "none", "P2"),
        ("socket", "slow", "P1"),
    }
    assert named["rpc", "none", "P1"]["front_probability"] < 0.01, "sockets have a cut that is quicker and does more"
    apart = front_probability(all_of_them, OBJECTIVES)
    assert apart["on_front"].all(), "each configuration by itself"


def test_one_and_three_objectives_work_too(trials_of):
    summary = trials_of({1: [(1, 9)] * 3, 2: [(2, 9)] * 3}).assign(payload_bytes=[5, 5, 5, 4, 4, 4])
    assert front_probability(summary, {"latency_s": "min"})["front_probability"].tolist() == [1, 0]
    three = {**OBJECTIVES, "payload_bytes": "min"}
    assert front_probability(summary, three)["front_probability"].tolist() == [1, 1]


def test_points_within_noise_on_every_objective_are_tied(trials_of):
    table = ties(
        trials_of(
            {
                1: [(1.0, 9.0), (1.2, 8.8), (1.1, 8.9)],
                2: [(1.15, 8.85), (1.25, 8.7), (1.05, 8.95)],
                3: [(2.0, 5.0), (2.1, 5.1), (2.2, 5.2)],
            }
        ),
        OBJECTIVES,
    )
    assert tied(table) == {"P1": "", "P2": "P1", "P3": ""}


def test_a_trade_off_is_no_tie_though_neither_dominates(trials_of):
    table = ties(trials_of({1: [(1.0, 5), (1.1, 5), (1.2, 5)], 2: [(2.0, 9), (2.1, 9), (2.2, 9)]}), OBJECTIVES)
    assert table["on_front"].all()
    assert tied(table) == {"P1": "", "P2": ""}


def test_equal_points_are_tied_with_each_other_in_the_models_order(trials_of):
    same = [(1, 5), (1, 5)]
    table = ties(trials_of({2: same, 10: same, 4: same, 7: [None]}), OBJECTIVES)
    assert tied(table) == {"P2": "P4, P10", "P4": "P2, P10", "P7": "", "P10": "P2, P4"}


def test_repeats_without_noise_are_tied_only_where_they_are_equal(trials_of):
    table = ties(trials_of({1: [(1, 5)] * 2, 2: [(1.0001, 5)] * 2, 3: [(1, 5)] * 2}), OBJECTIVES)
    assert tied(table) == {"P1": "P3", "P2": "", "P3": "P1"}


def test_points_that_differ_by_less_than_matters_are_one_group_and_no_two_of_it_by_more(trials_of):
    """P1 to P4 are 1.5 % apart one by one: two neighbours are equal within 2 %, all four are not."""
    step = {point: [(1.015**i, 5.0)] * 2 for i, point in enumerate((1, 2, 3, 4))}
    table = ties(trials_of({**step, 5: [(2.0, 4.0)] * 2}), OBJECTIVES, indifference=0.02)
    groups = dict(zip(table["partition_label"], table["equal_to"], strict=True))
    assert groups == {"P1": "P1", "P2": "P1", "P3": "", "P4": "", "P5": ""}
    wide = ties(trials_of({**step, 5: [(2.0, 4.0)] * 2}), OBJECTIVES, indifference=0.1)
    assert wide["equal_to"].tolist() == ["P1", "P1", "P1", "P1", ""]
    assert tie_lines(wide, 0.1) == ["equal within 10 %: P1 to P4"]
    noisy = {1: [(1.0, 5.0), (1.2, 5.0)], 2: [(1.0, 5.0), (1.2, 5.0)]}
    assert "P2" in tied(ties(trials_of(noisy), OBJECTIVES, indifference=0.02)).values(), "not told apart"
    assert [len(set(ties(trials_of(noisy), OBJECTIVES, indifference=0.02)["equal_to"]))] == [2], (
        "but not known to be equal"
    )


def test_an_empty_summary_gives_empty_tables_with_their_columns(trials_of):
    empty = trials_of({1: [(1, 1)]}).iloc[:0]
    assert "front_probability" in front_probability(empty, OBJECTIVES).columns
    assert "tied_with" in ties(empty, OBJECTIVES).columns


def test_arguments_that_make_no_sense_are_named(trials_of):
    summary = trials_of({1: [(1, 1)]})
    with pytest.raises(FrameError, match="expected 'min' or 'max', got 'less'"):
        front_probability(summary, {"latency_s": "less"})
    with pytest.raises(FrameError, match="expected at least one"):
        ties(summary, {})
    with pytest.raises(FrameError, match="certainty: expected a share above"):
        ties(summary, OBJECTIVES, certainty=0.3)
    with pytest.raises(FrameError, match="no column 'partition_label'"):
        front_probability(summary.drop(columns="partition_label"), OBJECTIVES)
