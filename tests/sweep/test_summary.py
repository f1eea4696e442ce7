"""Summaries of many runs: what differs between them is said, and unlike ones are never pooled."""

from __future__ import annotations

import re
import shutil

import pytest

from pplib.analysis.repeats import point_name
from pplib.analysis.statistics import CONFIGURATION_KEYS, point_table, representative_trials
from pplib.config import configuration
from pplib.errors import OutputError
from pplib.objectives import Aims
from pplib.records import StageTimeline, TrialRecord, read_record, trial_path, write_record
from pplib.sweep.closing import closing_lines
from pplib.sweep.report import write_results_report
from pplib.sweep.results import drop_details, kept_timelines, read_summary, write_summary
from tests.helpers.records import CUTS, write_made_up

METRICS = {
    "latency_s": 0.1,
    "latency_mean_s": 0.1,
    "latency_p90_s": 0.1,
    "clock_error_s": 0.0,
    "throughput_img_s": 20.0,
    "stage0_compute_s": 0.05,
    "stage0_queue_s": 0.0,
    "stage1_compute_s": 0.04,
    "stage1_queue_s": 0.0,
    "hop0_transfer_s": 0.01,
    "hop0_queue_s": 0.0,
    "efficiency": 0.9,
    "bottleneck": "stage 0",
    "activation_bytes": 1e5,
}
HOST = {"cpu": "a CPU", "torch": "2.9.1", "threads": 1, "torch_device": "cpu", "slowdown": 1.0}


@pytest.fixture
def write(tmp_path):
    """Write made-up records of a configuration: its cuts, and their latency."""

    def _write(latencies=None, host=None, environment=None, **values):
        config = configuration({"output_dir": str(tmp_path), "num_images": 16, **values})
        for i, (point, latency) in enumerate((latencies or {2: 0.1, 4: 0.2}).items()):
            for repeat in range(2):
                record = TrialRecord(
                    configuration=config.as_dict(),
                    partition_points=[point],
                    partition_name="",
                    repeat=repeat,
                    order=i,
                    status="ok",
                    started_at=f"2026-01-0{repeat + 1}T00:00:00 {config.name} {config.identity}",
                    duration_s=1.0,
                    warmup=0,
                    cooldown=0,
                    metrics={
                        **METRICS,
                        "latency_s": latency + 0.01 * repeat,
                        "latency_mean_s": latency,
                        "throughput_img_s": 2 / latency + i * 15,
                    },
                    timelines=[
                        StageTimeline(
                            stage_index=0,
                            device="a",
                            ready_s=[],
                            received_s=[],
                            compute_start_s=[],
                            compute_end_s=[],
                            copy_s=[],
                            send_start_s=[],
                        )
                    ],
                    devices=[{**HOST, "name": name, "cores": "0", "emulated": False, **(host or {})} for name in "ab"],
                    environment={
                        "torch": "2.9.1",
                        "python": "3.11",
                        "pplib": "1",
                        "git_commit": "abc",
                        "weights_sha256": "aa" * 32,
                        **(environment or {}),
                    },
                )
                write_record(trial_path(config.folder, (point,), repeat), record)
        return config

    return _write


def summary_of(folder):
    return read_summary(write_summary(folder))


def test_what_a_trial_ran_on_is_in_columns(write, tmp_path):
    write()
    (row, *_) = summary_of(tmp_path).to_dict("records")
    expected = {
        "devices": "params/devices/local.yaml",
        "device_names": "a + b",
        "cpu": "a CPU + a CPU",
        "torch": "2.9.1 + 2.9.1",
        "git_commit": "abc",
        "setup": "",
    }
    assert {key: row[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        ({"seed": 0}, {"seed": 1}, {"seed 0", "seed 1"}),
        ({"num_classes": None}, {"num_classes": 10}, {"classes as the model has", "classes 10"}),
        ({"num_images": 16}, {"num_images": 32}, {"images 16", "images 32"}),
        ({"devices": "x/pi-pi.yaml"}, {"devices": "pi-gpu.yaml"}, {"devices pi-pi", "devices pi-gpu"}),
        ({}, {"host": {"cpu": "b"}}, {"CPU a CPU + a CPU", "CPU b + b"}),
        ({}, {"host": {"torch": "2.10"}}, {"torch 2.9.1 + 2.9.1", "torch 2.10 + 2.10"}),
        (
            {"host": {"congestion_control": "bbr"}},
            {"host": {"congestion_control": "cubic"}},
            {"TCP bbr + bbr", "TCP cubic + cubic"},
        ),
        ({}, {"host": {"slowdown": 3.0}}, {"slowdown 1 + 1", "slowdown 3 + 3"}),
        ({}, {"environment": {"weights_sha256": "bb" * 32}}, {f"content of the weights {c * 8}" for c in "ab"}),
        (
            {"environment": {"labels_sha256": "aa" * 32}},
            {"environment": {"labels_sha256": "bb" * 32}},
            {f"content of the labels {c * 8}" for c in "ab"},
        ),
        ({}, {}, {"run one", "run two"}),
    ],
)
def test_runs_that_differ_in_anything_are_compared_and_not_pooled(write, tmp_path, one, other, said):
    write(**{"name": "one", **one})
    write(**{"name": "two", **other})
    summary = summary_of(tmp_path)
    assert set(summary["setup"]) == said
    points = point_table(summary)
    assert len(points) == 4
    assert set(points["repeats_ok"]) == {2}


def test_what_other_columns_tell_already_is_not_told_again(write, tmp_path):
    write(weights="random", environment={"weights_sha256": "cc" * 32})
    write(weights="DEFAULT", name="two")
    assert set(summary_of(tmp_path)["setup"]) == {""}


