"""The monitor of one device during one trial: a thread that samples, and costs less than 1 % of a core."""

from __future__ import annotations

import resource
import threading
import time
from collections.abc import Sequence
from typing import Any, Self

from pplib import limits
from pplib.pipeline.monitor.disturbance import SuspendGauge, SwapGauge
from pplib.pipeline.monitor.energy import (
    EnergyMeter,
    EnergyReading,
    NvmlEnergy,
    PmicEnergy,
    RaplEnergy,
    estimated_energy,
)
from pplib.pipeline.monitor.gauges import (
    CoreGauge,
    Gauge,
    GpuGauge,
    NetworkGauge,
    ProcessGauge,
    TemperatureGauge,
    ThrottleGauge,
)
from pplib.pipeline.monitor.sources import Unreadable, open_gpu
from pplib.pipeline.monitor.usage import Usage
from pplib.pipeline.process.threads import Companion

COST_LIMIT = 0.005


class Monitor:
    """Watches this process and its machine from entering to leaving a `with` block.

    The sampling thread keeps its own CPU time, and that of programs it runs, below `COST_LIMIT` of
    the interval: where a sample costs more, it samples less often. Nothing that a source does ends
    the trial: one that fails is left out, and `notes` say why.

    Args:
        interval_s: time between samples, or more.
        interface: whose bytes to count; None counts none.
        torch_device: `cpu`, or the GPU to watch.
        idle_w, busy_w: the device's power by its device file, for an estimate where nothing measures.
        emulated: this machine stands in for another, so only an estimate can tell that one's energy.
        gauges, meters: in place of the device's own; the first meter that starts is used.

    Attributes:
        samples: how often it has sampled by now, apart from both ends.

    Source: of GPU energy only NVML is asked, for RAPL and PMIC do not cover a GPU.

    >>> with Monitor() as monitor:
    ...     total = sum(range(1000))
    >>> monitor.usage().monitor_cost < 1
    True
    """

    def __init__(
        self,
        interval_s: float = 0.25,
        interface: str | None = None,
        torch_device: str = "cpu",
        idle_w: float | None = None,
        busy_w: float | None = None,
        *,
        emulated: bool = False,
        gauges: Sequence[Gauge] | None = None,
        meters: Sequence[EnergyMeter] | None = None,
    ) -> None:
        self._interval_s, self._powers_w = interval_s, (idle_w, busy_w)
        self._notes: list[str] = []
        self._gauges = list(_gauges_of(interface, torch_device) if gauges is None else gauges)
        if emulated:
            self._meters: list[EnergyMeter] = []
            self._notes.append("energy: meters would tell of this machine, not of the one it stands in for")
        else:
            self._meters = list(self._meters_of(torch_device) if meters is None else meters)
        self._meter: EnergyMeter | None = None
        self._reading: EnergyReading | None = None
        self._fields: dict[str, Any] = {}
        self.samples, self._cpu_s, self._duration_s = 0, 0.0, 0.0
        self._ended = threading.Event()
        self._thread = Companion(self._watch, "monitor")

    def __enter__(self) -> Self:
        for gauge in list(self._gauges):
            try:
                gauge.start()
            except Exception as exc:  # noqa: BLE001 (a source is never worth a trial)
                self._drop(gauge, exc)
        for meter in self._meters:
            try:
                meter.start()
            except Exception as exc:  # noqa: BLE001 (the next one is tried)
                self._note(f"energy: {meter.name}", exc)
            else:
                self._meter = meter
                break
        self._start_s = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(limits.THREAD_JOIN_S)
        self._duration_s = time.monotonic() - self._start_s
        if self._thread.is_alive():
            self._notes.append(f"monitor: a source did not answer within {limits.THREAD_JOIN_S:g} s: nothing was read")
            self._gauges, self._meter = [], None
        if self._meter is not None:
            try:
                self._reading = self._meter.stop()
            except Exception as error:  # noqa: BLE001 (a source is never worth a trial)
                self._note(f"energy: {self._meter.name}", error)
        for gauge in list(self._gauges):
            try:
                self._fields.update(gauge.finish(self._duration_s))
            except Exception as error:  # noqa: BLE001 (a source is never worth a trial)
                self._drop(gauge, error)

    def usage(self, busy_s: float | None = None) -> Usage:
        """What was seen; call it after the `with` block.

        Args:
            busy_s: how long this device computed in the interval, for an estimate of energy.
        """
        if not self._duration_s:
            raise RuntimeError("usage() is known after the monitor's with block")
        reading, notes, (idle_w, busy_w) = self._reading, list(self._notes), self._powers_w
        if reading is None:
            if idle_w is None or busy_w is None:
                notes.append("energy: no estimate: the device file gives no idle_w and busy_w")
            elif busy_s is None:
                notes.append("energy: no estimate: the time of computing is not known")
            else:
                reading = estimated_energy(idle_w, busy_w, self._duration_s, busy_s)
        energy: dict[str, Any] = {}
        if reading is not None:
            energy = {
                "energy_j": reading.joules,
                "energy_source": reading.source,
                "energy_scope": reading.scope,
                "energy_estimated": reading.estimated,
            }
        return Usage(
            duration_s=self._duration_s,
            samples=self.samples,
            monitor_cost=self._cpu_s / self._duration_s,
            notes=notes,
            **self._fields,
            **energy,
        )

    def _watch(self) -> None:
        programs_s, begin_s, wait_s = _programs_s(), time.monotonic(), self._interval_s
        while not self._ended.wait(wait_s):
            self._sample()
            self._cpu_s = time.thread_time() + _programs_s() - programs_s
            wait_s = max(self._interval_s, self._cpu_s / COST_LIMIT - (time.monotonic() - begin_s))
        self._cpu_s = time.thread_time() + _programs_s() - programs_s

    def _sample(self) -> None:
        for gauge in list(self._gauges):
            try:
                gauge.sample()
            except Exception as exc:  # noqa: BLE001 (a source is never worth a trial)
                self._drop(gauge, exc)
        meter = self._meter  # a local: who waited too long for this thread takes the meter away
        if meter is not None:
            try:
                meter.sample()
            except Exception as exc:  # noqa: BLE001 (a source is never worth a trial)
                self._note(f"energy: {meter.name}", exc)
                self._meter = None
        self.samples += 1

    def _drop(self, gauge: Gauge, exc: Exception) -> None:
        self._gauges = [other for other in self._gauges if other is not gauge]
        self._note(gauge.name, exc)

    def _note(self, name: str, exc: Exception) -> None:
        kind = "" if isinstance(exc, Unreadable) else f"{type(exc).__name__}: "
        self._notes.append(f"{name}: {kind}{exc}")

    def _meters_of(self, torch_device: str) -> list[EnergyMeter]:
        if torch_device == "cpu":
            return [RaplEnergy(), PmicEnergy()]
        try:
            return [NvmlEnergy(open_gpu(torch_device))]
        except Exception as exc:  # noqa: BLE001 (a source is never worth a trial)
            self._note("energy: nvml", exc)
            return []


def _gauges_of(interface: str | None, torch_device: str) -> list[Gauge]:
    gauges: list[Gauge] = [
        CoreGauge(),
        SwapGauge(),
        SuspendGauge(),
        ProcessGauge(),
        NetworkGauge(interface),
        TemperatureGauge(),
        ThrottleGauge(),
    ]
    if torch_device != "cpu":
        gauges.append(GpuGauge(lambda: open_gpu(torch_device)))
    return gauges


def _programs_s() -> float:
    """CPU time of the programs this process ran and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
