"""How far repeats lie apart as measured, and how far once the speed of the devices is taken out of them, in words."""

from __future__ import annotations

import pandas as pd

from pplib.analysis.estimated.estimates import AS_MEASURED, estimates
from pplib.analysis.estimated.stage_levels import HashedTrials, remembered_levels
from pplib.analysis.statistics import RANGED, sorted_trials
from pplib.columns import quantity
from pplib.view.words.differences import in_words, percent

RESAMPLES = 2000  # as the estimates of the report have them: they are made once


def correction_lines(summary: pd.DataFrame) -> list[str]:
    """What a correction does, for each configuration and device; nothing where nothing was repeated.

    Args:
        summary: one row per trial, the columns of `summary.csv`.
    """
    found = [one for one in estimates(summary, RANGED, RESAMPLES) if one.freedom > 0]
    keys = [key for key in (found[0].keys if found else ()) if len({str(one.keys[key]) for one in found}) > 1]
    lines = []
    for one in found:
        where = ", ".join(in_words(key, one.keys[key]) for key in keys)
        told = [
            f"{quantity(column).name} {percent(raw)} as measured, "
            + ("which no correction betters" if what == AS_MEASURED else f"{percent(left)} divided by its {what}")
            for column, what, raw, left in zip(one.columns, one.follows, one.apart, one.apart_corrected, strict=True)
        ]
        lines.append(f"Repeats lie apart{f' ({where})' if where else ''}: {'; '.join(told)}.")
    if found:
        levels = remembered_levels(HashedTrials(sorted_trials(summary)), RESAMPLES, 0)
        told = [
            f"stage {i} to {percent(with_drift)}, to {percent(without)} without"
            for i, (with_drift, without) in enumerate(levels.drift_error)
            if with_drift == with_drift
        ]
        if told:
            lines.append(f"From the trials around it and what all trials say, one trial is known: {'; '.join(told)}.")
    return lines
