"""Device files and the machine's own settings."""

from __future__ import annotations

import os

import pytest

from pplib.devices import Device, assign_cores, load_testbed
from pplib.environment import load_environment
from pplib.errors import ConfigError


def write(tmp_path, text):
    path = tmp_path / "devices.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("devices: [{name: a}, {name: b, threads: four}]", r"devices\[1\]\.threads: expected `int`, got 'four'"),
        ("devices: [{name: a}, {name: b, thread: 1}]", r"devices\[1\]\.thread: unknown key; nearest: threads"),
        ("devices: [{name: a}, {}]", r"devices\[1\]\.name: this key is required"),
        ("devices: [{name: a}]", r"devices: expected `array` of length >= 2"),
        ("devices: [{name: a}, {name: a}]", r"devices\[1\]\.name: 'a' is taken by devices\[0\]"),
        (
            "devices: [{name: a}, {name: b, control_port: 65536}]",
            r"devices\[1\]\.control_port: expected `int` <= 65535",
        ),
        ("devices: [{name: a}, {name: b, slowdown: 0.5}]", r"devices\[1\]\.slowdown: expected `float` >= 1"),
        ("devices: [{name: a}, {name: b, idle_w: 3}]", r"devices\[1\]: expected both idle_w and busy_w"),
        ("devices: [{name: a, idle_w: 3, busy_w: 2}, {name: b}]", r"devices\[0\]: .*got 3.0 and 2.0"),
        ("devices: [{name: a}, {name: b, host: pi.local}]", r"devices\[1\]\.host: .*got 'pi.local'"),
        ("devices: [{name: a}, {name: b, cores: [4096]}]", r"devices\[1\]\.cores: expected some of"),
        ("devices: [{name: a}, {name: b, torch_device: tpu}]", r"devices\[1\]\.torch_device: .*got 'tpu'"),
    ],
)
def test_a_wrong_device_file_gives_the_path_of_the_wrong_value(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        load_testbed(write(tmp_path, text))


def test_devices_get_cores_of_their_own_while_there_are_enough(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    devices = [Device(name="a", threads=2), Device(name="b", cores=[3]), Device(name="c")]
    assert assign_cores(devices) == [(0, 1), (3,), (2,)]
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    assert assign_cores([Device(name="a"), Device(name="b")]) == [(0,), (0,)]


def test_the_environment_file_is_read_and_variables_win(tmp_path, monkeypatch):
    file = tmp_path / ".env"
    file.write_text("MASTER_PORT=29501\nCIFAR10_PATH=/data\n")
    monkeypatch.setenv("CIFAR10_PATH", "/elsewhere")
    monkeypatch.delenv("MASTER_PORT", raising=False)
    found = load_environment(file)
    assert (found.master_port, found.cifar10_path, found.master_addr) == (29501, "/elsewhere", None)


def test_an_interface_this_machine_does_not_have_is_refused_with_those_it_has(tmp_path, monkeypatch):
    monkeypatch.setenv("TP_SOCKET_IFNAME", "nowhere9")
    with pytest.raises(ConfigError, match=r"TP_SOCKET_IFNAME: expected one of .*lo.*, got 'nowhere9'"):
        load_environment(tmp_path / "none")
    monkeypatch.setenv("TP_SOCKET_IFNAME", "lo")
    assert load_environment(tmp_path / "none").interface_variables["TP_SOCKET_IFNAME"] == "lo"


@pytest.mark.parametrize("port", ["65536", "0", "http", "-1"])
def test_a_master_port_that_is_no_port_is_refused(tmp_path, monkeypatch, port):
    monkeypatch.setenv("MASTER_PORT", port)
    with pytest.raises(ConfigError, match=f"MASTER_PORT: expected a port from 1 to 65535, got '{port}'"):
        load_environment(tmp_path / "none")
