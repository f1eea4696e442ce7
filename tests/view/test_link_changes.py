"""What is said and drawn of other links: sentences from a table worked by hand, and the best cut everywhere."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from pplib.analysis.pareto import pareto_mask
from pplib.analysis.statistics import point_table
from pplib.errors import FrameError
from pplib.objectives import Aims
from pplib.planner.changes.link_changes import link_changes
from pplib.planner.changes.other_links import phases
from pplib.sweep.closing import closing_lines
from pplib.view.charts.link_phases import link_phases_chart
from pplib.view.display import png_bytes
from pplib.view.sections.link_changes import TITLE, link_changes_sections
from pplib.view.words.link_changes import closing_sentences, front_sentence, objective_sentences
from tests.planner.test_other_links import BOTH, SHAPED, sweep
from tests.view.test_charts import check, rows_of

# Over a fast link P1 takes 50 ms, P9 80 ms, P19 201 ms; P1 sends 90 kB more than P9: 30 ms at 25 Mbit/s. With w for the
# 10 kB of P9, 50 + 10 w is 2 % less than 80 + w at 26 Mbit/s, 2 % more at 24. P9 sends 6 kB more than P19: 121 ms at
# 0.4 Mbit/s, which is beyond what is looked at.
FAST = {"hop0_forward_before_bit_s": 9e12, "hop0_rtt_before_s": 2e-4}


def named(trials, **keys):
    return [{**row, "model": "mobilenet_v2", "backend": "socket", "setup": "", **keys} for row in trials]


def points_of(trials):
    points = point_table(pd.DataFrame(trials))
    front = pd.concat([pareto_mask(rows, BOTH) for _, rows in points.groupby(["backend", "link"])])
    return points.assign(on_front=front)


def changes(trials):
    return link_changes(pd.DataFrame(trials), points_of(trials), BOTH, 0.02)


def test_sentences_say_until_where_a_cut_wins_and_what_trials_over_other_links_found():
    trials = named([*sweep(hop=1e-4, **FAST), *sweep("slow", hop=0.1, **SHAPED)])
    (found,) = changes(trials)
    assert list(objective_sentences(found, "latency_s", "min")) == [
        "lowest latency: P1 until 25 Mbit/s, then P9 (as good from 26 Mbit/s to 24 Mbit/s); "
        "the delay changes nothing over none.",
        "Over slow, which was measured, P9 is told; the best was P1, and P9 20 % worse.",
    ]
    assert front_sentence(found) == "on the front: P1 until 24 Mbit/s."
    assert closing_sentences([found], BOTH) == [
        "mobilenet_v2 socket: lowest latency P1 until 25 Mbit/s, then P9; most images P1 until 25 Mbit/s, then P9"
    ]


def test_of_several_configurations_the_one_that_is_best_is_told_at_the_end_and_where_one_cut_wins_nothing():
    slower = [{**row, "latency_s": row["latency_s"] * 1.1} for row in sweep(hop=1e-4, in_flight=1, **FAST)]
    trials = [*named(sweep(hop=1e-4, **FAST), wire="float16"), *named(slower, wire="float32")]
    (line,) = closing_sentences(changes(trials), {"latency_s": "min"})
    assert line.startswith("mobilenet_v2 socket: lowest latency (wire float16) P1 until ")
    alone = named([row for row in sweep(hop=1e-4, **FAST) if row["partition_label"] != "P1"])
    (found,) = changes(alone)
    assert closing_sentences([found], BOTH) == []
    assert list(objective_sentences(found, "latency_s", "min")) == [
        "lowest latency: P9, however slow or far the link is."
    ]
    assert front_sentence(found) == "on the front: P9 throughout."


def test_a_phase_diagram_has_the_best_cut_everywhere_and_the_links_that_were_measured():
    (found,) = changes(named([*sweep(hop=1e-4, **FAST), *sweep("slow", hop=0.1, **SHAPED)]))
    told = phases(found.cuts, "latency_s", "min", 0.02)
    chart = link_phases_chart({"one": (told, found.measured)}, "latency_s")
    rows = rows_of(check(chart))
    areas = [row for row in rows if "rate2" in row]
    for delay, best in zip(told.delay_s * 1e3, told.best, strict=True):
        for rate, cut in zip(told.rate_bit_s * 1e-6, best, strict=True):
            over = [
                row["cut"]
                for row in areas
                if row["rate"] * 0.999 < rate < row["rate2"] * 1.001
                and row["delay"] * 0.999 < delay < row["delay2"] * 1.001
            ]
            assert told.labels[cut] in over
    assert len(areas) == 2, "one beside the other: the delay changes nothing"
    marks = {row["link"]: (row["rate"], row["delay"]) for row in rows if "link" in row}
    assert marks["slow"] == pytest.approx((10.0, 10.0))
    assert marks["none"] == pytest.approx((told.rate_bit_s[-1] * 1e-6, 0.1)), "beyond both axes: at their end"
    assert png_bytes(chart).startswith(b"\x89PNG")
    with pytest.raises(FrameError, match="nothing to draw"):
        link_phases_chart({}, "latency_s")


def test_a_section_for_each_objective_and_a_sentence_where_trials_do_not_tell_their_parts(summary):
    trials = named([row for repeat in range(2) for row in sweep(hop=1e-4, repeat=repeat, **FAST)])
    first, second = link_changes_sections(pd.DataFrame(trials), points_of(trials), Aims())
    assert first.title == f"{TITLE}: latency" and (first.name, second.name) == (
        "links-latency_s",
        "links-throughput_img_s",
    )
    assert "- mobilenet_v2 socket in flight 1: lowest latency: P1 until 25 Mbit/s" in first.text
    assert "- mobilenet_v2 socket in flight 1: on the front: P1 until 24 Mbit/s." in first.text
    assert "only cuts that were measured can win" in first.text
    assert first.chart is not None and second.chart is not None
    points = point_table(summary).assign(on_front=False)
    assert "return_transfer_s" not in summary.columns
    (none,) = link_changes_sections(summary, points, Aims())
    assert none.chart is None and none.text.startswith("Nothing can be said of other links")
    alone = [row for row in trials if row["partition_label"] != "P1"]
    told = link_changes_sections(pd.DataFrame(alone), points_of(alone), Aims())
    assert [one.chart for one in told] == [None, None], "one colour is no picture"
    assert np.all(["P9, however slow or far the link is" in one.text for one in told])


def test_the_last_lines_of_a_sweep_have_one_for_each_model_and_backend():
    trials = [row for repeat in range(2) for row in sweep(hop=1e-4, repeat=repeat, order=repeat, **FAST)]
    both = [*named(trials), *named(trials, backend="rpc")]
    lines = [line for line in closing_lines(pd.DataFrame(both)) if line.startswith("links:")]
    told = "lowest latency P1 until 25 Mbit/s, then P9; most images P1 until 25 Mbit/s, then P9"
    assert lines == [f"links:   mobilenet_v2 {backend}: {told}" for backend in ("rpc", "socket")]
