"""What TCP's congestion control makes of cuts over a link with a delay: the same sweep under each, in turns.

    sudo python -m benchmarks.congestion [--algorithms cubic bbr] [--link paper-both] [--cuts 0 4 7 10 14 19]
                                         [--in-flight 1 3] [--rounds 3]

MobileNetV2, single images, on two emulated devices, sockets. A round is one repeat of all cuts under each algorithm,
the order turned round in every other one. Printed is, for each cut and depth: the size of its activation, the latency
and throughput under each algorithm as medians with the smallest and largest, and how many times as long the first
algorithm takes as each other, round by round. It sets `net.ipv4.tcp_congestion_control` of this machine, which needs
root, and puts back what was there.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from benchmarks.break_even import DEVICES, swept

SETTING = Path("/proc/sys/net/ipv4/tcp_congestion_control")
OBJECTIVES = {"latency_s": ("ms", 1e3), "throughput_img_s": ("img/s", 1.0)}
KEYS = ["in_flight", "partition_label"]


@contextlib.contextmanager
def congestion_control(name: str) -> Iterator[None]:
    """Every connection that is opened meanwhile has it."""
    before = SETTING.read_text()
    SETTING.write_text(name)
    try:
        yield
    finally:
        SETTING.write_text(before)


def main() -> int:
    """Sweep under each, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algorithms", nargs="+", default=["cubic", "bbr"])
    parser.add_argument("--link", default="paper-both")
    parser.add_argument("--cuts", type=int, nargs="+", default=[0, 4, 7, 10, 14, 19])
    parser.add_argument("--in-flight", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    parts = []
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for turn in range(options.rounds):
            for name in options.algorithms if turn % 2 == 0 else options.algorithms[::-1]:
                with congestion_control(name):
                    trials = swept(
                        f"{name}-{turn}",
                        link=options.link,
                        partition_points=options.cuts,
                        in_flight=options.in_flight,
                        batch_size=1,
                        num_images=12,
                        repeats=1,
                    )
                parts.append(trials[trials["status"] == "ok"].assign(algorithm=name, turn=turn))
    _print(pd.concat(parts), options.algorithms)
    return 0


def _print(trials: pd.DataFrame, algorithms: list[str]) -> None:
    """One line for each cut, depth and objective."""
    for (depth, label), here in trials.groupby(KEYS, sort=False):
        size = here["activation_bytes"].iloc[0] / 1e3
        for objective, (unit, scale) in OBJECTIVES.items():
            table = here.pivot_table(index="turn", columns="algorithm", values=objective) * scale
            told = [
                f"{name} {table[name].median():.4g} ({table[name].min():.4g} to {table[name].max():.4g})"
                for name in algorithms
            ]
            for other in algorithms[1:]:
                ratio = (table[algorithms[0]] / table[other]).dropna()
                told.append(f"{algorithms[0]} / {other} {ratio.median():.3f} ({ratio.min():.3f} to {ratio.max():.3f})")
            print(f"{label} ({size:.0f} kB), in flight {depth}, {objective}, {unit}: {'; '.join(told)}", flush=True)


if __name__ == "__main__":
    os.environ.setdefault("PYTHONPATH", str(DEVICES.parents[2]))
    sys.exit(main())
