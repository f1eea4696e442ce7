"""How a stored quantity (s, bytes, bit/s) is shown: its words, its display unit, its factor."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

_NAMES = {
    "latency_s": "latency",
    "latency_mean_s": "mean latency",
    "latency_p90_s": "latency, 90th percentile",
    "latency_p99_s": "latency, 99th percentile",
    "response_s": "response",
    "throughput_img_s": "throughput",
    "bound_img_s": "bound",
    "activation_bytes": "activation",
    "payload_bytes": "payload",
    "param_bytes": "parameters",
    "max_abs_err": "largest error",
    "front_probability": "on the front in",
    "worst_regret": "worst regret",
    "mean_regret": "mean regret",
}

# Suffix, display unit, factor from the stored unit; the longer suffix first.
_UNITS = (
    ("_img_s", "img/s", 1.0),
    ("_bit_s", "Mbit/s", 1e-6),
    ("_bytes", "MB", 1e-6),
    ("_flops", "GFLOP", 1e-9),
    ("_s", "ms", 1e3),
    ("_j", "J", 1.0),
    ("_w", "W", 1.0),
)

# Stored as shares, read as percentages.
_SHARES = ("front_probability", "regret", "worst_regret", "mean_regret", "latency_noise", "throughput_noise")

_ENDS = (("_min", "smallest"), ("_max", "largest"), ("_low", "low end"), ("_high", "high end"))

_LARGER_IS_BETTER = ("throughput_img_s", "bound_img_s", "efficiency", "front_probability")


@dataclass(frozen=True)
class Quantity:
    """A column as a reader sees it: `shown = stored * factor`, in `unit`."""

    column: str
    name: str
    unit: str
    factor: float

    @property
    def title(self) -> str:
        """Name and unit, for an axis or a table's head."""
        return f"{self.name} ({self.unit})" if self.unit else self.name

    def shown(self, values: pd.Series[float]) -> pd.Series[float]:
        """Stored values in the display unit."""
        return values * self.factor


def quantity(column: str) -> Quantity:
    """How `column` is shown; its unit is told by its suffix.

    >>> quantity("latency_s").title
    'latency (ms)'
    >>> quantity("throughput_img_s").title
    'throughput (img/s)'
    >>> quantity("stage0_compute_s").title
    'stage 0 compute (ms)'
    >>> quantity("latency_s_min").title
    'latency, smallest (ms)'
    >>> quantity("throughput_img_s_low").title
    'throughput, low end (img/s)'
    >>> quantity("regret_on_wifi-poor").title
    'regret on wifi-poor (%)'
    """
    if column in _SHARES or column.startswith("regret_on_"):
        return Quantity(column, _NAMES.get(column) or _words(column), "%", 100.0)
    for ending, word in _ENDS:
        if column.endswith(ending):
            base = quantity(column.removesuffix(ending))
            return Quantity(column, f"{base.name}, {word}", base.unit, base.factor)
    for suffix, unit, factor in _UNITS:
        if column.endswith(suffix):
            return Quantity(column, _NAMES.get(column) or _words(column.removesuffix(suffix)), unit, factor)
    return Quantity(column, _NAMES.get(column) or _words(column), "", 1.0)


def direction(column: str) -> str:
    """Whether less ("min") or more ("max") of this column is better.

    >>> direction("latency_s"), direction("throughput_img_s")
    ('min', 'max')
    """
    return "max" if column.removeprefix("predicted_") in _LARGER_IS_BETTER else "min"


def _words(column: str) -> str:
    for part in ("stage", "hop"):
        if column.startswith(part) and column[len(part) : len(part) + 1].isdigit():
            column = f"{part} {column[len(part) :]}"
    return column.replace("_", " ")
