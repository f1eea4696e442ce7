"""What is wrong with a testbed, and what to do about it: facts judged, row by row."""

from __future__ import annotations

import ipaddress
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pplib import limits
from pplib.devices import Device, Testbed
from pplib.errors import ConfigError, ParetoPipeError, TransportError, WorkerError
from pplib.runtimes import EAGER, runtime
from pplib.testbed.emulation.namespaces import choose_engine
from pplib.testbed.provision.facts import ClockFacts, Facts, Hop, clock_of, facts_of, measure_hop, qdiscs_of
from pplib.testbed.provision.findings import CheckReport, Finding
from pplib.testbed.provision.needs import Needs
from pplib.testbed.provision.status import Status, status_of
from pplib.testbed.provision.torch_builds import ARM64_CPU, choose, unfit
from pplib.testbed.shipping.our_code import our_code, python_path
from pplib.testbed.ssh.config import resolve
from pplib.testbed.ssh.device import SshDevice
from pplib.testbed.ssh.machine import Machine, ThisMachine, machine_of
from pplib.testbed.ssh.parallel import for_each

CLOCK_S = 60.0
LITTLE_MEMORY_BYTES, LITTLE_DISK_BYTES = 500e6, 1e9
LITTLE_TOTAL_BYTES = 1e9  # of a Pi with 1 GB, Linux shows less than this
R = TypeVar("R")


@dataclass
class _Gathered:
    machine: Machine
    connect_s: float
    clock: ClockFacts
    facts: Facts | ParetoPipeError
    status: Status | None
    qdiscs: tuple[set[str], str]
    address: str | ParetoPipeError
    forbidden: str = ""


def check(
    testbed: Testbed,
    needs: Mapping[str, Needs] = {},
    device_s: float = limits.CHECK_DEVICE_S,
) -> CheckReport:
    """Look at every device at once, then at every hop in turn.

    Args:
        testbed: the devices.
        needs: of each device, by its name; where nothing is told, eager PyTorch.
        device_s: how long all devices together may take; one that takes longer is a finding, no error.
    """
    machines = [machine_of(device) for device in testbed.devices]
    gathered = for_each(machines, _gather, device_s)
    try:
        findings = {
            machine.name: _judge(one, needs.get(machine.name, Needs()))
            if isinstance(one, _Gathered)
            else [_unreachable(one)]
            for machine, one in zip(machines, gathered, strict=True)
        }
        for one, other in itertools.pairwise(gathered):
            if isinstance(one, _Gathered) and isinstance(other, _Gathered):
                findings[one.machine.name].append(_hop(one, other))
    finally:
        for_each(machines, lambda machine: machine.close(), 5.0)
    if not any(device.remote for device in testbed.devices):
        for own in findings.values():
            own[:] = [_emulation(testbed) if one.row == "shaping" else one for one in own]
    _compare_torch(findings, [one for one in gathered if isinstance(one, _Gathered)])
    return CheckReport(findings)


def _gather(machine: Machine) -> _Gathered:
    start = time.monotonic()
    machine.open()
    connect_s = time.monotonic() - start
    return _Gathered(
        machine=machine,
        connect_s=connect_s,
        clock=ClockFacts(0.0, 0.0) if isinstance(machine, ThisMachine) else clock_of(machine),
        facts=_or_error(lambda: facts_of(machine)),
        status=status_of(machine) if isinstance(machine, SshDevice) else None,
        qdiscs=qdiscs_of(machine),
        address=_or_error(lambda: resolve(machine.device)),
        forbidden=machine.forwarding_forbidden() if isinstance(machine, SshDevice) else "",
    )


def _or_error(ask: Callable[[], R]) -> R | ParetoPipeError:
    try:
        return ask()
    except (TransportError, ConfigError) as exc:
        return exc


def _unreachable(error: ParetoPipeError) -> Finding:
    said = str(error).partition(": ")[2]
    if isinstance(error, WorkerError):  # it was still at it when its time was over
        return Finding("reachable", "fail", "hangs", f"{said}: it answers, but not to the end: is it overloaded?")
    return Finding("reachable", "fail", "no", said)


def _judge(one: _Gathered, needs: Needs) -> list[Finding]:
    device, facts = one.machine.device, one.facts
    where = f"{device.host}, {one.connect_s * 1e3:.0f} ms" if device.remote else "this machine"
    found = [Finding("reachable", "ok", where), _clock(one.clock), _shaping(device, *one.qdiscs)]
    if one.forbidden:
        found[0] = Finding("reachable", "fail", "no forwarding", one.forbidden.partition(": ")[2])
    if isinstance(facts, Facts):
        found += [_python(device, facts, one.status), *_resources(device, facts)]
        found += [_torch(device, facts, needs), _runtimes(device, facts, needs)]
        found.append(_data(device, facts, one.address))
    else:
        found.append(Finding("Python", "fail", "no", str(facts).partition(": ")[2]))
    found.append(_code(one.status))
    return found


