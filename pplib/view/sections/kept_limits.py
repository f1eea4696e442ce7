"""What keeps to the limits that were asked for, and the best of it: for the report and the notebook."""

from __future__ import annotations

import pandas as pd

from pplib.analysis.estimated.within_limits import within_limits
from pplib.objectives import Aims
from pplib.view.section import Section
from pplib.view.tables import configuration_columns
from pplib.view.words.limits import energy_words, limit_lines

_LIMITS = (
    "A limit makes an objective a constraint: what is within it is good enough. The best is that by the first "
    "objective without a limit (the first of all where each has one); what is within `indifference` of it is told "
    "apart by the next. The nearest, where nothing is within, is the point whose largest miss, as a share of the "
    "limit, is smallest."
)


def limits_section(summary: pd.DataFrame, aims: Aims) -> Section:
    """What keeps to the limits, and the best of it; without a table where there are no limits.

    Args:
        summary: one row per trial, the columns of `summary.csv`.
        aims: with columns that the trials have, see `Aims.known`.
    """
    title = "Within the limits"
    if not aims.limits:
        return Section(title, "No limits were asked for, such as `limits: {latency_s: 0.08}`.")
    table = within_limits(summary, aims)
    told = [*limit_lines(table, aims), energy_words(summary, aims.directions), _LIMITS]
    shown = table[table["within"] | table["best"]].drop(columns=["miss"])
    columns = [*configuration_columns(shown), "partition_label", *aims.directions]
    columns += ["within", "within_probability", "best", "best_probability"]
    return Section(title, "\n\n".join(filter(None, told)), table=shown[columns])
