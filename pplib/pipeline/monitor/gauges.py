"""The gauges a monitor reads: each turns one source into fields of `Usage`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import psutil

from pplib.pipeline.monitor.sources import (
    SYS,
    Command,
    Gpu,
    Unreadable,
    own_cores,
    read_int,
    read_text,
    vcgencmd,
)

CPU_ZONES = ("x86_pkg_temp", "cpu", "soc")
TICKS_S = 0.2  # the kernel counts CPU time in ticks of up to 10 ms: below this, shares are noise
# Bits of get_throttled; each again 16 bits higher: "has been so".
# Source: Raspberry Pi documentation, vcgencmd get_throttled.
THROTTLE_BITS = {0: "under_voltage", 1: "frequency_capped", 2: "throttled", 3: "soft_temperature_limit"}


class Gauge(Protocol):
    """One source; any exception from it drops it from the trial."""

    name: str

    def start(self) -> None:
        """Begin the interval."""

    def sample(self) -> None:
        """Called now and then in between, from one other thread; must be cheap."""

    def finish(self, duration_s: float) -> dict[str, Any]:
        """End the interval: the fields of `Usage` it knows."""


class CoreGauge:
    """Busy share of each core, and what was lost to other guests of the host of those that this process may use: ticks
    counted by the kernel, read at both ends only.
    """

    name = "cores"

    def __init__(
        self,
        read: Callable[[], Sequence[Any]] = lambda: psutil.cpu_times(percpu=True),
        cores: Callable[[], Iterable[int]] = own_cores,
    ) -> None:
        self._read, self._cores = read, cores

    def start(self) -> None:
        """Read all cores."""
        self._before = self._read()

    def sample(self) -> None:
        """Nothing: the kernel counts."""

    def finish(self, duration_s: float) -> dict[str, Any]:
        """`cpu_fraction_by_core` and `steal_fraction`."""
        after = self._read()
        if duration_s < TICKS_S:
            raise Unreadable(f"{duration_s:.3f} s is too short for the kernel's ticks")
        if len(after) != len(self._before):
            raise Unreadable(f"{len(self._before)} cores became {len(after)}")
        shares = [_shares(b, a) for b, a in zip(self._before, after, strict=True)]
        lost = [shares[i][1] for i in self._cores() if i < len(shares)]
        steal = sum(lost) / len(lost) if lost and hasattr(after[0], "steal") else None
        return {"cpu_fraction_by_core": [busy for busy, _ in shares], "steal_fraction": steal}


def _shares(before: Any, after: Any) -> tuple[float, float]:
    """What share of the time a core was busy, and what share another guest had it."""
    # guest time is in user time already; a counter may step back a tick
    spent: dict[str, float] = {
        key: max(0.0, getattr(after, key) - getattr(before, key))
        for key in ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
        if hasattr(after, key)
    }
    total = sum(spent.values())
    if total == 0:
        raise Unreadable("a core counted no time")
    waited = spent["idle"] + spent.get("iowait", 0.0) + spent.get("steal", 0.0)
    return 1.0 - waited / total, spent.get("steal", 0.0) / total


class ProcessGauge:
    """CPU time and resident memory of this process."""

    name = "process"

    def __init__(self, resident: Callable[[], int] | None = None) -> None:
        process = psutil.Process()
        self._resident = resident or (lambda: int(process.memory_info().rss))

    def start(self) -> None:
        """Read both."""
        self._seen_bytes: list[int] = [self._resident()]
        self._cpu_s = time.process_time()

    def sample(self) -> None:
        """Read memory."""
        self._seen_bytes.append(self._resident())

    def finish(self, duration_s: float) -> dict[str, Any]:
        """`process_cpu_fraction`, `resident_peak_bytes`, `resident_mean_bytes`."""
        cpu_s = time.process_time() - self._cpu_s
        self.sample()
        return {
            "process_cpu_fraction": cpu_s / duration_s,
            "resident_peak_bytes": max(self._seen_bytes),
            "resident_mean_bytes": sum(self._seen_bytes) / len(self._seen_bytes),
        }


class NetworkGauge:
    """Bytes over one interface of this process's network namespace, read at both ends only."""

    name = "network"

    def __init__(
        self, interface: str | None, read: Callable[[], Any] = lambda: psutil.net_io_counters(pernic=True)
    ) -> None:
        self._interface, self._read = interface, read

    def start(self) -> None:
        """Read the counters."""
        self._before = self._counters()

    def sample(self) -> None:
        """Nothing: the kernel counts."""

    def finish(self, duration_s: float) -> dict[str, Any]:
        """`received_bytes` and `sent_bytes`."""
        after = self._counters()
        received, sent = after.bytes_recv - self._before.bytes_recv, after.bytes_sent - self._before.bytes_sent
        if received < 0 or sent < 0:
            raise Unreadable(f"the counters of {self._interface} were reset")
        return {"interface": self._interface, "received_bytes": received, "sent_bytes": sent}

    def _counters(self) -> Any:
        if self._interface is None:
            raise Unreadable("no interface was named")
        known = self._read()
        if self._interface not in known:
            raise Unreadable(f"no interface {self._interface!r}: there are {', '.join(sorted(known)) or 'none'}")
        return known[self._interface]


