"""The report of a results folder: one HTML page, and the charts as pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import altair as alt
import pandas as pd
from altair.utils.schemapi import debug_mode

from pplib.analysis.estimated.point_estimates import point_estimates
from pplib.analysis.estimated.uncertainty import front_probability, with_fronts
from pplib.analysis.repeats import point_name
from pplib.analysis.statistics import CONFIGURATION_KEYS, representative_trials
from pplib.columns import quantity
from pplib.objectives import Aims
from pplib.records import read_record
from pplib.sweep.results import kept_timelines, trial_files
from pplib.view.asked_front import asked_front_chart
from pplib.view.charts import (
    decomposition_chart,
    front_per_configuration_chart,
    objectives_chart,
)
from pplib.view.report import write_report
from pplib.view.section import Section
from pplib.view.sections.device_speeds import speeds_section
from pplib.view.sections.findings import (
    certainty_section,
    links_section,
    moving_section,
    overall_section,
    pairs_section,
    points_section,
    regret_sections,
    steadiness_section,
    unsteady_section,
)
from pplib.view.sections.kept_limits import limits_section
from pplib.view.sections.link_changes import link_changes_sections
from pplib.view.sections.predictions import predictions_section
from pplib.view.tables import configuration_columns, front_table
from pplib.view.words.answer import answer_sentences
from pplib.view.words.differences import percent
from pplib.view.words.limits import energy_words

_ALWAYS = (
    "answer",
    "link_changes",
    "pairs",
    "unsteady",
    "ran_on",
)  # say something also where they have nothing to show


def write_results_report(
    folder: Path, summary: pd.DataFrame, sections: Mapping[str, Sequence[Section]] | None = None
) -> Path:
    """Write `report.html` and `charts/` (PNG, SVG, PDF) beside the results.

    Args:
        folder: the results folder.
        summary: its trials, one row each.
        sections: see `results_sections`; made here if not given.

    Returns:
        Where the report is.
    """
    told = [
        one
        for topic, found in (sections or results_sections(folder, summary)).items()
        for one in found
        if topic in _ALWAYS or one.chart is not None or one.table is not None
    ]
    path = folder / "report.html"
    write_report(path, f"ParetoPipe: {folder.name}", told)
    return path


@debug_mode(False)  # each part of a chart would be validated as it is made; the tests do that
def results_sections(folder: Path, summary: pd.DataFrame, aims: Aims | None = None) -> dict[str, list[Section]]:
    """Everything that is told of a folder of results, by topic, in order: the report and `analyze.ipynb` show it.

    A section that has nothing to show says why; the report leaves it out.

    Args:
        folder: the results folder.
        summary: its trials, one row each.
        aims: what is wanted of a cut; latency and throughput without limits if not given.
    """
    aims, lacking = (aims or Aims()).known(summary)
    indifference, objectives = aims.indifference, aims.objectives
    probability = front_probability(summary, objectives, indifference=indifference)
    points = with_fronts(point_estimates(summary, columns=aims.directions), probability)
    words = _FRONT.format(percent(indifference), _names(objectives))
    told = [words, *lacking, energy_words(summary, aims.directions)]
    front, trials = objectives_chart(points, objectives, probability), representative_trials(summary)
    asked = _asked(folder, points, aims, probability, trials)
    told += [_ASKED] if asked else []
    return {
        "answer": [Section("The answer", "\n\n".join(map(" ".join, answer_sentences(summary, aims))))],
        "front": [
            Section(
                "The front",
                "\n\n".join(filter(None, told)),
                asked or front,
                front_table(points, objectives, probability),
                "front",
                front,
            )
        ],
        "limits": [limits_section(summary, aims)],
        "overall": [overall_section(summary, points, aims)],
        "fronts": [_apart(points, probability, objectives)],
        "predicted": [predictions_section(points, indifference)],
        "moving": [moving_section(points, objectives)],
        "certainty": [certainty_section(summary, probability, objectives, indifference)],
        "regret": regret_sections(points, summary, objectives),
        "link_changes": link_changes_sections(summary, points, aims),
        "pairs": [pairs_section(summary, points, indifference)],
        "decomposition": [
            Section("Where the time goes", _DECOMPOSITION, decomposition_chart(trials), name="decomposition")
        ],
        "points": [points_section(points, aims.directions)],
        "steadiness": [steadiness_section(summary)],
        "speeds": [speeds_section(summary)],
        "unsteady": [unsteady_section(summary)],
        "links": [links_section(summary)],
        "ran_on": [Section("What it ran on", _ran_on(folder, summary))],
        "failed": [_failed(summary)],
    }


def _asked(
    folder: Path, points: pd.DataFrame, aims: Aims, probability: pd.DataFrame, trials: pd.DataFrame
) -> alt.TopLevelMixin | None:
    """The front that one can ask; None where it is not drawn of two objectives."""
    if len(aims.objectives) != 2:
        return None
    likeliest = points.sort_values(["on_front", "front_probability"], ascending=False, kind="stable")[:_TIMELINES]
    near = {point_name(row) for row in likeliest.to_dict("records")}
    shown = trials[[point_name(row) in near for row in trials.to_dict("records")]]
    return asked_front_chart(points, aims.objectives, probability, trials, kept_timelines(folder, shown))


def _apart(points: pd.DataFrame, probability: pd.DataFrame, objectives: Mapping[str, str]) -> Section:
    title = "Front by front"
    if len(points.drop_duplicates(CONFIGURATION_KEYS)) < 2:
        return Section(title, "These results hold one configuration: its front is above.")
    if len(objectives) != 2:
        return Section(title, "Fronts are drawn one by one for two objectives; those of others are in the tables.")
    chart = front_per_configuration_chart(points, objectives, probability=probability)
    return Section(title, "The same points, one panel per configuration.", chart, name="fronts")


def _names(objectives: Mapping[str, str]) -> str:
    """Of what a front is, in words: "both latency and throughput"."""
    names = [quantity(name).name for name in objectives]
    return f"both {names[0]} and {names[1]}" if len(names) == 2 else ", ".join(names)


def _failed(summary: pd.DataFrame) -> Section:
    title, failed = "Failed trials", summary[summary["status"] != "ok"]
    if not len(failed):
        return Section(title, "No trial failed.")
    columns = [*configuration_columns(failed), "partition_label", "repeat", "error"]
    return Section(title, "Kept as rows of the summary.", table=failed[columns])


def _ran_on(folder: Path, summary: pd.DataFrame) -> str:
    """Devices and versions, from the newest trial of the folder."""
    newest = max(trial_files(folder), key=lambda path: path.stat().st_mtime_ns)
    record = read_record(newest)
    devices = "; ".join(
        f"{one['name']}: {one['cpu']}, {one['threads']} thread(s) on core(s) {one['cores']}, {one['torch_device']}"
        + (f", emulated {one['slowdown']:g} times slower" if one["emulated"] else "")
        + (f", TCP {one['congestion_control']}" if "congestion_control" in one else "")
        for one in record.devices
    )
    version = record.environment
    return (
        f"{devices}. PyTorch {version['torch']}, Python {version['python']}, ParetoPipe {version['pplib']} at "
        f"{version['git_commit'] or 'no commit'}; {len(summary)} trials from {summary['started_at'].min()} to "
        f"{summary['started_at'].max()}."
    )


_TIMELINES = 200  # at most 3 kB of the page each
_ASKED = (
    "Click on a point, or on its name: what stands below the chart is then of that point. On the left is what a "
    "microbatch's time goes into, on average, on the right what each stage and hop did, and when, with the numbers of "
    "the microbatches; both of the repeat whose latency is the median. Of more than "
    f"{_TIMELINES} points those that are likeliest on a front have a timeline here; none has where the records keep "
    "none (`keep: summary`)."
)
_FRONT = (
    "A cut is on the front if no other cut of its configuration is at least as good on {1} and "
    "better on one, and none is more than {0} better on one and within {0} on the other. Latency runs from the moment "
    "the first device takes a microbatch up until the last device has its output; throughput is the steady rate of "
    "images at the last device. Points are estimates at the usual speed of the devices, which all trials tell "
    "together. A bar is the 95 % interval: how far another sweep might be from it, but for what is common to all "
    "points. In the tables it stands beside the estimate; in brackets is the range of the repeats as measured."
)
_DECOMPOSITION = (
    "The parts of the mean latency at every cut, from the repeat whose latency is the median, so that they add up."
)
