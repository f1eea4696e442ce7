"""The report of a results folder: one HTML page, and the charts as pictures."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from pplib.analysis.attainment import attainment
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
from pplib.view.display import save_chart
from pplib.view.report import Section, write_report
from pplib.view.tables import front_table

OBJECTIVES = {"latency_s": "min", "throughput_img_s": "max"}
_SHOWN = (
    "model link backend in_flight partition_label partition_name on_front latency_s latency_s_min latency_s_max "
    "throughput_img_s throughput_img_s_min throughput_img_s_max efficiency bottleneck activation_bytes repeats_ok"
).split()


def write_results_report(folder: Path, summary: pd.DataFrame) -> Path:
    """Write `report.html` and `charts/*.png`, `charts/*.svg` beside the results.

    Args:
        folder: the results folder.
        summary: its trials, one row each.

    Returns:
        Where the report is.
    """
    points = fronts(point_table(summary), OBJECTIVES)
    probability = front_probability(summary, OBJECTIVES)
    charts = {
        "front": front_chart(points, OBJECTIVES, probability=probability),
        "fronts": front_per_configuration_chart(points, OBJECTIVES, probability=probability),
        "attainment": attainment_chart(attainment(summary, OBJECTIVES), OBJECTIVES),
        "backends": backend_chart(points),
        "decomposition": decomposition_chart(representative_trials(summary)),
    }
    for name, chart in charts.items():
        save_chart(chart, folder / "charts", name)
    failed = summary[summary["status"] != "ok"]
    sections = [
        Section("The front", _FRONT, charts["front"], front_table(points, OBJECTIVES)),
        Section("Front by front", "The same points, one panel per configuration.", charts["fronts"]),
        Section("How sure is the front?", _UNCERTAINTY, charts["attainment"], _certainty(summary, probability)),
        Section("The backends side by side", _BACKENDS, charts["backends"]),
        Section("Where the time goes", _DECOMPOSITION, charts["decomposition"]),
        Section(
            "All points", "Medians over repeats; the range is the smallest and largest repeat.", table=points[_SHOWN]
        ),
        Section("How steady was the machine?", _STABILITY, table=noise(summary)),
        Section("What it ran on", _ran_on(folder, summary)),
    ]
    if len(failed):
        columns = ["model", "backend", "in_flight", "partition_label", "repeat", "error"]
        sections.append(Section("Failed trials", "Kept as rows of the summary.", table=failed[columns]))
    path = folder / "report.html"
    write_report(path, f"ParetoPipe: {folder.name}", sections)
    return path


def _certainty(summary: pd.DataFrame, probability: pd.DataFrame) -> pd.DataFrame:
    """The points that are, or may be, on their front: how often they are, and what they cannot be told from."""
    tied = ties(summary, OBJECTIVES)
    table = probability.merge(tied[[*POINT_KEYS, "tied_with"]], on=POINT_KEYS, how="left")
    table = table[table["on_front"] | (table["front_probability"] >= 0.1)]
    shown = ["model", "link", "backend", "in_flight", "partition_label", *OBJECTIVES, "on_front"]
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
    "output; throughput is the steady rate of images at the last device. Points are medians over repeats, bars their "
    "range."
)
_UNCERTAINTY = (
    "Repeats are drawn again, with replacement, a thousand times: the probability is how often the point is then on "
    "the front. Points that are tied with another cannot be told from it with these repeats. The surfaces show what a "
    "tenth, half, and nine tenths of the repeats attain. With three repeats all of this is rough; six are the least "
    "for 95 %."
)
_STABILITY = (
    "How far repeats lie from their point's median, and how many trials look unsteady. Close other programs, raise "
    "num_images or repeats, and run again where there is a warning."
)
_BACKENDS = "Both backends run the same stages with the same timers; what differs is the hop between the devices."
_DECOMPOSITION = (
    "The parts of the mean latency at every cut, from the repeat whose latency is the median, so that they add up."
)
