"""What a configuration attains in one repeat, in half of them, in all: the front with its spread."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import moocore
import numpy as np
import pandas as pd

from pplib.analysis.pareto import DIRECTIONS
from pplib.analysis.required_columns import numeric_column, require_columns
from pplib.analysis.statistics import CONFIGURATION_KEYS, sorted_trials
from pplib.errors import FrameError


def attainment(
    summary: pd.DataFrame, objectives: Mapping[str, str], levels: Sequence[float] = (0.1, 0.5, 0.9)
) -> pd.DataFrame:
    """The empirical attainment surfaces of the fronts over repeats, per configuration.

    A repeat of the whole configuration has a front; it attains every pair of values that some point of
    it is at least as good as. The surface of level 0.5 is the border of what half of the repeats
    attain. With n repeats a level means ceil(level x n) of them: with 3, levels 0.1, 0.5 and 0.9 are
    the best of three, the middle, and what all three attain.

    Every repeat's front picks its own lucky points, so these surfaces lie a little to the good side of
    the front of medians. A repeat in which trials failed attains less than it might have.

    Args:
        summary: one row per trial, the columns of `summary.csv`.
        objectives: two columns -> "min" or "max".
        levels: shares of the repeats, in (0, 1].

    Returns:
        Tidy: `CONFIGURATION_KEYS`, `level`, `attained_by` (how many repeats that is), `repeats` (with at
        least one usable trial), and the two objectives: the corners of the surface, best first on the
        first objective. No rows for a configuration without a usable trial.

    Raises:
        FrameError: not two objectives, a column is missing or holds no numbers, or a level is out of range.

    Source: the empirical attainment function (Fonseca, Guerreiro, Lopez-Ibanez, Paquete, EMO 2011), by
    moocore.
    """
    if len(objectives) != 2:
        raise FrameError(f"objectives: attainment needs two columns, got {list(objectives)}")
    for name, direction in objectives.items():
        if direction not in DIRECTIONS:
            raise FrameError(f"objectives[{name!r}]: expected 'min' or 'max', got {direction!r}")
    for level in levels:
        if not 0 < level <= 1:
            raise FrameError(f"levels: expected shares above 0, at most 1, got {level}")
    require_columns(summary, ["repeat"], "the summary")
    trials = sorted_trials(summary)
    values = np.column_stack([numeric_column(trials, name, "the summary").to_numpy() for name in objectives])
    usable = (trials["status"] == "ok").fillna(False).to_numpy(dtype=bool) & np.isfinite(values).all(axis=1)
    signs = np.array([1.0 if direction == "min" else -1.0 for direction in objectives.values()])
    trials, values = trials[usable].reset_index(drop=True), values[usable] * signs
    columns = [*CONFIGURATION_KEYS, "level", "attained_by", "repeats", *objectives]
    pieces = []
    for _, rows in trials.groupby(CONFIGURATION_KEYS, dropna=False, sort=False):
        sets, names = pd.factorize(rows["repeat"])
        # moocore takes a change of the set's number for the next set: rows of a set must stand together.
        together = np.argsort(sets, kind="stable")
        surfaces = moocore.eaf(values[rows.index.to_numpy()[together]], sets=sets[together])
        # moocore's last column is a percentage of the sets; counting them is exact.
        attained = np.rint(surfaces[:, 2] * len(names) / 100).astype(int)
        for level in levels:
            count = math.ceil(level * len(names) - 1e-9)
            corners = surfaces[attained == count, :2]
            corners = corners[np.argsort(corners[:, 0], kind="stable")] * signs
            piece = pd.DataFrame(corners, columns=list(objectives))
            piece = piece.assign(level=float(level), attained_by=count, repeats=len(names))
            pieces.append(piece.assign(**{key: rows[key].iloc[0] for key in CONFIGURATION_KEYS})[columns])
    return pd.concat(pieces, ignore_index=True) if pieces else pd.DataFrame(columns=columns)
