"""Dominance against brute force and against tables worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pplib.analysis.pareto import front_masks, in_order, pareto_mask
from pplib.errors import FrameError

OBJECTIVES = {"latency_s": "min", "throughput_img_s": "max"}


def brute_force(rows, directions, ok):
    def usable(i):
        return ok[i] and all(math.isfinite(value) for value in rows[i])

    def dominates(a, b):
        signs = [1 if direction == "min" else -1 for direction in directions]
        pairs = [(sign * x, sign * y) for sign, x, y in zip(signs, a, b, strict=True)]
        return all(x <= y for x, y in pairs) and any(x < y for x, y in pairs)

    return [
        usable(i) and not any(usable(j) and dominates(rows[j], rows[i]) for j in range(len(rows)))
        for i in range(len(rows))
    ]


# Few distinct values, so that ties and duplicates are the rule; some missing, some infinite.
values = st.one_of(
    st.integers(0, 4).map(float), st.floats(-10, 10, width=32), st.sampled_from([math.nan, math.inf, -math.inf])
)


@st.composite
def tables(draw):
    count = draw(st.integers(1, 4))
    rows = draw(st.lists(st.lists(values, min_size=count, max_size=count), max_size=25))
    directions = draw(st.lists(st.sampled_from(["min", "max"]), min_size=count, max_size=count))
    ok = draw(st.lists(st.booleans() | st.just(True), min_size=len(rows), max_size=len(rows)))
    return rows, directions, ok


@given(tables())
def test_the_mask_equals_brute_force_for_any_number_of_objectives_and_directions(table):
    rows, directions, ok = table
    names = [f"objective{i}" for i in range(len(directions))]
    frame = pd.DataFrame(np.array(rows, dtype=float).reshape(len(rows), len(names)), columns=names)
    frame["status"] = ["ok" if one else "failed" for one in ok]
    mask = pareto_mask(frame, dict(zip(names, directions, strict=True)))
    assert mask.tolist() == brute_force(rows, directions, ok)


def test_a_point_worse_on_one_and_equal_on_the_other_objective_is_dominated():
    frame = pd.DataFrame({"latency_s": [1.0, 1.0, 2.0, 3.0], "throughput_img_s": [5.0, 4.0, 5.0, 6.0]})
    assert pareto_mask(frame, OBJECTIVES).tolist() == [True, False, False, True]


def test_all_duplicates_of_a_front_point_are_kept():
    frame = pd.DataFrame({"latency_s": [1.0, 1.0, 1.0, 2.0], "throughput_img_s": [5.0, 5.0, 4.0, 5.0]})
    assert pareto_mask(frame, OBJECTIVES).tolist() == [True, True, False, False]


def test_one_objective_keeps_every_row_with_the_best_value():
    frame = pd.DataFrame({"latency_s": [2.0, 1.0, 1.0]})
    assert pareto_mask(frame, {"latency_s": "min"}).tolist() == [False, True, True]
    assert pareto_mask(frame, {"latency_s": "max"}).tolist() == [True, False, False]


def test_failed_and_unmeasured_rows_are_never_on_the_front_and_dominate_nothing():
    frame = pd.DataFrame(
        {
            "latency_s": [0.1, np.nan, 1.0, 0.0],
            "throughput_img_s": [99.0, 99.0, 5.0, np.inf],
            "status": ["failed", "ok", "ok", "ok"],
        }
    )
    assert pareto_mask(frame, OBJECTIVES).tolist() == [False, False, True, False]


def test_a_missing_status_counts_as_not_ok():
    frame = pd.DataFrame({"latency_s": [1.0, 2.0], "status": [None, "ok"]})
    assert pareto_mask(frame, {"latency_s": "min"}).tolist() == [False, True]


def test_the_mask_keeps_the_index_even_where_labels_repeat():
    frame = pd.DataFrame({"latency_s": [3.0, 1.0, 2.0]}, index=[7, 7, 3])
    mask = pareto_mask(frame, {"latency_s": "min"})
    assert mask.index.tolist() == [7, 7, 3]
    assert mask.dtype == bool
    assert mask.tolist() == [False, True, False]


def test_an_empty_frame_has_an_empty_front():
    frame = pd.DataFrame({"latency_s": [], "throughput_img_s": []})
    assert pareto_mask(frame, OBJECTIVES).tolist() == []


def test_the_front_is_sorted_by_the_first_objective():
    frame = pd.DataFrame({"latency_s": [3.0, 1.0, 2.0], "throughput_img_s": [9.0, 7.0, 8.0]})
    front = frame[pareto_mask(frame, OBJECTIVES)]
    assert in_order(front, OBJECTIVES)["latency_s"].tolist() == [1.0, 2.0, 3.0]
    turned = {"throughput_img_s": "max", "latency_s": "min"}
    assert in_order(front, turned)["throughput_img_s"].tolist() == [9.0, 8.0, 7.0]


@pytest.mark.parametrize(
    ("objectives", "message"),
    [
        ({}, "expected at least one"),
        ({"latency_s": "minimum"}, r"objectives\['latency_s'\]: expected 'min' or 'max', got 'minimum'"),
        ({"latency": "min"}, "no column 'latency'; nearest: latency_s"),
        ({"label": "min"}, "'label': expected numbers"),
        ({"flag": "min"}, "'flag': expected numbers"),
    ],
)
def test_objectives_that_make_no_sense_are_named(objectives, message):
    frame = pd.DataFrame({"latency_s": [1.0], "throughput_img_s": [1.0], "label": ["P1"], "flag": [True]})
    with pytest.raises(FrameError, match=message):
        pareto_mask(frame, objectives)


@given(tables())
def test_the_front_of_many_tables_is_that_of_each_where_every_difference_matters(table):
    rows, directions, _ = table
    signs = np.array([1.0 if direction == "min" else -1.0 for direction in directions])
    drawn = np.array(rows, dtype=float).reshape(len(rows), len(directions))
    front, good = front_masks(np.stack([drawn, drawn[::-1]]) * signs)
    expected = brute_force(rows, directions, [True] * len(rows))
    assert front.tolist() == good.tolist() == [expected, expected[::-1]]


@given(
    st.lists(st.tuples(*[st.floats(1, 1.3) | st.sampled_from([1.0, 1.015, 1.03])] * 2), min_size=1, max_size=9),
    st.sampled_from([0.0, 0.02, 0.1]),
)
def test_what_leaves_a_front_for_a_difference_that_does_not_matter_is_outdone_by_what_stays(rows, indifference):
    def outdoes(a, b):
        gains = [y > x + indifference * abs(x) for x, y in zip(a, b, strict=True)]
        losses = [y < x - indifference * abs(x) for x, y in zip(a, b, strict=True)]
        return any(gains) and not any(losses)

    front, good = (one[0] for one in front_masks(np.array([rows]), indifference))
    exact = brute_force(rows, ["min", "min"], [True] * len(rows))
    kept = [row for row, stays in zip(rows, front, strict=True) if stays]
    assert kept and not any(outdoes(a, b) for a in kept for b in kept)
    for row, stays, is_good, on_exact in zip(rows, front, good, exact, strict=True):
        assert stays <= is_good and stays <= on_exact
        assert is_good == (not any(outdoes(one, row) for one in kept))
        if on_exact and not stays:
            assert any(outdoes(one, row) for one in kept)


def test_a_hair_of_latency_does_not_buy_a_place_at_half_the_throughput_nor_do_hairs_add_up():
    table = pd.DataFrame({"latency_s": [1.0, 0.999, 0.5], "throughput_img_s": [10.0, 5.0, 9.9]})
    assert pareto_mask(table, OBJECTIVES).tolist() == [True, False, True]
    assert pareto_mask(table, OBJECTIVES, indifference=0.02).tolist() == [False, False, True]
    hairs = pd.DataFrame({"latency_s": 1.015 ** np.arange(20), "throughput_img_s": 10 * 1.05 ** np.arange(20)})
    kept = pareto_mask(hairs, OBJECTIVES, indifference=0.02)
    assert 9 <= kept.sum() < 20
    assert in_order(hairs[kept], OBJECTIVES)["latency_s"].iloc[0] <= 1.02
