"""Configurations over shaped links: what crosses them, how they are verified, and what happens if they are wrong."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import msgspec
import pytest

from pplib.analysis.trials.events import timeline_frame
from pplib.config import configuration
from pplib.devices import load_testbed
from pplib.errors import ConfigError, OutputError, TrialError
from pplib.links import Direction, HopMeasurement, LinkProfile
from pplib.pipeline.coordinator import link_measurement
from pplib.pipeline.coordinator.link_judgement import deviations
from pplib.records import read_record, trial_path, write_record
from pplib.sweep.experiment import prepare
from pplib.sweep.measuring.run import run_missing, run_once
from pplib.sweep.measuring.schedule import missing_trials, schedule
from pplib.testbed import session
from pplib.testbed.emulation import namespaces
from pplib.testbed.emulation.namespace_process import Offers
from tests.helpers.records import read_records

pytestmark = pytest.mark.alone


@pytest.fixture
def run(tiny, links):
    """Run the small configuration over a link; its experiment and its rows."""

    def _run(**changes):
        experiment = prepare(configuration({**tiny, "repeats": 1, **changes}))
        return experiment, run_missing(experiment, progress=False)

    return _run


@pytest.mark.parametrize("backend", ["socket", "rpc", "gloo"])
def test_every_byte_crosses_the_shaped_link_and_the_times_are_those_of_the_link(run, shared_link, backend):
    experiment, rows = run(link="narrow", backend=backend, partition_points=[2, 4])
    assert rows["status"].tolist() == ["ok", "ok"], rows["error"].tolist()
    assert set(rows["link_engine"]) <= {"tc", "userspace"}
    for _, row in rows.iterrows():
        count = experiment.config.total_microbatches
        crossed = row["payload_bytes"] * count
        # Headers, acknowledgements of the results, and what rpc and gloo say beside the tensors.
        assert crossed <= row["stage0_sent_bytes"] <= crossed * 1.1 + 20_000
        assert crossed <= row["stage1_received_bytes"] <= crossed * 1.1 + 20_000
        at_least = 0.002 + row["payload_bytes"] * 8 / 20e6
        assert row["hop0_transfer_s"] >= at_least * 0.95
        assert row["efficiency"] < 1.1
        assert row["link_requested_rtt_s"] == 0.004
        for when in ("before", "after"):
            assert row[f"hop0_rtt_{when}_s"] == pytest.approx(0.004, abs=0.0014)
            assert row[f"hop0_forward_{when}_bit_s"] == pytest.approx(20e6 * 1448 / 1500, rel=0.1)
            assert row[f"hop0_backward_{when}_bit_s"] == pytest.approx(20e6 * 1448 / 1500, rel=0.1)
    record = read_record(trial_path(experiment.config.folder, (2,), 0))
    assert record.link.profile == experiment.link
    assert record.link.verified
    hops = timeline_frame(record).query("event == 'transfer'")
    assert ((hops["end_s"] - hops["start_s"]) >= 0.002).all()


def test_each_direction_and_every_hop_of_three_devices_is_measured(run, tiny, emulated_links):
    devices = tiny["devices"].replace("local.yaml", "local3.yaml")
    _, rows = run(link="uneven", num_stages=3, partition_points=[[1, 3]], devices=devices)
    (row,) = rows.to_dict("records")
    assert row["status"] == "ok", row["error"]
    for hop in (0, 1):
        assert row[f"hop{hop}_rtt_after_s"] == pytest.approx(0.005, abs=0.0015)
        assert row[f"hop{hop}_forward_after_bit_s"] == pytest.approx(40e6 * 1448 / 1500, rel=0.1)
        assert row[f"hop{hop}_backward_after_bit_s"] > 1.1 * 40e6, "not shaped: as much as a busy host lets through"
    assert row["hop0_transfer_s"] >= 0.004
    assert row["return_transfer_s"] >= 0.0018, "the result comes back over both hops, 0.1 ms early at each at most"


def test_a_trial_over_a_slow_link_is_cut_short_and_says_how_many_microbatches_it_has(run, shared_link):
    """Each microbatch takes some 50 ms of the link; 200 would take 10 s."""
    _, rows = run(link="narrow", partition_points=[2], num_images=400, max_trial_s=1.0)
    (row,) = rows.to_dict("records")
    assert row["status"] == "ok", row["error"]
    assert 3 <= row["num_microbatches"] < 100
    assert row["max_trial_s"] == 1.0


def test_the_shortest_trial_has_three_measured_microbatches(run, shared_link):
    _, rows = run(link="near", partition_points=[2], num_images=40, max_trial_s=0.001)
    assert rows["num_microbatches"].tolist() == [3]


WAY = {"delay_s": 0.01, "jitter_s": 0.006, "loss": 0.02, "rate_bit_s": 20e6}
ASKED = LinkProfile(name="x", forward=Direction(**WAY), backward=Direction(**WAY))
OTHER = LinkProfile(
    name="y",
    forward=Direction(**{**WAY, "jitter_s": 0.0, "loss": 0.0}),
    backward=Direction(**{**WAY, "jitter_s": 0.0, "loss": 0.1}),
)


@contextlib.contextmanager
def pipeline_over(link, testbed):
    """The coordinator of two workers whose link is shaped as `link` says, whatever is then asked for."""
    with session.workers_up(testbed, ["socket"], shaped=True) as workers:
        workers.set_link(link)
        with session.open_pipeline(testbed, 2, ["socket"], link) as (coordinator, _):
            yield coordinator


def test_an_emulated_link_has_the_jitter_and_the_loss_that_were_asked_for(tiny, shared_link):
    with pipeline_over(ASKED, load_testbed(Path(tiny["devices"]))) as coordinator:
        hops, wrong = link_measurement.measure_until_right(coordinator, ASKED)
    assert wrong == ""
    assert hops[0].forward_loss == pytest.approx(0.02, rel=0.6)
    assert hops[0].rtt_spread_s == pytest.approx(ASKED.rtt_spread_s, rel=0.6)


def test_one_whose_jitter_and_losses_are_others_is_found_out_in_each_of_them(tiny, shared_link):
    """Other in three ways at once, as a measurement takes 20 s: each has words of its own."""
    with pipeline_over(OTHER, load_testbed(Path(tiny["devices"]))) as coordinator:
        found = "; ".join(deviations(ASKED, link_measurement.measure_link(coordinator, ASKED)))
    for told in (
        "hop 0: round trips spread over",
        r"hop 0 forward: loss 0\.0\d\d %",
        r"hop 0 backward: loss \d+\.\d+ %",
    ):
        assert re.search(told, found), found


def hop(rtt_s=0.004, forward=1e9, backward=1e9):
    return HopMeasurement(
        rtt_s=rtt_s,
        rtt_min_s=rtt_s,
        rtt_p90_s=rtt_s,
        rtt_p99_s=rtt_s,
        exchanges=100,
        forward_bit_s=forward,
        backward_bit_s=backward,
    )


def test_a_link_that_is_wrong_from_the_start_fails_every_trial_with_the_figures(run, tiny, shared_link, monkeypatch):
    monkeypatch.setattr(link_measurement, "measure_link", lambda coordinator, profile: [hop(rtt_s=0.008)])
    with pytest.raises(TrialError, match=r"the link is not near: hop 0: round trip 8\.000 ms, requested 4\.000 ms"):
        run(link="near")
    records = read_records(prepare(configuration({**tiny, "link": "near"})).config.folder)
    assert {record.status for record in records} == {"failed"}
    assert all("round trip 8.000 ms, requested 4.000 ms" in record.error for record in records)
    assert all(record.timelines == [] for record in records), "not run at all"


def test_a_link_that_went_wrong_on_the_way_fails_the_trials_since_it_was_last_right(
    run, tiny, shared_link, monkeypatch
):
    measured = iter([[hop()], [hop()], *[[hop(rtt_s=0.02)]] * link_measurement.ATTEMPTS])
    monkeypatch.setattr(link_measurement, "measure_link", lambda coordinator, profile: next(measured))
    with pytest.raises(TrialError, match=r"near: hop 0: round trip 20\.000 ms, requested 4\.000 ms \(start again"):
        run(link="near", repeats=2)
    config = configuration({**tiny, "link": "near", "repeats": 2})
    records = {(record.repeat, record.label): record for record in read_records(config.folder)}
    assert {key: record.status for key, record in records.items()} == {
        (repeat, label): ("ok", "failed")[repeat] for repeat in (0, 1) for label in ("P0", "P2", "P4")
    }
    spoilt = records[1, "P2"]
    assert spoilt.metrics == {}
    assert spoilt.timelines, "what was seen is kept"
    assert spoilt.link.before[0].rtt_s == 0.004
    assert spoilt.link.after[0].rtt_s == 0.02
    assert [(trial.points, trial.repeat) for trial in missing_trials(config, [(0,), (2,), (4,)])] == sorted(
        [((0,), 1), ((2,), 1), ((4,), 1)],
        key=lambda one: [t.points for t in schedule([(0,), (2,), (4,)], 2, 0, config.identity)][3:].index(one[0]),
    )


def test_a_record_keeps_its_link_and_without_the_second_measurement_its_trial_is_run_again(
    run, tiny, links, shared_link
):
    experiment, _ = run(link="near", partition_points=[2])
    path = trial_path(experiment.config.folder, (2,), 0)
    assert missing_trials(experiment.config, experiment.points) == []
    record = read_record(path)
    write_record(links / "again.json", record)
    assert msgspec.json.encode(read_record(links / "again.json")) == msgspec.json.encode(record)
    record.link.after = None
    write_record(path, record)
    assert len(missing_trials(experiment.config, experiment.points)) == 1
    (links / "params" / "links.yaml").write_text("near: {delay_s: 0.003}")
    with pytest.raises(OutputError, match=r"cannot be compared with these \(link_profile: .*0\.002.*0\.003"):
        run_missing(prepare(configuration({**tiny, "repeats": 1, "link": "near"})), progress=False)


def test_one_cut_can_be_run_over_a_shaped_link(tiny, links, shared_link):
    record = run_once(prepare(configuration({**tiny, "link": "near", "partition_points": [2]})))
    assert record.link.after[0].rtt_s == pytest.approx(0.004, abs=0.0015)


def test_a_session_of_another_process_keeps_its_link(tiny, links, shared_workers, monkeypatch):
    monkeypatch.setattr(session, "_OWN", {})  # as in a process that has inherited it
    asked = prepare(configuration({**tiny, "link": "near", "partition_points": [2]}))
    with pytest.raises(ConfigError, match="the link of that session is none, expected near: unset the variable"):
        run_once(asked)


def test_a_session_on_plain_localhost_has_no_link_to_shape(tiny, links, shared_workers):
    asked = prepare(configuration({**tiny, "link": "near", "partition_points": [2]}))
    with pytest.raises(ConfigError, match="link near: the workers of this session are on plain localhost"):
        run_once(asked)


def test_asking_for_a_link_where_there_are_no_namespaces_is_an_error_before_any_worker(tiny, links, monkeypatch):
    monkeypatch.setattr(namespaces, "_offers", lambda: Offers("no namespaces", "no namespaces", "no namespaces"))
    with pytest.raises(ConfigError, match="a link profile needs network namespaces: no namespaces; or run with"):
        run_once(prepare(configuration({**tiny, "link": "near", "partition_points": [2]})))


def profile(**way):
    return LinkProfile(name="asked", forward=Direction(**way), backward=Direction(**way))


@pytest.mark.parametrize(
    ("asked", "hops", "found"),
    [
        (profile(), [hop(rtt_s=9.0, forward=1.0)], []),
        (profile(delay_s=0.2), [hop(rtt_s=0.4409)], []),
        (profile(delay_s=0.2), [hop(rtt_s=0.442)], ["hop 0: round trip 442.000 ms, requested 400.000 ms"]),
        (
            profile(delay_s=0.2),
            [hop(rtt_s=0.4), hop(rtt_s=0.3)],
            ["hop 1: round trip 300.000 ms, requested 400.000 ms"],
        ),
        (profile(rate_bit_s=1e7), [hop(forward=9.6e6, backward=9.7e6)], []),
        (
            profile(rate_bit_s=1e7),
            [hop(forward=8.5e6, backward=1.1e7)],
            [
                "hop 0 forward: goodput 8.500 Mbit/s, possible 9.653 Mbit/s at the requested rate of 10.000 Mbit/s",
                "hop 0 backward: goodput 11.000 Mbit/s, possible 9.653 Mbit/s at the requested rate of 10.000 Mbit/s",
            ],
        ),
        (profile(rate_bit_s=1e7, loss=0.05), [hop(forward=2e6, backward=2e6)], []),
    ],
)
def test_what_counts_as_off(asked, hops, found):
    assert deviations(asked, hops) == found
