"""Which cut to measure next, by hand; and a plan played to its end on devices whose truth is known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from pplib.planner.measured_cuts import Measured, MeasuredCuts
from pplib.planner.next_cuts import front_chances, next_cuts
from pplib.planner.pipeline_model import periodic, predict
from pplib.planner.pipeline_parts import Parts
from pplib.planner.plan_quality import hypervolume_share, recall
from pplib.planner.prediction import CutDraws, draw_cuts
from tests.planner.test_prediction import CUTS, pipeline

BOTH = {"latency_s": "min", "throughput_img_s": "max"}


def cuts(latency, throughput):
    """Of each cut: what is expected, then draws."""
    values = {"latency_s": np.array(latency, dtype=float), "throughput_img_s": np.array(throughput, dtype=float)}
    return CutDraws(values, np.zeros(len(latency)), np.zeros(len(latency), dtype=np.intp))


def test_what_is_better_than_all_measured_in_one_objective_may_matter():
    sure = cuts([[1.0, 1.0], [1.5, 1.5], [1.01, 1.01]], [[5.0, 5.0], [9.0, 9.0], [5.05, 5.05]])
    assert front_chances(sure, BOTH, [0], 0.02).tolist() == [0, 1, 0], "P2 gains 1 %, which does not matter"
    assert front_chances(sure, BOTH, [0, 1], 0.02).tolist() == [0, 0, 0]
    half = cuts([[1.0, 1.0, 1.0], [1.2, 0.5, 1.3]], [[5.0, 5.0, 5.0], [4.0, 4.0, 4.0]])
    assert front_chances(half, BOTH, [0], 0.02).tolist() == [0, 0.5]


def test_the_first_cut_is_the_best_in_the_first_objective_and_the_next_the_one_to_gain_most_from():
    told = cuts([[2.0, 2.0], [1.0, 1.0], [1.1, 1.1]], [[9.0, 9.0], [3.0, 3.0], [6.0, 6.0]])
    assert next_cuts(told, BOTH, [], 0.02, 3) == [1, 0, 2], "3 times the throughput, then 2.0 / 1.1 of the latency"
    assert next_cuts(told, BOTH, [], 0.02, 1) == [1]
    assert next_cuts(told, BOTH, [0, 1, 2], 0.02, 3) == []
    assert next_cuts(told, {"latency_s": "min"}, [1], 0.02, 3) == []


def test_a_plan_finds_the_front_of_devices_that_are_not_what_their_profiles_say():
    """Worlds drawn as expected: with a third of the cuts measured, hardly anything of the front is missing."""
    one = pipeline(in_flight=2)
    parts = Parts(one, CUTS, None, 20, 3)
    times = parts.times()
    shape = (len(CUTS), 21)
    found = predict(times, *periodic(2))
    truth = {name: getattr(found, name).reshape(shape) for name in ("latency_s", "response_s", "throughput_img_s")}
    share, count = [], []
    for world in range(1, 21):
        chosen = next_cuts(draw_cuts(one, CUTS, 200), BOTH, [], 0.02, 2)
        while more := next_cuts(
            draw_cuts(one, CUTS, 200, measured=seen(times, truth, chosen, world)), BOTH, chosen, 0.02, 1
        ):
            chosen += more
        values = np.stack([truth[name][:, world] for name in BOTH], axis=1)
        share.append(hypervolume_share(values, chosen, BOTH))
        count.append(len(chosen))
        assert recall(values, chosen, BOTH, 0.05) == 1
    assert np.mean(share) > 0.99
    assert np.mean(count) < 0.7 * len(CUTS)


def seen(times, truth, chosen, world):
    """What perfect trials of these cuts find in a world."""
    rows = [i * 21 + world for i in chosen]

    def measured(values):
        return Measured(np.asarray(values, dtype=float), np.full(len(chosen), 0.01))

    return MeasuredCuts(
        [CUTS[i] for i in chosen],
        [measured(times.compute_s[rows, i]) for i in range(2)],
        [measured(times.busy_s[rows, 0])],
        measured(times.return_busy_s[rows, 0]),
        {name: measured(values[chosen, world]) for name, values in truth.items()},
    )


def test_the_share_of_a_front_and_of_its_points_by_hand():
    values = pd.DataFrame({"latency_s": [1.0, 2.0, 3.0, np.nan], "throughput_img_s": [1.0, 4.0, 5.0, 9.0]}).to_numpy()
    assert recall(values, [0, 2], BOTH, 0.02) == pytest.approx(2 / 3)
    assert recall(values, [0, 2], BOTH, 0.5) == 1
    assert hypervolume_share(values, [0, 1, 2], BOTH) == 1
    assert hypervolume_share(values, [3], BOTH) == 0
    assert hypervolume_share(values[:, :1], [0], {"latency_s": "min"}) == 1
