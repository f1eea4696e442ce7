"""Whether a known difference is found: devices slowed by 3 %, all of them or the second, against the same without.

    python -m benchmarks.known_truth [--model mobilenet_v2] [--slowdown 1.03] [--repeats 3] [--in-flight 1]

Three pairs of workers are up on the same two cores; within a repeat every cut is measured on each pair, in an order
drawn by lot. Printed is what a report would say of these trials: by how much latency and throughput differ, what the
second device takes for the same work as the first, each with its 95 % interval, and what medians as measured say.
"""

from __future__ import annotations

import argparse
import contextlib
import random
from dataclasses import replace

import msgspec
import numpy as np
import pandas as pd

from benchmarks.seal import SEALED, pipeline
from pplib.analysis.estimated.device_ratios import device_ratios
from pplib.analysis.estimated.differences import paired_differences
from pplib.columns import INDIFFERENCE, OBJECTIVES
from pplib.config import configuration
from pplib.links import UNSHAPED, LinkRecord
from pplib.records import summary_row
from pplib.sweep.experiment import Experiment, prepare
from pplib.sweep.measuring.schedule import Trial
from pplib.sweep.measuring.trial import run_trial
from pplib.view.words.differences import difference_lines

PLAIN, SECOND, ALL = "as it is", "second slower", "both slower"


def slowed(experiment: Experiment, slowdowns: tuple[float, ...]) -> Experiment:
    """The experiment on devices that take so many times as long."""
    devices = [
        msgspec.structs.replace(device, slowdown=slowdown)
        for device, slowdown in zip(experiment.testbed.devices, slowdowns, strict=True)
    ]
    return replace(experiment, testbed=msgspec.structs.replace(experiment.testbed, devices=devices))


def trials(experiments: dict[str, Experiment], repeats: int) -> pd.DataFrame:
    """Every cut on every pair of workers, in turns."""
    draw, rows = random.Random(0), []
    link = LinkRecord(profile=UNSHAPED, engine="none", tunnel="none", before=[])
    with contextlib.ExitStack() as stack:
        up = {name: stack.enter_context(pipeline(one, SEALED, None)) for name, one in experiments.items()}
        for repeat in range(repeats):
            points = list(experiments[PLAIN].points)
            draw.shuffle(points)
            for order, point in enumerate(points):
                for name in draw.sample(list(experiments), len(experiments)):
                    record, error = run_trial(experiments[name], up[name], Trial(point, repeat, order), link)
                    if error:
                        raise error
                    rows.append({**summary_row(record), "setup": name})
    return pd.DataFrame(rows)


def main() -> None:
    """Measure and print; 4 minutes on two cores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mobilenet_v2")
    parser.add_argument("--slowdown", type=float, default=1.03)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--in-flight", type=int, default=1)
    options = parser.parse_args()
    asked = {"model": options.model, "repeats": options.repeats, "in_flight": options.in_flight}
    experiment = prepare(configuration(asked), progress=False)
    by = options.slowdown
    slowdowns = {PLAIN: (1.0, 1.0), SECOND: (1.0, by), ALL: (by, by)}
    frame = trials({name: slowed(experiment, values) for name, values in slowdowns.items()}, options.repeats)
    told = paired_differences(frame, list(OBJECTIVES), "setup")
    print(*difference_lines(told, INDIFFERENCE, "setup"), sep="\n")
    ratios = {str(one.keys["setup"]): one for one in device_ratios(frame)}
    for name in (SECOND, ALL):
        change = ratios[name].ratio / ratios[PLAIN].ratio
        low, high = np.quantile(ratios[name].draws / ratios[PLAIN].draws, [0.025, 0.975])
        print(f"{name}: the second device against the first, for the same work: {change:.3f} ({low:.3f} to {high:.3f})")
    for column in OBJECTIVES:
        medians = frame.groupby(["setup", "partition_label"])[column].median().unstack("setup")
        words = [f"{name} {(medians[name] / medians[PLAIN]).median():.3f}" for name in (SECOND, ALL)]
        print(f"{column}, medians as measured, against {PLAIN}: {', '.join(words)}")


if __name__ == "__main__":
    main()
