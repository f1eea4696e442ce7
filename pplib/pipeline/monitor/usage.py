"""What a device used during one trial: CPU, memory, network, heat, GPU, energy; and the energy of a pipeline."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import msgspec


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What one monitor saw; a field is None where the device does not tell, and `notes` say why.

    The interval of `duration_s` (the device's CLOCK_MONOTONIC) runs from entering to leaving the
    monitor: the whole trial of one stage, with warm-up and waiting. What is of the machine, and not
    of this process alone, is so for every worker on it: cores, interface, temperature, GPU, and
    energy, unless estimated.

    - `samples`: readings taken in between; means and peaks also use one at each end.
    - `cpu_fraction_by_core`: busy share of each core, by its number; waiting for disks is idle.
    - `steal_fraction`: share of the time that another guest of the host had the cores this process may use.
    - `swapped_bytes`: that the machine read from swap, or wrote to it; `suspended_s`: how long it was suspended.
    - `process_cpu_fraction`: CPU time of this process over the interval; 2.0 is two cores' worth.
    - `resident_*_bytes`: of this process; the peak of the samples, so a short one may be missed.
    - `received_bytes`, `sent_bytes`: all traffic of `interface`, headers included.
    - `temperature_c`: the highest seen on the CPU.
    - `throttled`: the clock was held down (frequency capped, throttled, soft temperature limit) at
      some time in the interval; `throttle_flags` names all that was seen, `under_voltage` too.
    - `gpu_fraction`: mean share of the time a kernel ran; `gpu_memory_bytes`: peak in use on the
      GPU, by anyone; `gpu_power_w`: mean.
    - `energy_j`: over the interval, from `energy_source`; `energy_scope` says of what.
    - `monitor_cost`: CPU time of the sampling, programs it ran included, over the interval.
    """

    duration_s: float | None = None
    samples: int | None = None
    cpu_fraction_by_core: list[float] | None = None
    steal_fraction: float | None = None
    swapped_bytes: int | None = None
    suspended_s: float | None = None
    process_cpu_fraction: float | None = None
    resident_peak_bytes: int | None = None
    resident_mean_bytes: float | None = None
    interface: str | None = None
    received_bytes: int | None = None
    sent_bytes: int | None = None
    temperature_c: float | None = None
    throttled: bool | None = None
    throttle_flags: list[str] | None = None
    gpu_fraction: float | None = None
    gpu_memory_bytes: int | None = None
    gpu_power_w: float | None = None
    energy_j: float | None = None
    energy_source: str | None = None
    energy_scope: str | None = None
    energy_estimated: bool | None = None
    monitor_cost: float | None = None
    notes: list[str] = []


class TotalEnergy(NamedTuple):
    """Energy of all devices of a pipeline; `estimated` if that of any of them is. `scope`: of what of each."""

    joules: float
    estimated: bool
    scope: str


_WHOLE = "device"  # what a meter of the board sees, and what is estimated from a device's own power


def energy_scope(usage: Usage) -> str | None:
    """Of what the energy is, in a word that is equal where two readings can be compared: `device` is all of it."""
    if usage.energy_j is None:
        return None
    word = (usage.energy_scope or "").partition(" ")[0]
    return _WHOLE if word in ("board", _WHOLE) else word


def total_energy(stages: Iterable[tuple[str, Usage]]) -> TotalEnergy | None:
    """Add up the energy of a pipeline, each meter once.

    Workers on one machine read the same meter, and each then tells of the whole machine: of those
    the largest reading counts. Estimates are of one device each and all count.

    Args:
        stages: (boot id, usage) of each stage's device.

    Returns:
        The sum over the trial, in joules; None if any device does not tell, or if they tell of unlike
        things: a board and a bare GPU have no sum that says anything.

    >>> one = Usage(energy_j=5.0, energy_scope="package", energy_estimated=False)
    >>> total_energy([("a", one), ("a", one), ("b", one)])
    TotalEnergy(joules=10.0, estimated=False, scope='package')
    >>> total_energy([("a", one), ("b", Usage(energy_j=5.0, energy_scope="gpu 1", energy_estimated=False))])
    """
    meters: dict[tuple[str, str], float] = {}
    scopes: set[str] = set()
    estimated_j, estimated = 0.0, False
    for boot_id, usage in stages:
        scope = energy_scope(usage)
        if usage.energy_j is None or scope is None:
            return None
        scopes.add(scope)
        if usage.energy_estimated:
            estimated_j, estimated = estimated_j + usage.energy_j, True
        else:
            meter = (boot_id, usage.energy_scope or "")
            meters[meter] = max(usage.energy_j, meters.get(meter, 0.0))
    if len(scopes) != 1:
        return None
    return TotalEnergy(sum(meters.values()) + estimated_j, estimated, scopes.pop())
