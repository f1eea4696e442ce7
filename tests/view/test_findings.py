"""Sections that depend on what was measured: the right rows, and a sentence where there is nothing to show."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest

from benchmarks.coverage import simulated
from pplib.analysis.estimated.answer import surely_worse
from pplib.analysis.estimated.point_estimates import point_draws, point_estimates
from pplib.analysis.links import link_table
from pplib.analysis.robust import minimax_regret
from pplib.analysis.stability import unstable_trials
from pplib.analysis.statistics import fronts, point_table
from pplib.errors import FrameError
from pplib.objectives import Aims
from pplib.sweep import report
from pplib.sweep.closing import closing_lines
from pplib.view import charts, section
from pplib.view.display import draw, png_bytes
from pplib.view.section import Section, show
from pplib.view.sections.findings import (
    links_section,
    moving_section,
    points_section,
    regret_sections,
    unsteady_section,
)
from pplib.view.table_html import table_html
from pplib.view.tables import front_table, points_table, requested_and_measured, trials_table
from pplib.view.words.answer import answer_sentences
from pplib.view.words.correction import correction_lines

OBJECTIVES = {"latency_s": "min", "throughput_img_s": "max"}


def with_links(summary, **more):
    """The columns of a measured link, the slow one being half as good as asked."""
    slow = summary["link"] == "wifi"
    added = {
        "link_engine": slow.map({True: "userspace", False: "none"}),
        "link_requested_rtt_s": slow.map({True: 0.02, False: 0.0}),
        "link_requested_loss": slow.map({True: 0.01, False: 0.0}),
        "link_requested_forward_bit_s": slow.map({True: 1e8, False: np.nan}),
        "link_requested_backward_bit_s": slow.map({True: 2e7, False: np.nan}),
    }
    for when in ("before", "after"):
        added[f"hop0_rtt_{when}_s"] = slow.map({True: 0.04, False: 1e-4})
        added[f"hop0_rtt_spread_{when}_s"] = slow.map({True: 0.003, False: 1e-4})
        added[f"hop0_forward_loss_{when}"] = slow.map({True: 0.02, False: 0.0})
        added[f"hop0_rtt_p99_{when}_s"] = slow.map({True: 0.05, False: 2e-4})
        added[f"hop0_forward_{when}_bit_s"] = np.where(slow, 5e7 + 1e6 * summary["in_flight"], 9e9)
        added[f"hop0_backward_{when}_bit_s"] = slow.map({True: 1e7, False: 9e9})
    return summary.assign(**added, **more)


@pytest.fixture
def two_links(make_summary):
    return make_summary(links=("none", "wifi"), depths=(1, 2), repeats=2)


def points_of(summary):
    return fronts(point_estimates(summary, resamples=50), OBJECTIVES)


def test_points_show_their_range_and_an_interval_and_say_why_where_there_is_none(summary):
    found = points_section(points_of(summary))
    assert found.table["latency_s_low"].notna().all() and "No interval" not in found.text
    assert (found.table["latency_s_min"] <= found.table["latency_s_max"]).all()
    found = points_section(points_of(summary[summary["repeat"] == 0]))
    assert found.table["latency_s_low"].isna().all()
    assert "No interval: one repeat of every point: how far another would be from it is not known (" in found.text
    with pytest.raises(FrameError, match="no column 'interval_note'"):
        points_section(point_table(summary))


def test_accuracy_stands_in_every_table_of_points_and_in_words_beside_the_float32_models(summary):
    told = {"labels_sha256": "ab", "reference_accuracy": 0.974, "images_compared": 500.0}
    labelled = summary.assign(**told, accuracy=summary["partition_point"].map(lambda point: 0.972 - point / 1000))
    found = points_section(points_of(labelled))
    least = 100 * labelled["accuracy"].min()
    words = f"accuracy {least:.3g} to 97.2 % (float32 model 97.4 %), 500 images"
    assert found.text.endswith(f"\n\nmobilenet_v2: {words}.")
    assert '<th class="n">accuracy (%)</th>' in table_html(found.table) and ">97.2</td>" in table_html(found.table)
    assert "accuracy" in front_table(points_of(labelled)).columns
    assert f"         {words}" in closing_lines(labelled)
    none = summary.assign(labels_sha256="ab", accuracy=np.nan)
    assert points_section(points_of(none)).text.endswith(
        "no accuracy, though the images have labels: the output is not one row of scores of classes per image."
    )
    unlabelled = points_section(points_of(summary))
    assert "accuracy" not in unlabelled.text and "accuracy" not in unlabelled.table.columns


def test_repeats_have_intervals_in_every_table_and_nothing_to_excuse(make_summary):
    summary = make_summary(depths=(1,), repeats=7)
    points = points_of(summary)
    found = points_section(points)
    assert "No interval" not in found.text
    for table in (found.table, front_table(points)):
        assert (table["latency_s_low"] <= table["latency_s"]).all()
        assert (table["throughput_img_s"] <= table["throughput_img_s_high"]).all()
    assert (found.table["latency_s_min"] < found.table["latency_s_low"]).any()


def test_tables_name_whatever_tells_configurations_apart(summary):
    points = point_table(pd.concat([summary, summary.assign(batch_size=4)]))
    assert list(points_table(points).columns[:5]) == ["model", "link", "backend", "in_flight", "batch_size"]
    assert list(points_table(point_table(summary)).columns[:5])[-1] == "partition_label"


def test_trials_are_counted_for_whatever_tells_configurations_apart_also_where_nothing_was_noted(summary):
    both = pd.concat([summary, summary.assign(batch_size=4, link=None)])
    counts = trials_table(both)
    assert counts["trials"].sum() == len(both)
    assert {"batch_size", "status", "trials"} <= set(counts.columns)
    assert "seed" not in counts.columns


def test_the_worst_unsteady_trials_are_shown_and_the_others_counted(summary):
    found = unsteady_section(summary.assign(latency_p90_s=summary["latency_s"] * 1.05, efficiency=0.9))
    assert found.table is None or len(found.table) <= 12
    odd = summary.assign(latency_p90_s=summary["latency_s"] * 1.3)
    odd.loc[odd["partition_point"] == 5, "clock_error_s"] = odd["latency_s"]
    everything = unstable_trials(odd)
    found = unsteady_section(odd, worst=7)
    assert len(found.table) == 7
    assert found.table["partition_label"].unique().tolist() == ["P5"]
    ok = int((odd["status"] == "ok").sum())
    assert found.text.startswith(f"{ok} of the {ok} ok trials look unsteady.")
    assert f"there are {len(everything) - 7} more" in found.text
    assert list(found.table.columns[-3:]) == ["repeat", "reason", "remedy"]


def test_where_no_trial_is_unsteady_a_sentence_says_so(summary):
    calm = summary.assign(latency_s=0.1, latency_p90_s=0.1, throughput_img_s=50.0, efficiency=0.9)
    found = unsteady_section(calm[calm["status"] == "ok"])
    assert found.table is None
    assert found.text == "None of the 236 ok trials looks unsteady."


def test_links_are_shown_as_requested_and_as_measured_in_ms_and_mbit(two_links):
    found = links_section(with_links(two_links))
    table = found.table.set_index(["link", "quantity"])
    row = table.loc[("wifi", "forward (Mbit/s)")]
    assert row[["engine", "hop", "requested", "before", "after"]].tolist() == [
        "userspace",
        "0",
        "100",
        "51.5 [51, 52]",
        "51.5 [51, 52]",
    ]
    assert table.loc[("wifi", "round trip (ms)"), ["requested", "before"]].tolist() == ["20", "40"]
    assert table.loc[("wifi", "round trip, 99th percentile (ms)"), ["requested", "after"]].tolist() == ["", "50"]
    assert table.loc[("wifi", "forward loss (%)"), "requested"] == "1"
    assert table.loc[("none", "backward (Mbit/s)"), ["requested", "before"]].tolist() == ["-", "9,000"]
    assert table.loc[("wifi", "forward loss (%)"), ["before", "after"]].tolist() == ["2", "2"]
    assert table.loc[("none", "forward loss (%)"), "requested"] == "0"
    spread = table.loc[("wifi", "jitter: round trips, 10th to 90th percentile (ms)")]
    assert spread[["requested", "before"]].tolist() == ["-", "3"], "what older results do not tell is left empty"


def test_links_through_a_tunnel_are_said_to_be(two_links):
    summary = with_links(two_links)
    for tunnel, said in (("none", False), ("ssh", True)):
        assert ("went through SSH" in links_section(summary.assign(link_tunnel=tunnel)).text) is said


def test_results_without_measured_links_leave_a_sentence_and_no_table(two_links):
    found = links_section(two_links)
    assert found.table is None
    assert "no measurements" in found.text
    assert requested_and_measured(link_table(two_links)).empty


def test_one_section_per_objective_names_the_minimax_point_of_every_group(two_links):
    trials = two_links[two_links["in_flight"] == 2]
    points = points_of(trials)
    found = regret_sections(points, trials, OBJECTIVES)
    assert [one.title for one in found] == ["One cut for every link: latency", "One cut for every link: throughput"]
    for one, (name, direction) in zip(found, OBJECTIVES.items(), strict=True):
        choice = minimax_regret(points, {name: direction}, point_draws(trials, name))
        chosen = one.table[one.table["minimax"]]
        assert chosen["partition_label"].tolist() == choice[choice["minimax"]]["partition_label"].tolist()
        worst = one.table[["regret_on_none", "regret_on_wifi"]].max(axis=1)
        assert worst.tolist() == pytest.approx(one.table["worst_regret"].tolist())
        assert png_bytes(one.chart, ppi=40).startswith(b"\x89PNG")


def test_groups_measured_on_one_link_are_left_out_of_what_compares_links(two_links):
    trials = two_links[(two_links["link"] == "none") | (two_links["backend"] == "socket")]
    points = points_of(trials)
    for one in regret_sections(points, trials, OBJECTIVES):
        assert set(one.table["backend"]) == {"socket"}
        assert "rpc" not in json.dumps(one.chart.to_dict())
    assert "rpc" not in json.dumps(moving_section(points, OBJECTIVES).chart.to_dict())


def test_points_never_measured_on_all_links_give_a_chart_and_a_sentence(two_links):
    apart = two_links[(two_links["link"] == "none") == (two_links["partition_point"] < 8)]
    for one in regret_sections(points_of(apart), apart, OBJECTIVES):
        assert one.table is None
        assert "No point was measured on every link." in one.text
        assert "none was measured on every link" in json.dumps(one.chart.to_dict())


def test_how_far_a_correction_brings_repeats_together_is_told(summary):
    drifting, _ = simulated(np.random.default_rng(1), "host", repeats=3)
    *each, drift = correction_lines(drifting)
    assert len(each) == 3
    for line in each:
        apart, left = map(float, re.search(r"latency ([\d.]+) % as measured, ([\d.]+) % divided by its", line).groups())
        assert left < 0.6 * apart
    assert re.fullmatch(r"From the trials .*: stage 0 to [\d.]+ %, to [\d.]+ % without; stage 1 .* without\.", drift)
    linked = drifting.assign(latency_s=3.0 * np.exp(0.01 * np.random.default_rng(2).normal(size=len(drifting))))
    assert all("which no correction betters; throughput" in line for line in correction_lines(linked)[:3])
    assert correction_lines(drifting[drifting["repeat"] == 0]) == []


def test_one_link_leaves_a_sentence_and_no_chart(summary):
    points = points_of(summary)
    (one,) = regret_sections(points, summary, OBJECTIVES)
    for found in (one, moving_section(points, OBJECTIVES)):
        assert found.chart is None
        assert found.table is None
        assert "two links or more" in found.text
    with pytest.raises(FrameError, match=r"links \['none'\]: expected a configuration .* two or more"):
        charts.fronts_by_link_chart(points)


def test_a_panel_per_link_stands_best_link_first_with_rings_around_what_stays(two_links):
    points = points_of(two_links)
    slower = points.assign(link=points["link"].map({"none": "worst", "wifi": "best"}))
    slower.loc[slower["link"] == "worst", "latency_s"] *= 10
    spec = charts.fronts_by_link_chart(slower).to_dict()
    assert [panel["title"]["text"] for panel in spec["concat"]] == [
        "mobilenet_v2 · link best",
        "mobilenet_v2 · link worst",
    ]
    staying = slower[slower["on_front"]].groupby(["backend", "in_flight", "partition_label"])["link"].nunique() == 2
    expected = {(f"{backend}, in flight {depth}", label) for backend, depth, label in staying[staying].index}
    drawn = [row for rows in spec["datasets"].values() for row in rows if row.get("ringed")]
    found = {(row["series"], row["partition_label"]) for row in drawn}
    assert found == expected
    assert len(drawn) == 2 * len(found)
    assert all(row["on_front"] for row in drawn)
    words = spec["title"]["subtitle"]
    assert words[0] == "Ringed: on the front of its configuration on every link."
    assert any(line.startswith("socket, in flight 1: P") for line in words)
    assert "ringed" not in json.dumps(charts.front_chart(slower).to_dict())


def test_where_nothing_stays_on_the_front_the_picture_says_so(two_links):
    half = two_links["partition_point"] < 8
    points = points_of(two_links[half == (two_links["link"] == "none")])
    words = charts.fronts_by_link_chart(points).to_dict()["title"]["subtitle"]
    assert words == ["No point is on the front of its configuration on every link."]


def test_models_stand_in_rows_of_their_own(make_summary):
    points = point_table(make_summary(models=("vgg16", "alexnet"), links=("wifi", "none"), depths=(1,), repeats=1))
    spec = charts.fronts_by_link_chart(points, {"throughput_img_s": "max", "latency_s": "min"}, columns=2).to_dict()
    assert [panel["title"]["text"] for panel in spec["concat"]] == [
        "alexnet · no link shaping",
        "alexnet · link wifi",
        "vgg16 · no link shaping",
        "vgg16 · link wifi",
    ]
    assert any(line.startswith("vgg16, socket") for line in spec["title"]["subtitle"])


def test_the_report_has_the_sections_that_its_results_can_fill(two_links, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "_ran_on", lambda folder, summary: "a made-up machine")
    # Few points, so that the pictures are quick to draw.
    few = (
        (two_links["backend"] == "socket")
        & (two_links["in_flight"] == 2)
        & two_links["partition_point"].isin([3, 8, 14])
    )
    two_links = two_links[few]
    page = report.write_results_report(tmp_path / "two", with_links(two_links)).read_text()
    for title in ("How the front moves with the link", "One cut for every link: throughput", "Unsteady trials"):
        assert f"<h2>{title}</h2>" in page
    assert "<h2>Link: requested against measured</h2>" in page
    assert "latency (ms) [range]" in page
    assert "95%" in page or "95 %" in page
    for title in ("In pairs: backends", "Front by front"):
        assert (f"<h2>{title}</h2>" in page) is (title == "Front by front")
    assert "No interval" not in page
    names = {path.stem for path in (tmp_path / "two" / "charts").iterdir()}
    assert {"fronts-by-link", "regret-latency_s", "regret-throughput_img_s"} <= names
    page = report.write_results_report(tmp_path / "one", two_links[two_links["link"] == "none"]).read_text()
    for title in ("One cut for every link", "How the front moves", "Front by front"):
        assert f"<h2>{title}" not in page
    page = report.write_results_report(tmp_path / "once", two_links[two_links["repeat"] == 0]).read_text()
    for title in ("How sure is the front?", "How steady was the machine?"):
        assert f"<h2>{title}" not in page
    assert "No interval: one repeat of every point" in page
    assert "<h2>Link: requested" not in page
    assert not [
        path for path in (tmp_path / "one" / "charts").iterdir() if "link" in path.stem or "regret" in path.stem
    ]


def test_a_notebook_shows_what_a_section_holds_with_headings_only_where_there_are_several(monkeypatch, summary):
    shown = []
    monkeypatch.setattr(section, "display", shown.append)
    chart = charts.front_chart(point_table(summary))
    show(Section("One", "Words.", chart, pd.DataFrame({"latency_s": [0.25]})))
    assert shown[0].data == "Words."
    assert shown[1].spec == draw(chart).spec
    assert "latency (ms)" in shown[2].data
    shown.clear()
    show(Section("One"), Section("Two", "Words."))
    assert [one.data for one in shown] == ["### One\n\n", "### Two\n\nWords."]
    shown.clear()
    show(Section("One"))
    assert shown == []


def by_hand(make_summary, figures, **more):
    """Three cuts, without noise, of (latency, throughput) each: all on device b, split, all on device a."""
    summary = make_summary(depths=(2,), repeats=3)
    summary = summary[(summary["backend"] == "socket") & summary["partition_point"].isin([0, 7, 19])]
    rows = summary.assign(device_names="a + b", error=None, status="ok", efficiency=0.9, bottleneck="stage 1")
    for point, (latency, throughput) in figures.items():
        here = rows["partition_point"] == point
        rows.loc[here, ["latency_s", "latency_mean_s", "throughput_img_s"]] = [latency, latency, throughput]
        rows.loc[here, ["compute_s", "transfer_s", "queue_s"]] = [latency * 0.7, latency * 0.2, latency * 0.1]
    for i, own in enumerate(({0: 0.0, 7: 0.04, 19: 0.1}, {0: 0.2, 7: 0.05, 19: 0.0})):
        rows[f"stage{i}_compute_s"] = rows["partition_point"].map(own)
    return rows.assign(**more)


def told_of(summary, **wanted):
    return [" ".join(one) for one in answer_sentences(summary, Aims(**wanted))]


def test_the_answer_names_the_cut_for_each_objective_and_what_it_gains_over_one_device(make_summary):
    summary = by_hand(make_summary, {0: (0.2, 40.0), 7: (0.1, 120.0), 19: (0.125, 80.0)})
    assert told_of(summary) == [
        "mobilenet_v2: lowest latency and most images: P7, 100 ms (100 to 100) and 120 img/s (120 to 120), on the "
        "front in 100% of such sweeps. Against everything on one device: latency 20.0 % less (20.0 to 20.0), "
        "there on a; throughput 50.0 % more (50.0 to 50.0), there on a. In the way: of P7's latency 70% computing, "
        "20% links, 10% waiting; of P7's rate stage 1 (b), busy 90% of the time."
    ]


def test_the_answer_says_what_would_help_most_and_what_would_not(make_summary):
    summary = by_hand(make_summary, {0: (0.2, 40.0), 7: (0.1, 120.0), 19: (0.125, 80.0)})
    split = summary[summary["partition_point"] == 7]
    (told,) = told_of(split.assign(hop0_transfer_s=0.01, return_transfer_s=0.0))  # 40 + 10 + 50 ms
    assert told.endswith(
        "What would help most, computed from the measured parts: latency 25 % less with b twice as fast; throughput "
        "25 % more with b twice as fast; nothing from a twice as fast or a link twice as fast or one more in flight."
    )
    rates = {"hop0_forward_before_bit_s": 1e6, "hop0_payload_bytes": 1e6}
    (told,) = told_of(split.assign(hop0_transfer_s=0.11, return_transfer_s=0.0, **rates))
    assert "throughput 52 % more with a link twice as fast; nothing from a twice as fast or b " in told


def test_the_answer_is_no_split_where_one_device_is_better_and_each_objective_may_have_its_own(make_summary):
    summary = by_hand(make_summary, {0: (0.2, 40.0), 7: (0.1, 120.0), 19: (0.05, 80.0)})
    (told,) = told_of(summary)
    assert "lowest latency: P19, which is no split but all of it on a, 50 ms (50 to 50)" in told
    assert "Most images: P7, 120 img/s" in told
    assert "Against everything on one device: throughput 50.0 % more (50.0 to 50.0), there on a. In" in told


def test_the_answer_is_silent_of_what_the_trials_do_not_tell(make_summary):
    summary = by_hand(make_summary, {0: (0.2, 40.0), 7: (0.1, 120.0), 19: (0.125, 80.0)})
    split = summary[summary["partition_point"] == 7].drop(columns=["efficiency", "bottleneck", "queue_s", "transfer_s"])
    (told,) = told_of(split.drop(columns="compute_s"))
    assert "Against" not in told and "In the way" not in told and told.startswith("mobilenet_v2: lowest latency and")
    (once,) = told_of(summary[summary["repeat"] == 0])
    assert "P7, 100 ms and 120 img/s, how surely is not known, as nothing was repeated." in once
    assert "latency 20.0 % less (not repeated: by how much is not known)" in once
    assert told_of(summary.assign(status="failed")) == []
    links = pd.concat([summary, summary.assign(link="demo", latency_s=summary["latency_s"] * 2)])
    assert [one.partition(":")[0] for one in told_of(links)] == ["mobilenet_v2 over demo", "mobilenet_v2"]


def test_the_answer_prefers_what_is_on_the_front_among_what_is_as_good_and_counts_the_others(make_summary):
    summary = by_hand(make_summary, {0: (0.2, 40.0), 7: (0.1005, 120.0), 19: (0.1, 80.0)})
    (told,) = told_of(summary)
    assert told.startswith("mobilenet_v2: lowest latency and most images: P7, 100.5 ms")
    (told,) = told_of(by_hand(make_summary, {0: (0.1, 120.0), 7: (0.1, 120.0), 19: (0.1, 120.0)}))
    assert "not told from 2 other points" in told
    summary = pd.concat([summary, summary.assign(backend="rpc", latency_s=summary["latency_s"] * 1.5)])
    assert "most images: P7 (socket), 100.5 ms" in told_of(summary)[0]


def test_what_is_on_the_front_is_no_answer_where_it_is_surely_worse_though_perhaps_by_no_more_than_matters():
    rng = np.random.default_rng(0)
    for spread, surely in ((0.02, True), (0.03, False)):  # of the difference; the first is 5 % worse, the second 1 %
        drawn = np.array([1.0, 1.05, 1.01]) + rng.normal(size=(4000, 3)) * [0, spread, 0.001]
        values = np.array([1.0, 1.05, 1.01])
        assert surely_worse(values, drawn, 0.02).tolist() == [False, surely, False]
        assert (drawn[:, 1] - drawn[:, 0] > 0.02).mean() < 0.95, "and by how much is not told for certain"
