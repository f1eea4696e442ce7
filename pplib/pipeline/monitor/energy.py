"""Energy over one interval: a GPU's counter, RAPL, a Raspberry Pi's PMIC; else an estimate, marked as one."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import msgspec

from pplib.pipeline.monitor.sources import SYS, Command, Gpu, Unreadable, read_int, read_text, vcgencmd

MIN_POWER_SAMPLES = 3
PMIC_PERIOD_S = 0.5
PMIC_LINE = re.compile(r"^\s*(\w+)_([AV])\s+(?:current|volt)\(\d+\)=([0-9.]+)[AV]\s*$", re.MULTILINE)


class EnergyReading(msgspec.Struct, frozen=True, kw_only=True):
    """Joules over an interval; `scope` is what the meter covers, the same for all who read that meter."""

    joules: float
    source: str
    estimated: bool
    scope: str


class EnergyMeter(Protocol):
    """Reads energy from `start` to `stop`; each method raises `Unreadable` where it cannot."""

    name: str

    def start(self) -> None:
        """Begin the interval."""

    def sample(self) -> None:
        """Called now and then in between, from one other thread."""

    def stop(self) -> EnergyReading:
        """End the interval; no `sample` runs then."""


class PowerIntegral:
    """Joules from sampled watts: straight lines between samples, the outer ones held to the ends.

    Source: trapezoidal rule; below `MIN_POWER_SAMPLES` we say nothing, for one or two readings of a
    pipeline that works in bursts tell little.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock

    def start(self) -> None:
        """Begin the interval."""
        self._start_s = self.clock()
        self._samples: list[tuple[float, float]] = []

    def add(self, watts: float) -> None:
        """One sample, taken now."""
        self._samples.append((self.clock(), watts))

    def stop(self) -> float:
        """Joules since `start`.

        Raises:
            Unreadable: too few samples.
        """
        end_s, samples = self.clock(), self._samples
        if len(samples) < MIN_POWER_SAMPLES:
            raise Unreadable(
                f"{len(samples)} power samples in {end_s - self._start_s:.2f} s, expected at least "
                f"{MIN_POWER_SAMPLES}: measure more microbatches"
            )
        line = [(self._start_s, samples[0][1]), *samples, (end_s, samples[-1][1])]
        return sum((t1 - t0) * (w0 + w1) / 2 for (t0, w0), (t1, w1) in pairwise(line))


class NvmlEnergy:
    """One whole GPU, without its host: NVML's energy counter, or its power, sampled, on GPUs older than Volta."""

    name = "nvml"

    def __init__(self, gpu: Gpu, clock: Callable[[], float] = time.monotonic) -> None:
        self._gpu, self._power = gpu, PowerIntegral(clock)
        self._start_mj: int | None = None

    def start(self) -> None:
        """Read the counter; where there is none, see whether power can be read."""
        nvml = self._gpu.nvml
        self._power.start()
        try:
            self._start_mj = nvml.nvmlDeviceGetTotalEnergyConsumption(self._gpu.handle)
        except nvml.NVMLError:
            self._start_mj = None
            self._watts()

    def sample(self) -> None:
        """One reading of power, where there is no counter."""
        if self._start_mj is None:
            self._power.add(self._watts())

    def stop(self) -> EnergyReading:
        """The counter's difference, or the integral of power."""
        scope = f"gpu {self._gpu.uuid}"
        if self._start_mj is None:
            return EnergyReading(joules=self._power.stop(), source="nvml_power", estimated=False, scope=scope)
        try:
            used_mj = self._gpu.nvml.nvmlDeviceGetTotalEnergyConsumption(self._gpu.handle) - self._start_mj
        except self._gpu.nvml.NVMLError as exc:
            raise Unreadable(f"energy counter: {exc}") from exc
        if used_mj <= 0:
            raise Unreadable(f"energy counter: moved by {used_mj} mJ: the interval is too short, or it was reset")
        return EnergyReading(joules=used_mj * 1e-3, source="nvml_counter", estimated=False, scope=scope)

    def _watts(self) -> float:
        try:
            return float(self._gpu.nvml.nvmlDeviceGetPowerUsage(self._gpu.handle)) * 1e-3
        except self._gpu.nvml.NVMLError as exc:
            raise Unreadable(f"power: {exc}") from exc


