"""What trials say of the parts of their cuts, by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from pplib.planner.measured_cuts import NOISE_SD, measured_cuts
from tests.analysis.conftest import make_trials


def trials(repeats=2):
    table = make_trials({3: [(0.1, 80.0)] * repeats, 5: [(0.2, 40.0)] * (repeats - 1) + [None]})
    parts = {"stage0_compute_s": 0.04, "stage1_compute_s": 0.05, "hop0_transfer_s": 0.01, "return_transfer_s": 0.002}
    started = [f"2026-01-01T00:00:{i:02d}.000Z" for i in range(len(table))]
    table = table.assign(**parts, response_s=table["latency_s"] + 0.002, started_at=started, device_names="a, b")
    table.loc[table["partition_point"] == 5, "stage1_compute_s"] = 0.15
    return table


def test_each_cut_has_what_its_trials_that_succeeded_took():
    found = measured_cuts(trials(3))
    assert found.points == [(3,), (5,)]
    assert found.compute_s[0].value == pytest.approx([0.04, 0.04])
    assert found.compute_s[1].value == pytest.approx([0.05, 0.15], rel=0.02)
    assert found.hop_s[0].value == pytest.approx([0.01, 0.01])
    assert found.back_s.value == pytest.approx([0.002, 0.002])
    assert found.objectives["latency_s"].value == pytest.approx([0.1, 0.2])
    assert found.objectives["response_s"].value == pytest.approx([0.102, 0.202])
    assert found.objectives["throughput_img_s"].value == pytest.approx([80, 40])


def test_what_was_measured_once_is_as_noisy_as_is_usual_and_nothing_is_nothing():
    once = measured_cuts(trials(1).iloc[:1])
    assert once.points == [(3,)]
    for one in (*once.compute_s, *once.hop_s, once.back_s, *once.objectives.values()):
        assert one.noise_sd == pytest.approx([NOISE_SD])
    assert measured_cuts(trials(1).iloc[1:]).points == []


def test_repeats_that_differ_say_how_noisy_they_are():
    table = trials(5)
    mine = (table["partition_point"] == 3).to_numpy()
    table.loc[mine, "hop0_transfer_s"] = 0.01 * np.exp([0.1, -0.1, 0.0, 0.1, -0.1])
    found = measured_cuts(table).hop_s[0]
    assert found.value[0] == pytest.approx(0.01)
    spread = np.sqrt(0.04 / (len(table) - 1 - 2))
    assert found.noise_sd == pytest.approx([spread / np.sqrt(5), spread / np.sqrt(4)])


def test_three_stages_are_told_by_both_their_points():
    table = trials().assign(num_stages=3, partition_point=["3-5", "3-5", "3-7", "3-7"], partition_label="")
    table["partition_label"] = "P" + table["partition_point"].astype("str")
    table = pd.DataFrame({**table, "stage2_compute_s": 0.03, "hop1_transfer_s": 0.004})
    found = measured_cuts(table)
    assert found.points == [(3, 5), (3, 7)]
    assert [len(one) for one in (found.compute_s, found.hop_s)] == [3, 2]