def _python(device: Device, facts: Facts, status: Status | None) -> Finding:
    version = tuple(int(part) for part in facts.python.split(".")[:2])
    if status is not None and device.python is None and (reason := unfit(status.system, *choose([status.system]))):
        return Finding("Python", "fail", f"{facts.python}, no environment", reason)
    if status is not None and not status.python:
        advice = (
            "run `setup`"
            if device.python is None
            else f"there is no {device.python}: correct `python`, or leave it out"
        )
        return Finding("Python", "fail", f"no {python_path(device)}", advice)
    if version < (3, 11):
        return Finding(
            "Python", "fail", facts.python, "Python 3.11 or newer is needed: Raspberry Pi OS 12 and 13 have it"
        )
    return Finding("Python", "ok", facts.python)


def _runtimes(device: Device, facts: Facts, needs: Needs) -> Finding:
    has = ", ".join(f"{name} {version}" for name, version in facts.runtimes.items()) or "none"
    lacking = [name for name in needs.runtimes if name not in facts.runtimes and name != EAGER]
    if not lacking:
        return Finding("runtimes", "ok", has)
    packages = " ".join(runtime(name).PACKAGES[0] for name in lacking)
    by_hand = f"`{python_path(device)} -m pip install {packages}`"
    advice = by_hand if device.python or not device.remote else "run `setup` with the same file"
    return Finding("runtimes", "fail", has, f"the grid needs {', '.join(lacking)} there: {advice}")


def _torch(device: Device, facts: Facts, needs: Needs) -> Finding:
    needed = {module for name in needs.runtimes for module in runtime(name).MODULES}
    if "torch" not in needed and facts.torch.error:
        return Finding("torch", "ok", "none, none needed")
    for name, module in (("torch", facts.torch), ("torchvision", facts.torchvision)):
        if module.error and name in needed:
            advice = f"{name} cannot be imported ({module.error}): " + (
                f"install requirements-pi.txt there: `{python_path(device)} -m pip install -r requirements-pi.txt`"
                if device.python or not device.remote
                else "run `setup`"
            )
            others = [name for name in facts.runtimes if name != EAGER]
            if needs == Needs() and others:
                advice += f"; a grid of {', '.join(others)} needs none there: `check` it in place of the device file"
            return Finding("torch", "fail", f"no {name}", advice)
    if facts.gpu.error:
        advice = f"{device.torch_device} cannot be used ({facts.gpu.error}): correct `torch_device` or the GPU's driver"
        return Finding("torch", "fail", f"{facts.torch.version}, no {device.torch_device}", advice)
    return Finding("torch", "ok", ", ".join(word for word in (facts.torch.version, facts.gpu.name) if word))


def _code(status: Status | None) -> Finding:
    if status is None or status.code == our_code().hash:
        return Finding("code", "ok", our_code().hash[:8] if status else "this one")
    text = f"{status.code[:8]}, not {our_code().hash[:8]}" if status.code else f"no {our_code().hash[:8]}"
    return Finding("code", "fail", text, "it has not the code that runs here: run `setup`")


def _resources(device: Device, facts: Facts) -> list[Finding]:
    cores, count = Finding("cores", "ok", f"{len(facts.cores)}, {device.threads} threads"), len(facts.cores)
    wrong = sorted(set(device.cores) - set(facts.cores)) if isinstance(device.cores, list) else []
    if wrong:
        cores = Finding("cores", "fail", cores.text, f"`cores` names {wrong}; it has {facts.cores}")
    elif device.threads > count:
        advice = f"threads that share a core slow each other down: set `threads` to {count}"
        cores = Finding("cores", "warn", cores.text, advice)
    free, disk = facts.available_bytes, facts.free_disk_bytes
    memory_text = f"{free / 1e9:.1f} of {facts.memory_bytes / 1e9:.1f} GB free"
    advice = "a stage may not fit: end other programs, or give it fewer layers"
    memory = Finding("memory", "ok", memory_text)
    if free < LITTLE_MEMORY_BYTES:
        memory = Finding("memory", "warn", memory_text, advice)
    elif facts.memory_bytes < LITTLE_TOTAL_BYTES:
        memory = Finding("memory", "warn", memory_text, "less than 1 GB: PyTorch alone takes a third of it; keep to "
                         "small networks and batches, and to a system without a desktop")  # fmt: skip
    space = Finding("disk", "ok", f"{disk / 1e9:.1f} GB free")
    if disk < LITTLE_DISK_BYTES:
        space = Finding("disk", "warn", space.text, "weights and code may not fit: make room in the user's home")
    return [cores, memory, space]


