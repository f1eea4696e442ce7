"""Aggregation over repeats, worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from pplib.analysis.statistics import CONFIGURATION_KEYS, fronts, partition_key, point_table, representative_trials
from pplib.errors import FrameError


def trial(point, repeat, latency_s, status="ok", **more):
    ok = status == "ok"
    return {
        "model": "mobilenet_v2",
        "weights": "random",
        "dataset": "synthetic",
        "backend": "socket",
        "link": "none",
        "batch_size": 8,
        "in_flight": 1,
        "num_stages": 2,
        "granularity": "block",
        "optimize": True,
        "runtime": "eager",
        "precision": "float32",
        "wire": "float32",
        "setup": "",
        "partition_point": point,
        "partition_label": f"P{point}",
        "repeat": repeat,
        "status": status,
        "error": None if ok else "worker 1 died",
        "emulated": False,
        "latency_s": latency_s if ok else np.nan,
        "latency_mean_s": latency_s if ok else np.nan,
        "throughput_img_s": 8 / latency_s if ok else np.nan,
        "bottleneck": "stage 0",
        **more,
    }


def test_a_point_is_the_median_of_its_ok_repeats_with_their_range():
    table = point_table(
        pd.DataFrame([trial(3, 0, 0.1), trial(3, 1, 0.4), trial(3, 2, 0.2), trial(3, 3, 9.0, status="failed")])
    )
    assert len(table) == 1
    row = table.iloc[0]
    assert row["latency_s"] == 0.2
    assert (row["latency_s_min"], row["latency_s_max"]) == (0.1, 0.4)
    assert (row["throughput_img_s_min"], row["throughput_img_s_max"]) == (20.0, 80.0)
    assert (row["repeats_ok"], row["repeats_failed"], row["status"]) == (3, 1, "ok")
    assert row["bottleneck"] == "stage 0"
    assert row["error"] is None
    assert "repeat" not in table.columns


def test_where_no_trial_succeeded_the_first_error_is_told_and_no_column_is_missed():
    failed = pd.DataFrame([trial(0, 0, 0.1, "failed"), trial(1, 0, 0.1, "failed")])
    with pytest.raises(FrameError, match=r"none of the 2 trials succeeded; the first: worker 1 died"):
        point_table(failed.drop(columns=["latency_s", "latency_mean_s", "throughput_img_s"]))


def test_a_point_without_an_ok_repeat_stays_as_a_failed_row():
    table = point_table(pd.DataFrame([trial(0, 0, 0.1), trial(1, 0, 0.1, "failed"), trial(1, 1, 0.1, "failed")]))
    row = table.iloc[1]
    assert row["status"] == "failed"
    assert row["repeats_failed"] == 2
    assert row["error"] == "worker 1 died"
    assert all(math.isnan(row[name]) for name in ["latency_s", "latency_s_min", "throughput_img_s_max"])


@pytest.mark.parametrize(
    ("points", "ordered"),
    [([10, 2, 0], [0, 2, 10]), (["3-11", "3-7", "10-12"], ["3-7", "3-11", "10-12"]), (["10", "2"], ["2", "10"])],
)
def test_points_are_in_numeric_order(points, ordered):
    table = point_table(pd.DataFrame([trial(point, 0, 0.1) for point in points]))
    assert table["partition_point"].tolist() == ordered


def test_configurations_are_kept_apart_even_where_a_key_is_missing():
    rows = [trial(1, 0, 0.1), trial(1, 0, 0.2, in_flight=2), trial(1, 0, 0.3, dataset=None)]
    table = point_table(pd.DataFrame(rows))
    assert sorted(table["latency_s"]) == [0.1, 0.2, 0.3]


def test_an_empty_summary_gives_an_empty_table_with_its_columns():
    table = point_table(pd.DataFrame([trial(1, 0, 0.1)]).iloc[:0])
    assert len(table) == 0
    assert {*CONFIGURATION_KEYS, "latency_s_min", "repeats_ok"} <= set(table.columns)


def test_the_representative_trial_is_the_lower_median_and_keeps_its_parts_together():
    rows = [
        trial(1, repeat, total, stage0_compute_s=part, stage1_compute_s=total - part)
        for repeat, (total, part) in enumerate([(0.4, 0.1), (0.1, 0.05), (0.3, 0.29), (0.2, 0.02)])
    ]
    chosen = representative_trials(pd.DataFrame([*rows, trial(2, 0, 0.1, "failed")]))
    assert len(chosen) == 1
    assert chosen["latency_mean_s"].item() == 0.2
    assert chosen["stage0_compute_s"].item() == 0.02
    assert chosen["stage0_compute_s"].item() + chosen["stage1_compute_s"].item() == pytest.approx(0.2)


def test_fronts_are_decided_within_each_configuration_and_keep_the_index():
    rows = [
        trial(1, 0, 0.1),
        trial(2, 0, 0.2),
        trial(1, 0, 0.3, backend="rpc"),
        trial(2, 0, 0.4, backend="rpc"),
    ]
    table = point_table(pd.DataFrame(rows)).set_index(pd.Index([5, 5, 6, 7]))
    marked = fronts(table, {"latency_s": "min", "throughput_img_s": "max"})
    assert marked.index.tolist() == [5, 5, 6, 7]
    assert marked[marked["on_front"]]["latency_s"].sort_values().tolist() == [0.1, 0.3]
    assert "on_front" not in table.columns


def test_a_summary_without_its_keys_is_refused_with_the_nearest_column():
    with pytest.raises(FrameError, match="the summary has no column 'backend'; nearest: back_end"):
        point_table(pd.DataFrame([trial(1, 0, 0.1)]).rename(columns={"backend": "back_end"}))


def test_points_read_from_a_file_with_missing_values_keep_their_number():
    assert partition_key(3.0) == (3,)