class RaplEnergy:
    """All CPU packages of the machine and their memory (`dram` zones where there are), by RAPL's counters.

    A counter wraps (after minutes to hours, by load): every sample adds what came since the last, so
    one wrap between two samples is counted right. Since 2020 only root may read it by default.

    Args:
        root: the powercap class folder.

    Source: Linux, Documentation/power/powercap/powercap.rst.
    """

    name = "rapl"

    def __init__(self, root: Path = SYS / "class" / "powercap") -> None:
        self._root = root

    def start(self) -> None:
        """Find the zones and read each counter."""
        zones = [zone for zone in sorted(self._root.glob("intel-rapl:*")) if _counts(zone)]
        if not zones:
            raise Unreadable(f"{self._root}: no RAPL package zone")
        self._ranges_uj = {zone: read_int(zone / "max_energy_range_uj") for zone in zones}
        self._last_uj = {zone: read_int(zone / "energy_uj") for zone in zones}
        self._used_uj = 0

    def sample(self) -> None:
        """Add what each zone used since the last time."""
        for zone, last_uj in self._last_uj.items():
            now_uj = read_int(zone / "energy_uj")
            self._used_uj += now_uj - last_uj if now_uj >= last_uj else now_uj + self._ranges_uj[zone] - last_uj
            self._last_uj[zone] = now_uj

    def stop(self) -> EnergyReading:
        """The sum over all zones."""
        self.sample()
        if self._used_uj <= 0:
            raise Unreadable("the counters did not move")
        return EnergyReading(joules=self._used_uj * 1e-6, source="rapl", estimated=False, scope="package")


def _counts(zone: Path) -> bool:
    """Packages and memory; cores and uncore are parts of a package, psys contains it."""
    name = read_text(zone / "name")
    return name.startswith("package") or name == "dram"


class PmicEnergy:
    """The supply rails of a Raspberry Pi 5: volts times amps of each, sampled and integrated.

    Not in it: losses of the converters before the rails, and what USB devices and HATs draw from 5 V.
    Asking costs a process, so it is asked every `PMIC_PERIOD_S` at most.

    Args:
        command: answers a vcgencmd question.
        clock: monotonic seconds.
    """

    name = "pmic"

    def __init__(self, command: Command = vcgencmd, clock: Callable[[], float] = time.monotonic) -> None:
        self._command, self._power = command, PowerIntegral(clock)

    def start(self) -> None:
        """See whether this board answers."""
        pmic_power_w(self._command("pmic_read_adc"))
        self._power.start()
        self._next_s = self._power.clock()

    def sample(self) -> None:
        """One reading of all rails, unless the last was just now."""
        now_s = self._power.clock()
        if now_s >= self._next_s:
            self._next_s = now_s + PMIC_PERIOD_S
            self._power.add(pmic_power_w(self._command("pmic_read_adc")))

    def stop(self) -> EnergyReading:
        """The integral of the rails' power."""
        return EnergyReading(joules=self._power.stop(), source="pmic", estimated=False, scope="board")


def pmic_power_w(answer: str) -> float:
    """The power of all rails that tell both current and voltage.

    Args:
        answer: what `vcgencmd pmic_read_adc` printed.

    Raises:
        Unreadable: no such rail, as on every board before the Raspberry Pi 5.

    >>> pmic_power_w("  HDMI_A current(22)=0.5A\\n  HDMI_V volt(23)=5.0V\\n EXT5V_V volt(24)=5.1V")
    2.5
    """
    rails: dict[str, dict[str, float]] = {}
    for rail, unit, value in PMIC_LINE.findall(answer):
        rails.setdefault(rail, {})[unit] = float(value)
    powers_w = [rail["A"] * rail["V"] for rail in rails.values() if len(rail) == 2]
    if not powers_w:
        raise Unreadable(f"pmic_read_adc: no rail with current and voltage in {answer.strip()[:60]!r}")
    return sum(powers_w)


def estimated_energy(idle_w: float, busy_w: float, duration_s: float, busy_s: float) -> EnergyReading:
    """What a device should have used by its device file: idle power always, the rest while busy.

    Args:
        idle_w: power of the waiting device.
        busy_w: power of the computing device.
        duration_s: the whole interval.
        busy_s: how much of it was compute (more than all of it counts as all).

    >>> estimated_energy(2.0, 6.0, 10.0, 5.0).joules
    40.0
    """
    joules = idle_w * duration_s + (busy_w - idle_w) * min(busy_s, duration_s)
    return EnergyReading(joules=joules, source="device_file", estimated=True, scope="device")
