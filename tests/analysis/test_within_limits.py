"""What keeps to limits, by hand; and that more objectives change nothing of the usual two."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from pplib.analysis.estimated.point_estimates import point_estimates
from pplib.analysis.estimated.uncertainty import front_probability, ties
from pplib.analysis.estimated.within_limits import within_limits
from pplib.columns import OBJECTIVES
from pplib.objectives import aims
from pplib.view.words.limits import energy_words, limit_lines

POINTS = {  # latency, throughput: three repeats of each; P4 is the best of those within 0.1 s and 3 J
    2: [(0.050, 40.0), (0.051, 41.0), (0.049, 39.5)],
    4: [(0.080, 60.0), (0.081, 61.0), (0.079, 59.0)],
    6: [(0.120, 90.0), (0.122, 91.0), (0.119, 89.0)],
}
ENERGY = {2: 2.0, 4: 2.5, 6: 1.0}


@pytest.fixture
def trials(trials_of):
    frame = trials_of(POINTS)
    noise = 1 + 0.02 * (frame["repeat"] - 1)
    return frame.assign(
        energy_per_image_j=frame["partition_point"].map(ENERGY) * noise,
        payload_bytes=frame["partition_point"] * 1000.0,
        energy_scope="device",
        energy_estimated=0,
    )


def best(table):
    (row,) = table[table["best"]].to_dict("records")
    return row


def test_what_has_no_limit_decides_among_what_keeps_to_the_limits(trials):
    wanted = aims(["latency", "throughput"], {"latency": 0.1, "energy": 3})
    table = within_limits(trials, wanted)
    assert table["within"].tolist() == [True, True, False]
    assert table["within_probability"].tolist() == [1.0, 1.0, 0.0]
    assert best(table)["partition_label"] == "P4", "of latency the limit is enough: throughput decides"
    assert best(table)["best_probability"] == 1.0
    (said,) = limit_lines(table, wanted)
    assert "2 of 3 points have at most latency 100 ms and at most energy per image 3 J; the best of them is P4" in said
    assert best(within_limits(trials, aims(["latency", "throughput"], {"energy": 3})))["partition_label"] == "P2"
    both = aims(["latency", "throughput"], {"latency": 0.1, "throughput": 10})
    assert best(within_limits(trials, both))["partition_label"] == "P2", "where all have limits the first decides"


def test_a_limit_at_a_point_is_kept_in_part_of_the_resamples(trials):
    table = within_limits(trials, aims(["throughput"], {"latency": 0.0805})).set_index("partition_label")
    assert 0.5 < table.loc["P4", "within_probability"] < 0.99
    assert table.loc["P4", "best_probability"] == table.loc["P4", "within_probability"]
    assert table.loc["P2", "best_probability"] == pytest.approx(1 - table.loc["P4", "within_probability"])


def test_where_nothing_keeps_to_the_limits_the_nearest_is_told_and_by_how_much_it_misses(trials):
    wanted = aims(["latency"], {"latency": 0.04, "throughput": 50})
    table = within_limits(trials, wanted)
    assert not table["within"].any()
    assert best(table)["partition_label"] == "P2"  # misses 25 % and 20 %; P4 misses 100 %
    assert best(table)["miss"] == pytest.approx(0.25, abs=0.01)
    (said,) = limit_lines(table, wanted)
    assert "no point has at most latency 40 ms and at least throughput 50 img/s; the nearest is P2" in said
    assert "% too much" in said
    assert "% too little" in said


def test_without_repeats_how_surely_is_not_known_and_without_trials_nothing_is_best(trials):
    wanted = aims(["latency"], {"energy": 3})
    once = within_limits(trials[trials["repeat"] == 0], wanted)
    assert once["within_probability"].isna().all()
    assert "nothing was repeated" in limit_lines(once, wanted)[0]
    failed = within_limits(trials.assign(status="failed"), wanted)
    assert not failed["best"].any()
    assert limit_lines(failed, wanted) == ["mobilenet_v2: no trial succeeded."]


def test_more_objectives_change_nothing_of_latency_and_throughput(trials):
    usual, more = point_estimates(trials), point_estimates(trials, columns=["energy_per_image_j", "payload_bytes"])
    pd.testing.assert_frame_equal(
        more[usual.columns.drop(["energy_per_image_j", "payload_bytes"])],
        usual.drop(columns=["energy_per_image_j", "payload_bytes"]),
    )
    assert (more["energy_per_image_j_low"] < more["energy_per_image_j"]).all()
    assert (more["energy_per_image_j_high"] > more["energy_per_image_j"]).all()
    assert more[["payload_bytes_low", "payload_bytes_high"]].isna().all(axis=None), "bytes have no error"
    assert more["payload_bytes"].tolist() == pytest.approx([2000, 4000, 6000])
    some = trials.assign(energy_per_image_j=trials["energy_per_image_j"].where(trials["repeat"] < 2))
    again = point_estimates(some, columns=["energy_per_image_j"])
    assert again["latency_s"].tolist() == usual["latency_s"].tolist(), "a trial without energy counts for latency"


def test_fronts_ties_and_one_objective_alone(trials):
    three = {**OBJECTIVES, "energy_per_image_j": "min"}
    found = front_probability(trials.assign(energy_per_image_j=[3.0, 3.1, 2.9, 2.0, 2.1, 1.9, 1.0, 1.1, 0.9]), three)
    assert found["on_front"].all()
    assert np.isclose(found["front_probability"], 1.0).all()
    alone = front_probability(trials, {"payload_bytes": "min"})
    assert alone["on_front"].tolist() == [True, False, False], "the front of one objective is its best point"
    assert alone["front_probability"].tolist() == [1.0, 0.0, 0.0]
    assert ties(trials, three, indifference=0.02)["equal_to"].tolist() == ["P2", "P4", "P6"]


def test_energy_says_of_what_it_is_and_whether_it_was_measured(trials):
    assert energy_words(trials, ["latency_s"]) == ""
    assert energy_words(trials, ["energy_per_image_j"]) == "Energy: energy per image: measured, of device."
    guessed = energy_words(trials.assign(energy_estimated=1), ["energy_per_image_j"])
    assert guessed == "Energy: energy per image: estimated from idle_w and busy_w, of device."
