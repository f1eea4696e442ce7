"""One configuration: every trial once, resumed where it stopped, and never mixed with unlike ones."""

from __future__ import annotations

import dataclasses
import itertools
import re
import signal
import threading
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pandas as pd
import psutil
import pytest

from pplib.analysis.trials.events import timeline_frame
from pplib.config import configuration
from pplib.devices import load_testbed
from pplib.errors import NoRoomError, OutputError, TrialError
from pplib.pipeline.coordinator.client import WorkerFailed
from pplib.pipeline.stage.builder import StageBuilder
from pplib.records import read_record, trial_path, write_record
from pplib.sweep.claim import claim_folder
from pplib.sweep.experiment import prepare
from pplib.sweep.job import notebook_steps
from pplib.sweep.job.notebook_steps import MEASURED, cuts_frame, measured_trials
from pplib.sweep.measuring import turns
from pplib.sweep.measuring.run import run_missing, run_once, run_together
from pplib.sweep.measuring.schedule import interleaved, missing_trials, schedule
from pplib.sweep.measuring.trial import run_trial
from pplib.sweep.progress import Told
from pplib.sweep.results import drop_details, read_summary, write_summary
from tests.helpers.records import read_records

CONTRACT = [
    "model",
    "backend",
    "link",
    "batch_size",
    "in_flight",
    "num_stages",
    "granularity",
    "partition_point",
    "partition_label",
    "repeat",
    "status",
    "error",
    "latency_s",
    "latency_p90_s",
    "latency_p99_s",
    "response_s",
    "throughput_img_s",
    "bound_img_s",
    "efficiency",
    "activation_bytes",
    "payload_bytes",
    "stage0_compute_s",
    "stage1_compute_s",
    "hop0_transfer_s",
    "clock_error_s",
    "max_abs_err",
]


def test_every_repeat_is_a_block_of_all_points_in_an_order_of_its_own():
    points = [(p,) for p in range(12)]
    trials = schedule(points, 3, 0, "a")
    blocks = [[t.points for t in trials if t.repeat == r] for r in range(3)]
    assert all(sorted(block) == points for block in blocks)
    assert len({tuple(block) for block in blocks} | {tuple(points)}) == 4
    assert [t.order for t in trials] == list(range(36))
    assert schedule(points, 3, 0, "a") == trials != schedule(points, 3, 1, "a")
    assert trials != schedule(points, 3, 0, "b"), "another configuration has other orders"


def test_configurations_take_turns_within_each_block_and_links_follow_each_other():
    points, links = [(p,) for p in range(12)], {"a": "near", "b": "near", "c": "far"}
    todo = {name: schedule(points, 3, 0, name) for name in links}
    todo["b"] = todo["b"][:20]  # an earlier run was interrupted in the middle of a block
    order = interleaved(todo, links, 0)
    assert {name: [trial for one, trial in order if one == name] for name in links} == todo
    repeats = [trial.repeat for _, trial in order]
    assert repeats == sorted(repeats)
    for repeat in (0, 1, 2):
        names = [name for name, trial in order if trial.repeat == repeat]
        assert sum(links[a] != links[b] for a, b in itertools.pairwise(names)) == 1
    first = [name for name, trial in order if trial.repeat == 0 and links[name] == "near"]
    assert all({a, b} == {"a", "b"} for a, b in zip(first[::2], first[1::2], strict=True))
    assert 0 < first[::2].count("a") < 12, "who is first changes"
    assert interleaved(todo, links, 0) == order != interleaved(todo, links, 1)