def _clock(clock: ClockFacts) -> Finding:
    text = f"{clock.offset_s:+.3f} s, within {clock.error_s:.3f} s"
    if abs(clock.offset_s) > CLOCK_S:
        advice = "its date is wrong, and pip will not trust any server: `sudo timedatectl set-ntp true`"
        return Finding("clock", "warn", text, advice)
    return Finding("clock", "ok", text)


def _data(device: Device, facts: Facts, address: str | ParetoPipeError) -> Finding:
    if not isinstance(address, str):
        return Finding("data", "fail", "no address", f"{address}: set `data_host` to its address")
    has = [name for name, one in facts.addresses if one == address]
    if not has and ipaddress.ip_address(address).is_loopback:  # all of 127.0.0.0/8 is on lo, named there or not
        has = [name for name, one in facts.addresses if one == "127.0.0.1"]
    known = ", ".join(f"{one} on {name}" for name, one in facts.addresses if one != "127.0.0.1") or "none"
    if not has:
        advice = f"it has not the address {address} of `data_host` or `host`: set `data_host` to one it has: {known}"
        return Finding("data", "fail", address, advice)
    if device.interface is not None and device.interface not in has:
        advice = f"{address} is not on `interface` {device.interface}; it has {known}"
        return Finding("data", "fail", f"{address} on {has[0]}", advice)
    return Finding("data", "ok", f"{address} on {has[0]}")


def _shaping(device: Device, qdiscs: set[str], said: str) -> Finding:
    needed = "needed for shaped links only: "
    if {"netem", "tbf"} <= qdiscs:
        return Finding("shaping", "ok", "netem, tbf")
    if "no-tc" in qdiscs:
        return Finding("shaping", "warn", "no tc", f"{needed}install iproute2")
    if qdiscs:
        advice = "delay, jitter and loss need netem: `sudo modprobe sch_netem`, or install the kernel's extra modules"
        return Finding("shaping", "warn", " ".join(sorted(qdiscs)), f"{needed}{advice} ({said})")
    who = device.user or "the user"
    return Finding(
        "shaping",
        "warn",
        "no",
        f"{needed}root without a password: `sudo visudo`, `{who} ALL=(root) NOPASSWD: ALL` ({said})",
    )


def _emulation(testbed: Testbed) -> Finding:
    """Links between devices on this machine are emulated, and need no interface to be shaped."""
    try:
        return Finding("shaping", "ok", f"emulated by {choose_engine(testbed.link_engine)}")
    except ConfigError as exc:
        return Finding("shaping", "warn", "no", str(exc))


def _hop(one: _Gathered, other: _Gathered) -> Finding:
    if not isinstance(other.address, str):
        return Finding("next hop", "fail", "no address", f"{other.address}")
    try:
        hop: Hop = measure_hop(one.machine, other.machine, other.address)
    except TransportError as exc:
        advice = f"{exc}. A firewall? Fix the port with `data_port` and let it through; or another network? `data_host`"
        return Finding("next hop", "fail", "no way", advice)
    return Finding("next hop", "ok", f"{hop.rtt_s * 1e3:.2f} ms, {hop.goodput_bit_s / 1e6:.0f} Mbit/s")


def _compare_torch(findings: dict[str, list[Finding]], gathered: Sequence[_Gathered]) -> None:
    facts = [(one.machine.name, one.facts) for one in gathered if isinstance(one.facts, Facts)]
    versions = {name: one.torch.version.partition("+")[0] for name, one in facts if one.torch.version}
    if len(set(versions.values())) < 2:
        return
    said = ", ".join(f"{version} on {name}" for name, version in versions.items())
    for name in versions:
        own = findings[name]
        for i, finding in enumerate(own):
            if finding.row == "torch" and finding.level == "ok":
                advice = (
                    f"rpc and gloo need the same torch everywhere, and there is {said}; sockets do not mind. "
                    "`setup` gives all devices without `python` one version; for others, "
                    f"`pip install {' '.join(ARM64_CPU.constraints)}` in each environment is what every device can have"
                )
                own[i] = Finding("torch", "warn", finding.text, advice)