def test_a_copy_inside_is_refused_by_name_and_one_configurations_folder_works(write, tmp_path):
    config = write()
    shutil.copytree(config.folder, config.folder / "copy")
    with pytest.raises(OutputError, match=r"trials/P2_r0\.json: the same trial as .*: one of the folders is a copy"):
        write_summary(config.results)
    shutil.rmtree(config.folder / "copy")
    assert len(summary_of(config.folder)) == 4
    report = write_results_report(config.folder, summary_of(config.folder))
    assert "PyTorch 2.9.1" in report.read_text()


def test_the_timeline_of_a_point_is_that_of_its_trial_of_median_latency_where_its_record_keeps_one(tmp_path):
    configs = [write_made_up(tmp_path, repeats=3, in_flight=depth) for depth in (1, 2)]
    folder = configs[0].results
    summary = summary_of(folder)
    trials = representative_trials(summary)
    found = kept_timelines(folder, trials)
    assert set(found) == {point_name(row) for row in trials.to_dict("records")}
    for row in trials.to_dict("records"):
        assert row["repeat"] == 1
        events = found[point_name(row)]
        computed = events[(events["lane"] == "stage 0") & (events["event"] == "compute")]
        assert (computed["end_s"] - computed["start_s"]).mean() == pytest.approx(row["stage0_compute_s"])
        assert events["microbatch"].nunique() == row["num_microbatches"]
    assert "the first 12 of 13 microbatches." in write_results_report(folder, summary).read_text()
    drop_details(configs[:1])
    left = kept_timelines(folder, trials)
    assert len(left) == len(CUTS) and set(left) < set(found)
    drop_details(configs)
    assert kept_timelines(folder, trials) == {}
    page = write_results_report(folder, summary).read_text()
    assert "its timeline is not here" in page and "time since the first event shown" not in page


def test_a_report_and_the_closing_lines_name_what_differs_with_figures(write, tmp_path):
    write(variant="seed0")
    write(variant="seed1", seed=1, latencies={2: 0.05, 4: 0.2})
    write(optimize=False)
    summary = summary_of(tmp_path)
    said = closing_lines(summary)
    heads = [line for line in said if line.startswith("front:")]
    answers = [line for line in said if line.startswith("answer:")]
    best_0, best_1 = said[said.index(heads[0]) - 2 : said.index(heads[0])]
    assert [line for line in said if line.startswith("best:")] == [best_0, best_1], (
        "two setups: seeds make other models"
    )
    assert [re.match(r"answer:  (.*?), [\d.]+ ms", line).group(1) for line in answers] == [
        "mobilenet_v2, seed 0: lowest latency: P2 (not optimized)",
        "mobilenet_v2, seed 1: lowest latency and most images: P2",
    ]
    assert said[0] == answers[0] and best_1 == "best:    mobilenet_v2, seed 1: P2 (54.77 ms, 40 img/s)"
    assert len(set(heads)) == 3
    assert "front:   mobilenet_v2 socket in flight 1, optimized, seed 1: P2" in heads
    assert any("not optimized, seed 0" in line for line in heads)
    after = said[said.index("front:   mobilenet_v2 socket in flight 1, optimized, seed 1: P2") + 1 :]
    assert re.fullmatch(r"         lowest latency P2: 54\.77 ms \(95 %: [\d.]+ to [\d.]+\)", after[0])
    assert after[1] == "         most images P2: 40 img/s (95 %: 40 to 40)"
    once = closing_lines(summary[summary["repeat"] == 0])
    assert "         most images P2: 40 img/s (repeats: 40 to 40)" in once
    assert not after[2:] or "as good" not in after[2], "P4 takes four times as long"
    alike = write(name="alike", latencies={2: 0.002, 4: 0.00204})
    said = closing_lines(summary_of(alike.results))  # half a percent fewer images, and latencies are noise
    assert said[-1] == "         not told from P2: P4"
    noisy = summary_of(alike.results).sort_values(["partition_point", "repeat"])
    noisy = noisy.assign(latency_s=[0.05, 0.08, 0.06, 0.07], throughput_img_s=[40.0, 41.0, 20.0, 20.5])
    steady = noisy.assign(latency_s=[0.05, 0.0501, 0.0504, 0.0503], throughput_img_s=[40.0, 40.1, 39.9, 40.0])
    assert closing_lines(steady, Aims(indifference=0.05))[-1] == "         equal within 5 %: P2, P4"
    said = closing_lines(noisy)  # P4 has half the images for certain, its latency may be less
    assert re.fullmatch(r"         not decided, on it in so many of 100 such sweeps: P4 \(\d\d%\)", said[-1])
    page = write_results_report(tmp_path / "default", summary).read_text()
    assert "seed 1" in page


def test_a_record_older_than_a_parameter_has_its_default(write, tmp_path):
    config = write()
    for path in (config.folder / "trials").glob("*.json"):
        record = read_record(path)
        del record.configuration["seed"], record.configuration["optimize"]
        write_record(path, record)
    summary = summary_of(tmp_path)
    assert set(summary["optimize"]) == {True}
    assert len(point_table(summary)) == 2


def test_setup_is_a_configurations_key():
    assert "setup" in CONFIGURATION_KEYS


def test_each_trial_tells_how_fast_its_devices_were_and_one_that_failed_does_not(write, tmp_path):
    config = write()
    frame = summary_of(tmp_path)
    assert frame[["stage0_speed", "stage1_speed"]].notna().all(axis=None)
    record = read_record(trial_path(config.folder, (2,), 0))
    record.status, record.metrics = "failed", {}
    write_record(trial_path(config.folder, (2,), 0), record)
    frame = summary_of(tmp_path)
    assert frame["stage0_speed"].isna().tolist() == (frame["status"] == "failed").tolist()