def test_configurations_of_both_backends_are_measured_in_turns_and_one_that_fails_does_not_end_the_others(
    tiny, shared_workers
):
    one = prepare(configuration({**tiny, "repeats": 1}))
    group = [one]
    for change in ({"backend": "rpc"}, {"in_flight": 1}):
        group.append(dataclasses.replace(one, config=configuration({**tiny, "repeats": 1, **change})))
    group[2] = dataclasses.replace(group[2], references=[one + 1 for one in group[2].references])
    failed = {}
    run_together(group, Told(False), lambda config, error: failed.update({config.in_flight: str(error)}))
    assert list(failed) == [1] and "does not compute what the model computes" in failed[1]
    records = [record for one in group for record in read_records(one.config.folder)]
    assert sorted((r.configuration["backend"], r.configuration["in_flight"], r.status) for r in records) == [
        *[("rpc", 2, "ok")] * 3,
        *[("socket", 1, "failed")] * 3,
        *[("socket", 2, "ok")] * 3,
    ]
    order = [record.configuration["backend"] for record in sorted(records, key=lambda one: one.started_at)]
    assert order != sorted(order) and order != sorted(order, reverse=True)


def test_below_the_command_nothing_is_measured_and_no_model_is_loaded(tiny, shared_workers, monkeypatch):
    config = configuration({**tiny, "partition_points": [2], "repeats": 1})
    with monkeypatch.context() as below:
        below.setenv(MEASURED, "1")
        with pytest.raises(OutputError, match="no trials there"):
            measured_trials(config)
    trials, cuts = measured_trials(config), cuts_frame(config)
    assert len(trials) == 1 and cuts["label"].tolist()[:2] == ["P0", "P1"]
    monkeypatch.setenv(MEASURED, "1")
    monkeypatch.setattr("pplib.sweep.experiment.prepare", None)
    notebook_steps._prepared.cache_clear()
    assert len(measured_trials(config)) == 1
    shown = cuts_frame(config)
    pd.testing.assert_frame_equal(shown, cuts)


def test_one_trial_of_an_experiment_that_was_not_proven_is_proven_first(tiny, shared_workers):
    assert run_once(prepare(configuration({**tiny, "partition_points": [2]}), prove=False)).status == "ok"


def test_a_configuration_is_measured_whole_and_its_rows_keep_the_contract(tiny, shared_workers):
    experiment = prepare(configuration(tiny))
    trials = run_missing(experiment, progress=False)
    assert len(trials) == 6
    assert set(trials["status"]) == {"ok"}
    assert trials["max_abs_err"].max() < 1e-4
    summary = read_summary(write_summary(experiment.config.results))
    assert set(CONTRACT) <= set(summary.columns)
    assert summary["partition_point"].tolist().count(2) == 2
    parts = [f"stage{i}_{part}_s" for i in (0, 1) for part in ("compute", "queue")]
    parts += ["hop0_transfer_s", "hop0_queue_s"]
    assert np.allclose(summary[parts].sum(axis=1), summary["latency_mean_s"], atol=1e-6)
    assert (summary["clock_error_s"] == 0).all(), "workers of one boot share a clock"
    assert (summary["stage0_resident_peak_bytes"] > 50e6).all()
    assert summary["stage1_cpu_fraction"].between(0, 3).all()


def test_a_run_started_again_measures_what_is_missing_and_only_that(tiny, shared_workers):
    experiment = prepare(configuration(tiny))
    run_missing(experiment, progress=False)
    folder = experiment.config.folder
    before = {path: path.read_bytes() for path in (folder / "trials").iterdir()}
    gone = trial_path(folder, (2,), 1)
    failed = trial_path(folder, (4,), 0)
    gone.unlink()
    record = read_record(failed)
    record.status, record.error = "failed", "made to fail by this test"
    write_record(failed, record)
    assert [(t.points, t.repeat) for t in missing_trials(experiment.config, experiment.points)] == sorted(
        [((2,), 1), ((4,), 0)], key=lambda t: t[1]
    )
    trials = run_missing(experiment, progress=False)
    assert set(trials["status"]) == {"ok"}
    after = {path: path.read_bytes() for path in (folder / "trials").iterdir()}
    assert {path for path in after if after[path] != before.get(path)} == {gone, failed}


