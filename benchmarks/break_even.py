"""Whether the break-even of two cuts is where it is told: computed over one link, measured above it and below.

    python -m benchmarks.break_even [--batch-size 1] [--cuts 0 19] [--repeats 6] [--measured 12]

MobileNetV2 on two emulated devices, the first three times slower, swept over a link of 300 Mbit/s; from that the rate
is computed at which another cut begins to have the lowest latency, where there are several the slowest. Then both
cuts are measured in turns over three links: that one, and those of 1.2 times the rate and of 1/1.2. From the turns
over the first the break-even is computed again, for devices are quicker one minute and slower the next. Printed is,
for each of the others, how many times as long the cut of the faster links takes: as computed, as a report estimates it
from these trials, with its 95 % interval, and repeat by repeat as measured. Below the break-even that should be more
than 1, above it less; then the parts of both, as computed and as measured. It takes network namespaces, and some six
minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from pplib.analysis.estimated.estimates import estimates
from pplib.analysis.estimated.point_estimates import point_estimates
from pplib.columns import OBJECTIVES
from pplib.planner.changes.link_changes import LinkChanges, link_changes
from pplib.sweep.job.command import main as sweep
from pplib.sweep.results import read_summary

DEVICES = Path(__file__).resolve().parents[1] / "params" / "devices" / "local-slow.yaml"
FACTOR = 1.2
WIDE, WIDE_BIT_S = "wide", 300e6  # of the same kind as the others, so that all three are measured in turns
LATENCY = "latency_s"


def swept(name: str, **values: object) -> pd.DataFrame:
    """The trials of a sweep in the current folder.

    Raises:
        SystemExit: it failed.
    """
    grid = Path(f"{name}.yaml")
    grid.write_text(yaml.safe_dump({"name": name, "devices": str(DEVICES), "num_images": 32, **values}))
    with contextlib.redirect_stdout(sys.stderr):
        status = sweep([str(grid)])
    if status:
        raise SystemExit(status)
    return read_summary(Path("outputs") / name / "summary.csv")


def told(trials: pd.DataFrame) -> LinkChanges:
    """What changes with the link, by latency."""
    points = point_estimates(trials).assign(on_front=False)
    (found,) = link_changes(trials, points, {LATENCY: OBJECTIVES[LATENCY]}, 0.02)
    return found


def ratio(found: LinkChanges, pair: list[str], rate_bit_s: float) -> float:
    """How many times as long the first of two cuts takes over a link, as computed."""
    places = [list(found.cuts.labels).index(label) for label in pair]
    values = found.cuts.performance(np.array([rate_bit_s]), np.zeros(1), [LATENCY])[0, places, 0]
    return float(values[0] / values[1])


def estimated(trials: pd.DataFrame, link: str, pair: list[str]) -> tuple[float, float, float]:
    """The same as reports estimate it of all trials: between the ends of its 95 % interval the value."""
    one = next(found for found in estimates(trials, [LATENCY]) if found.keys["link"] == link)
    labels = [str(point.keys["partition_label"]) for point in one.points]
    first, second = (labels.index(label) for label in pair)
    low, high = np.quantile(one.draws[:, first, 0] / one.draws[:, second, 0], [0.025, 0.975])
    return float(low), float(one.values[first, 0] / one.values[second, 0]), float(high)


def main() -> int:
    """Sweep, compute, sweep over the two links, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--cuts", type=int, nargs="+", default=[0, 19])
    parser.add_argument("--repeats", type=int, default=6)
    parser.add_argument("--measured", type=int, default=12)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        Path("params").mkdir()
        links = Path("params") / "links.yaml"
        links.write_text(yaml.safe_dump({WIDE: {"rate_bit_s": WIDE_BIT_S}}))
        common = {"batch_size": options.batch_size}
        found = told(swept("all", **common, partition_points=options.cuts, repeats=options.repeats, link=WIDE))
        print(f"lowest latency: {_words(found)}", flush=True)
        stretches = found.by_rate[LATENCY]
        if len(stretches) < 2:
            print("one cut wins over every link: there is nothing to check; try other --cuts")
            return 1
        pair, rate = [one.label for one in stretches[-2:]], float(stretches[-2].until or 0.0)
        rates = {WIDE: WIDE_BIT_S, "above": rate * FACTOR, "below": rate / FACTOR}
        links.write_text(yaml.safe_dump({name: {"rate_bit_s": value} for name, value in rates.items()}))
        cuts = [int(label[1:]) for label in pair]
        trials = swept("near", **common, partition_points=cuts, repeats=options.measured, link=[*rates])
        trials = trials[trials["status"] == "ok"]
        wide = trials[trials["link"] == WIDE]
        found = told(wide)
        print(f"by the turns over {WIDE_BIT_S / 1e6:g} Mbit/s: {_words(found)}")
        for name, value in list(rates.items())[1:]:
            here = trials[trials["link"] == name]
            table = here.pivot_table(index="repeat", columns="partition_label", values=LATENCY)
            measured = (table[pair[0]] / table[pair[1]]).dropna()
            low, middle, high = estimated(trials, name, pair)
            print(
                f"{value / 1e6:.1f} Mbit/s, {name}: {pair[0]} takes {ratio(found, pair, value):.3f} times as long as "
                f"{pair[1]} as computed, {middle:.3f} as measured (95 %: {low:.3f} to {high:.3f}; repeat by repeat "
                f"{measured.median():.3f}, {measured.min():.3f} to {measured.max():.3f}, {len(measured)} repeats)"
            )
            for label in pair:
                print(
                    f"  {label}: {_parts(found, wide, label, value)}; {_seen(here[here['partition_label'] == label])}"
                )
    return 0


def _parts(found: LinkChanges, wide: pd.DataFrame, label: str, rate_bit_s: float) -> str:
    """What its latency and its hop are computed to take, and its stages took over the bare link."""
    place = list(found.cuts.labels).index(label)
    here = np.array([rate_bit_s]), np.zeros(1)
    latency = found.cuts.performance(*here, [LATENCY])[0, place, 0]
    hop = found.cuts.over(*here).busy_s[place, 0]
    computing = wide.loc[wide["partition_label"] == label, "compute_s"].median()
    return f"computed {latency * 1e3:.1f} ms (hop {hop * 1e3:.1f}), stages over the wide one {computing * 1e3:.1f} ms"


def _seen(trials: pd.DataFrame) -> str:
    """The medians of what was measured."""
    latency, hop, computing = (trials[name].median() * 1e3 for name in (LATENCY, "hop0_transfer_s", "compute_s"))
    return f"measured {latency:.1f} ms (hop {hop:.1f}), stages {computing:.1f} ms"


def _words(found: LinkChanges) -> str:
    """Which cut has the lowest latency until which rate."""
    return ", then ".join(
        f"{one.label} {'below' if one.until is None else f'until {one.until / 1e6:.1f} Mbit/s'}"
        for one in found.by_rate[LATENCY]
    )


if __name__ == "__main__":
    os.environ.setdefault("PYTHONPATH", str(DEVICES.parents[2]))
    sys.exit(main())
