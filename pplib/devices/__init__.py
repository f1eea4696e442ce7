"""The devices of a testbed: one YAML file, one entry per device, in pipeline order."""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from pplib.config import PASSWORDLESS
from pplib.decode import decode
from pplib.errors import ConfigError
from pplib.files.expanded import expanded
from pplib.files.yaml_file import read_yaml

Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
HostName = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[A-Za-z0-9]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9])?\Z",
        description="a host name, an entry of ~/.ssh/config or an IPv4 address, without user, port or IPv6 (those are "
        "`user` and `ssh_port`; a device with IPv6 alone needs an entry of ~/.ssh/config and an IPv4 `data_host`)",
    ),
]
Name = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}\Z",
        description="a name of at most 63 letters, digits, dots, dashes and underscores",
    ),
]
User = Annotated[
    str,
    msgspec.Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}\Z", description="the name of a user on the device"),
]
Interpreter = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^(/|~/)[^\x00-\x1f\x7f]+\Z",
        description="the path of an interpreter or of a virtual environment on the device, beginning with / or ~/",
    ),
]
TorchDevice = Annotated[
    str, msgspec.Meta(pattern=r"^(cpu|cuda(:\d{1,3})?)\Z", description="cpu, cuda, or cuda:0 and so on")
]
Interface = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.@-]{0,14}\Z",
        description="the name of a network interface, such as eth0 or wlan0",
    ),
]
Watts = Annotated[float, msgspec.Meta(ge=0)]
LOCAL_HOSTS = ("127.0.0.1", "localhost")
ONLY_REMOTE = ("user", "ssh_port", "key", "python")


