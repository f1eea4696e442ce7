"""Shaping a real interface: the commands to the letter, a scripted device, and this kernel as far as it goes."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pplib.devices import Device
from pplib.errors import ConfigError, TransportError
from pplib.links import Direction
from pplib.testbed.emulation.namespaces import namespaces
from pplib.testbed.shaping.interface import (
    Rule,
    Shaping,
    restore_command,
    shape_commands,
    unshape_commands,
    watchdog_command,
)
from pplib.testbed.shaping.tc import egress_commands
from pplib.testbed.ssh.command import Completed
from pplib.testbed.ssh.machine import ThisMachine

LIMIT_S = 60.0
HERE = ThisMachine(Device(name="here"))
PEER = Path(__file__).resolve().parents[1] / "helpers" / "peer.py"
SLOW = Direction(delay_s=0.2, rate_bit_s=5e6)


def lines(commands):
    return [" ".join(command) for command in commands]


def test_one_port_is_shaped_with_delay_and_rate_and_everything_else_is_not():
    assert lines(shape_commands("eth0", [Rule(direction=SLOW, ports=(29500,))], (22, 7001))) == [
        "tc qdisc add dev eth0 root handle 77: htb",
        "tc class add dev eth0 parent 77: classid 77:1 htb rate 10gbit quantum 60000",
        "tc filter add dev eth0 parent 77: protocol ip prio 1 u32 match ip protocol 6 0xff "
        "match ip sport 22 0xffff flowid 77:1",
        "tc filter add dev eth0 parent 77: protocol ip prio 1 u32 match ip protocol 6 0xff "
        "match ip dport 22 0xffff flowid 77:1",
        "tc filter add dev eth0 parent 77: protocol ip prio 1 u32 match ip protocol 6 0xff "
        "match ip sport 7001 0xffff flowid 77:1",
        "tc filter add dev eth0 parent 77: protocol ip prio 1 u32 match ip protocol 6 0xff "
        "match ip dport 7001 0xffff flowid 77:1",
        "tc class add dev eth0 parent 77: classid 77:10 htb rate 10gbit quantum 60000",
        "tc qdisc add dev eth0 parent 77:10 handle 100: netem limit 1000 delay 200000us",
        "tc qdisc add dev eth0 parent 100:1 handle 101: tbf rate 5000000bit burst 3200b limit 312500b",
        "tc filter add dev eth0 parent 77: protocol ip prio 2 u32 match ip protocol 6 0xff "
        "match ip sport 29500 0xffff flowid 77:10",
        "tc filter add dev eth0 parent 77: protocol ip prio 2 u32 match ip protocol 6 0xff "
        "match ip dport 29500 0xffff flowid 77:10",
    ]


def test_a_device_in_the_middle_shapes_each_neighbour_by_its_own_direction():
    rules = [
        Rule(direction=Direction(rate_bit_s=1e6), peer="192.0.2.3"),
        Rule(direction=Direction(delay_s=0.01, jitter_s=0.002, loss=0.015), peer="192.0.2.1", ports=(5000,)),
    ]
    told = lines(shape_commands("eth0", rules, ()))
    assert (
        "tc filter add dev eth0 parent 77: protocol ip prio 2 u32 match ip protocol 6 0xff "
        "match ip dst 192.0.2.3/32 flowid 77:10" in told
    )
    assert "tc qdisc add dev eth0 parent 77:10 handle 101: tbf rate 1000000bit burst 3200b limit 96000b" in told
    assert (
        "tc qdisc add dev eth0 parent 77:11 handle 102: netem limit 100000 delay 10000us 2000us loss random 1.5%"
        in told
    )
    assert sum("match ip dst 192.0.2.1/32" in line for line in told) == 2


def test_an_unshaped_direction_adds_nothing_and_a_rule_for_everything_is_refused():
    assert egress_commands("eth0", Direction()) == []
    assert len(shape_commands("eth0", [Rule(direction=Direction(), ports=(1,))], ())) == 2
    with pytest.raises(ConfigError, match="expected a rule to name ports or a peer"):
        shape_commands("eth0", [Rule(direction=SLOW)])


@pytest.mark.parametrize(
    ("shown", "command"),
    [
        ("qdisc noqueue 0: root refcnt 2 \n", None),
        ("qdisc mq 0: root \nqdisc fq_codel 0: parent :1 limit 10240p flows 1024\n", None),
        (
            "qdisc fq_codel 8002: root refcnt 2 limit 10240p flows 1024 quantum 1514 target 5ms interval 100ms "
            "memory_limit 32Mb ecn drop_batch 64 \n",
            "tc qdisc add dev eth0 root handle 8002: fq_codel limit 10240 flows 1024 quantum 1514 target 5ms "
            "interval 100ms memory_limit 32Mb ecn drop_batch 64",
        ),
        ("qdisc netem 1: root refcnt 2 limit 1000 delay 10ms\n",
         "tc qdisc add dev eth0 root handle 1: netem limit 1000 delay 10ms"),
    ],
)  # fmt: skip
def test_what_was_there_before_can_be_put_back(shown, command):
    restore = restore_command("eth0", shown)
    assert restore == (command and command.split())
    undo = lines(unshape_commands("eth0", restore))
    assert undo == ["tc qdisc del dev eth0 root handle 77:", *([command] if command else [])]


def test_a_tree_of_somebody_else_is_refused_before_anything_changes():
    with pytest.raises(
        ConfigError, match=r"eth0 has .* htb 1:, that could not be put back .*`tc qdisc del dev eth0 root"
    ):
        restore_command("eth0", "qdisc htb 1: root refcnt 2 r2q 10 default 0x1\n")


class ScriptedDevice:
    """A runner that records commands, and fails those that contain a word."""

    def __init__(self, fails="", said="", shown="qdisc noqueue 0: root refcnt 2\n"):
        self.done, self._fails, self._said, self._shown = [], fails, said, shown

    def __call__(self, command):
        self.done.append(" ".join(command))
        if self._fails and self._fails in command:
            return Completed(2, "", self._said)
        return Completed(0, self._shown if "show" in command else "", "")


def test_the_timer_is_set_before_anything_is_shaped_and_ends_with_the_shaping():
    device = ScriptedDevice(shown="qdisc pfifo 5: root refcnt 2 limit 100p\n")
    shaping = Shaping(device, "eth0", undo_after_s=9)
    shaping.start([Rule(direction=SLOW, ports=(5000,))])
    timer = next(i for i, line in enumerate(device.done) if "setsid" in line)
    assert device.done[1] == "tc qdisc del dev eth0 root"
    assert "left=9" in device.done[timer] and "limit 100" in device.done[timer]
    assert timer < device.done.index("tc qdisc add dev eth0 root handle 77: htb")
    before = len(device.done)
    shaping.renew()
    assert "echo 2 > /run/paretopipe-shaping-" in device.done[before]
    shaping.undo()
    shaping.undo()
    assert device.done[before + 1].startswith("rm -f /run/paretopipe-shaping-")
    assert device.done[before + 2 :] == [
        "tc qdisc del dev eth0 root handle 77:",
        "tc qdisc add dev eth0 root handle 5: pfifo limit 100",
    ]


@pytest.mark.parametrize(
    ("fails", "said", "error", "message"),
    [
        ("netem", "Error: Specified qdisc kind is unknown.", ConfigError, "has no netem: install .*modprobe sch_netem"),
        ("tbf", "Error: Specified qdisc kind is unknown.", ConfigError, "has no tbf: `modprobe sch_tbf`"),
        ("htb", "RTNETLINK answers: Operation not permitted", ConfigError, "needs root on the device"),
        ("show", 'Cannot find device "eth0"', ConfigError, "name an interface that `ip link` shows"),
        ("u32", "Error: out of memory", TransportError, "out of memory"),
    ],
)
def test_a_command_that_fails_is_explained_and_undone(fails, said, error, message):
    device = ScriptedDevice(fails, said)
    with pytest.raises(error, match=message):
        Shaping(device, "eth0").start([Rule(direction=SLOW, ports=(5000,))])
    if fails != "show":
        assert device.done[-1] == "tc qdisc del dev eth0 root handle 77:"


def test_an_interface_that_another_run_shapes_is_refused():
    device = ScriptedDevice(shown="qdisc htb 77: root refcnt 2 r2q 10\n")
    with pytest.raises(ConfigError, match="shaped by another run"):
        Shaping(device, "eth0").start([])
    assert len(device.done) == 1


def wait_until(condition, what):
    end = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end, what
        select.select([], [], [], 0.1)


def test_the_timer_runs_while_it_is_renewed_and_undoes_once_it_is_not(tmp_path):
    """The script itself, with a command of the test's own in the place of tc's."""
    token, undone = tmp_path / "token", tmp_path / "undone"
    token.write_text("1")
    command = watchdog_command("lo", ["touch", str(undone)], str(token), 2)
    command[-1] = command[-1].replace("tc qdisc del dev lo root handle 77:", "true")
    assert HERE.run(command).returncode == 0
    end, count = time.monotonic() + 4, 1
    while time.monotonic() < end:  # twice as long as it would last by itself
        count += 1
        token.write_text(str(count))
        assert not undone.exists()
        select.select([], [], [], 0.2)
    wait_until(undone.exists, "the timer did not undo")
    assert not token.exists()


needs_namespaces = pytest.mark.usefixtures("emulated_links")


class Interface:
    """The interface of an emulated device, and commands beside it, as if over SSH."""

    def __init__(self, net, device):
        self._net, self._device = net, device

    def __call__(self, command):
        return HERE.run([*self._net.prefix(self._device), *command])

    def shown(self):
        return self(["tc", "qdisc", "show", "dev", "data"]).stdout


def goodput(net, port):
    """Rate of a transfer from device 0 to a sink at a port of device 1."""
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "env": {**os.environ, "PEER_PORT": str(port)}}
    peer, target = [sys.executable, str(PEER)], net.addresses[1]
    with net.popen(1, [*peer, "serve", target], **options) as server:
        server.stdout.readline()
        with net.popen(0, [*peer, "send", target, "400000"], **options) as client:
            rate = json.loads(client.communicate(timeout=LIMIT_S)[0])
        server.stdin.close()
        server.wait(LIMIT_S)
    return rate


@pytest.mark.alone
@needs_namespaces
def test_this_kernel_shapes_the_data_port_and_no_other_and_all_is_put_back(tmp_path):
    with namespaces(2) as net:
        device = Interface(net, 0)
        assert device("tc qdisc add dev data root handle 9: pfifo limit 321".split()).returncode == 0
        before = device.shown()
        shaping = Shaping(device, "data", folder=str(tmp_path))
        shaping.start([Rule(direction=Direction(rate_bit_s=4e6), ports=(5001,))])
        try:
            assert "tbf" in device.shown()
            assert goodput(net, 5001) == pytest.approx(4e6, rel=0.15)
            assert goodput(net, 5002) > 20e6
        finally:
            shaping.undo()
        assert device.shown() == before


@needs_namespaces
def test_shaping_ends_by_itself_when_nobody_renews_it(tmp_path):
    with namespaces(2) as net:
        device = Interface(net, 0)
        before = device.shown()
        Shaping(device, "data", undo_after_s=1, folder=str(tmp_path)).start(
            [Rule(direction=Direction(rate_bit_s=4e6), ports=(5001,))]
        )
        wait_until(lambda: device.shown() == before, "the timer did not undo")


@needs_namespaces
def test_this_kernel_does_netem_or_says_what_to_install(tmp_path):
    with namespaces(2) as net:
        device = Interface(net, 0)
        before = device.shown()
        shaping = Shaping(device, "data", folder=str(tmp_path))
        try:
            shaping.start([Rule(direction=SLOW, ports=(5001,))])
        except ConfigError as exc:
            assert "install the package with extra kernel modules" in str(exc)
        else:
            assert "netem" in device.shown()
            shaping.undo()
        assert device.shown() == before
        assert not list(tmp_path.glob("paretopipe-*"))
