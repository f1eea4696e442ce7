"""The data plane through SSH, between real SSH servers, and what it leaves in a user's authorized_keys: nothing."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import stat
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from pplib.config import PASSWORDLESS
from pplib.devices import load_testbed
from pplib.errors import ConfigError, TransportError
from pplib.testbed.ssh.command import shell_path
from pplib.testbed.workers import tunnel as room
from pplib.testbed.workers.remote import RemoteWorker
from pplib.testbed.workers.tunnel import tunnels

pytestmark = pytest.mark.waits(60)

LIMIT_S = 60.0
OWN = "# mine\n\nssh-ed25519 AAAA me@laptop"  # without a newline at its end


def authorized(device):
    return device.home / ".ssh" / "authorized_keys"


@pytest.fixture(autouse=True)
def _own_keys(remote):
    """Lines of the user's own."""
    for device in remote.devices:
        (device.home / ".ssh").mkdir(exist_ok=True)
        authorized(device).write_text(OWN)


def listening(remote, device):
    """The places that a device listens at for others, its SSH server's aside."""
    said = remote.net.popen(device.index, ["ss", "-ltnH"], stdin=subprocess.DEVNULL, stdout=-1, text=True)
    places = [line.split()[3] for line in said.communicate(timeout=20)[0].splitlines()]
    return [place for place in places if not place.startswith("127.0.0.1:") and not place.endswith(f":{device.port}")]


def tunnels_of(device):
    return [psutil.Process(pid) for pid, words in device.processes() if words.startswith("ssh ")]


@pytest.mark.timeout(300)
def test_a_shaped_sweep_through_tunnels_survives_a_lost_one_and_leaves_all_as_it_was(sweep, remote, wait_until):
    """One sweep for all of it, as starting workers takes its time."""
    trials = Path("out").resolve()

    def look_and_strike():
        wait_until(lambda: len(list(trials.rglob("trials/*.json"))) >= 2, "no trial was stored", 120)
        for device in remote.devices:
            assert listening(remote, device) == []
            *before, ours = authorized(device).read_text().splitlines()
            assert before == OWN.splitlines()
            for part in ('expiry-time="', ",restrict,port-forwarding,", 'permitopen="127.0.0.1:', 'command="false"'):
                assert part in ours
        (ssh,) = tunnels_of(remote.devices[0])
        ssh.send_signal(signal.SIGKILL)

    with ThreadPoolExecutor(1) as pool:
        struck = pool.submit(look_and_strike)
        experiment, rows = sweep(
            tunnel="ssh", link="slow", model="squeezenet1_1", partition_points=[5], repeats=5, num_images=24
        )
        struck.result(LIMIT_S)
    assert set(rows["link_tunnel"]) == {"ssh"}
    good, failed = rows[rows["status"] == "ok"], rows[rows["status"] == "failed"]
    assert len(good) >= 3 and len(failed) <= 1, rows["error"].tolist()
    assert all("device-" in error for error in failed["error"])
    for _, row in good.iterrows():
        assert row["hop0_forward_after_bit_s"] == pytest.approx(20e6 * 1448 / 1500, rel=0.1)
        crossed = row["payload_bytes"] * experiment.config.total_microbatches
        assert crossed <= row["stage0_sent_bytes"] <= crossed * 1.15 + 60_000
    assert [authorized(device).read_text().splitlines() for device in remote.devices] == [OWN.splitlines()] * 2
    assert remote.left_on() == []


def test_pytorch_and_devices_without_ssh_are_refused_before_anything_starts(sweep, remote, tmp_path):
    for backend in PASSWORDLESS:
        with pytest.raises(
            ConfigError, match=rf"backend: expected socket, got {backend}, with `tunnel: ssh`.*WireGuard"
        ):
            sweep(tunnel="ssh", backend=backend)
    here = [{"name": "laptop", "host": "127.0.0.1", "data_host": "10.0.0.1"}]
    path = remote.write(tmp_path / "mixed.yaml", local=here, top={"tunnel": "ssh"})
    with pytest.raises(ConfigError, match=r"tunnel: expected none, got ssh: devices\[2\] is on this machine"):
        load_testbed(path)


@contextlib.contextmanager
def other_server(device, more):
    """The device's SSH server with more lines at the end of its file."""
    before = device.config.read_text()
    try:
        device.switch("off")
        device.config.write_text(f"{before}{more}\n")
        device.switch("on")
        yield
    finally:
        device.config.write_text(before)
        device.switch("off")
        device.switch("on")


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ("AllowTcpForwarding no", r"closed at once: does its SSH server allow TCP forwarding\?"),
        ("PubkeyAuthentication no", r"Permission denied"),
    ],
    ids=["no forwarding", "no keys"],
)
def test_a_server_that_lets_no_neighbour_in_is_named_with_the_reason(remote, tmp_path, more, why):
    first, second = remote.devices
    testbed = remote.testbed(tmp_path)
    # Workers that are only about to start: their folders are there, and nobody listens at their ports.
    workers = [RemoteWorker(one, (), b"", "socket_worker", tmp_path, tunnelled=True) for one in testbed.devices]
    for worker in workers:
        worker.data_port = 9
        worker.machine.run(["sh", "-c", f"mkdir -p {shell_path(worker.folder_there)}"], check=True)
    try:
        with (
            other_server(second, f"Match Address {first.address}\n{more}"),
            pytest.raises(
                TransportError, match=rf"device-0: no SSH tunnel .* to device-1 at {second.address}: .*{why}"
            ),
            tunnels(workers),
        ):
            pass
        for device in remote.devices:
            assert authorized(device).read_text().splitlines() == OWN.splitlines()
        assert remote.left_on() == []
    finally:
        for worker in workers:
            worker.machine.run(["sh", "-c", f"rm -r {shell_path(worker.folder_there)}"], check=True)
            worker.machine.close()


def authorize(home, run, line=""):
    """What a device does to its authorized_keys."""
    words = ["sh", "-c", room._AUTHORIZE, "sh", run, "7", line]
    subprocess.run(words, env={**os.environ, "HOME": str(home)}, check=True, timeout=LIMIT_S)


def test_authorized_keys_keep_every_line_of_others_and_lose_what_ended_runs_left(tmp_path):
    file, (living, dead, own) = tmp_path / ".ssh" / "authorized_keys", ("a" * 16, "b" * 16, "c" * 16)
    authorize(tmp_path, own)
    assert not file.exists(), "there was nothing to take away"
    authorize(tmp_path, own, "restrict key")
    assert re.fullmatch(rf'expiry-time="\d{{12}}",restrict key paretopipe-{own}\n', file.read_text())
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    (tmp_path / ".paretopipe" / "run" / living).mkdir(parents=True)
    others = ["  spaces  and \\ backslashes", "key x paretopipe-notes of mine", f"key paretopipe-{living}"]
    target = tmp_path / "elsewhere"
    target.write_text("\n".join([*others, f"key paretopipe-{dead}", f"old paretopipe-{own}", "last without an end"]))
    target.chmod(0o640)
    file.unlink()
    file.symlink_to(target)
    authorize(tmp_path, own, "restrict key")
    assert file.is_symlink()
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    *kept, new = target.read_text().splitlines()
    assert kept == [*others, "last without an end"]
    assert new.endswith(f"restrict key paretopipe-{own}")
    authorize(tmp_path, own)
    assert target.read_text().splitlines() == kept
    assert sorted(path.name for path in tmp_path.iterdir()) == [".paretopipe", ".ssh", "elsewhere"]