class Device(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One device and the worker on it.

    `host` is where the device is reached: `127.0.0.1` for this machine, else a name (of the DNS, of
    mDNS, or of an entry in ~/.ssh/config) or an IPv4 address, over SSH, as `user` at `ssh_port` with
    the private key in the file `key`; each of these three is taken from ~/.ssh/config where it is
    left out, and keys also from the agent. There are no passwords. `python` is the interpreter or
    the virtual environment on the device; left out, it is the one that `paretopipe setup`
    makes. `data_host` is the address that the other devices send activations to, default `host`, and `interface`
    the network interface which has it and whose traffic is counted.

    `cores: auto` gives each device on this machine cores of its own while there are enough; on a
    remote device it leaves them to the system. `slowdown` > 1 makes the worker sleep after each
    stage, so that a machine stands in for a slower one; such results are marked `emulated`
    everywhere. `prefetch` bounds how many received microbatches may wait for the stage (default: as
    many as are in flight). `idle_w` and `busy_w` estimate energy where the device has no meter; such
    figures are marked as estimated.
    """

    name: Name
    host: HostName = "127.0.0.1"
    user: User | None = None
    ssh_port: Annotated[int, msgspec.Meta(ge=1, le=65535)] | None = None
    key: str | None = None
    python: Interpreter | None = None
    data_host: HostName | None = None
    data_port: Port = 0
    torch_device: TorchDevice = "cpu"
    threads: Annotated[int, msgspec.Meta(ge=1)] = 1
    cores: Literal["auto"] | Annotated[list[Annotated[int, msgspec.Meta(ge=0)]], msgspec.Meta(min_length=1)] = "auto"
    slowdown: Annotated[float, msgspec.Meta(ge=1)] = 1.0
    rpc_threads: Annotated[int, msgspec.Meta(ge=1)] = 4
    prefetch: Annotated[int, msgspec.Meta(ge=0)] | None = None
    interface: Interface | None = None
    idle_w: Watts | None = None
    busy_w: Watts | None = None

    @property
    def emulated(self) -> bool:
        """Whether this device's speed is pretended."""
        return self.slowdown > 1

    @property
    def remote(self) -> bool:
        """Whether this device is another machine, reached over SSH."""
        return self.host.lower() not in LOCAL_HOSTS

    @property
    def data_address(self) -> str:
        """The name or address that the other devices send to."""
        return self.data_host or self.host


class Testbed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of a device file.

    `ready_timeout_s` bounds the wait for a worker's first answer. `link_engine` is what emulates a
    link between devices on this machine: `tc` is the kernel's own, `userspace` a small process that
    passes the packets on, and `auto` the kernel's where it can do what the link asks for. With
    `tunnel: ssh` activations go from device to device through SSH, for networks that are not to be
    trusted; what that costs is in everything that is measured, and the records say so.

    `rpc_network` says where workers of this machine that speak rpc or gloo listen: `private` is a network of
    their own, which no other account reaches; `host` is this machine's loopback, where every account can take
    the place of a device and, over rpc, run code as the user of the workers.
    """

    __test__ = False  # not a test class, whatever pytest thinks of its name

    devices: Annotated[list[Device], msgspec.Meta(min_length=2)]
    ready_timeout_s: Annotated[float, msgspec.Meta(gt=0)] = 60.0
    link_engine: Literal["auto", "tc", "userspace"] = "auto"
    tunnel: Literal["none", "ssh"] = "none"
    rpc_network: Literal["private", "host"] = "private"

    @property
    def names(self) -> list[str]:
        """The devices, in stage order."""
        return [device.name for device in self.devices]

    @property
    def local(self) -> bool:
        """Whether all devices are this machine."""
        return not any(device.remote for device in self.devices)

    def check_backend(self, backend: str) -> None:
        """Make sure that the data plane of these devices can carry a backend.

        Raises:
            ConfigError: it cannot.
        """
        if self.tunnel == "ssh" and backend in PASSWORDLESS:
            raise ConfigError(
                f"backend: expected socket, got {backend}, with `tunnel: ssh` in the device file: PyTorch opens ports "
                "of its own choice in both directions, which no SSH tunnel carries; use sockets, or a VPN such as "
                "WireGuard between the devices, with its addresses as `data_host`"
            )

    def return_hops(self, num_stages: int) -> int:
        """How many links a result crosses from the last device to the first.

        Devices on this machine are a chain, and every hop of it is crossed; real ones reach each other directly.
        """
        return 1 if any(device.remote for device in self.devices) else num_stages - 1

    def first(self, num_stages: int) -> list[Device]:
        """The devices of a pipeline of this many stages.

        Raises:
            ConfigError: there are not so many.
        """
        if num_stages > len(self.devices):
            raise ConfigError(
                f"num_stages: expected at most {len(self.devices)}, the devices in the device file, got {num_stages}"
            )
        return self.devices[:num_stages]


def load_testbed(path: Path) -> Testbed:
    """Read a device file.

    Raises:
        ConfigError: with the path of the wrong value inside the file.
    """
    testbed: Testbed = decode(read_yaml(path), Testbed, f"{path}: ")
    names = testbed.names
    for i, device in enumerate(testbed.devices):
        here = f"{path}: devices[{i}]"
        if names.index(device.name) != i:
            raise ConfigError(f"{here}.name: {device.name!r} is taken by devices[{names.index(device.name)}]")
        if (device.idle_w is None) != (device.busy_w is None) or (device.busy_w or 0) < (device.idle_w or 0):
            raise ConfigError(
                f"{here}: expected both idle_w and busy_w with idle_w <= busy_w, or neither, got "
                f"{device.idle_w} and {device.busy_w}"
            )
        _check_address("host", device.host, here)
        _check_address("data_host", device.data_address, here)
        if device.remote:
            _check_remote(device, here)
        else:
            _check_local(device, here, alone=not any(other.remote for other in testbed.devices))
        if testbed.tunnel == "ssh" and not device.remote:
            raise ConfigError(
                f"{path}: tunnel: expected none, got ssh: {here.partition(': ')[2]} is on this machine; a tunnel "
                "needs devices that are all reached over SSH (name this machine by its address, with an SSH server "
                "on it)"
            )
    _check_ports(testbed.devices, path)
    return testbed


def _check_address(key: str, address: str, here: str) -> None:
    """Digits and dots are an address, and one that somebody can have."""
    if not re.fullmatch(r"[\d.]+", address):
        return
    try:
        unusable = ipaddress.IPv4Address(address).is_unspecified
    except ValueError:
        unusable = True
    if unusable:
        raise ConfigError(f"{here}.{key}: expected the IPv4 address of one machine, got {address!r}")


def _check_remote(device: Device, here: str) -> None:
    """What can be known of a remote device without reaching it."""
    if device.key is None:
        return
    try:
        key = expanded(device.key)
    except ConfigError as exc:
        raise ConfigError(f"{here}.key: {exc}") from exc
    if not key.is_file():
        raise ConfigError(
            f"{here}.key: expected the path of a private key, got {device.key!r}, where there is no file: make one "
            f"with `ssh-keygen -t ed25519 -f {device.key}` and take it to the device with `ssh-copy-id`, or leave "
            "`key` out to use those of the agent and of ~/.ssh"
        )
    if key.suffix == ".pub":
        raise ConfigError(f"{here}.key: expected the private key, got {device.key!r}, the public one")


def _check_local(device: Device, here: str, alone: bool) -> None:
    for name in ONLY_REMOTE:
        if getattr(device, name) is not None:
            raise ConfigError(
                f"{here}.{name}: expected only with the host of another machine, got {getattr(device, name)!r} with "
                f"host {device.host!r}"
            )
    if not alone and device.data_address.lower() in LOCAL_HOSTS:
        raise ConfigError(
            f"{here}.data_host: expected the address by which the other devices reach this machine, got "
            f"{device.data_address!r}: `ip -4 address` lists this machine's"
        )
    available = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    if isinstance(device.cores, list) and available and not set(device.cores) <= available:
        raise ConfigError(
            f"{here}.cores: expected some of {sorted(available)}, got {device.cores}: "
            "this process may not use the others"
        )


def _check_ports(devices: list[Device], path: Path) -> None:
    taken: dict[tuple[str, int], str] = {}
    for i, device in enumerate(devices):
        port, here = device.data_port, f"devices[{i}].data_port"
        other = taken.setdefault((device.data_address.lower(), port), here) if port else here
        if other != here:
            raise ConfigError(f"{path}: {here}: port {port} of {device.data_address} is taken by {other}")


def assign_cores(devices: list[Device]) -> list[tuple[int, ...]]:
    """The cores of each device, in order; on this machine `auto` deals out what is left, `threads` to a device.

    Where cores run out they are dealt again from the start, so devices then share a core; the
    records show it. An empty tuple means that the worker stays where the system puts it: `auto` on
    a remote device, or a system that cannot pin processes.
    """
    if not hasattr(os, "sched_getaffinity"):
        return [() for _ in devices]
    taken = {core for device in devices if not device.remote and device.cores != "auto" for core in device.cores}
    available = sorted(os.sched_getaffinity(0))
    free = [core for core in available if core not in taken] or available
    assigned: list[tuple[int, ...]] = []
    position = 0
    for device in devices:
        if device.cores == "auto" and device.remote:
            assigned.append(())
        elif device.cores == "auto":
            count = min(device.threads, len(free))
            assigned.append(tuple(sorted(free[(position + i) % len(free)] for i in range(count))))
            position += count
        else:
            assigned.append(tuple(device.cores))
    return assigned
