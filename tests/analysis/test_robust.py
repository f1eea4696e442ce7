"""Regret and the minimax choice, against tables worked by hand and brute force."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pplib.analysis.repeats import point_name
from pplib.analysis.robust import minimax_regret, on_several_links, regret, regret_table, stays_on_front
from pplib.analysis.statistics import fronts, point_table
from pplib.errors import FrameError

LATENCY = {"latency_s": "min"}


@pytest.fixture(scope="module")
def points_of(same):
    def points(values, name="latency_s", **more):
        """A table of points from {link: {point: value}}."""
        rows = [
            {**same, "link": link, "partition_point": p, "partition_label": f"P{p}", name: value, **more}
            for link, column in values.items()
            for p, value in column.items()
        ]
        return pd.DataFrame(rows)

    return points


def worst(table):
    return dict(zip(table["partition_label"], table["worst_regret"], strict=True))


def chosen(table):
    return table[table["minimax"]]["partition_label"].tolist()


def test_regret_and_choice_of_three_points_on_two_links_by_hand(points_of):
    # On none P1 is best; on slow P3 is; P2 is best nowhere, and the one to take.
    points = points_of({"none": {1: 1.0, 2: 1.2, 3: 2.0}, "slow": {1: 8.0, 2: 5.0, 3: 4.0}})
    table = regret(points, LATENCY)
    found = {(link, label): value for link, label, value in table[["link", "partition_label", "regret"]].to_numpy()}
    assert found == pytest.approx(
        {
            ("none", "P1"): 0.0,
            ("none", "P2"): 0.2,
            ("none", "P3"): 1.0,
            ("slow", "P1"): 1.0,
            ("slow", "P2"): 0.25,
            ("slow", "P3"): 0.0,
        }
    )
    assert table.groupby("link")["best_label"].first().to_dict() == {"none": "P1", "slow": "P3"}
    choice = minimax_regret(points, LATENCY)
    assert chosen(choice) == ["P2"]
    first = choice.iloc[0]
    assert (first["partition_label"], first["worst_link"], first["links"], first["links_measured"]) == (
        "P2",
        "slow",
        2,
        2,
    )
    assert first["worst_regret"] == pytest.approx(0.25)
    assert first["mean_regret"] == pytest.approx(0.225)


def test_more_is_better_gives_how_much_longer_an_image_takes(points_of):
    points = points_of({"none": {1: 10.0, 2: 5.0}, "slow": {1: 2.0, 2: 2.5}}, name="throughput_img_s")
    table = regret(points, {"throughput_img_s": "max"})
    assert table["regret"].tolist() == pytest.approx([0.0, 1.0, 0.25, 0.0])
    assert chosen(minimax_regret(points, {"throughput_img_s": "max"})) == ["P1"]


values = st.none() | st.integers(1, 6).map(float)
tables = st.lists(st.dictionaries(st.integers(0, 5), values, min_size=1), min_size=1, max_size=4)


@settings(max_examples=25)
@given(tables)
def test_the_choice_equals_brute_force(points_of, columns):
    measured = {f"link{i}": column for i, column in enumerate(columns)}
    points = points_of(measured)
    points["latency_s"] = points["latency_s"].astype(float)
    all_points = sorted({p for column in columns for p in column})
    best = {link: min((v for v in column.values() if v), default=None) for link, column in measured.items()}
    expected = {}
    for p in all_points:
        cells = [
            column[p] / best[link] - 1 if column.get(p) else None
            for link, column in measured.items()
            if best[link] is not None
        ]
        if cells:
            expected[f"P{p}"] = math.nan if None in cells else max(cells)
    table = minimax_regret(points, LATENCY)
    assert worst(table) == pytest.approx(expected, nan_ok=True)
    known = {label: value for label, value in expected.items() if not math.isnan(value)}
    least = min(known.values(), default=None)
    assert set(chosen(table)) == {label for label, value in known.items() if value == least}
    assert len(regret(points, LATENCY)) == len(all_points) * len(columns)


def test_a_point_that_failed_on_one_link_is_not_chosen_and_says_so(trials_of):
    summary = pd.concat(
        [
            trials_of({1: [(1, 5)], 2: [(3, 5)]}),
            trials_of({1: [None, None], 2: [(9, 5)]}, link="slow"),
            trials_of({1: [None], 2: [None]}, link="dead"),
        ]
    )
    points = point_table(summary)
    table = regret(points, LATENCY)
    assert table[table["link"] == "dead"]["regret"].isna().all()
    assert table[table["link"] == "dead"]["best_label"].isna().all()
    choice = minimax_regret(points, LATENCY).set_index("partition_label")
    assert choice["minimax"].to_dict() == {"P2": True, "P1": False}
    assert choice.loc["P1", "links_measured"] == 1
    assert (choice["links"] == 2).all()
    assert math.isnan(choice.loc["P1", "worst_regret"])


def test_where_no_point_was_measured_on_every_link_none_is_chosen(points_of):
    choice = minimax_regret(points_of({"none": {1: 1.0}, "slow": {2: 1.0}}), LATENCY)
    assert chosen(choice) == []
    assert len(choice) == 2


def test_equally_good_points_are_all_chosen_and_named(points_of):
    points = points_of({"none": {1: 1.0, 2: 1.0, 3: 2.0}, "slow": {1: 4.0, 2: 4.0, 3: 8.0}})
    assert set(regret(points, LATENCY)["best_label"]) == {"P1, P2"}
    choice = minimax_regret(points, LATENCY)
    assert chosen(choice) == ["P1", "P2"]
    assert choice["worst_link"].isna().tolist() == [True, True, False]


def test_groups_choose_for_themselves_and_points_keep_the_models_order(points_of):
    left = points_of({"none": {10: 1.0, 2: 2.0}, "slow": {10: 2.0, 2: 2.0}})
    right = points_of({"none": {10: 3.0, 2: 2.0}, "slow": {10: 2.0, 2: 2.0}}, backend="rpc", dataset=None)
    table = regret(pd.concat([left, right], ignore_index=True), LATENCY)
    assert table["partition_point"].tolist() == [2, 10] * 4
    choice = minimax_regret(pd.concat([left, right], ignore_index=True), LATENCY)
    assert choice[choice["minimax"]][["backend", "partition_label"]].to_numpy().tolist() == [
        ["socket", "P10"],
        ["rpc", "P2"],
    ]


def test_the_table_sets_links_side_by_side_for_points_measured_on_all_of_them(points_of):
    left = points_of({"none": {1: 1.0, 2: 1.2, 3: 2.0, 4: 1.0}, "slow": {1: 8.0, 2: 5.0, 3: 4.0}}, dataset=None)
    right = points_of({"none": {10: 1.0, 2: 2.0}, "wifi": {10: 2.0, 2: 2.0}}, backend="rpc")
    table = regret_table(pd.concat([left, right], ignore_index=True), LATENCY)
    rows = table[table["backend"] == "socket"]
    assert rows["partition_label"].tolist() == ["P2", "P1", "P3"]
    assert rows["regret_on_none"].tolist() == pytest.approx([0.2, 0.0, 1.0])
    assert rows["regret_on_slow"].tolist() == pytest.approx([0.25, 1.0, 0.0])
    assert rows["regret_on_wifi"].isna().all()
    assert rows["minimax"].tolist() == [True, False, False]
    assert rows["worst_link"].tolist() == ["slow", "slow", "none"]
    assert table[table["backend"] == "rpc"]["partition_label"].tolist() == ["P10", "P2"]


def test_only_groups_measured_on_several_links_have_something_to_say_about_links(trials_of):
    summary = pd.concat(
        [
            trials_of({1: [(1, 5)], 2: [(3, 5)]}),
            trials_of({1: [(2, 5)], 2: [None]}, link="slow"),
            trials_of({1: [(1, 5)]}, backend="rpc"),
            trials_of({1: [None]}, backend="rpc", link="slow"),
        ]
    )
    points = point_table(summary)
    assert on_several_links(points)["backend"].unique().tolist() == ["socket"]
    assert len(on_several_links(points)) == 4
    assert on_several_links(points[points["link"] == "none"]).empty
    assert on_several_links(points.iloc[:0]).empty


def test_a_point_stays_on_the_front_only_if_it_is_on_it_on_every_link(trials_of):
    summary = pd.concat(
        [
            trials_of({1: [(1, 5)], 2: [(3, 9)], 3: [(4, 4)]}),
            trials_of({1: [(1, 5)], 2: [(3, 4)], 3: [(4, 9)]}, link="slow"),
            trials_of({1: [None], 2: [None]}, link="dead"),
            trials_of({1: [(1, 5)]}, backend="rpc"),
        ]
    )
    points = fronts(point_table(summary), {"latency_s": "min", "throughput_img_s": "max"})[::-1]
    stays = stays_on_front(points)
    assert stays.index.equals(points.index)
    assert set(points[stays]["backend"]) == {"socket"}
    assert set(points[stays]["partition_label"]) == {"P1"}
    # On the dead link, where nothing was measured, it is the same point.
    assert set(points[stays]["link"]) == {"none", "slow", "dead"}


def drawn_of(points, noise, rng, resamples=400):
    """Draws about the values of points, as far from them as they are from the truth."""
    return {
        point_name(row): row["latency_s"] * np.exp(noise * rng.normal(size=resamples))
        for row in points.to_dict("records")
    }


def test_the_luckiest_of_many_equal_points_is_not_what_the_others_are_held_against(points_of):
    """Twelve equal points and one that takes 10 % longer, measured to 3 %: the least of them is 5 % too good."""
    rng, plain, fair, held, of_equal = np.random.default_rng(1), [], [], [], []
    for _ in range(60):
        values = {p: 1.0 * math.exp(0.03 * rng.normal()) for p in range(12)} | {12: 1.1 * math.exp(0.03 * rng.normal())}
        points = points_of({"none": values})
        table = regret(points, LATENCY, drawn_of(points, 0.03, rng))
        last = table.iloc[12]
        plain.append(regret(points, LATENCY)["regret"].iloc[12])
        fair.append(last["regret"])
        held.append(last["regret_low"] <= 0.1 <= last["regret_high"])
        of_equal += (table["regret_low"].iloc[:12] == 0).tolist()
    assert np.mean(plain) > 0.14, "the winner's curse"
    assert np.mean(fair) == pytest.approx(0.1, abs=0.03)
    assert np.mean(held) >= 0.9
    assert np.mean(of_equal) >= 0.9


def test_where_the_best_is_clear_its_regret_is_nothing_and_the_intervals_hold_the_others(points_of):
    points = points_of({"none": {1: 1.0, 2: 1.5}, "slow": {1: 4.0, 2: 2.0}})
    draws = drawn_of(points, 0.01, np.random.default_rng(2))
    table = regret(points, LATENCY, draws)
    assert table["regret"].tolist() == pytest.approx([0, 0.5, 1.0, 0])
    assert table["best_label"].tolist() == ["P1", "P1", "P2", "P2"]
    assert table["regret_low"].tolist() == pytest.approx([0, 0.46, 0.95, 0], abs=0.02)
    assert table["regret_high"].tolist() == pytest.approx([0, 0.54, 1.05, 0], abs=0.02)
    choice = minimax_regret(points, LATENCY, draws)
    assert (chosen(choice), choice["as_good"].tolist()) == (["P2"], [True, False])
    assert choice["worst_regret_low"].tolist() == pytest.approx([0.46, 0.95], abs=0.02)


def test_choices_that_cannot_be_told_apart_are_named(points_of):
    points = points_of({"none": {1: 1.0, 2: 1.29, 3: 1.3}, "slow": {1: 4.0, 2: 2.01, 3: 2.0}})
    choice = minimax_regret(points, LATENCY, drawn_of(points, 0.05, np.random.default_rng(3)))
    assert choice.set_index("partition_label")["as_good"].to_dict() == {"P1": False, "P2": True, "P3": True}
    table = regret_table(points, LATENCY, drawn_of(points, 0.05, np.random.default_rng(3)))
    assert set(table[table["as_good"]]["partition_label"]) == {"P2", "P3"}


def test_what_was_not_repeated_has_no_intervals_and_the_least_value_is_the_best(points_of):
    points = points_of({"none": {1: 1.0, 2: 1.2}, "slow": {1: 4.0, 2: 3.0}})
    unknown = {point_name(row): np.full(50, np.nan) for row in points.to_dict("records")}
    table = regret(points, LATENCY, unknown)
    assert table["regret"].tolist() == regret(points, LATENCY)["regret"].tolist()
    assert (
        table["regret_low"].isna().all() and minimax_regret(points, LATENCY, unknown)["worst_regret_low"].isna().all()
    )


def test_an_empty_table_gives_empty_tables(points_of):
    empty = points_of({"none": {1: 1.0}}).iloc[:0]
    assert "regret" in regret(empty, LATENCY).columns
    assert "minimax" in minimax_regret(empty, LATENCY).columns


def test_tables_that_make_no_sense_are_refused(points_of):
    points = points_of({"none": {1: 1.0, 2: 2.0}})
    with pytest.raises(FrameError, match="expected one, such as"):
        regret(points, {})
    with pytest.raises(FrameError, match="expected 'min' or 'max', got 'less'"):
        regret(points, {"latency_s": "less"})
    with pytest.raises(FrameError, match="expected numbers above 0, got 0"):
        regret(points.assign(latency_s=0.0), LATENCY)
    with pytest.raises(FrameError, match="one row per configuration and point"):
        regret(pd.concat([points, points]), LATENCY)
    with pytest.raises(FrameError, match="no column 'link'"):
        minimax_regret(points.drop(columns="link"), LATENCY)
