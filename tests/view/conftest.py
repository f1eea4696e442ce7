"""Frames such as a sweep writes, made up but consistent: parts add up, and bounds are kept."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

UNITS = 19
MS = 1e-3


def made_profile(units=UNITS):
    rng = np.random.default_rng(7)
    times = rng.uniform(2, 9, units) * MS
    sizes = np.linspace(12.8e6, 0.4e6, units) * rng.uniform(0.5, 1.0, units)
    sizes[-1] = 32_000
    names = [f"features.{i}" for i in range(units - 1)] + ["output"]
    return pd.DataFrame(
        {
            "index": np.arange(1, units + 1),
            "label": [f"P{i}" for i in range(1, units + 1)],
            "name": names,
            "time_s": times,
            "time_min_s": times * 0.93,
            "time_max_s": times * 1.2,
            "flops": (times * 4e10).astype(int),
            "params": np.linspace(900, 1_280_000, units).astype(int),
            "param_bytes": np.linspace(900, 1_280_000, units).astype(int) * 4,
            "activation_bytes": sizes.astype(int),
        }
    )


def made_summary(models=("mobilenet_v2",), links=("none",), depths=(1, 2), repeats=3, stages=2):
    rows = []
    rng = np.random.default_rng(3)
    profile = made_profile()
    times = profile["time_s"].to_numpy()
    sizes = [4_816_896, *profile["activation_bytes"]]
    if stages == 2:
        choices = [(p,) for p in range(UNITS + 1)]
    else:
        choices = [(p, q) for p in range(2, 18, 4) for q in range(p + 3, 19, 5)]
    for model in models:
        for link in links:
            rate = 1e9 if link == "none" else 1e8
            for backend in ("socket", "rpc"):
                for depth in depths:
                    for points in choices:
                        for repeat in range(repeats):
                            rows.append(
                                _trial(model, link, backend, depth, points, repeat, times, sizes, rate, stages, rng)
                            )
    return pd.DataFrame(rows)


def _trial(model, link, backend, depth, points, repeat, times, sizes, rate, stages, rng):
    borders = [0, *points, UNITS]
    noise = rng.normal(1, 0.03, 2 * stages)
    slower = 1.0 if backend == "socket" else 1.15
    compute = [float(times[a:b].sum() * noise[i]) for i, (a, b) in enumerate(pairwise(borders))]
    transfer = [float((sizes[p] * 8 / rate * slower + 0.3 * MS) * noise[stages + i]) for i, p in enumerate(points)]
    longest = max(compute + transfer)
    queue = [0.0 if depth == 1 else max(0.0, longest - one) * 0.6 for one in compute]
    queue[0] = 0.0
    latency = sum(compute) + sum(transfer) + sum(queue)
    bound = 8 / longest
    throughput = min(bound * 0.96, depth * 8 / (latency + 1 * MS))
    label = "-".join(str(p) for p in points)
    name = {0: "input", UNITS: "output"}.get(points[0], f"features.{points[0] - 1}")
    failed = points[0] == 12 and repeat == 0
    measured = {
        "latency_s": latency * 0.995,
        "latency_mean_s": latency,
        "latency_p90_s": latency * 1.04,
        "latency_p99_s": latency * 1.1,
        "response_s": latency + 1 * MS,
        "throughput_img_s": throughput,
        "bound_img_s": bound,
        "efficiency": throughput / bound,
        "activation_bytes": sizes[points[0]],
        "payload_bytes": sizes[points[0]] + 64,
        **{f"stage{i}_compute_s": one for i, one in enumerate(compute)},
        **{f"stage{i}_queue_s": one for i, one in enumerate(queue)},
        **{f"hop{i}_transfer_s": one for i, one in enumerate(transfer)},
        **{f"hop{i}_queue_s": 0.0 for i in range(len(transfer))},
        "queue_s": sum(queue),
        "clock_error_s": 0.0,
        "max_abs_err": 1e-6,
    }
    names = [f"stage {i}" for i in range(stages)] + [f"hop {i}" for i in range(stages - 1)]
    return {
        "model": model,
        "weights": "random",
        "dataset": "synthetic",
        "backend": backend,
        "link": link,
        "batch_size": 8,
        "in_flight": depth,
        "num_stages": stages,
        "granularity": "block",
        "optimize": True,
        "runtime": "eager",
        "precision": "float32",
        "wire": "float32",
        "setup": "",
        "partition_point": points[0] if stages == 2 else label,
        "partition_label": f"P{label}",
        "partition_name": name,
        "repeat": repeat,
        "status": "failed" if failed else "ok",
        "error": "worker 1 died" if failed else None,
        "emulated": False,
        "bottleneck": None if failed else names[int(np.argmax(compute + transfer))],
        "num_microbatches": 8,
        "started_at": "2026-01-01T00:00:00+00:00",
        **(dict.fromkeys(measured, np.nan) if failed else measured),
    }


def made_timeline(microbatches=8, depth=2, stages=(60, 45), transfer=12):
    rows = []
    free = [0.0] * len(stages)
    link = [0.0] * (len(stages) - 1)
    done: list[float] = []
    for seq in range(microbatches):
        ready = 0.0 if seq < depth else done[seq - depth]
        for i, cost in enumerate(stages):
            start = max(ready, free[i])
            end = free[i] = start + cost * (1 + 0.05 * ((seq * 7 + i) % 3))
            spans = [(f"stage {i}", "queue", ready, start), (f"stage {i}", "compute", start, end)]
            if i < len(link):
                begin = max(end, link[i])
                ready = link[i] = begin + transfer
                spans += [(f"hop {i}", "queue", end, begin), (f"hop {i}", "transfer", begin, ready)]
            rows += [
                {
                    "microbatch": seq,
                    "stage_index": i,
                    "lane": lane,
                    "event": event,
                    "start_s": a * MS,
                    "end_s": b * MS,
                    "device": f"local-{i}",
                }
                for lane, event, a, b in spans
            ]
        done.append(end)
    return pd.DataFrame(rows)


@pytest.fixture
def profile():
    return made_profile()


@pytest.fixture(scope="session")
def summary():
    return made_summary()


@pytest.fixture
def summary_of_three_stages():
    return made_summary(stages=3)


@pytest.fixture
def timeline():
    return made_timeline()


@pytest.fixture
def make_summary():
    return made_summary


@pytest.fixture
def make_profile():
    return made_profile


@pytest.fixture
def make_timeline():
    return made_timeline
