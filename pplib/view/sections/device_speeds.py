"""How much the speed of the devices changed while a sweep ran: in sentences, and as curves."""

from __future__ import annotations

import pandas as pd

from pplib.view.charts.speeds import device_speeds, speeds_chart
from pplib.view.section import Section

_TITLE = "How fast the devices were"
_SEEN = (
    "Each curve is a device over the time of the sweep, all configurations in one line: above 100 % it was faster than "
    "is usual of it in these results, below slower, as a smooth curve through the trials around each tells it. The "
    "estimates of all points are those at the usual speed."
)


def speeds_section(summary: pd.DataFrame) -> Section:
    """The speed of each device over the time of the sweep; a sentence where it cannot be told, or did not change.

    Args:
        summary: one row per trial, the columns of `summary.csv`.

    Raises:
        FrameError: as `device_speeds`.
    """
    speeds = device_speeds(summary)
    if speeds.empty:
        return Section(_TITLE, "These results do not tell it: no ok trial has a time of its start and a stage's speed.")
    if speeds["minute"].nunique() < 2:
        return Section(_TITLE, "One trial says nothing about that. Measure more points or repeats, and sweep again.")
    flat = bool((speeds["speed"] - 1).abs().max() < 0.0005)
    told = [_drift(speeds), *_heat(speeds)]
    if flat and len(told) == 1:
        return Section(_TITLE, told[0])
    return Section(_TITLE, "\n\n".join([" ".join(told), _SEEN]), speeds_chart(speeds), name="device-speeds")


def _drift(speeds: pd.DataFrame) -> str:
    """What the largest change was, and of which device."""
    percent = (speeds["speed"] * 100).round().astype("int64")
    changed = {str(name): int(one.max() - one.min()) for name, one in percent.groupby(speeds["device"])}
    device = max(changed, key=changed.__getitem__)
    if changed[device] == 0:
        return "No device's speed changed by as much as 1 % that could be told from noise."
    mine = speeds.loc[speeds["device"] == device, "speed"]
    ends = sorted((int(mine.to_numpy().argmin()), int(mine.to_numpy().argmax())))
    first, last = (f"{percent[row]} % in minute {speeds['minute'][row]:,.1f}" for row in mine.index[ends])
    others = ", ".join(f"{name} {width} %" for name, width in changed.items() if name != device)
    return (
        f"The largest drift was that of {device}: its speed changed by {changed[device]} % of the usual, from {first} "
        f"to {last}" + (f" (the others: {others})." if others else ".")
    )


def _heat(speeds: pd.DataFrame) -> list[str]:
    """The warmest, and what was throttled."""
    told = []
    warm = speeds.sort_values("temperature_c")["temperature_c"].dropna()
    if len(warm):
        told.append(f"The warmest was {speeds['device'][warm.index[-1]]}, at {warm.iloc[-1]:.0f} °C.")
    held = speeds.loc[speeds["throttled"], "device"].value_counts()
    if len(held):
        counts = ", ".join(f"{name} in {number}" for name, number in held.items())
        told.append(f"Held down for heat or lack of power (marked): {counts} of {speeds['minute'].nunique()} trials.")
    return told