def test_trials_of_other_parameters_are_never_mixed_and_the_difference_is_named(tiny, shared_workers):
    run_missing(prepare(configuration({**tiny, "partition_points": [2], "repeats": 1})), progress=False)
    other = prepare(configuration({**tiny, "partition_points": [2], "repeats": 1, "seed": 5}))
    with pytest.raises(OutputError, match=r"cannot be compared with these \(seed: 0 there, 5 here\)"):
        run_missing(other, progress=False)


def test_trials_through_a_tunnel_are_never_mixed_with_others(tiny):
    config = configuration(tiny)
    plain = load_testbed(Path(tiny["devices"]))
    claim_folder(config, plain)
    with pytest.raises(OutputError, match=r"cannot be compared with these \(tunnel: None there, 'ssh' here\)"):
        claim_folder(config, msgspec.structs.replace(plain, tunnel="ssh"))
    claim_folder(config, plain)


def test_a_pipeline_that_computes_something_else_is_a_failed_trial_and_not_a_result(tiny, shared_workers):
    experiment = prepare(configuration({**tiny, "partition_points": [2], "repeats": 1}))
    wrong = dataclasses.replace(experiment, references=[one + 1 for one in experiment.references])
    trials = run_missing(wrong, progress=False)
    assert trials["status"].tolist() == ["failed"]
    assert "does not compute what the model computes" in trials["error"][0]
    assert pd.isna(trials.get("latency_s", pd.Series([np.nan]))[0])
    with pytest.raises(TrialError, match=r"differs from the model's by 1"):
        run_once(wrong)
    (record,) = read_records(experiment.config.folder)
    assert [len(one.compute_end_s) for one in record.timelines] == [len(record.returned_s)] * 2 == [8, 8]
    assert all(device["usage"]["duration_s"] > 0 for device in record.devices), "what one needs to find out why"
    assert len(timeline_frame(record)["microbatch"].unique()) == 8


def test_a_pipeline_whose_output_has_another_shape_costs_a_trial_and_not_the_sweep(tiny, shared_workers):
    experiment = prepare(configuration({**tiny, "partition_points": [2], "repeats": 2}))
    wrong = dataclasses.replace(experiment, references=[one[:, :3] for one in experiment.references])
    trials = run_missing(wrong, progress=False)
    assert trials["status"].tolist() == ["failed", "failed"]
    assert set(trials["error"]) == {
        "microbatch 0: the pipeline's output has shape (2, 10), the model's (2, 3): this cut does not compute what the "
        "model computes"
    }


@pytest.mark.parametrize(
    ("backend", "how"),
    [("rpc", signal.SIGKILL), ("socket", signal.SIGSTOP), ("gloo", signal.SIGKILL), ("gloo", signal.SIGSTOP)],
)
def test_a_lost_worker_costs_one_trial_and_is_brought_back(tiny, shared_workers, backend, how, monkeypatch):
    monkeypatch.setattr("pplib.limits.SILENT_S", 6.0)
    chosen = {"repeats": 20, "partition_points": [2], "backend": backend, "num_images": 200}
    experiment = prepare(configuration({**tiny, **chosen}))
    parent = psutil.Process()

    def hit_one():
        folder = experiment.config.folder / "trials"
        while not folder.exists() or len(list(folder.iterdir())) < 3:
            if stop.wait(0.02):
                return
        mine = shared_workers.path.parent / "device-1.log"  # other sessions of this process have a device-1, too
        there = [one for one in parent.children(recursive=True) if one.name() == "device-1"]
        (victim,) = [one for one in there if Path(f"/proc/{one.pid}/fd/2").resolve() == mine.resolve()]
        victim.send_signal(how)

    stop = threading.Event()
    thread = threading.Thread(target=hit_one)
    thread.start()
    trials = run_missing(experiment, progress=False)
    stop.set()
    thread.join(10)
    assert len(trials) == 20
    failed = trials[trials["status"] == "failed"]
    assert len(failed) == 1
    assert re.search(r"device-1: .*died", failed["error"].iloc[0]), failed["error"].iloc[0]
    assert ("signal 9" if how == signal.SIGKILL else "it was silent and was killed") in failed["error"].iloc[0]
    assert (trials["status"] == "ok").sum() == 19
    assert len(missing_trials(experiment.config, experiment.points)) == 1


