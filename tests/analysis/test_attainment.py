"""What a share of the repeats attains, against counting."""

from __future__ import annotations

import math

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pplib.analysis.attainment import attainment
from pplib.analysis.pareto import pareto_mask
from pplib.errors import FrameError

OBJECTIVES = {"latency_s": "min", "throughput_img_s": "max"}

few = st.integers(1, 5).map(float)
summaries = st.dictionaries(
    st.integers(0, 6), st.lists(st.none() | st.tuples(few, few), min_size=1, max_size=4), min_size=1, max_size=5
)


def attained_by(summary, latency, throughput):
    """How many repeats have a trial at least as good as this pair."""
    good = (summary["latency_s"] <= latency) & (summary["throughput_img_s"] >= throughput)
    return summary[good]["repeat"].nunique()


@settings(max_examples=25)
@given(summaries, st.sampled_from([0.1, 0.34, 0.5, 2 / 3, 0.9, 1.0]))
def test_a_surface_divides_what_enough_repeats_attain_from_what_they_do_not(trials_of, values, level):
    summary = trials_of(values)
    count = summary[summary["status"] == "ok"]["repeat"].nunique()
    surface = attainment(summary, OBJECTIVES, levels=[level])
    needed = math.ceil(level * count - 1e-9)
    for x in (0.5, 1, 2, 3, 4, 5):
        for y in (1, 2, 3, 4, 5, 6):
            under = ((surface["latency_s"] <= x) & (surface["throughput_img_s"] >= y)).any()
            assert under == (count > 0 and attained_by(summary, x, y) >= needed)
    assert pareto_mask(surface, OBJECTIVES).all()


def test_three_repeats_by_hand(trials_of):
    summary = trials_of({1: [(1, 4), (2, 5), (3, 6)], 2: [(9, 9), (9, 8), (9, 7)]})
    table = attainment(summary, OBJECTIVES)
    found = {
        level: list(zip(rows["latency_s"], rows["throughput_img_s"], strict=True))
        for level, rows in table.groupby("level")
    }
    assert found == {
        0.1: [(1, 4), (2, 5), (3, 6), (9, 9)],
        0.5: [(2, 4), (3, 5), (9, 8)],
        0.9: [(3, 4), (9, 7)],
    }
    assert table.drop_duplicates("level")["attained_by"].tolist() == [1, 2, 3]
    assert set(table["repeats"]) == {3}


def test_one_repeat_attains_its_own_front_at_every_level(trials_of):
    table = attainment(trials_of({1: [(1, 5)], 2: [(2, 4)], 3: [(3, 9)]}), OBJECTIVES, levels=(0.1, 1.0))
    assert table["latency_s"].tolist() == [1, 3, 1, 3]
    assert set(table["attained_by"]) == {1}


def test_configurations_are_apart_and_one_without_a_usable_trial_is_absent(trials_of):
    summary = pd.concat(
        [trials_of({1: [(1, 5)]}), trials_of({1: [(3, 5)]}, backend="rpc"), trials_of({1: [None]}, in_flight=2)]
    )
    table = attainment(summary, OBJECTIVES, levels=[0.5])
    assert dict(zip(table["backend"], table["latency_s"], strict=True)) == {"socket": 1, "rpc": 3}
    nothing = attainment(summary.iloc[:0], OBJECTIVES)
    assert len(nothing) == 0
    assert {"level", "attained_by", "latency_s"} <= set(nothing.columns)


def test_arguments_that_make_no_sense_are_named(trials_of):
    summary = trials_of({1: [(1, 5)]})
    with pytest.raises(FrameError, match="needs two columns"):
        attainment(summary, {"latency_s": "min"})
    with pytest.raises(FrameError, match=r"levels: expected shares above 0, at most 1, got 50"):
        attainment(summary, OBJECTIVES, levels=[50])
    with pytest.raises(FrameError, match="expected 'min' or 'max'"):
        attainment(summary, {"latency_s": "min", "throughput_img_s": "up"})
    with pytest.raises(FrameError, match="no column 'repeat'"):
        attainment(summary.drop(columns="repeat"), OBJECTIVES)
