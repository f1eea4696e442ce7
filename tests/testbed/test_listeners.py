"""Who can reach a session: every listening socket of every process, and another account of this machine."""

from __future__ import annotations

import contextlib
import datetime
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import get_args

import psutil
import pytest
from torch.distributed import TCPStore

from benchmarks.listeners import BACKENDS, listeners, watch
from pplib.config import PASSWORDLESS, Backend
from pplib.devices import Testbed, load_testbed
from pplib.errors import ConfigError
from pplib.pipeline.hops.meeting import Meeting
from pplib.sweep.job import grid_run as batch
from pplib.sweep.job.command import main
from pplib.testbed.emulation import namespaces as room
from pplib.testbed.emulation.namespace_process import Offers
from pplib.testbed.provision.setup import set_up
from pplib.testbed.session import check_private, workers_up

LOCAL = Path(__file__).resolve().parents[2] / "params" / "devices" / "local.yaml"
SOMEBODY = 54_321  # another account: it need not have a name
# Tries every port that it is told at 127.0.0.1, and says which one took the connection.
CONNECT = 'for port; do (exec 3<> "/dev/tcp/127.0.0.1/$port") 2> /dev/null && echo "$port"; done; true'


@pytest.fixture
def private():
    if reason := room.no_private_network():
        pytest.skip(f"no network of their own for workers here: {reason}")


def check(seen, wanted):
    """Nothing listens but on the addresses `wanted`, and between trials nothing but the workers' own two ports."""
    assert {one.address for part in (seen.before, *seen.during.values(), seen.after) for one in part} <= wanted, seen
    assert seen.before
    assert seen.after == seen.before == seen.during["socket"], seen
    for backend in PASSWORDLESS:
        assert len(seen.during[backend] - seen.before) >= 2, seen
    assert not seen.ended


def test_on_this_machine_nothing_but_loopback_listens_and_pytorch_only_while_its_trials_run(private):
    check(watch(LOCAL), {"127.0.0.1"})


def test_on_remote_devices_only_the_data_address_and_loopback_listen_and_pytorch_only_while_its_trials_run(
    start_remote, tmp_path
):
    with start_remote() as remote:
        devices = remote.write(tmp_path / "devices.yaml", python=sys.executable)
        done = set_up(load_testbed(devices))
        assert all(isinstance(one, str) for one in done.values()), done
        check(watch(devices), {"127.0.0.1", *(one.address for one in remote.devices)})


def reached_by_somebody_else(ports):
    """Which of these ports of this machine's loopback another account reaches."""
    user = {"user": SOMEBODY, "group": SOMEBODY, "extra_groups": []} if os.geteuid() == 0 else {}
    words = ["bash", "-c", CONNECT, "bash", *map(str, ports)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True, cwd="/", **user)
    return {int(line) for line in done.stdout.split()}


@contextlib.contextmanager
def group(backend, **changes):
    """The ports of two workers that have joined a group."""
    testbed = Testbed(devices=load_testbed(LOCAL).devices, **changes)
    with workers_up(testbed, [backend]) as session, session.pipeline(2) as coordinator:
        before = listeners()
        coordinator.open(backend)
        yield {one.port for one in listeners() - before}


@pytest.mark.parametrize("backend", PASSWORDLESS)
def test_another_account_reaches_no_port_of_workers_in_their_own_network(private, backend):
    with group(backend) as ports:
        assert len(ports) >= 2
        assert reached_by_somebody_else(ports) == set()


@pytest.mark.parametrize("backend", PASSWORDLESS)
def test_with_rpc_network_host_every_account_reaches_them(backend):
    """The attack works where it is asked for: else the test above would show nothing."""
    with group(backend, rpc_network="host") as ports:
        assert reached_by_somebody_else(ports) == ports


@pytest.mark.parametrize(("backend", "could"), [("rpc", "run code as you"), ("gloo", "take the place of a device")])
def test_without_namespaces_pytorch_is_refused_with_what_to_do_and_sockets_are_not(monkeypatch, backend, could):
    monkeypatch.setattr(room, "_offers", lambda: Offers("no", "no", "no", "no namespaces"))
    testbed = load_testbed(LOCAL)
    check_private(testbed, "socket", shaped=False)
    with pytest.raises(
        ConfigError,
        match=rf"{backend} .*every account could {could};.*: no namespaces\. Use `backend: socket`.*rpc_network: host",
    ):
        check_private(testbed, backend, shaped=False)
    check_private(Testbed(devices=testbed.devices, rpc_network="host"), backend, shaped=False)


def test_a_sweep_of_both_backends_measures_sockets_where_rpc_is_refused(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(room, "_offers", lambda: Offers("no", "no", "no", "no namespaces"))
    monkeypatch.setattr(batch, "_show", lambda results, *_: batch.write_summary(results) and ([], []))
    grid = tmp_path / "grid.yaml"
    grid.write_text(
        "name: both\nmodel: tests.helpers.models:tiny\n"
        "num_images: 8\nbatch_size: 2\nrepeats: 1\npartition_points: [2]\n"
        f"backend: [rpc, socket]\ndevices: {LOCAL}\noutput_dir: {tmp_path / 'out'}\n"
    )
    assert main([str(grid)]) == 1
    summary = (tmp_path / "out" / "both" / "summary.csv").read_text()
    assert summary.count(",ok,") == 1
    said = capsys.readouterr().err
    assert "_rpc_none_f1: backend: rpc has no passwords" in said
    assert "rpc_network: host" in said


def test_a_meeting_point_listens_on_one_address_until_it_is_closed_and_serves_who_has_come_as_long_as_it_is_kept():
    meeting, limit = Meeting("127.0.0.1", 0), datetime.timedelta(seconds=10)
    meeting.store(1, limit).set("a", "b")
    other = TCPStore("127.0.0.1", meeting.port, 1, is_master=False, timeout=limit)

    def listens():
        connections = psutil.Process().net_connections("tcp")
        return [one.laddr.ip for one in connections if one.status == "LISTEN" and one.laddr.port == meeting.port]

    assert listens() == ["127.0.0.1"]
    meeting.close()
    assert listens() == []
    assert other.get("a") == b"b", "the first member has left, and let go of its store"
    with pytest.raises(OSError), socket.create_connection(("127.0.0.1", meeting.port), 2):
        pass


def test_the_backends_looked_at_are_all_there_are():
    assert set(get_args(Backend)) == set(BACKENDS)
