"""Network namespaces in a row, one per device, joined by one engine or the other; or one for all devices.

Seen from a device both engines look the same: one interface, `data`, with one address, from which
every other device is reached. In a network for all there is nothing but loopback.
"""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import subprocess
from collections.abc import Callable
from typing import Protocol

from pplib.errors import ParetoPipeError
from pplib.links import LinkProfile
from pplib.testbed.emulation import syscalls
from pplib.testbed.emulation.forwarder import Forwarder
from pplib.testbed.shaping.tc import egress_commands

INTERFACE = "data"
MAX_DEVICES = 250


def address(device: int) -> str:
    """The address of a device, the same with every engine.

    >>> address(0)
    '10.77.0.1'
    """
    return f"10.77.0.{device + 1}"


def call(command: str) -> None:
    """Run `ip` or `tc` in the present namespace.

    Raises:
        ParetoPipeError: it failed; the message is its own.
    """
    done = subprocess.run(
        shlex.split(command), capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=20, check=False
    )
    if done.returncode:
        raise ParetoPipeError(f"`{command}` failed: {' '.join(done.stderr.split())}")


def listen_only(control: int, on_control: Callable[[], bool]) -> None:
    """Call `on_control` when `control` can be read, until it says False."""
    while select.select([control], [], []) and on_control():
        pass


class Chain(Protocol):
    """What the keeper needs of an engine."""

    namespaces: list[int]

    def set_profile(self, profile: LinkProfile) -> None:
        """Shape every hop by `profile` from now on."""

    def run(self, control: int, on_control: Callable[[], bool]) -> None:
        """Keep the link going; call `on_control` when `control` can be read, until it says False."""


def _new_device(device: int, make_interface: Callable[[], None]) -> int:
    namespace = syscalls.new_network()
    make_interface()
    call("ip link set dev lo up")
    call(f"ip address add {address(device)}/24 dev {INTERFACE}")
    _up(INTERFACE)
    return namespace


def _up(interface: str, *, master: str = "") -> None:
    """Bring an interface up, without the packets that IPv6 sends by itself: they would be counted."""
    with contextlib.suppress(ParetoPipeError):  # a kernel without IPv6 sends none of them anyway
        call(f"ip link set dev {interface} addrgenmode none")
    call(f"ip link set dev {interface} {f'master {master}' if master else ''} up")


class Loopback:
    """One network for all devices, with nothing in it but its own loopback: nobody outside reaches what is inside."""

    def __init__(self, num_devices: int, profile: LinkProfile, seed: int) -> None:
        namespace = syscalls.new_network()
        syscalls.loopback_up()
        self.namespaces = [namespace] * num_devices
        self.set_profile(profile)

    def set_profile(self, profile: LinkProfile) -> None:
        """Nothing is ever shaped.

        Raises:
            ParetoPipeError: something was to be.
        """
        if profile.shaped:
            raise ParetoPipeError("all devices are in one network: there is no link between them to shape")

    def run(self, control: int, on_control: Callable[[], bool]) -> None:
        """Only listen."""
        listen_only(control, on_control)


class TunChain:
    """The user-space engine: a TUN device in each namespace, and a forwarder between them."""

    def __init__(self, num_devices: int, profile: LinkProfile, seed: int) -> None:
        tuns: list[int] = []
        self.namespaces = [
            _new_device(i, lambda: tuns.append(syscalls.open_tun(INTERFACE))) for i in range(num_devices)
        ]
        self._forwarder = Forwarder(tuns, profile, seed)
        self.set_profile, self.run = self._forwarder.set_profile, self._forwarder.run


class TcChain:
    """The kernel's engine: each device hangs on a bridge of its own, bridges are joined in a row by
    veth pairs, and each end of such a pair shapes what leaves it.

    netem draws from a seed of its own that older kernels do not let one set: loss and jitter are as
    asked, but not reproducible; and with jitter, packets may overtake each other.
    """

    def __init__(self, num_devices: int, profile: LinkProfile, seed: int) -> None:
        self._switch = syscalls.new_network()
        self._path = f"/proc/{os.getpid()}/fd/{self._switch}"
        self._hops = range(num_devices - 1)
        for i in range(num_devices):
            call(f"ip link add dev bridge-{i} type bridge forward_delay 0 mcast_snooping 0")
            _up(f"bridge-{i}")
        for i in self._hops:
            call(f"ip link add dev right-{i} type veth peer name left-{i + 1}")
            _up(f"right-{i}", master=f"bridge-{i}")
            _up(f"left-{i + 1}", master=f"bridge-{i + 1}")
        self.namespaces = [self._device(i, num_devices) for i in range(num_devices)]
        self._shaped: list[str] = []
        self.set_profile(profile)

    def _device(self, device: int, num_devices: int) -> int:
        port = f"port-{device}"
        pair = f"ip link add dev {INTERFACE} address {_mac(device)} type veth peer name {port} netns {self._path}"
        namespace = _new_device(device, lambda: call(pair))
        # Known beforehand: asking for an address would cross the slow link before the first packet does.
        for other in set(range(num_devices)) - {device}:
            call(f"ip neighbour replace {address(other)} lladdr {_mac(other)} dev {INTERFACE} nud permanent")
        syscalls.setns(self._switch)
        _up(port, master=f"bridge-{device}")
        return namespace

    def set_profile(self, profile: LinkProfile) -> None:
        """Replace the queueing disciplines of every hop; packets waiting in the old ones are lost.

        Raises:
            ParetoPipeError: the kernel lacks one that the profile needs; nothing is shaped then.
        """
        syscalls.setns(self._switch)
        self._unshape()
        ends = [(f"right-{i}", profile.forward) for i in self._hops]
        ends += [(f"left-{i + 1}", profile.backward) for i in self._hops]
        try:
            for end, direction in ends:
                for command in egress_commands(end, direction):
                    call(shlex.join(command))
                    if end not in self._shaped:
                        self._shaped.append(end)
        except ParetoPipeError:
            self._unshape()
            raise

    def _unshape(self) -> None:
        while self._shaped:
            call(f"tc qdisc del dev {self._shaped.pop()} root")

    def run(self, control: int, on_control: Callable[[], bool]) -> None:
        """The kernel does the work: only listen."""
        listen_only(control, on_control)


def _mac(device: int) -> str:
    return f"02:70:70:00:00:{device + 1:02x}"
