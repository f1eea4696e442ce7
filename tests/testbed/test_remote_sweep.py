"""Whole configurations on remote devices: started, fed, measured and stopped over SSH."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from pplib.errors import WorkerError
from pplib.testbed.session import VARIABLE, open_pipeline, workers_up


@pytest.mark.timeout(400)
@pytest.mark.parametrize("backend", ["socket", "rpc"])
def test_a_configuration_over_a_shaped_link_between_remote_devices(sweep, remote, backend):
    experiment, rows = sweep(backend=backend, link="slow")
    assert rows["status"].tolist() == ["ok", "ok"], rows["error"].tolist()
    assert set(rows["link_engine"]) == {"tc"}
    for _, row in rows.iterrows():
        assert row["hop0_forward_after_bit_s"] == pytest.approx(20e6 * 1448 / 1500, rel=0.1)
        assert row["hop0_backward_after_bit_s"] == pytest.approx(20e6 * 1448 / 1500, rel=0.1)
        assert row["hop0_transfer_s"] >= row["payload_bytes"] * 8 / 20e6 * 0.9
        crossed = row["payload_bytes"] * experiment.config.total_microbatches
        assert crossed <= row["stage0_sent_bytes"] <= crossed * 1.15 + 40_000
        assert row["max_abs_err"] < 1e-3
    assert remote.left_on() == []
    for device in remote.devices:
        shown = remote.net.popen(
            device.index, ["tc", "qdisc", "show", "dev", "data"], stdin=-3, stdout=-1, text=True
        ).communicate(timeout=20)[0]
        assert "htb" not in shown
        assert "tbf" not in shown
        assert not list((device.home / ".paretopipe" / "run").iterdir()), "logs and all are gone"


def test_weights_travel_once_and_an_interrupted_transfer_goes_on(sweep, remote):
    experiment, _ = sweep(partition_points=[5])
    held = [device.home / ".cache" / "paretopipe" / "weights" for device in remote.devices]
    name = f"{experiment.weights.sha256}.safetensors"
    kept = [(folder / name).stat() for folder in held]
    assert [one.st_size for one in kept] == [experiment.weights.num_bytes] * 2
    half = (held[0] / name).read_bytes()[: experiment.weights.num_bytes // 2]
    (held[0] / name).unlink()
    (held[0] / f".{experiment.weights.sha256}.part").write_bytes(half)
    (held[1] / name).unlink()
    (held[1] / f".{experiment.weights.sha256}.part").write_bytes(b"x" * 1000)  # damaged on the way
    testbed = experiment.testbed
    from pplib.runtime.weights_transfer import send_weights

    with open_pipeline(testbed, 2, ["socket"]) as (coordinator, _):
        first, second = coordinator.workers
        assert send_weights(first, experiment.weights) == experiment.weights.num_bytes - len(half)
        with pytest.raises(WorkerError, match=r"device-1: weights .*: cannot be kept .*arrived with the hash"):
            send_weights(second, experiment.weights)
        assert send_weights(second, experiment.weights) == experiment.weights.num_bytes
        assert [send_weights(one, experiment.weights) for one in (first, second)] == [0, 0]
    assert all((folder / name).read_bytes() == experiment.weights.path.read_bytes() for folder in held)


def test_the_token_is_in_no_process_list_and_no_log_and_only_loopback_has_a_control_port(sweep, remote):
    experiment, _ = sweep(partition_points=[5])
    with workers_up(experiment.testbed, ["socket"]) as session:
        token = session.told.token
        assert os.environ[VARIABLE]
        seen = "".join(words for device in remote.devices for _, words in device.processes())
        assert seen.count("workers.socket_worker") >= 2
        assert token not in seen
        for device in remote.devices:
            for pid, _ in device.processes():
                assert token not in Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
            for log in (device.home / ".paretopipe").rglob("*"):
                assert not log.is_file() or token.encode() not in log.read_bytes()
            listening = remote.net.popen(device.index, ["ss", "-ltnH"], stdin=-3, stdout=-1, text=True).communicate(
                timeout=20
            )[0]
            places = [line.split()[3] for line in listening.splitlines()]
            assert sum(place.startswith("127.0.0.1:") for place in places) == 1, places
            assert not [place for place in places if place.startswith(("0.0.0.0", "*", "[::]"))], places
    assert remote.left_on() == []


def test_a_device_that_is_not_set_up_says_what_to_run(remote, tmp_path):
    for device in remote.devices:
        for stamp in (device.home / ".paretopipe" / "code").glob("*"):
            stamp.rename(stamp.with_name("gone"))
    testbed = remote.testbed(tmp_path, python=sys.executable)
    try:
        with (
            pytest.raises(WorkerError, match=r"device-\d: not set up .*run `python -m pplib.devices setup`"),
            workers_up(testbed, ["socket"]),
        ):
            pass
    finally:
        for device in remote.devices:
            for stamp in (device.home / ".paretopipe" / "code").glob("gone"):
                stamp.rename(stamp.with_name(re.sub("gone", "x", stamp.name)))
