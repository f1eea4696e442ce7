"""Where another cut wins when the link changes: for the report and the notebook."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from pplib.columns import quantity
from pplib.objectives import Aims
from pplib.planner.changes.link_changes import LinkChanges, link_changes
from pplib.planner.changes.other_links import phases
from pplib.view.charts.link_phases import link_phases_chart
from pplib.view.section import Section
from pplib.view.words.link_changes import front_sentence, objective_sentences, where_words

TITLE = "When the link changes"
_NOTHING = (
    "Nothing can be said of other links: that takes latency or throughput as an objective, and two cuts or more of a "
    "configuration whose trials tell what stages, hops and the way back take, over a link that loses nothing."
)
_TOLD = (
    "Which cut wins over a link that is slower or further than the fastest measured, computed from the parts that were "
    "measured there, by the pipeline model; only cuts that were measured can win. A rate holds a message up as long as "
    "its bytes take, or as software does, whichever is longer. Where one cut ends and the next begins, both are as "
    "good. A cut that is nowhere better than the others named by more than the indifference is not named. Not in it: "
    "losses and jitter, and what TCP takes to get going."
)


def link_changes_sections(summary: pd.DataFrame, points: pd.DataFrame, aims: Aims) -> list[Section]:
    """One section per objective: until which rate and delay a cut is the best, and a phase diagram of both.

    Args:
        summary: one row per trial, the columns of `summary.csv`.
        points: see `with_fronts`.
        aims: what is wanted of a cut.

    Returns:
        One section with a sentence where the trials do not tell it.

    Raises:
        FrameError: as `link_changes`.
    """
    found = link_changes(summary, points, aims.objectives, aims.indifference)
    sections = [
        _section(found, name, way, aims.indifference)
        for name, way in aims.objectives.items()
        if any(name in one.chosen for one in found)
    ]
    if not sections:
        return [Section(TITLE, _NOTHING)]
    fronts = [f"- {where_words(one.keys, found)}: {told}" for one in found if (told := front_sentence(one))]
    first = sections[0]
    text = "\n\n".join(filter(None, [_TOLD, first.text, "\n".join(fronts)]))
    return [Section(first.title, text, first.chart, name=first.name), *sections[1:]]


def _section(found: Sequence[LinkChanges], name: str, way: str, indifference: float) -> Section:
    lines, drawn = [], {}
    for one in (each for each in found if name in each.chosen):
        where = where_words(one.keys, found)
        lines.append(f"- {where}: {' '.join(objective_sentences(one, name, way))}")
        named = [stretch.label for stretch in (*one.by_rate[name], *one.by_delay[name])]
        told = phases(one.cuts, name, way, indifference, named)
        if len(told.labels) > 1:
            drawn[where] = (told, one.measured)
    chart = link_phases_chart(drawn, name) if drawn else None
    return Section(f"{TITLE}: {quantity(name).name}", "\n".join(lines), chart, name=f"links-{name}")
