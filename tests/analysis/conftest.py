"""Small summaries, written down as what differs between their trials."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

SAME = {
    "model": "mobilenet_v2",
    "weights": "random",
    "dataset": "synthetic",
    "backend": "socket",
    "link": "none",
    "batch_size": 8,
    "in_flight": 1,
    "num_stages": 2,
    "granularity": "block",
    "optimize": True,
    "runtime": "eager",
    "precision": "float32",
    "wire": "float32",
    "setup": "",
}


def make_trials(values, **more):
    """A summary from {point: [(latency_s, throughput_img_s), ...]}: one trial per pair, None for a failed one."""
    rows = []
    for point, repeats in values.items():
        for repeat, pair in enumerate(repeats):
            latency, throughput = (np.nan, np.nan) if pair is None else pair
            rows.append(
                {
                    **SAME,
                    "partition_point": point,
                    "partition_label": f"P{point}",
                    "repeat": repeat,
                    "status": "failed" if pair is None else "ok",
                    "latency_s": float(latency),
                    "latency_p90_s": float(latency),
                    "throughput_img_s": float(throughput),
                    "efficiency": np.nan if pair is None else 0.9,
                    "clock_error_s": np.nan if pair is None else 0.0,
                    **more,
                }
            )
    return pd.DataFrame(rows)


@pytest.fixture(scope="session")
def trials_of():
    return make_trials


@pytest.fixture(scope="session")
def same():
    return dict(SAME)
