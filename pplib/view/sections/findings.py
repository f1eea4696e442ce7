"""Sections that say what the trials show, and in a sentence where they cannot: for the report and the notebook."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import pandas as pd

from pplib.analysis.attainment import attainment
from pplib.analysis.estimated.device_ratios import device_ratios
from pplib.analysis.estimated.differences import paired_differences
from pplib.analysis.estimated.point_estimates import point_draws
from pplib.analysis.estimated.uncertainty import front_probability, ties
from pplib.analysis.links import link_table
from pplib.analysis.repeats import POINT_KEYS
from pplib.analysis.required_columns import require_columns
from pplib.analysis.robust import OF_THE_WORST, on_several_links, regret_table
from pplib.analysis.stability import noise, unstable_trials, worst_trials
from pplib.analysis.statistics import CONFIGURATION_KEYS, GIVEN_KEYS
from pplib.columns import OBJECTIVES, quantity
from pplib.objectives import Aims
from pplib.view.charts.attainment import attainment_chart
from pplib.view.charts.backends import backend_chart
from pplib.view.charts.front import front_chart
from pplib.view.charts.front_by import fronts_by_link_chart
from pplib.view.charts.regret import regret_chart
from pplib.view.section import Section
from pplib.view.tables import configuration_columns, overall_table, points_table, requested_and_measured
from pplib.view.words.correction import correction_lines
from pplib.view.words.differences import device_lines, difference_lines, percent
from pplib.view.words.disturbed import disturbed_words
from pplib.view.words.fidelity import fidelity_lines
from pplib.view.words.ties import tie_lines

_ONE_LINK = (
    "These results hold no configuration that was measured on two links or more. To compare links, give `link` a list "
    "in the grid, such as [none, demo, wifi-poor], and sweep again."
)


def points_section(points: pd.DataFrame, more: Iterable[str] = ()) -> Section:
    """Every point's median, range and confidence interval.

    Args:
        points: see `point_estimates` and `fronts`.
        more: columns to show beside the usual ones.

    Raises:
        FrameError: there are no intervals in `points`.
    """
    require_columns(points, ["interval_note"], "the table of points")
    lacking = points.loc[points["interval_note"].notna(), "interval_note"].value_counts()
    words = "; ".join(f"{note} ({number} of {len(points)} points)" for note, number in lacking.items())
    missing = f"\n\nNo interval: {words}." if words else ""
    text = "\n\n".join([_POINTS + missing, *fidelity_lines(points)])
    return Section("All points", text, table=points_table(points, more))


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


def pairs_section(summary: pd.DataFrame, points: pd.DataFrame, indifference: float) -> Section:
    """Backends, depths, links and devices in pairs, in words; with a chart where there are several backends.

    Args:
        summary: one row per trial, the columns of `summary.csv`.
        points: one row per configuration and point, see `point_table`.
        indifference: what difference does not matter, as a share.
    """
    title = "In pairs: backends, depths, links, devices"
    columns = [*OBJECTIVES, *[name for name in summary.columns if re.fullmatch(r"hop\d+_transfer_s", name)]]
    lines = [
        line
        for key in _COMPARED
        if summary[key].nunique() > 1
        for line in difference_lines(paired_differences(summary, columns, key), indifference, key)
    ]
    lines += device_lines(device_ratios(summary))
    if not lines:
        return Section(title, "There is nothing to compare: one configuration, and one cut or no repeats.")
    chart = backend_chart(points) if points["backend"].nunique() > 1 else None
    return Section(title, "\n\n".join([_PAIRS, *lines]), chart, name="backends")


def certainty_section(
    summary: pd.DataFrame, probability: pd.DataFrame, objectives: Mapping[str, str], indifference: float
) -> Section:
    """How often points are on the front when repeats are drawn again; without a chart where there is one repeat.

    Args:
        summary: one row per trial, the columns of `summary.csv`.
        probability: see `front_probability`.
        objectives: columns -> "min" or "max"; the surfaces are drawn of two.
        indifference: what difference does not matter, as a share.
    """
    title = "How sure is the front?"
    if probability["front_probability"].isna().all():
        return Section(title, "Nothing can be said: every point has one repeat only. Raise `repeats`, and sweep again.")
    tied = ties(summary, objectives, indifference=indifference)
    table = probability.merge(tied[[*POINT_KEYS, "tied_with"]], on=POINT_KEYS, how="left")
    table = table[table["on_front"] | (table["front_probability"] >= 0.1)]
    shown = [*configuration_columns(table), "partition_label", *objectives, "on_front"]
    table = table[[*shown, "front_probability", "tied_with", "repeats_ok"]]
    return Section(
        title,
        "\n\n".join([_CERTAINTY.format(percent(indifference)), *_equal_cuts(tied, indifference)]),
        attainment_chart(attainment(summary, objectives), objectives) if len(objectives) == 2 else None,
        table,
        "attainment",
    )


def _equal_cuts(tied: pd.DataFrame, indifference: float) -> list[str]:
    """Which cuts are as good as one on the front, a paragraph for each configuration that has such."""
    lines = []
    for key, rows in tied.groupby(CONFIGURATION_KEYS, dropna=False, sort=False):
        named = dict(zip(CONFIGURATION_KEYS, key, strict=True))
        telling = [name for name in configuration_columns(tied) if name != "partition_label"]
        if told := tie_lines(rows, indifference):
            where = ", ".join(f"{name.replace('_', ' ')} {named[name]}" for name in telling)
            lines.append(f"{where.capitalize()}: {'; '.join(told)}.")
    return lines


def overall_section(summary: pd.DataFrame, points: pd.DataFrame, aims: Aims) -> Section:
    """One front over all configurations that do the same job; without a table where there is one configuration.

    Args:
        summary: one row per trial, the columns of `summary.csv`.
        points: one row per configuration and point, see `point_estimates`.
        aims: what is wanted of a cut.
    """
    title = "One front over all configurations"
    if len(points.drop_duplicates(CONFIGURATION_KEYS)) < 2:
        return Section(title, "These results hold one configuration: its front is above.")
    probability = front_probability(summary, aims.objectives, indifference=aims.indifference, within=GIVEN_KEYS)
    table = overall_table(points, probability, aims.objectives)
    if len(aims.objectives) != 2 or table.empty:
        return Section(title, _OVERALL, table=table)
    chart = front_chart(points, aims.objectives, probability=probability)
    return Section(title, _OVERALL, chart, table, name="front-over-all")


def steadiness_section(summary: pd.DataFrame) -> Section:
    """How far repeats lie apart; without a table where there is one repeat.

    Args:
        summary: one row per trial, the columns of `summary.csv`.
    """
    title, table = "How steady was the machine?", noise(summary)
    if table["latency_noise"].isna().all():
        return Section(title, "One repeat says nothing about that. Raise `repeats`, and sweep again.")
    columns = [*configuration_columns(table), "trials", "unstable", "latency_noise", "throughput_noise", "warning"]
    told = [_STEADINESS, *correction_lines(summary), disturbed_words(summary)]
    return Section(title, "\n\n".join(filter(None, told)), table=table[columns])


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
    if len(objectives) != 2:
        return Section(title, "That is drawn for two objectives; the tables have the fronts of others for each link.")
    return Section(title, _MOVING, fronts_by_link_chart(points, objectives), name="fronts-by-link")


def regret_sections(points: pd.DataFrame, summary: pd.DataFrame, objectives: Mapping[str, str]) -> list[Section]:
    """One section per objective: how much worse than each link's best every point is, and the robust choice.

    Args:
        points: one row per configuration and point, see `point_estimates`.
        summary: its trials, one row each.
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
        words = f"{title}: {quantity(name).name}"
        if (several[name] <= 0).any():
            found.append(Section(words, "Regret is a ratio: there is none to a best of 0."))
            continue
        draws = point_draws(summary, name)
        table = regret_table(several, {name: direction}, draws)
        regrets = [str(column) for column in table.columns if str(column).startswith("regret_on_")]
        columns = [*configuration_columns(table), "partition_label", *regrets, *OF_THE_WORST]
        chart = regret_chart(several, {name: direction}, draws)
        text = _REGRET if len(table) else f"{_REGRET}\n\nNo point was measured on every link."
        found.append(Section(words, text, chart, table[columns] if len(table) else None, f"regret-{name}"))
    return found


