"""Whether more devices are worth it: the predicted best plan over all, against the best over two, both measured.

    python -m benchmarks.device_plans GRID.yaml [--repeats 8]

The grid names a device file and, as `num_stages`, how many of its devices may be used; it is profiled where that is not
done yet. Over all choices, orders and cuts the plan with the highest predicted throughput is taken, and of those with
two devices the best. The two are then measured in turns, and printed: what was predicted of each, what was measured
(median, smallest and largest), and the ratio of the throughputs, turn by turn.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import msgspec
import numpy as np
import yaml

from pplib.config import Configuration
from pplib.decode import plain
from pplib.devices import Testbed, load_testbed
from pplib.grid import load_grid
from pplib.planner.device_plans import device_plans, reordered
from pplib.planner.prediction import predict_cuts
from pplib.planner.search.plan_costs import Plan
from pplib.sweep.experiment import Experiment, prepare
from pplib.sweep.measuring.run import run_once
from pplib.sweep.planning.profiling import ProfiledConfiguration, profile_grid


def experiment_of(config: Configuration, testbed: Testbed, plan: Plan, folder: Path) -> Experiment:
    """A plan, ready to be measured on its devices in its order."""
    devices = [plain(testbed.devices[i]) for i in plan.devices]
    path = folder / f"{'-'.join(str(i) for i in plan.devices)}.yaml"
    path.write_text(yaml.safe_dump({"devices": devices}))
    points: list[int | list[int]] = [list(plan.points)]
    values = {"devices": str(path), "num_stages": len(devices), "partition_points": points}
    return prepare(msgspec.structs.replace(config, **values), progress=False)


def told(one: ProfiledConfiguration, plan: Plan, testbed: Testbed) -> str:
    """A plan and what is predicted of it."""
    (row,) = predict_cuts(reordered(one.pipeline, plan), [plan.points]).to_dict("records")
    low, value, high = (row[f"predicted_throughput_img_s{end}"] for end in ("_low", "", "_high"))
    names = " -> ".join(testbed.names[i] for i in plan.devices)
    return f"{names} {row['partition_label']}: predicted {value:.1f} img/s ({low:.1f} to {high:.1f})"


def main() -> None:
    """Measure and print; some minutes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid", type=Path)
    parser.add_argument("--repeats", type=int, default=8)
    options = parser.parse_args()
    config = load_grid(options.grid).configurations[0]
    testbed = load_testbed(config.devices_file)
    profiled = profile_grid((config,), {config.devices: testbed})
    (found,) = [one for one in profiled if isinstance(one, ProfiledConfiguration)]
    plans = [plan for plan in device_plans(found.pipeline) if len(plan.devices) > 1]
    two = [plan for plan in _of_two(found) if len(plan.devices) == 2]
    best = [min(some, key=lambda plan: plan.cycle_s) for some in (plans, two)]
    measured: list[list[float]] = [[], []]
    with tempfile.TemporaryDirectory() as folder:
        experiments = [experiment_of(config, testbed, plan, Path(folder)) for plan in best]
        for turn in range(options.repeats):
            for i in (0, 1) if turn % 2 else (1, 0):
                measured[i].append(float(run_once(experiments[i]).metrics["throughput_img_s"] or np.nan))
    for plan, values in zip(best, measured, strict=True):
        spread = f"{np.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"
        print(f"{told(found, plan, testbed)}; measured {spread}")
    ratios = np.array(measured[0]) / np.array(measured[1])
    print(f"all over two devices: {np.median(ratios):.3f} ({ratios.min():.3f} to {ratios.max():.3f} turn by turn)")


def _of_two(one: ProfiledConfiguration) -> list[Plan]:
    """The fronts of the first device with each other one."""
    found = []
    for other in range(1, len(one.pipeline.stages)):
        pair = reordered(one.pipeline, Plan((0, other), (0,), 0.0, 0.0))
        for plan in device_plans(pair):
            found.append(plan._replace(devices=tuple((0, other)[i] for i in plan.devices)))
    return found


if __name__ == "__main__":
    main()
