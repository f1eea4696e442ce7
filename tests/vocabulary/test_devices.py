"""Device files and the machine's own settings."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from pplib.devices import Device, Testbed, assign_cores, load_testbed
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
            "devices: [{name: a}, {name: b, data_port: 65536}]",
            r"devices\[1\]\.data_port: expected `int` <= 65535",
        ),
        ("devices: [{name: a}, {name: b, slowdown: 0.5}]", r"devices\[1\]\.slowdown: expected `float` >= 1"),
        ("devices: [{name: a}, {name: b, idle_w: 3}]", r"devices\[1\]: expected both idle_w and busy_w"),
        ("devices: [{name: a, idle_w: 3, busy_w: 2}, {name: b}]", r"devices\[0\]: .*got 3.0 and 2.0"),
        ("devices: [{name: a}, {name: b, host: -oProxyCommand}]", r"devices\[1\]\.host: .*got '-oProxyCommand'"),
        ("devices: [{name: a}, {name: b, host: 'pi@pi.local'}]", r"devices\[1\]\.host: .*got 'pi@pi.local'"),
        ("devices: [{name: a}, {name: b, host: pi, ssh_port: 0}]", r"devices\[1\]\.ssh_port: expected `int` >= 1"),
        ("devices: [{name: a}, {name: b, host: pi, password: x}]", r"devices\[1\]\.password: unknown key"),
        ("devices: [{name: a}, {name: b, user: pi}]", r"devices\[1\]\.user: expected only with the host of another"),
        ("devices: [{name: a}, {name: b, ssh_port: 22}]", r"devices\[1\]\.ssh_port: expected only with the host of"),
        (
            "devices: [{name: a, host: pj}, {name: b, host: pi, key: /none/k}]",
            r"devices\[1\]\.key: .*'/none/k', where .* no file",
        ),
        ("devices: [{name: a}, {name: b, host: pi, python: venv}]", r"devices\[1\]\.python: .*got 'venv'"),
        (
            "devices: [{name: a}, {name: b, host: pi}]",
            r"devices\[0\]\.data_host: .* reach this machine, got '127.0.0.1'",
        ),
        (
            "devices: [{name: a, host: pi, data_port: 7000}, {name: b, host: pi, data_port: 7000}]",
            r"devices\[1\]\.data_port: port 7000 of pi is taken by devices\[0\]\.data_port",
        ),
        ("{link_engine: netem, devices: [{name: a}, {name: b}]}", r"link_engine: expected one of auto, tc, userspace"),
        ("devices: [{name: a}, {name: b, cores: [4096]}]", r"devices\[1\]\.cores: expected some of"),
        ('devices: [{name: a}, {name: "b\\n"}]', r"devices\[1\]\.name: expected text without control characters"),
        ("devices: [{name: a}, {name: ..}]", r"devices\[1\]\.name: .*got '\.\.'"),
        ("devices: [{name: a}, {name: b, interface: ../x}]", r"devices\[1\]\.interface: .*got '\.\./x'"),
        ("devices: [{name: a}, {name: b, slowdown: .nan}]", r"devices\[1\]\.slowdown: expected a finite number, got"),
        ("devices: [{name: a}, {name: b, torch_device: tpu}]", r"devices\[1\]\.torch_device: .*got 'tpu'"),
    ],
)
def test_a_wrong_device_file_gives_the_path_of_the_wrong_value(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        load_testbed(write(tmp_path, text))


def test_a_public_key_is_refused_where_the_private_one_is_needed(tmp_path):
    (tmp_path / "id.pub").write_text("ssh-ed25519 AAAA\n")
    text = f"devices: [{{name: a, host: pi, key: {tmp_path}/id.pub}}, {{name: b, host: pj}}]"
    with pytest.raises(ConfigError, match=r"devices\[0\]\.key: expected the private key, got '.*id.pub', the public"):
        load_testbed(write(tmp_path, text))


@pytest.mark.parametrize(
    ("host", "remote"), [("127.0.0.1", False), ("localhost", False), ("127.0.0.2", True), ("127.0.1.1", True)]
)
def test_this_machine_has_two_names_and_every_other_loopback_address_is_a_device_of_its_own(host, remote):
    assert Device(name="a", host=host).remote is remote


def test_a_pair_of_remote_devices_knows_where_ssh_and_data_go(tmp_path):
    text = "devices: [{name: a, host: pi, cores: [4096]}, {name: b, host: server, data_host: 10.0.0.2}]"
    first, second = load_testbed(write(tmp_path, text)).devices
    assert (first.remote, first.data_address, first.user, first.ssh_port) == (True, "pi", None, None)
    assert (second.remote, second.data_address) == (True, "10.0.0.2")


def test_this_machine_may_be_one_of_the_devices_if_the_others_can_reach_it(tmp_path):
    text = "devices: [{name: a, host: pi}, {name: b, data_host: 192.168.1.2}]"
    assert [device.remote for device in load_testbed(write(tmp_path, text)).devices] == [True, False]


@pytest.mark.parametrize("name", ["pi-pi", "pi-gpu", "three-devices"])
def test_the_examples_of_real_devices_load_and_explain_every_key(name):
    path = Path(__file__).resolve().parents[2] / "params" / "devices" / f"{name}.yaml"
    testbed = load_testbed(path)
    assert any(device.remote for device in testbed.devices)
    lines = path.read_text().splitlines()
    for key in {match[1] for line in lines if (match := re.match(r"^[ -]*(\w+): \S", line))}:
        assert any(re.match(rf"^[ -]*{key}: [^#]+# \w", line) for line in lines), key


def test_the_first_example_shows_every_key_there_is():
    text = (Path(__file__).resolve().parents[2] / "params" / "devices" / "pi-pi.yaml").read_text()
    for key in [*Device.__struct_fields__, *Testbed.__struct_fields__]:
        assert re.search(rf"^[ -]*{key}:", text, re.MULTILINE), key


def test_devices_get_cores_of_their_own_while_there_are_enough(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    devices = [Device(name="a", threads=2), Device(name="b", cores=[3]), Device(name="c")]
    assert assign_cores(devices) == [(0, 1), (3,), (2,)]
    remote = [Device(name="a", host="pi", threads=4), Device(name="b"), Device(name="c", host="pj", cores=[0, 1])]
    assert assign_cores(remote) == [(), (0,), (0, 1)]
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
