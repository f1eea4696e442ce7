"""What a front is about, and what a cut has to keep to: objectives and limits, as a person writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from pplib.columns import COLUMNS, INDIFFERENCE, OBJECTIVES, PREDICTED, column, direction, quantity
from pplib.config import Configuration
from pplib.errors import ConfigError, nearest

ALIASES = {
    "latency": "latency_s",
    "response": "response_s",
    "throughput": "throughput_img_s",
    "energy": "energy_per_image_j",
    "payload": "payload_bytes",
    "memory": "peak_memory_bytes",
}
"""What a person may type for a column."""

_NO_FIGURE = (
    "bottleneck num_microbatches outputs_checked disturbed energy_scope energy_estimated stage{i}_energy_scope "
    "stage{i}_throttled"
).split()
_NAMES = [one.name for one in COLUMNS]
_FIGURES = [name for name in _NAMES[_NAMES.index("latency_s") :] if name not in _NO_FIGURE]
_APPEARS = {
    "energy": "a device needs a meter (NVML, RAPL, a Pi's PMIC), or idle_w and busy_w in the device file",
    "p90": "it takes 64 microbatches of a trial: raise num_images",
    "p99": "it takes 662 microbatches of a trial: raise num_images",
    "": "it is measured by trials of the present version alone, or on no device of these",
}


@dataclass(frozen=True)
class Aims:
    """What is wanted of a cut; it decides what is said of trials, never what is measured.

    Attributes:
        objectives: column -> "min" or "max"; the order counts where one has to be chosen.
        limits: column -> the largest value, of a column of which less is better, or the smallest; in stored units.
        indifference: what difference does not matter, as a share.
    """

    objectives: Mapping[str, str] = field(default_factory=lambda: OBJECTIVES)
    limits: Mapping[str, float] = field(default_factory=dict)
    indifference: float = INDIFFERENCE

    @property
    def directions(self) -> dict[str, str]:
        """Column -> "min" or "max" of the objectives, then of what else has a limit."""
        return {**self.objectives, **{name: direction(name) for name in self.limits if name not in self.objectives}}

    def known(self, summary: pd.DataFrame) -> tuple[Aims, list[str]]:
        """What of it these trials tell, and a sentence for each column that none of them has.

        Args:
            summary: one row per trial, the columns of `summary.csv`.
        """
        ok = summary[summary["status"] == "ok"]
        lacking = [name for name in self.directions if name not in ok.columns or not ok[name].notna().any()]
        objectives = {name: way for name, way in self.objectives.items() if name not in lacking}
        told = [f"No trial has {name}, which is left out: {_appears(name, summary)}." for name in lacking]
        if not objectives:
            told.append("No objective is left: the front is of latency and throughput.")
        limits = {name: value for name, value in self.limits.items() if name not in lacking}
        return Aims(objectives or OBJECTIVES, limits, self.indifference), told


def aims(
    objectives: Sequence[str] | Mapping[str, str],
    limits: Mapping[str, float],
    indifference: float = INDIFFERENCE,
    where: str = "",
    predicted: bool = False,
) -> Aims:
    """Objectives and limits by the names of columns; a list gives each column its usual direction.

    With `predicted`, only objectives that can be predicted of cuts which nobody has measured.

    Raises:
        ConfigError: a name that is no figure of `summary.csv`, one that stands twice, no objective, or a direction
            other than min and max.

    >>> dict(aims(["latency", "energy"], {"payload": 1e6}).directions)
    {'latency_s': 'min', 'energy_per_image_j': 'min', 'payload_bytes': 'min'}
    """
    if not objectives:
        raise ConfigError(f"{where}objectives: expected at least one column, such as [latency_s], got none")
    ways = dict[str, str]()
    for given in objectives:
        name = _figure(given, f"{where}objectives")
        if name in ways:
            raise ConfigError(f"{where}objectives: {name} stands twice in the list: keep one of them")
        way = objectives[given] if isinstance(objectives, Mapping) else direction(name)
        if way not in ("min", "max"):
            raise ConfigError(f"{where}objectives.{given}: expected min or max, got {way!r}")
        ways[name] = way
    unknown = [name for name in ways if predicted and name not in PREDICTED]
    if unknown:
        raise ConfigError(
            f"{where}objectives: expected of a plan what is predicted, {', '.join(PREDICTED)}, got "
            f"{', '.join(unknown)}: choose others, or `partition_points: all`"
        )
    bounds = dict[str, float]()
    for given, value in limits.items():
        name = _figure(given, f"{where}limits")
        if name in bounds:
            raise ConfigError(f"{where}limits: {name} stands twice: keep one of them")
        bounds[name] = float(value)
    return Aims(ways, bounds, indifference)


def of_configuration(config: Configuration) -> Aims:
    """What a configuration says is wanted of a cut."""
    return aims(config.objectives, config.limits, config.indifference)


def _figure(given: str, where: str) -> str:
    """The column that is meant."""
    name = given if column(given) is not None else ALIASES.get(given, given)
    found = column(name)
    if found is None:
        raise ConfigError(
            f"{where}: no column of summary.csv is called {given!r}; {nearest(given, [*_FIGURES, *ALIASES])}"
        )
    if found.name not in _FIGURES:
        raise ConfigError(f"{where}: {name} is no figure that a cut could be better at ({quantity(name).name})")
    return name


def _appears(name: str, summary: pd.DataFrame) -> str:
    """What would make a column appear."""
    own = [
        str(one) for one in summary.columns if str(one).endswith("_energy_per_image_j") and summary[one].notna().any()
    ]
    if name == "energy_per_image_j" and own:
        return f"not every device has a meter, or they see unlike things; there is {', '.join(own)}"
    return next(words for part, words in _APPEARS.items() if part in name)
