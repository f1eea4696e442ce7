"""Sections that say what the trials show, and in a sentence where they cannot: for the report and the notebook."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from pplib.analysis.columns import require_columns
from pplib.analysis.links import link_table
from pplib.analysis.repeats import POINT_KEYS
from pplib.analysis.robust import on_several_links, regret_table
from pplib.analysis.stability import unstable_trials, worst_trials
from pplib.view.front_links import fronts_by_link_chart
from pplib.view.quantities import quantity
from pplib.view.regrets import regret_chart
from pplib.view.section import Section
from pplib.view.tables import configuration_columns, points_table, requested_and_measured

_ONE_LINK = (
    "These results hold no configuration that was measured on two links or more. To compare links, give `link` a list "
    "in the grid, such as [none, demo, wifi-poor], and sweep again."
)


def points_section(points: pd.DataFrame) -> Section:
    """Every point's median, range and confidence interval.

    Args:
        points: see `point_table`, `fronts` and `with_confidence`.

    Raises:
        FrameError: there are no intervals in `points`.
    """
    require_columns(points, ["interval_note"], "the table of points")
    lacking = points.loc[points["interval_note"].notna(), "interval_note"].value_counts()
    words = "; ".join(f"{note} ({number} of {len(points)} points)" for note, number in lacking.items())
    missing = f"\n\nNo interval: {words}." if words else ""
    return Section("All points", _POINTS + missing, table=points_table(points))


def unsteady_section(summary: pd.DataFrame, worst: int = 12) -> Section:
    """The trials whose figures may not be believed, why, and what to do.

    Args:
        summary: one row per trial, the columns of `summary.csv`.
        worst: how many rows at most; the text says how many more there are.

    Raises:
        FrameError: as `unstable_trials`.
    """
    title, found = "Unsteady trials", unstable_trials(summary)
    trials = int((summary["status"] == "ok").sum())
    if found.empty:
        return Section(title, f"None of the {trials} ok trials looks unsteady.")
    shown = worst_trials(found, worst)
    count = len(found.drop_duplicates([*POINT_KEYS, "repeat"]))
    more = len(found) - len(shown)
    text = f"{count} of the {trials} ok trials look{'s' if count == 1 else ''} unsteady. {_UNSTEADY}"
    if more:
        text += f" Here are the {len(shown)} findings furthest beyond their limit; there are {more} more."
    columns = [*configuration_columns(found), "partition_label", "repeat", "reason", "remedy"]
    return Section(title, text, table=shown[columns])


def links_section(summary: pd.DataFrame) -> Section:
    """The links as requested and as measured; without a table where the results hold no such measurement.

    Raises:
        FrameError: as `link_table`.
    """
    title, links = "Link: requested against measured", link_table(summary)
    if links.empty:
        return Section(title, "These results hold no measurements of their links.")
    tunnelled = "link_tunnel" in summary.columns and (summary["link_tunnel"] == "ssh").any()
    return Section(title, _LINKS + (_TUNNELLED if tunnelled else ""), table=requested_and_measured(links))


def moving_section(points: pd.DataFrame, objectives: Mapping[str, str]) -> Section:
    """The fronts of the same configurations over several links; without a chart where there is one link.

    Args:
        points: one row per configuration and point, see `point_table`.
        objectives: two columns -> "min" or "max".

    Raises:
        FrameError: as `fronts_by_link_chart`.
    """
    title = "How the front moves with the link"
    if on_several_links(points).empty:
        return Section(title, _ONE_LINK)
    return Section(title, _MOVING, fronts_by_link_chart(points, objectives), name="fronts-by-link")


def regret_sections(points: pd.DataFrame, objectives: Mapping[str, str]) -> list[Section]:
    """One section per objective: how much worse than each link's best every point is, and the robust choice.

    Args:
        points: one row per configuration and point, see `point_table`.
        objectives: columns -> "min" or "max".

    Returns:
        One section without chart or table where no configuration was measured on two links.

    Raises:
        FrameError: as `regret`.
    """
    title, several = "One cut for every link", on_several_links(points)
    if several.empty:
        return [Section(title, _ONE_LINK)]
    found = []
    for name, direction in objectives.items():
        table = regret_table(several, {name: direction})
        regrets = [str(column) for column in table.columns if str(column).startswith("regret_on_")]
        columns = [*configuration_columns(table), "partition_label", *regrets]
        columns += ["worst_regret", "worst_link", "mean_regret", "minimax"]
        chart = regret_chart(several, {name: direction})
        text = _REGRET if len(table) else f"{_REGRET}\n\nNo point was measured on every link."
        words = f"{title}: {quantity(name).name}"
        found.append(Section(words, text, chart, table[columns] if len(table) else None, f"regret-{name}"))
    return found


_POINTS = (
    "The median over repeats of every point; smallest and largest are its repeats' range. Low and high end are a 95 % "
    "bootstrap interval of that median: how far it might move if the sweep were run again, on the same devices and "
    "day. It needs six repeats or more: the range of n repeats holds the true median in 1 - 2^(1-n) of cases, 75 % for "
    "3 and 94 % for 5. From six on, 95 % is nominal: of simulated medians of 6 to 15 repeats, 86 to 94 % were inside."
)
_UNSTEADY = "The figures of these trials may not be believed; why, and what to do about it, stands beside each."
_TUNNELLED = (
    " All of it, trials and measurements alike, went through SSH (`tunnel: ssh` in the device file): what that costs "
    "is in every figure."
)
_LINKS = (
    "Round trip and rate were measured over the link itself, before a block of trials and after it: the median over "
    "configurations, and in brackets the smallest and the largest of all. A requested rate counts all headers, a "
    "measured one only the payload of TCP: with packets of 1500 bytes that is 1448/1500, 96.5 %, of the rate at most. "
    "Engine: tc shapes a network interface, userspace moves packets through a delay line of our own, none is the bare "
    "connection."
)
_MOVING = (
    "The same configurations over one link after the other, the best first; every panel has its own axes. Points "
    "and bars are as in the charts above. A ring marks a point that is on the front of its configuration on every link."
)
_REGRET = (
    "Regret is how much longer a microbatch, or an image, takes at a point than at the best point of that link: 0 is "
    "the best itself, 100 % is twice as long. Where the link is not known beforehand, or changes, the minimax choice "
    "is the point whose worst regret is smallest, framed in the chart. It is made for every model, backend, depth and "
    "so on by itself, among the points that were measured on every link; only these are in the table."
)
