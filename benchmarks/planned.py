"""How `partition_points: plan` would have done on a grid that was measured whole.

    python -m benchmarks.planned GRID.yaml [GRID.yaml ...] [--share 0.25]

Each grid has been swept (`paretopipe sweep`), every cut of it or those it lists, with `output_dir` as it is there;
devices and hops are profiled where that is not done yet. Then the plan is played again: it asks for cuts, and is
given what their trials had found. Printed for every configuration: the mean absolute errors of the first prediction
and, of cuts not measured yet, after every round; how far repeats are from their medians; how many cuts the plan
measured; and of the front of those, estimated as that of all cuts is, the hypervolume as a share of the exhaustive
front's (reference point: the worst of all cuts in each objective), and how many of the exhaustive front's points it
has or has an equal of. `--share` ends a plan at that share of the cuts, as `max_minutes` does.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from pplib.analysis.estimated.point_estimates import point_estimates
from pplib.analysis.statistics import partition_key
from pplib.columns import OBJECTIVES
from pplib.devices import load_testbed
from pplib.grid import load_grid
from pplib.planner.measured_cuts import measured_cuts
from pplib.planner.next_cuts import next_cuts
from pplib.planner.plan_quality import hypervolume_share, recall
from pplib.planner.prediction import CutDraws, draw_cuts
from pplib.sweep.planning.choosing import FIRST_ROUND, PER_ROUND
from pplib.sweep.planning.profiling import ProfiledConfiguration, profile_grid
from pplib.sweep.results import summary_frame


def mape(cuts: CutDraws, truth: pd.DataFrame, of: list[int]) -> str:
    """Of latency and throughput, over these cuts."""
    errors = [
        np.abs(cuts.values[name][of, 0] / truth[name].to_numpy(dtype=np.float64)[of] - 1).mean() for name in OBJECTIVES
    ]
    return " / ".join(f"{one:.1%}" for one in errors)


def noise(truth: pd.DataFrame) -> str:
    """How far the first and the last of the repeats are from the middle between them, on average over cuts."""
    apart = [((truth[f"{name}_max"] - truth[f"{name}_min"]) / truth[name] / 2).mean() for name in OBJECTIVES]
    return " / ".join(f"{one:.1%}" for one in apart)


def replay(one: ProfiledConfiguration, share: float) -> None:
    """Play one configuration, and print how it went."""
    config, summary = one.config, summary_frame(one.config.folder)
    key = summary["partition_point"].map(partition_key)
    truth = point_estimates(summary, columns=OBJECTIVES).dropna(subset=list(OBJECTIVES))
    truth = truth.set_index(truth["partition_point"].map(partition_key)).sort_index()
    points = list(truth.index)
    chosen, told = list[int](), list[str]()
    while True:
        measured = measured_cuts(summary[key.isin([points[i] for i in chosen])]) if chosen else None
        draws = draw_cuts(one.pipeline, points, measured=measured)
        others = [i for i in range(len(points)) if i not in chosen]
        told.append(f"{len(chosen)}: {mape(draws, truth, others)}")
        left = int(share * len(points)) - len(chosen)
        most = min(PER_ROUND if chosen else FIRST_ROUND, left)
        more = next_cuts(draws, OBJECTIVES, chosen, config.indifference, most) if left > 0 else []
        if not more:
            break
        chosen += more
    values = truth[list(OBJECTIVES)].to_numpy(dtype=np.float64)
    print(
        f"{config.identity}: {len(chosen)} of {len(points)} cuts ({len(chosen) / len(points):.0%}); hypervolume "
        f"{hypervolume_share(values, chosen, OBJECTIVES):.4f}; has {recall(values, chosen, OBJECTIVES, 0.02):.0%} of "
        f"the front; {'stopped by the share' if left <= 0 else 'nothing more to gain'}\n"
        f"    latency / throughput off, by cuts measured: {'; '.join(told)}\n"
        f"    repeats from their medians: {noise(truth)}",
        flush=True,
    )


def main() -> None:
    """Print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grids", type=Path, nargs="+")
    parser.add_argument("--share", type=float, default=1.0)
    options = parser.parse_args()
    for path in options.grids:
        grid = load_grid(path)
        testbeds = {config.devices: load_testbed(config.devices_file) for config in grid.configurations}
        for one in profile_grid(grid.configurations, testbeds):
            if isinstance(one, ProfiledConfiguration):
                replay(one, options.share)


if __name__ == "__main__":
    main()
