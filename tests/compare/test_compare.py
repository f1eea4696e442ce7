"""Runs side by side: what is the same, what changed, and what cannot be compared."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from benchmarks.coverage import simulated
from pplib.analysis.estimated.point_estimates import point_estimates
from pplib.analysis.estimated.replication import OFF, ON, calls, changes, front_replication, statement_replication
from pplib.columns import INDIFFERENCE, OBJECTIVES
from pplib.compare.__main__ import main
from pplib.compare.runs import Run
from pplib.compare.sections import comparison_sections
from pplib.objectives import aims
from pplib.view.display import png_bytes
from pplib.view.table_html import table_html
from tests.sweep.test_summary import write  # noqa: F401 (a fixture)

COLUMNS = list(OBJECTIVES)


def run_of(seed, change=1.0, point=7):
    """A run on a host that changes by 10 % from trial to trial; one point takes so many times as long."""
    summary, _ = simulated(np.random.default_rng(seed), "host", repeats=4)
    factor = np.where(summary["partition_point"] == point, change, 1.0)
    slower = {"latency_s": summary["latency_s"] * factor, "throughput_img_s": summary["throughput_img_s"] / factor}
    return summary.assign(**slower)


def test_a_second_run_of_the_same_confirms_the_first():
    one, other = run_of(1), run_of(2)
    fronts = front_replication(one, other, OBJECTIVES, INDIFFERENCE)
    assert len(fronts) and not fronts["contradicted"].any()
    said = statement_replication(one, other, COLUMNS)
    assert said.stated > 400 and said.turned <= 0.05 * said.stated and said.opposed <= 0.01 * said.stated
    same = statement_replication(one, one, COLUMNS)
    assert (same.turned, same.opposed) == (0, 0)


def test_a_point_that_got_slower_is_found_and_no_longer_on_the_front():
    one, other = run_of(1), run_of(2, change=1.5, point=9)
    found = changes(one, other, COLUMNS)
    sure = found[(found["low"] > 1 + INDIFFERENCE) | (found["high"] < 1 - INDIFFERENCE)]
    slower = sure[(sure["partition_label"] == "P9") & (sure["column"] == "latency_s")]
    assert len(slower) == 3 and (slower["ratio"] / slower["common"]).between(1.4, 1.6).all()
    assert len(sure) <= 6, "of 120 some few by chance"
    fronts = front_replication(one, other, OBJECTIVES, INDIFFERENCE)
    was = fronts[(fronts["partition_label"] == "P9") & (fronts["call_first"] == ON)]
    assert len(was) and (was["call_second"] == OFF).all() and was["contradicted"].all()


def test_fronts_of_other_objectives_are_compared_as_well_and_one_that_a_run_lacks_is_left_out():
    wanted = aims(["latency", "throughput", "energy"], {})
    rng = np.random.default_rng(0)
    one, other = (
        run.assign(energy_per_image_j=(5 + run["partition_point"]) * rng.uniform(0.99, 1.01, len(run)))
        for run in (run_of(1), run_of(2))
    )
    told = comparison_sections([Run("one", one, {}), Run("other", other, {})], wanted)
    fronts = next(section for section in told if section.title == "one and other: the fronts")
    assert fronts.chart is not None
    assert "It shows latency and throughput; the fronts are of all objectives." in fronts.text
    of_two = comparison_sections([Run("one", one, {}), Run("other", other, {})])[2]
    assert len(fronts.table) > len(of_two.table), "earlier cuts take less energy"
    assert any("energy per image" in line for line in told[-1].text.splitlines())
    single = comparison_sections([Run("one", one, {}), Run("other", other, {})], aims(["energy"], {}))
    assert single[2].chart is None and "In the chart" not in single[2].text
    lacking = comparison_sections([Run("one", one, {}), Run("other", run_of(2), {})], wanted)
    assert "other: No trial has energy_per_image_j, which is left out" in lacking[0].text
    assert "It shows" not in lacking[2].text


def test_a_device_that_takes_longer_than_in_the_first_run_is_named(capsys):
    same = {"cpu": "a CPU", "device_names": "a + b"}
    one, other = (run_of(seed).assign(**same) for seed in (1, 2))
    slower = other.assign(stage1_compute_s=other["stage1_compute_s"] * 1.2)
    *_, changed = comparison_sections([Run("one", one, {}), Run("other", slower, {})])
    (said,) = re.findall(
        r"What b takes for the same work as a, against the first: \+(.*)% \(\+(.*)% to \+(.*)%\)", changed.text
    )
    middle, low, high = map(float, said)
    assert 10 < low < middle < high < 30


def test_without_repeats_nothing_is_off_a_front_for_certain():
    single = run_of(1).query("repeat == 0")
    assert OFF not in set(calls(single, OBJECTIVES, INDIFFERENCE)["call"])
    told = comparison_sections([Run("a", single, {"cpu": "x"}), Run("b", single, {"cpu": "y", "gpu": "z"})])
    assert told[1].table.to_dict("list") == {"what": ["cpu", "gpu"], "a": ["x", ""], "b": ["y", "z"]}
    assert told[2].text.startswith("Replicability 100%: of ")
    assert told[3].text.endswith("No point did.")


def rows_of(chart):
    return [row for rows in chart.to_dict()["datasets"].values() for row in rows]


def test_the_fronts_of_both_runs_lie_over_each_other_and_what_changed_has_a_ring_in_both():
    one, other = run_of(1), run_of(2, change=1.5, point=9)
    fewer = other[(other["backend"] == "socket") | (other["partition_point"] != 4)]
    _, _, fronts, changed = comparison_sections([Run("a", one, {}), Run("b", fewer, {})])
    spec = fronts.chart.to_dict()
    assert [panel["title"]["text"] for panel in spec["concat"]] == [
        "m · socket, in flight 1",
        "m · socket, in flight 2",
        "m · rpc, in flight 2",
    ]
    drawn = [row for row in rows_of(fronts.chart) if "place" in row]
    assert [sum(row["series"] == name for row in drawn) for name in ("a", "b")] == [60, 59]
    ringed = sorted((row["series"], row["partition_label"]) for row in drawn if row["ringed"])
    labels = changed.table["partition_label"]
    panels = changed.table.drop_duplicates(["backend", "in_flight", "partition_label"])
    assert set(labels) == {label for _, label in ringed} and len(ringed) == 2 * len(panels)
    assert ("a", "P9") in ringed and ("b", "P9") in ringed
    estimates = point_estimates(one)
    best = min(row["x_min"] for row in drawn if row["series"] == "a")
    assert best == pytest.approx(estimates["latency_s_low"].min() * 1e3)
    assert png_bytes(fronts.chart, ppi=40).startswith(b"\x89PNG")


def test_a_reader_sees_what_was_compared_and_what_each_run_says_also_where_all_say_the_same():
    one, other = run_of(1), run_of(2, change=1.5, point=9)
    told = comparison_sections([Run("a", one, {}), Run("b", other[other["backend"] == "socket"], {})])
    assert told[0].title == "What was compared"
    assert told[0].text.startswith("2 of 3 configurations are in every run; trials of each:\n\n- a: 240 trials, 20")
    assert {"batch_size", "weights", "dataset", "num_stages", "granularity"} <= set(told[0].table.columns)
    assert told[0].table.set_index(["backend", "in_flight"]).loc[("rpc", "2"), ["a", "b"]].tolist() == ["80 ok", "-"]
    page = table_html(told[0].table)
    assert "batch size" in page and ">a</th>" in page
    same = told[2].table.assign(a="on it", b="")
    same.attrs = told[2].table.attrs
    assert ">a</th>" in table_html(same) and ">b</th>" in table_html(same)
    row = told[3].table.set_index(["partition_label", "quantity", "in_flight"]).loc[("P9", "latency", 1)]
    values = [float(row[name].removesuffix(" ms")) for name in "ab"]
    assert 1.4 < values[1] / values[0] < 1.6 and row["changed_by_low"] < row["changed_by"] < row["changed_by_high"]


def test_runs_without_a_measured_configuration_in_common_get_a_sentence():
    one, other = run_of(1), run_of(2)
    for nothing in (other.assign(status="failed"), other.assign(setup="run x")):
        told = comparison_sections([Run("a", one, {}), Run("b", nothing, {})])
        assert [section.title for section in told] == ["What was compared", "What they ran on", "a and b"]
        assert "No configuration has ok trials with the same setup in both" in told[2].text


def test_the_command_compares_folders_and_tells_what_they_ran_on(write, tmp_path, capsys):  # noqa: F811
    one, other = write(name="one"), write(name="other", host={"cpu": "another"}, latencies={2: 0.2, 4: 0.1})
    page = tmp_path / "page" / "compare.html"
    assert main([str(one.results), str(other.results), "--report", str(page)]) == 0
    assert "one and other: the fronts" in page.read_text()
    assert {path.suffix for path in (page.parent / "charts").glob("fronts-1-2.*")} == {".png", ".svg", ".pdf"}
    said = capsys.readouterr().out
    assert "What they ran on" in said and "another" in said
    assert "one and other: the fronts\n\nReplicability " in said
    assert "\nAll points of backend socket, in flight 1: latency " in said


def test_runs_that_measured_unlike_things_are_refused_with_what_differs(write, tmp_path, capsys):  # noqa: F811
    one = write(name="one")
    ours, theirs = (write(name=c, environment={"labels_sha256": c * 64}) for c in "ab")
    assert main([str(one.results), str(ours.results)]) == 0, "what one does not say separates nothing"
    assert main([str(ours.results), str(theirs.results)]) == 1
    assert "not comparable: labels_sha256 of mobilenet_v2 is aaaaaaaaaaaa in one" in capsys.readouterr().err
    assert main([str(one.results)]) == 1
    assert "expected two or more folders" in capsys.readouterr().err
    assert main([str(one.results), str(tmp_path / "none")]) == 1
    assert "no trials there" in capsys.readouterr().err
    assert main([str(one.results), str(write(name="bigger", batch_size=16, num_images=32).results)]) == 1
    assert "no configuration is in both (batch_size: 8 and 16)" in capsys.readouterr().err
    other = write(name="other")
    for path in (other.folder / "trials").glob("*.json"):
        record = json.loads(path.read_text())
        record["environment"]["weights_sha256"] = "f" * 64
        path.write_text(json.dumps(record))
    assert main([str(one.results), str(other.results)]) == 1
    assert "not comparable: weights_sha256 of mobilenet_v2 is " in capsys.readouterr().err


def test_what_only_one_run_has_is_left_out():
    one, other = run_of(1), run_of(2)
    fewer = other[(other["partition_point"] != 3) & (other["backend"] == "socket")]
    found = changes(one, fewer, COLUMNS)
    assert "P3" not in set(found["partition_label"]) and set(found["backend"]) == {"socket"}
