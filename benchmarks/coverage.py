"""How often intervals hold what is true, in simulated sweeps with and without drift: `python -m benchmarks.coverage`.

A sweep of twenty points and three configurations, in turns as a real one: stages whose times are 2 % noise about their
truth, and devices that drift together (a random walk of 10 %), are a fifth slower for 5 to 30 s now and then, each
by itself, change from trial to trial by 10 % with heavy tails, as a shared host does (`host`), or do not drift at all.
Or the second is shared with something else that comes and goes for 5 to 30 s, as often there as not (`busy`): what is
true is what holds in the mean over many such sweeps.
The stages of a cut are the sum of their units on two equal devices. Beside the changes of a host also: on two devices
that have nothing in common (`unlike`), off that sum by 3 % (`rough`), off by 3 % in each configuration (`shared`).
What is looked at is what fronts are made of: differences between two points of a configuration, and of a point between
two configurations.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from pplib.analysis.estimated.estimates import Estimates, estimates

COLUMNS = ["latency_s", "throughput_img_s"]
SAME = {
    "model": "m",
    "weights": "random",
    "dataset": "synthetic",
    "link": "none",
    "batch_size": 8,
    "num_stages": 2,
    "granularity": "block",
    "optimize": True,
    "runtime": "eager",
    "precision": "float32",
    "wire": "float32",
    "setup": "",
    "device_names": "a, b",
    "status": "ok",
}
CONFIGURATIONS = (("socket", 1), ("socket", 2), ("rpc", 2))
POINTS, TRIAL_S, NOISE, BATCH = 20, 2.0, 0.02, 8
LEVEL = (0.025, 0.975)


def drifts(random: np.random.Generator, kind: str, count: int) -> np.ndarray:
    """How much slower than usual both devices are at each trial, as logarithms of shape (count, 2)."""
    if kind == "walk":
        walk = np.cumsum(random.normal(size=count))
        return np.stack([0.1 * (walk - np.median(walk)) / np.ptp(walk)] * 2, axis=1)
    if kind in ("host", "unlike", "rough", "shared"):
        both, each = random.standard_t(4, size=(count, 1)), random.standard_t(4, size=(count, 2))
        return 0.1 * (0.6 * both + 0.8 * each) / np.sqrt(2)
    found = np.zeros((count, 2))
    at = np.arange(count) * TRIAL_S
    if kind == "busy":
        changes = np.cumsum(random.uniform(5, 30, size=count)) - random.uniform(0, 60)
        found[:, 1] = 0.4 * (np.searchsorted(changes, at) % 2) - 0.2
        return found
    for device in (0, 1) if kind == "bursts" else ():
        begun = 0.0
        while begun < at[-1]:
            begun += random.uniform(5, 60)
            lasts = random.uniform(5, 30)
            found[(at >= begun) & (at < begun + lasts), device] = 0.2
            begun += lasts
    return found


def truth(kind: str, backend: str, in_flight: int, point: int) -> tuple[float, float, float, float]:
    """Stage times (s), latency (s) and throughput (images/s) of a point where nothing drifts."""
    first = 0.1 * (point + 1) / (POINTS + 1)
    second = 0.1 - first
    if kind == "unlike":
        second *= 0.3 + 0.05 * point
    if kind == "rough":
        first, second = np.array([first, second]) * np.exp(0.03 * np.random.default_rng(point).normal(size=2))
    if kind == "shared":
        drawn = np.random.default_rng([point, CONFIGURATIONS.index((backend, in_flight))])
        first, second = np.array([first, second]) * np.exp(0.03 * drawn.normal(size=2))
    latency = first + second + (0.0042 if backend == "rpc" else 0.004)
    return first, second, latency, BATCH / (max(first, second) if in_flight == 2 else latency)


def simulated(random: np.random.Generator, kind: str, repeats: int) -> tuple[pd.DataFrame, np.ndarray]:
    """The summary of a sweep, and the drift of its first device at each of its trials."""
    slower = drifts(random, kind, repeats * POINTS * len(CONFIGURATIONS))
    rows: list[dict[str, object]] = []
    for repeat in range(repeats):
        orders = [random.permutation(POINTS) for _ in CONFIGURATIONS]
        for place in range(POINTS):
            for which in random.permutation(len(CONFIGURATIONS)):
                backend, in_flight = CONFIGURATIONS[which]
                point, now = int(orders[which][place]), len(rows)
                first, second, latency, _ = truth(kind, backend, in_flight, point)
                stages = np.array([first, second]) * np.exp(slower[now] + random.normal(size=2) * NOISE)
                whole = (stages.sum() + latency - first - second) * np.exp(random.normal() * NOISE)
                rate = BATCH / (stages.max() if in_flight == 2 else whole) * np.exp(random.normal() * NOISE)
                rows.append(
                    {
                        **SAME,
                        "backend": backend,
                        "in_flight": in_flight,
                        "partition_point": point,
                        "partition_label": f"P{point}",
                        "repeat": repeat,
                        "started_at": pd.Timestamp(1.7e9 + now * TRIAL_S, unit="s", tz="UTC").isoformat(),
                        "latency_s": whole,
                        "throughput_img_s": rate,
                        "stage0_compute_s": stages[0],
                        "stage1_compute_s": stages[1],
                    }
                )
    return pd.DataFrame(rows), slower[:, 0]


def coverage(kind: str, repeats: int, sweeps: int, resamples: int = 1000) -> pd.DataFrame:
    """In what share of cases an interval holds the true ratio of two points, or of two configurations."""
    held: dict[str, list[list[bool]]] = {"points": [[], []], "configurations": [[], []]}
    for sweep in range(sweeps):
        summary, _ = simulated(np.random.default_rng([100, sweep]), kind, repeats)
        found = estimates(summary, COLUMNS, resamples)
        for what, first, second, true in _pairs(kind, found):
            for j in (0, 1):
                low, high = np.quantile(np.log(first[..., j] / second[..., j]), LEVEL, axis=0)
                held[what][j] += ((low <= true[:, j]) & (true[:, j] <= high)).tolist()
    return pd.DataFrame({what: [float(np.mean(one)) for one in two] for what, two in held.items()}, index=COLUMNS)


def _pairs(kind: str, found: Sequence[Estimates]) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """What is compared: the draws of both, (resamples, points, columns), and the logarithm of their true ratio."""
    true = []
    for one in found:
        at = (str(one.keys["backend"]), int(one.keys["in_flight"]))
        true.append(np.log([truth(kind, *at, int(point.keys["partition_point"]))[2:] for point in one.points]))
    for one, known in zip(found, true, strict=True):
        yield "points", one.draws[:, 1:], one.draws[:, :-1], known[1:] - known[:-1]
    yield "configurations", found[0].draws, found[-1].draws, true[0] - true[-1]


def main() -> None:
    """Print the table; some minutes."""
    for kind in ("none", "walk", "bursts", "busy", "host", "unlike", "rough", "shared"):
        for repeats in (3, 5, 10):
            table = coverage(kind, repeats, sweeps=25)
            words = "; ".join(f"{name}: " + ", ".join(f"{v:.1%}" for v in table[name]) for name in table.columns)
            print(f"{kind:7s} {repeats:2d} repeats  {words}", flush=True)


if __name__ == "__main__":
    main()
