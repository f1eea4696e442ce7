"""All pictures by name; each lives in the file of its noun."""

from __future__ import annotations

from pplib.view.charts.attainment import attainment_chart
from pplib.view.charts.backends import backend_chart
from pplib.view.charts.decomposition import decomposition_chart
from pplib.view.charts.front import front_chart, front_per_configuration_chart
from pplib.view.charts.front_by import fronts_by_link_chart, fronts_by_run_chart
from pplib.view.charts.gantt import gantt_chart
from pplib.view.charts.link_phases import link_phases_chart
from pplib.view.charts.regret import regret_chart
from pplib.view.charts.several import objectives_chart, several_objectives_chart
from pplib.view.charts.speeds import speeds_chart
from pplib.view.charts.split import profile_chart, split_chart

__all__ = [
    "attainment_chart",
    "backend_chart",
    "decomposition_chart",
    "front_chart",
    "front_per_configuration_chart",
    "fronts_by_link_chart",
    "fronts_by_run_chart",
    "gantt_chart",
    "link_phases_chart",
    "objectives_chart",
    "profile_chart",
    "regret_chart",
    "several_objectives_chart",
    "speeds_chart",
    "split_chart",
]
