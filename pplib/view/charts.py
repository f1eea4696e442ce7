"""All pictures by name; each lives in the file of its noun."""

from __future__ import annotations

from pplib.view.backends import backend_chart
from pplib.view.decomposition import decomposition_chart
from pplib.view.front import front_chart, front_per_configuration_chart
from pplib.view.front_links import fronts_by_link_chart
from pplib.view.gantt import gantt_chart
from pplib.view.regrets import regret_chart
from pplib.view.split_picture import split_chart
from pplib.view.surfaces import attainment_chart
from pplib.view.unit_profile import profile_chart

__all__ = [
    "attainment_chart",
    "backend_chart",
    "decomposition_chart",
    "front_chart",
    "front_per_configuration_chart",
    "fronts_by_link_chart",
    "gantt_chart",
    "profile_chart",
    "regret_chart",
    "split_chart",
]
