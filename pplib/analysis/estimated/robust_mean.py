"""Means of a few repeats to which one that is far off matters little, and how far repeats of a point usually are.

Not by scipy or statsmodels: neither means many small samples at once, which the resampling here is made of, and both
would be on every machine for these twenty lines.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pplib.analysis.repeats import Numbers

Counts = npt.NDArray[np.integer[Any]]

HUBER = 1.5
"""Repeats further from the others than so many standard deviations count less."""


def robust_scale(y: Numbers, at: Counts, repeats: Counts, freedom: float) -> Numbers:
    """The robust standard deviation of the repeats of a point, for each column.

    Args:
        y: (trials, columns) what was measured.
        at: (trials,) the number of each trial's point.
        repeats: (points,) how many trials each point has.
        freedom: the repeats beyond the first of each point, over all points.
    """
    if freedom <= 0:
        return np.ones(y.shape[1])
    middles = np.stack([np.median(y[at == i], axis=0) if n else np.zeros(y.shape[1]) for i, n in enumerate(repeats)])
    several = repeats[at] > 1
    far = np.abs(y - middles[at])[several] * np.sqrt(several.sum() / freedom)
    return np.asarray(np.maximum(1.4826 * np.median(far, axis=0), 1e-12), dtype=np.float64)


def robust_means(samples: Numbers, scale: Numbers) -> Numbers:
    """Means of samples of shape (..., repeats, columns) over their repeats, of shape (..., columns).

    Source: Huber, Robust Estimation of a Location Parameter (1964).
    """
    middle = np.median(samples, axis=-2, keepdims=True)
    for _ in range(5):
        far = np.abs(samples - middle) / scale
        weight = np.minimum(1.0, HUBER / np.maximum(far, 1e-12))
        middle = (samples * weight).sum(axis=-2, keepdims=True) / weight.sum(axis=-2, keepdims=True)
    return np.asarray(middle[..., 0, :], dtype=np.float64)
