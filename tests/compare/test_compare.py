"""Runs side by side: what is the same, what changed, and what cannot be compared."""

from __future__ import annotations

import json
import re

import numpy as np

from benchmarks.coverage import simulated
from pplib.analysis.estimated.replication import OFF, ON, calls, changes, front_replication, statement_replication
from pplib.columns import INDIFFERENCE, OBJECTIVES
from pplib.compare.__main__ import main
from pplib.compare.runs import Run
from pplib.compare.sections import comparison_sections
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
    assert told[0].table.to_dict("list") == {"what": ["cpu", "gpu"], "a": ["x", ""], "b": ["y", "z"]}
    assert told[1].text.startswith("Replicability 100%: of ")
    assert told[2].text.endswith("No point did.")


def test_the_command_compares_folders_and_tells_what_they_ran_on(write, tmp_path, capsys):  # noqa: F811
    one, other = write(name="one"), write(name="other", host={"cpu": "another"}, latencies={2: 0.2, 4: 0.1})
    assert main([str(one.results), str(other.results)]) == 0
    said = capsys.readouterr().out
    assert "What they ran on" in said and "another" in said
    assert "one and other: the fronts\n\nReplicability " in said
    assert "\nAll points of backend socket, in flight 1: latency " in said


def test_runs_that_measured_unlike_things_are_refused_with_what_differs(write, tmp_path, capsys):  # noqa: F811
    one = write(name="one")
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