def test_cuts_that_a_device_has_no_memory_for_do_not_end_the_others(tiny, shared_workers, monkeypatch):
    def no_room(experiment, coordinator, trial, link, wrong):
        record, error = run_trial(experiment, coordinator, trial, link, wrong)
        if trial.points == (4,):
            return record, error
        error = WorkerFailed("device-1: stage 1: no room", True)
        error.add_note("NoRoomError")
        return msgspec.structs.replace(record, status="failed", error=str(error), metrics={}), error

    monkeypatch.setattr(turns, "run_trial", no_room)
    values = {**tiny, "partition_points": [0, 1, 2, 3, 4], "repeats": 2}
    trials = run_missing(prepare(configuration(values)), progress=False)
    assert (len(trials), (trials["status"] == "failed").sum()) == (10, 8)


def test_a_stage_whose_weights_have_no_room_is_refused_before_they_are_loaded(tiny, monkeypatch):
    cuts = {"partition_points": [2, 4]}
    eager = prepare(configuration({**tiny, **cuts}))
    exported = prepare(configuration({**tiny, **cuts, "runtime": "onnxruntime"}))
    plans, whole = [eager.plan((2,)), exported.plan((2,))], eager.plan((4,))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=100))
    monkeypatch.setattr(psutil, "swap_memory", lambda: SimpleNamespace(free=50))
    for plan in plans:
        with pytest.raises(NoRoomError, match=r"stage 1: its weights take \d+ MB, and 0 MB of memory are free: choose"):
            StageBuilder("cpu", 1).build(plan, 1)
    assert StageBuilder("cpu", 1).build(whole, 1).param_bytes == 0, "of no units"


def test_three_stages_run_through_to_records(tiny):
    devices = tiny["devices"].replace("local.yaml", "local3.yaml")
    chosen = {"num_stages": 3, "partition_points": [[0, 0], [1, 3]], "devices": devices, "repeats": 1}
    trials = run_missing(prepare(configuration({**tiny, **chosen})), progress=False)
    assert set(trials["partition_label"]) == {"P0-0", "P1-3"}
    assert set(trials["status"]) == {"ok"}
    assert {"stage2_compute_s", "hop1_transfer_s", "hop1_payload_bytes"} <= set(trials.columns)


def test_the_timeline_of_a_record_tiles_each_microbatch_from_admission_to_output(tiny, shared_workers):
    record = run_once(prepare(configuration({**tiny, "partition_points": [2]})))
    events = timeline_frame(record)
    assert set(events["event"]) == {"queue", "compute", "transfer"}
    for _, mine in events.groupby("microbatch"):
        mine = mine.sort_values(["start_s", "end_s"])
        assert np.allclose(mine["end_s"].to_numpy()[:-1], mine["start_s"].to_numpy()[1:], atol=1e-9)


def test_keeping_the_summary_only_keeps_the_figures_and_the_resume(tiny, shared_workers):
    experiment = prepare(configuration({**tiny, "repeats": 1}))
    run_missing(experiment, progress=False)
    results = experiment.config.results
    whole = write_summary(results).read_text()
    drop_details([experiment.config])
    assert write_summary(results).read_text() == whole
    assert all(record.timelines == [] for record in read_records(results))
    assert missing_trials(experiment.config, experiment.points) == []


def test_units_can_be_shared_out_equally(tiny):
    experiment = prepare(configuration({**tiny, "partition_points": "even"}))
    assert len(experiment.points) == 1
    assert 0 < experiment.points[0][0] < 4
