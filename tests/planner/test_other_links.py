"""Which cut wins over which link: by hand, and against what the pipeline model says of every one."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pplib.analysis.pareto import front_masks
from pplib.analysis.statistics import point_table
from pplib.planner.changes.link_changes import Check, cuts_of_trials, link_changes
from pplib.planner.changes.other_links import Line, Stretch, delays, front_until, phases, rates, winners
from pplib.planner.cuts import PAYLOAD, Cuts, calibrated
from pplib.planner.pipeline_model import PipelineTimes
from tests.planner.test_what_if import trial

BOTH = {"latency_s": "min", "throughput_img_s": "max"}


def cuts_of(rows, depth=1, batch_size=8, fixed_s=0.0, result_bytes=0.0, **more):
    """Rows: label, stage 0, software of the hop, stage 1 (seconds), payload (bytes)."""
    labels, *columns = zip(*rows, strict=True)
    stage0, hop, stage1, payload = (np.array(one, dtype=float)[:, None] for one in columns)
    return Cuts(
        labels=labels,
        times=PipelineTimes(
            compute_s=np.hstack([stage0, stage1]),
            busy_s=hop,
            return_busy_s=np.zeros_like(hop),
            in_flight=depth,
            batch_size=batch_size,
        ),
        payload_bytes=payload,
        result_bytes=np.full_like(payload, result_bytes),
        fixed_s=fixed_s,
        **more,
    )


TWO = [("P1", 0.010, 0.0, 0.040, 100e3), ("P9", 0.050, 0.0, 0.030, 10e3)]


def test_a_slower_link_prefers_the_cut_that_sends_less_and_the_rate_is_where_both_take_as_long():
    cuts = cuts_of(TWO)  # 50 ms and 80 ms, 90 kB between them: 30 ms over the rate asked for
    expected = 90e3 * 8 / PAYLOAD / 0.030
    for objective, way in BOTH.items():
        first, last = winners(cuts, objective, way, rates(cuts, 0.0))
        assert (first.label, last) == ("P1", Stretch("P9", None))
        assert first.until == pytest.approx(expected, rel=1e-4)
    (p1, p9), (p1_slow, p9_slow) = cuts.performance(expected * np.array([1.2, 1 / 1.2]), np.zeros(2), ["latency_s"])
    assert p1[0] < p9[0] and p1_slow[0] > p9_slow[0]
    # Within 2 %: 50 ms + 10 w against 80 ms + w, of the 10 kB of P9.
    (near, _) = winners(cuts, "latency_s", "min", rates(cuts, 0.0), 0.02)
    ends = [(0.080 * 1.0 - 0.050 * 1.02) / (10 * 1.02 - 1), (0.080 * 1.02 - 0.050) / (10 - 1.02)]
    assert near.alike == pytest.approx([10e3 * 8 / PAYLOAD / one for one in ends], rel=1e-3)
    assert winners(cuts, "latency_s", "min", delays(1e9, 0.0)) == [Stretch("P1", None)], "both wait as long"


def test_software_and_wire_overlap_but_for_what_a_message_takes_however_large_it_is():
    cuts = cuts_of([("P1", 0.010, 0.005, 0.040, 100e3)], fixed_s=0.001)
    rate = np.array([1e11, 100e3 * 8 / PAYLOAD / 0.004, 100e3 * 8 / PAYLOAD / 0.010])
    found = cuts.performance(rate, np.array([0.0, 0.0, 0.002]), ["latency_s"])[:, 0, 0]
    assert found.tolist() == pytest.approx([0.055, 0.055, 0.050 + 0.001 + 0.010 + 0.002])
    back = replace(cuts, result_bytes=np.array([[100e3]]))
    responses = back.performance(rate, np.zeros(3), ["response_s"])[:, 0, 0]
    assert responses[2] == pytest.approx(0.050 + 0.011 + 0.010)


def test_with_two_in_flight_a_long_way_prefers_the_cut_whose_stages_are_less_even_but_quicker():
    # Cycles: max(50, (100 + 2d) / 2) = 50 + d ms, and max(80, 45 + d) ms: equal at 30 ms one way.
    cuts = cuts_of([("P4", 0.050, 0.0, 0.050, 0.0), ("P7", 0.010, 0.0, 0.080, 0.0)], depth=2)
    first, last = winners(cuts, "throughput_img_s", "max", delays(math.inf))
    assert (first.label, first.until, last) == ("P4", pytest.approx(0.030, rel=1e-4), Stretch("P7", None))
    grid = phases(cuts, "throughput_img_s", "max")
    assert grid.labels == ["P4", "P7"]
    assert np.array_equal(grid.best, np.repeat((grid.delay_s > 0.030).astype(int)[:, None], grid.best.shape[1], axis=1))


def test_a_point_is_on_the_front_until_another_is_better_in_everything():
    # Over a fast link cycles of 50, 60 and 80 ms, and 100, 95 and 81 ms in all.
    rows = [("P1", 0.050, 0.0, 0.050, 100e3), ("P5", 0.060, 0.0, 0.035, 50e3), ("P9", 0.080, 0.0, 0.001, 5e3)]
    cuts = cuts_of(rows, depth=2)
    line = rates(cuts, 0.0)
    found = {label: front_until(cuts, label, BOTH, line) for label in cuts.labels}
    assert found["P9"] is None, "nothing sends less"
    # With 65 ms on the wire P5 takes 160 ms, which two in flight share: 80 ms, as P9's first stage.
    assert found["P5"] == pytest.approx(50e3 * 8 / PAYLOAD / 0.065, rel=1e-3)
    for label in ("P1", "P5"):
        for factor, on in ((1.01, True), (1 / 1.01, False)):
            there = cuts.performance(np.array([found[label] * factor]), np.zeros(1), [*BOTH]) * [1, -1]
            assert front_masks(there)[0][0, cuts.labels.index(label)] == on
    assert math.isnan(front_until(cuts_of([*rows, ("P2", 0.01, 0.0, 0.071, 200e3)], depth=2), "P2", BOTH, line))


def test_cuts_that_differ_by_less_than_matters_are_not_named_and_equal_ones_do_not_take_turns():
    near = [*TWO, ("P2", 0.010, 0.0, 0.0401, 99e3)]
    cuts = cuts_of(near)
    exact = [one.label for one in winners(cuts, "latency_s", "min", rates(cuts, 0.0))]
    assert exact == ["P1", "P2", "P9"]
    named = winners(cuts, "latency_s", "min", rates(cuts, 0.0), 0.02)
    assert len(named) == 2 and named[-1].label == "P9"
    for first in ("P1", "P2"):
        assert winners(cuts, "latency_s", "min", rates(cuts, 0.0), 0.02, [first])[0].label == first
    same = cuts_of([("P1", 0.05, 0.0, 0.05, 1e5), ("P2", 0.05, 0.0, 0.05, 1e5)], depth=2)
    assert winners(same, "throughput_img_s", "max", rates(same, 0.0)) == [Stretch("P1", None)]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(*[st.floats(1e-3, 0.1)] * 3, st.floats(1e3, 5e6)),
        min_size=2,
        max_size=5,
    ),
    st.integers(1, 3),
    st.sampled_from(list(BOTH)),
    st.sampled_from([0.0, 0.02]),
    st.booleans(),
)
def test_who_is_told_wins_everywhere_on_the_line_and_at_a_break_even_both_are_equal(parts, depth, name, share, by_rate):
    cuts = cuts_of([(f"P{i}", a, b / 20, c, size) for i, (a, b, c, size) in enumerate(parts)], depth=depth)
    line = rates(cuts, 0.002) if by_rate else delays(2e8)
    found = winners(cuts, name, BOTH[name], line, share)

    def costs(values):
        there = cuts.performance(*line.links(np.asarray(values)), [name])[:, :, 0]
        return there if BOTH[name] == "min" else 1 / there

    ends = [line.values[0], *(one.until for one in found[:-1]), line.values[-1]]
    for i, one in enumerate(found):
        inside = np.geomspace(ends[i], ends[i + 1], 7)[1:-1]
        here = costs(inside)
        assert (here[:, cuts.labels.index(one.label)] <= here.min(axis=1) * (1 + share) * (1 + 1e-6)).all()
    for one, after in itertools.pairwise(found):
        both = costs([one.until])[0, [cuts.labels.index(one.label), cuts.labels.index(after.label)]]
        assert both[0] == pytest.approx(both[1], rel=1e-3)
        assert one.label != after.label


def test_a_cut_is_told_to_do_over_its_own_link_what_is_known_of_it():
    cuts = cuts_of([*TWO, ("P5", 0.03, 0.0, 0.03, 5e4)], depth=2)
    known = {"latency_s": np.array([0.055, 0.082, np.nan]), "throughput_img_s": np.array([190.0, 165.0, np.nan])}
    found = calibrated(cuts, known, math.inf, 0.0)
    plain, tuned = (one.performance(np.array([1e11]), np.zeros(1), [*known])[0] for one in (cuts, found))
    assert tuned[:2].tolist() == pytest.approx(np.stack([known[name][:2] for name in known], axis=1), rel=2e-3)
    assert tuned[2].tolist() == plain[2].tolist()


def sweep(link="none", hop=0.0, **more):
    """Trials of two cuts with the payloads of `TWO`, and of a point that sends the result."""
    rows = [*TWO, ("P19", 0.2, 0.0, 0.001, 4e3)]
    return [
        {
            **trial(int(label[1:]), stage0, hop, stage1, back=0.001),
            "link": link,
            "partition_point": int(label[1:]),
            "partition_name": "output" if label == "P19" else "features.1",
            "activation_bytes": size,
            "hop0_payload_bytes": size,
            "latency_s": stage0 + hop + stage1,
            "throughput_img_s": 8 / (stage0 + hop + stage1 + 0.001),
            **more,
        }
        for label, stage0, _, stage1, size in rows
    ]


SHAPED = {"link_requested_rtt_s": 0.02, "link_requested_forward_bit_s": 1e7, "link_requested_backward_bit_s": 1e7}


def told(trials, front=("P1",)):
    summary = pd.DataFrame(trials)
    points = point_table(summary)
    return link_changes(summary, points.assign(on_front=points["partition_label"].isin(front)), BOTH, 0.02)


def test_trials_tell_where_another_cut_wins_from_the_fastest_link_that_was_measured():
    slow = sweep("slow", hop=0.1, **SHAPED)
    (found,) = told([*slow, *sweep(hop=1e-4, hop0_forward_before_bit_s=9e12, hop0_rtt_before_s=2e-4)])
    assert found.link.name == "none" and found.link.rate_bit_s == pytest.approx(9e12 / PAYLOAD)
    assert [(one.name, one.delay_s) for one in found.measured] == [("slow", 0.01), ("none", 1e-4)]
    assert found.chosen == {"latency_s": ("P1", 0.0501), "throughput_img_s": ("P1", pytest.approx(8 / 0.0511))}
    first, last = found.by_rate["latency_s"]
    # The 0.1 ms of software are fixed, as they are the same for all sizes.
    assert (first.label, last.label) == ("P1", "P9")
    assert first.until == pytest.approx(90e3 * 8 / PAYLOAD / 0.030, rel=1e-3)
    assert found.by_delay["latency_s"] == [Stretch("P1", None)]
    assert found.front["P1"][0] < first.until and found.front["P1"][1] is None
    # P1's 90 kB more take 75 ms over 10 Mbit/s; but as the trials have it, the hop took 100 ms for all.
    assert found.checks["latency_s"] == [Check("slow", "P9", "P1", pytest.approx(0.18 / 0.15 - 1))]
    assert np.unique(found.cuts.result_bytes).tolist() == [4e3]


def test_of_a_slow_link_alone_nothing_is_told_of_faster_ones():
    wire = {label: size * 8 / PAYLOAD / 1e7 for label, *_, size in TWO} | {"P19": 4e3 * 8 / PAYLOAD / 1e7}
    rows = [{**row, "hop0_transfer_s": wire[row["partition_label"]] + 0.01} for row in sweep("slow", **SHAPED)]
    for row in rows:
        row["latency_s"] = row["stage0_compute_s"] + row["hop0_transfer_s"] + row["stage1_compute_s"]
        row["throughput_img_s"] = 8 / (row["latency_s"] + 0.011)
    (found,) = told(rows)
    assert (found.link.name, found.cuts.fastest_bit_s) == ("slow", 1e7)
    assert rates(found.cuts, 0.0).values[0] == 1e7
    assert found.by_rate["latency_s"] == [Stretch("P9", None)]


def test_where_the_trials_do_not_carry_it_nothing_is_told():
    rows = sweep()
    assert told(rows[:1]) == [], "one cut"
    assert told([{**row, "return_transfer_s": np.nan} for row in rows]) == []
    assert told([{name: value for name, value in row.items() if name != "hop0_payload_bytes"} for row in rows]) == []
    assert told(sweep("lossy", **SHAPED, link_requested_loss=0.01)) == [], "losses are no matter of rate and delay"
    assert told(sweep("old")) == [], "a link of which nothing is told"
    summary = pd.DataFrame(rows)
    points = point_table(summary).assign(on_front=True)
    assert link_changes(summary, points, {"payload_bytes": "min"}, 0.02) == []
    assert cuts_of_trials(summary).labels == ["P1", "P9", "P19"]
    assert isinstance(rates(cuts_of_trials(summary), 0.0), Line)
