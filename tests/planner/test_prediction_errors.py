"""How far predictions are off, and what a predicted front is worth, by tables worked by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from pplib.planner.prediction_errors import PROFILES, TRIALS, front_quality, prediction_errors


def points(**more):
    table = pd.DataFrame(
        {"partition_label": ["P0", "P1", "P2"], "latency_s": [1.0, 2.0, 4.0], "throughput_img_s": [1.0, 2.0, 8.0]}
    )
    for name, factors in (("latency_s", [1.1, 1.1, 1.43]), ("throughput_img_s", [1.0, 1.0, 1.0])):
        told = table[name] * factors
        table[f"predicted_{name}"] = told
        table[f"predicted_{name}_low"], table[f"predicted_{name}_high"] = told * 0.95, told * 1.05
        table[f"{name}_low"], table[f"{name}_high"] = table[name] * np.exp(-0.0196), table[name] * np.exp(0.0196)
    return table.assign(predicted_cuts=3, **more)


def test_errors_by_hand():
    latency, throughput = prediction_errors(points())
    assert (latency.column, latency.of, latency.cuts) == ("latency_s", PROFILES, 3)
    assert latency.mape == pytest.approx((0.1 + 0.1 + 0.43) / 3)
    assert latency.noise == pytest.approx(0.01 * np.sqrt(2 / np.pi))
    assert (latency.common, latency.mape_apart) == (pytest.approx(1.1), pytest.approx(0.3 / 3))
    assert latency.worst == ("P2", pytest.approx(0.43))
    assert latency.inside == 0
    assert (throughput.mape, throughput.inside) == (0, 1)


def test_later_rounds_of_a_plan_are_told_apart_and_what_was_not_predicted_does_not_count():
    table = points(plan_round=[1, 1, 2])
    found = {(one.column, one.of): one for one in prediction_errors(table)}
    assert found["latency_s", PROFILES].cuts == 2
    assert found["latency_s", TRIALS].worst == ("P2", pytest.approx(0.43))
    table.loc[2, "latency_s"] = np.nan
    assert ("latency_s", TRIALS) not in {(one.column, one.of) for one in prediction_errors(table)}


def test_a_predicted_front_is_judged_where_all_cuts_were_measured():
    table = points()
    found = front_quality(table)
    assert (found.recall, found.hypervolume, found.cuts) == (1, 1, 3)
    table["predicted_latency_s"] = [1.0, 5.0, 4.0]  # P1 seems worse than P2 in both
    found = front_quality(table)
    assert found.cuts == 2
    assert found.recall == pytest.approx(2 / 3)
    assert found.hypervolume < 1
    assert front_quality(table.assign(predicted_cuts=4)) is None, "one was not measured"
    assert front_quality(table.assign(plan_round=[1, 1, 2])) is None, "a plan chose them"
