"""The devices of a testbed: one YAML file, one entry per device, in pipeline order."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from pplib.decode import decode, read_yaml
from pplib.errors import ConfigError

Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
LOCAL_HOSTS = ("127.0.0.1", "localhost")


class Device(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One device and the worker on it.

    `cores: auto` gives each local device cores of its own while there are enough. `slowdown` > 1
    makes the worker sleep after each stage, so that this machine stands in for a slower one; such
    results are marked `emulated` everywhere. `prefetch` bounds how many received microbatches may
    wait for the stage (default: as many as are in flight). `interface` is the one whose traffic is
    counted. `idle_w` and `busy_w` estimate energy where the device has no meter; such figures are
    marked as estimated.
    """

    name: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")]
    host: str = "127.0.0.1"
    control_port: Port = 0
    data_port: Port = 0
    torch_device: Annotated[str, msgspec.Meta(pattern=r"^(cpu|cuda(:\d+)?)$")] = "cpu"
    threads: Annotated[int, msgspec.Meta(ge=1)] = 1
    cores: Literal["auto"] | list[Annotated[int, msgspec.Meta(ge=0)]] = "auto"
    slowdown: Annotated[float, msgspec.Meta(ge=1)] = 1.0
    rpc_threads: Annotated[int, msgspec.Meta(ge=1)] = 4
    prefetch: Annotated[int, msgspec.Meta(ge=0)] | None = None
    interface: str | None = None
    idle_w: Annotated[float, msgspec.Meta(ge=0)] | None = None
    busy_w: Annotated[float, msgspec.Meta(ge=0)] | None = None

    @property
    def emulated(self) -> bool:
        """Whether this device's speed is pretended."""
        return self.slowdown > 1


class Testbed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of a device file.

    `ready_timeout_s` bounds the wait for a worker's first answer. `link_engine` is what emulates a
    link between devices on this machine: `tc` is the kernel's own, `userspace` a small process that
    passes the packets on, and `auto` the kernel's where it can do what the link asks for.
    """

    __test__ = False  # not a test class, whatever pytest thinks of its name

    devices: Annotated[list[Device], msgspec.Meta(min_length=2)]
    ready_timeout_s: Annotated[float, msgspec.Meta(gt=0)] = 60.0
    link_engine: Literal["auto", "tc", "userspace"] = "auto"

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
    names = [device.name for device in testbed.devices]
    for i, device in enumerate(testbed.devices):
        here = f"{path}: devices[{i}]"
        if names.index(device.name) != i:
            raise ConfigError(f"{here}.name: {device.name!r} is taken by devices[{names.index(device.name)}]")
        if device.host not in LOCAL_HOSTS:
            raise ConfigError(
                f"{here}.host: expected {' or '.join(LOCAL_HOSTS)}, got {device.host!r}: this version starts "
                "workers on this machine only"
            )
        if (device.idle_w is None) != (device.busy_w is None) or (device.busy_w or 0) < (device.idle_w or 0):
            raise ConfigError(
                f"{here}: expected both idle_w and busy_w with idle_w <= busy_w, or neither, got "
                f"{device.idle_w} and {device.busy_w}"
            )
        available = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
        if isinstance(device.cores, list) and available and not set(device.cores) <= available:
            raise ConfigError(
                f"{here}.cores: expected some of {sorted(available)}, got {device.cores}: "
                "this process may not use the others"
            )
    return testbed


def assign_cores(devices: list[Device]) -> list[tuple[int, ...]]:
    """The cores of each device, in order; `auto` deals out what is left, `threads` to a device.

    Where cores run out they are dealt again from the start, so devices then share a core; the
    records show it. An empty tuple means that this system cannot pin processes.
    """
    if not hasattr(os, "sched_getaffinity"):
        return [() for _ in devices]
    taken = {core for device in devices if device.cores != "auto" for core in device.cores}
    available = sorted(os.sched_getaffinity(0))
    free = [core for core in available if core not in taken] or available
    assigned, position = [], 0
    for device in devices:
        if device.cores == "auto":
            count = min(device.threads, len(free))
            assigned.append(tuple(sorted(free[(position + i) % len(free)] for i in range(count))))
            position += count
        else:
            assigned.append(tuple(device.cores))
    return assigned
