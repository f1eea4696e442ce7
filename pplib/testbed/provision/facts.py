"""What can be learned of a device without any of our code on it."""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from pplib import limits
from pplib.errors import TransportError, WorkerError
from pplib.runtimes import NAMES, runtime
from pplib.testbed.shipping.our_code import python_command
from pplib.testbed.ssh.endings import died, ending
from pplib.testbed.ssh.machine import Machine
from pplib.testbed.ssh.parallel import for_each

T = TypeVar("T")
HERE = Path(__file__).resolve().parent
HOP_DURATION_S = 1.5

# In a network of its own, so that nothing that is in use is touched.
_QDISCS = """command -v tc >/dev/null || { echo no-tc; exit; }
tc qdisc add dev lo root netem delay 1ms && echo netem; tc qdisc del dev lo root 2>/dev/null
tc qdisc add dev lo root tbf rate 1mbit burst 10kb latency 50ms && echo tbf"""


class Module(msgspec.Struct, frozen=True):
    """A module's version, or why it cannot be imported."""

    version: str
    error: str


class GpuFacts(msgspec.Struct, frozen=True):
    """The GPU's name, or why it cannot be used; both empty for the CPU."""

    name: str
    error: str


class Facts(msgspec.Struct, frozen=True):
    """What `facts_script.py` says."""

    python: str
    executable: str
    machine: str
    torch: Module
    torchvision: Module
    gpu: GpuFacts
    runtimes: dict[str, str]
    cores: list[int]
    memory_bytes: int
    available_bytes: int
    free_disk_bytes: int
    addresses: list[tuple[str, str]]


class ClockFacts(msgspec.Struct, frozen=True):
    """How far a device's date is ahead of ours, in seconds, and the bound of the error of this figure."""

    offset_s: float
    error_s: float


class Hop(msgspec.Struct, frozen=True):
    """A hop as TCP finds it: the shortest of some round trips of one byte, and the rate one way."""

    rtt_s: float
    goodput_bit_s: float


class _Trip(msgspec.Struct):
    rtt_s: float


class _Rate(msgspec.Struct):
    goodput_bit_s: float


def facts_of(machine: Machine) -> Facts:
    """Run `facts_script.py` there, with the Python of its workers, or with another where that is missing.

    Raises:
        TransportError: it cannot be run, or says something else.
    """
    packages = {name: runtime(name).PACKAGES for name in NAMES}
    request = {"torch_device": machine.device.torch_device, "runtimes": packages}
    return _ask(machine, "facts_script.py", msgspec.json.encode(request) + b"\n", limits.FACTS_S, Facts)


def clock_of(machine: Machine) -> ClockFacts:
    """Compare its date with ours: the best of three questions.

    Raises:
        TransportError: it cannot be asked.
    """
    found = []
    for _ in range(3):
        before = time.time()
        said = machine.run(["date", "+%s.%N"], check=True).stdout
        after = time.time()
        found.append(ClockFacts(float(said) - (before + after) / 2, (after - before) / 2))
    return min(found, key=lambda clock: clock.error_s)


def qdiscs_of(machine: Machine) -> tuple[set[str], str]:
    """Which of netem and tbf its kernel has, and what was said where not both."""
    done = machine.as_root(["unshare", "--net", "sh", "-c", _QDISCS])
    return set(done.stdout.split()), " ".join(done.stderr.split())


def measure_hop(source: Machine, sink: Machine, address: str) -> Hop:
    """Send from one device to the other for about a second and a half, to its data port where that is fixed.

    Args:
        source: the device that connects.
        sink: the device that listens, on `address`.
        address: an IPv4 address of the sink.

    Raises:
        TransportError: they do not reach each other; the message tells what each of them says.
    """
    port = sink.device.data_port or 20_000 + secrets.randbelow(12_000)
    request = {"address": address, "port": port, "secret": secrets.token_hex(32), "limit_s": limits.HOP_S / 2}

    def ask(machine: Machine, role: str, kind: type[_Trip] | type[_Rate]) -> _Trip | _Rate:
        values = {**request, "role": role, "duration_s": HOP_DURATION_S}
        return _ask(machine, "hop_script.py", msgspec.json.encode(values) + b"\n", limits.HOP_S, kind)

    asking: list[Callable[[], _Trip | _Rate]] = [
        lambda: ask(sink, "sink", _Rate),
        lambda: ask(source, "source", _Trip),
    ]
    rate, trip = for_each(asking, lambda one: one(), 2 * limits.HOP_S)
    if isinstance(rate, _Rate) and isinstance(trip, _Trip):
        return Hop(trip.rtt_s, rate.goodput_bit_s)
    said = " and ".join(str(one) for one in (trip, rate) if isinstance(one, TransportError | WorkerError))
    raise TransportError(f"{source.name} does not reach {sink.name} at {address}:{port}: {said}")


def _ask(machine: Machine, script: str, request: bytes, limit_s: float, kind: type[T]) -> T:
    words = ["-c", (HERE / script).read_text()]
    command = (
        python_command(machine.device, words, fallback=True) if machine.device.remote else [sys.executable, *words]
    )
    done = machine.run(command, stdin=request, timeout_s=limit_s)
    if done.returncode == 127:
        raise TransportError(f"{machine.name}: there is no Python: install python3 and python3-venv")
    if done.returncode:
        said = [ending(done.returncode)] if died(done.returncode) else []
        said += [" ".join(done.stderr.split())[-300:]] if done.stderr.strip() else []
        raise TransportError(f"{machine.name}: {'; '.join(said) or 'the probe failed silently'}")
    try:
        return msgspec.json.decode(done.stdout, type=kind)
    except msgspec.DecodeError as exc:
        raise TransportError(
            f"{machine.name}: said something that is no answer ({exc}): {done.stdout[:200]!r}"
        ) from exc
