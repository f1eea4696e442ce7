"""The report of a results folder: one HTML page, and the charts as pictures."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from pplib.analysis.attainment import attainment
from pplib.analysis.bootstrap import with_confidence
from pplib.analysis.repeats import POINT_KEYS
from pplib.analysis.stability import noise
from pplib.analysis.statistics import fronts, point_table, representative_trials
from pplib.analysis.uncertainty import front_probability, ties
from pplib.records import read_record
from pplib.view.charts import (
    attainment_chart,
    backend_chart,
    decomposition_chart,
    front_chart,
    front_per_configuration_chart,
)
from pplib.view.findings import links_section, moving_section, points_section, regret_sections, unsteady_section
from pplib.view.report import write_report
from pplib.view.section import Section
from pplib.view.tables import configuration_columns, front_table

OBJECTIVES = {"latency_s": "min", "throughput_img_s": "max"}


def write_results_report(folder: Path, summary: pd.DataFrame) -> Path:
    """Write `report.html` and `charts/*.png`, `charts/*.svg` beside the results.

    Args:
        folder: the results folder.
        summary: its trials, one row each.

    Returns:
        Where the report is.
    """
    points = with_confidence(fronts(point_table(summary), OBJECTIVES), summary)
    probability = front_probability(summary, OBJECTIVES)
    moving, links = moving_section(points, OBJECTIVES), links_section(summary)
    failed = summary[summary["status"] != "ok"]
    front = front_chart(points, OBJECTIVES, probability=probability)
    apart = front_per_configuration_chart(points, OBJECTIVES, probability=probability)
    surfaces = attainment_chart(attainment(summary, OBJECTIVES), OBJECTIVES)
    parts = decomposition_chart(representative_trials(summary))
    sections = [
        Section("The front", _FRONT, front, front_table(points, OBJECTIVES), "front"),
        Section("Front by front", "The same points, one panel per configuration.", apart, name="fronts"),
        *([moving] if moving.chart is not None else []),
        Section("How sure is the front?", _UNCERTAINTY, surfaces, _certainty(summary, probability), "attainment"),
        *regret_sections(points, OBJECTIVES),
        Section("The backends side by side", _BACKENDS, backend_chart(points), name="backends"),
        Section("Where the time goes", _DECOMPOSITION, parts, name="decomposition"),
        points_section(points),
        Section("How steady was the machine?", _STABILITY, table=noise(summary)),
        unsteady_section(summary),
        *([links] if links.table is not None else []),
        Section("What it ran on", _ran_on(folder, summary)),
    ]
    if len(failed):
        columns = [*configuration_columns(failed), "partition_label", "repeat", "error"]
        sections.append(Section("Failed trials", "Kept as rows of the summary.", table=failed[columns]))
    path = folder / "report.html"
    write_report(path, f"ParetoPipe: {folder.name}", sections)
    return path


def _certainty(summary: pd.DataFrame, probability: pd.DataFrame) -> pd.DataFrame:
    """The points that are, or may be, on their front: how often they are, and what they cannot be told from."""
    tied = ties(summary, OBJECTIVES)
    table = probability.merge(tied[[*POINT_KEYS, "tied_with"]], on=POINT_KEYS, how="left")
    table = table[table["on_front"] | (table["front_probability"] >= 0.1)]
    shown = [*configuration_columns(table), "partition_label", *OBJECTIVES, "on_front"]
    return table[[*shown, "front_probability", "tied_with", "repeats_ok"]]


def _ran_on(folder: Path, summary: pd.DataFrame) -> str:
    """Devices and versions, from the newest trial of the folder."""
    newest = max(folder.glob("*/trials/*.json"), key=lambda path: path.stat().st_mtime_ns)
    record = read_record(newest)
    devices = "; ".join(
        f"{one['name']}: {one['cpu']}, {one['threads']} thread(s) on core(s) {one['cores']}, {one['torch_device']}"
        + (f", emulated {one['slowdown']:g} times slower" if one["emulated"] else "")
        for one in record.devices
    )
    version = record.environment
    return (
        f"{devices}. PyTorch {version['torch']}, Python {version['python']}, ParetoPipe {version['pplib']} at "
        f"{version['git_commit'] or 'no commit'}; {len(summary)} trials from {summary['started_at'].min()} to "
        f"{summary['started_at'].max()}."
    )


_FRONT = (
    "A cut is on the front if no other cut of its configuration is at least as good on both latency and throughput and "
    "better on one. Latency runs from the moment the first device takes a microbatch up until the last device has its "
    "output; throughput is the steady rate of images at the last device. Points are medians over repeats. A bar in a "
    "chart is always the range of the repeats; confidence intervals are in the tables, as low and high end."
)
_UNCERTAINTY = (
    "Repeats are drawn again, with replacement, a thousand times: the probability is how often the point is then on "
    "the front. Points that are tied with another cannot be told from it with these repeats. The surfaces show what a "
    "tenth, half, and nine tenths of the repeats attain. With three repeats all of this is rough, six are the "
    "least for 95 %; where a point has one repeat only, nothing is said about its configuration."
)
_STABILITY = (
    "How far repeats lie from their point's median, and how many trials look unsteady. Close other programs, raise "
    "num_images or repeats, and run again where there is a warning."
)
_BACKENDS = "Both backends run the same stages with the same timers; what differs is the hop between the devices."
_DECOMPOSITION = (
    "The parts of the mean latency at every cut, from the repeat whose latency is the median, so that they add up."
)