_OVERALL = (
    "Backend, depth and whatever else is chosen compete as the cuts do: what is left for each model and link is what "
    "one would deploy. Beside each is in what share of other sweeps it is on this front, or as good."
)
_COMPARED = ("backend", "in_flight", "runtime", "precision", "wire", "link", "setup")
_PAIRS = (
    "Configurations that differ in one thing alone, cut by cut: differences are medians over the cuts, measured in "
    "turns and compared in pairs, with 95 % intervals. All backends run the same stages with the same timers; what "
    "differs is the hop between the devices. How much longer one device takes than another is told by what both ran: "
    "stage 0 of one cut, stage 1 of another."
)
_CERTAINTY = (
    "What another sweep might have found is drawn many times from the differences between repeats, the devices' "
    "speed, which is common to the points, aside: the probability is how often the point is then on the front or as "
    "good, which is to say that no point of it is more than {0} better on one and within {0} on the other. Points that "
    "are tied with another cannot be told from it with these repeats, or differ by less than {0}. The surfaces "
    "show what a tenth, half, and nine tenths of the repeats attain, as measured."
)
_STEADINESS = (
    "How far repeats lie from their point's median, and how many trials look unsteady. Close other programs, raise "
    "num_images or repeats, and run again where there is a warning. Estimates are made of repeats divided by what the "
    "stages of their own trial took, where that makes them agree better: by its path, one microbatch's way through all "
    "stages and hops, or its cycle, the time from one to the next."
)
_POINTS = (
    "What every point takes at the usual speed of its devices, in brackets its repeats' range as measured, and its "
    "95 % interval: how far another sweep, on the same devices and day, might be from it, but for what is common to "
    "all points. How noisy a repeat is, is taken to be the same for all points of a configuration, so that three "
    "repeats of twenty points say how sure each is. Beside them is the median as measured."
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
    "is the point whose worst regret is smallest, framed in the chart; points that are as good cannot be told from it. "
    "The best of a link is the mean of all that may be it, not the luckiest of them. The choice is made for every "
    "model, backend, depth and so on by itself, among the points that were measured on every link; only these are in "
    "the table."
)