class TemperatureGauge:
    """The hottest thermal zone that says it is the CPU's."""

    name = "temperature"

    def __init__(self, root: Path = SYS) -> None:
        self._root = root

    def start(self) -> None:
        """Find the zones and read them."""
        zones = sorted((self._root / "class" / "thermal").glob("thermal_zone*"))
        self._zones = [zone for zone in zones if read_text(zone / "type").lower().startswith(CPU_ZONES)]
        if not self._zones:
            raise Unreadable("no thermal zone of the CPU")
        self._peak_c = -273.15
        self.sample()

    def sample(self) -> None:
        """Read them again."""
        self._peak_c = max(self._peak_c, *(read_int(zone / "temp") * 1e-3 for zone in self._zones))

    def finish(self, duration_s: float) -> dict[str, Any]:
        """`temperature_c`."""
        self.sample()
        return {"temperature_c": self._peak_c}


class ThrottleGauge:
    """Throttling of a Raspberry Pi: the kernel's file at every sample, else the firmware at both ends.

    A flag was on during the interval if it is seen on, or if its "has been so" bit appears. The kernel
    renews its file every 2 s.
    """

    name = "throttling"

    def __init__(self, root: Path = SYS, command: Command = vcgencmd) -> None:
        self._root, self._command = root, command

    def start(self) -> None:
        """Find the file and read it."""
        places = self._root / "devices" / "platform"
        found = [*places.glob("*firmware/get_throttled"), *places.glob("*/*firmware/get_throttled")]
        self._file = found[0] if found else None
        self._before = self._seen = self._read()

    def sample(self) -> None:
        """Read the file, if there is one: the firmware costs a process."""
        if self._file is not None:
            self._seen |= self._read()

    def finish(self, duration_s: float) -> dict[str, Any]:
        """`throttled` and `throttle_flags`."""
        self._seen |= self._read()
        appeared = (self._seen & ~self._before) >> 16
        on = {name for bit, name in THROTTLE_BITS.items() if (self._seen | appeared) >> bit & 1}
        throttled: bool | None = bool(on - {"under_voltage"})
        if not throttled and self._file is None and self._before >> 17 & 0b111:
            throttled = None  # it has been so before, and nobody looked in between
        return {"throttled": throttled, "throttle_flags": sorted(on)}

    def _read(self) -> int:
        if self._file is not None:
            return read_int(self._file, 16)
        answer = self._command("get_throttled")
        try:
            return int(answer.partition("=")[2], 16)
        except ValueError:
            raise Unreadable(f"get_throttled: expected throttled=0x..., got {answer.strip()[:40]!r}") from None


class GpuGauge:
    """Utilisation, memory and power of one GPU, by NVML."""

    name = "gpu"

    def __init__(self, open_: Callable[[], Gpu]) -> None:
        self._open = open_

    def start(self) -> None:
        """Find the GPU; what it tells now is of the time before, and only memory counts."""
        self._gpu = self._open()
        self._fractions: list[float] = []
        self._powers_w: list[float] = []
        self._peak_bytes = 0
        self.sample()
        self._fractions.clear()
        self._powers_w.clear()

    def sample(self) -> None:
        """Read all three; a GPU without a power reading has none."""
        nvml, handle, _ = self._gpu
        self._fractions.append(nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100)
        self._peak_bytes = max(self._peak_bytes, int(nvml.nvmlDeviceGetMemoryInfo(handle).used))
        try:
            self._powers_w.append(nvml.nvmlDeviceGetPowerUsage(handle) * 1e-3)
        except nvml.NVMLError:
            self._powers_w.clear()

    def finish(self, duration_s: float) -> dict[str, Any]:
        """`gpu_fraction`, `gpu_memory_bytes`, `gpu_power_w`."""
        self.sample()
        return {
            "gpu_fraction": sum(self._fractions) / len(self._fractions),
            "gpu_memory_bytes": self._peak_bytes,
            "gpu_power_w": sum(self._powers_w) / len(self._powers_w) if self._powers_w else None,
        }
