"""Trials during which a device was disturbed, and what is made of them."""

from __future__ import annotations

import pandas as pd

from pplib.analysis.estimated.point_estimates import point_estimates
from pplib.analysis.statistics import point_table
from pplib.view.words.disturbed import disturbed_words


def test_it_counts_for_nothing_where_its_point_has_others(trials_of):
    calm = {1: [(1.0, 9.0), (1.01, 9.1), (0.99, 8.9)], 2: [(2.0, 5.0), (2.02, 5.1), (1.98, 4.9)]}
    without = trials_of(calm).assign(disturbed="")
    odd = trials_of({1: [(9.0, 1.0)]}).assign(disturbed="pi: throttled", repeat=3)
    both = pd.concat([without, odd], ignore_index=True)
    for table in (point_table, point_estimates):
        wanted = table(without)[["latency_s", "throughput_img_s", "repeats_ok"]]
        pd.testing.assert_frame_equal(table(both)[["latency_s", "throughput_img_s", "repeats_ok"]], wanted)
    assert disturbed_words(both) == (
        "1 of 7 trials were disturbed (pi: throttled); 1 of them are left out, for their points have others."
    )
    alone = point_table(odd)
    assert alone["latency_s"].tolist() == [9.0], "better than nothing"
    assert disturbed_words(without) == disturbed_words(without.drop(columns="disturbed")) == ""
