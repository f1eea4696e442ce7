"""How far times that were predicted are off: what trials have found of some says something of all others.

The logarithm of measured over predicted is taken to be a Gaussian process over the parts of one kind, such as all the
stages that a device may get: a level that all share (the device was slower when it was profiled, or it never rests
now), what is alike for parts that are alike, and what each has to itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Ints = NDArray[np.intp]
_WAVES = 100  # random features that a draw of what is alike is made of
_SCALES = 2.0 ** np.arange(-2.0, 1.5, 0.5)
_SCALE_SD = 0.7  # of their logarithm: how far what parts have to themselves may be from what was expected


@dataclass(frozen=True)
class Prior:
    """What is expected before anything is measured: standard deviations on the log scale.

    Attributes:
        level: of what all share.
        alike: of what parts share that are much nearer to each other than `length`, in units of their places.
        length: see `alike`.
    """

    level: float
    alike: float = 0.0
    length: float = 1.0


@dataclass(frozen=True)
class Found:
    """What was measured of some parts.

    Attributes:
        parts: (m,): which ones, each once.
        errors: (m,): log of measured over predicted.
        noise_sd: (m,): of each, log-scale standard deviation.
    """

    parts: Ints
    errors: Array
    noise_sd: Array


def found_once(parts: Ints, errors: Array, noise_sd: Array) -> Found:
    """What was found of parts, each once: of one that several cuts have the mean, surer ones counting more."""
    distinct, place = np.unique(parts, return_inverse=True)
    weight = np.bincount(place, 1 / noise_sd**2)
    return Found(distinct, np.bincount(place, errors / noise_sd**2) / weight, 1 / np.sqrt(weight))


def draw_errors(
    places: Array, own_sd: Array, prior: Prior, found: Found, draws: int, seed: int, weight: Array | None = None
) -> Array:
    """The errors of all parts, as what was found of some leaves them likely.

    Args:
        places: (n, d): those of parts whose errors are alike are near to each other.
        own_sd: (n,): of what each has to itself.
        prior: see there.
        found: of some of them; it may be of none.
        draws: how many.
        seed: the same seed gives the same draws.
        weight: (n,): how much of `prior` a part has, 0 to 1; 1 for all if not given.

    Returns:
        (n, 1 + draws): what is expected, then draws, which belong together: one column is one possible world.

    Source: Gaussian process regression: Rasmussen, Williams, MIT Press 2006, equation 2.25; draws by Matheron's rule:
    Wilson and others, Efficiently Sampling Functions from Gaussian Process Posteriors, ICML 2020; what is alike from
    random Fourier features: Rahimi, Recht, NIPS 2007.
    """
    rng = np.random.default_rng(seed)
    count, dimensions = places.shape
    weight = np.ones(count) if weight is None else weight
    across = _covariance(places, places[found.parts], prior) * np.outer(weight, weight[found.parts])
    own_sd = own_sd * _scale(across[found.parts], own_sd[found.parts], found)
    waves = rng.standard_normal((dimensions, _WAVES)) / prior.length
    shape = np.sqrt(2 / _WAVES) * np.cos(places @ waves + rng.uniform(0, 2 * np.pi, _WAVES))
    shared = prior.level * rng.standard_normal((1, draws))
    shared = shared + prior.alike * shape @ rng.standard_normal((_WAVES, draws))
    worlds = weight[:, None] * shared + own_sd[:, None] * rng.standard_normal((count, draws))
    expected = np.zeros((count, 1))
    if len(found.parts):
        across[found.parts, np.arange(len(found.parts))] += own_sd[found.parts] ** 2
        among = across[found.parts] + np.diag(found.noise_sd**2)
        measured = worlds[found.parts] + found.noise_sd[:, None] * rng.standard_normal((len(found.parts), draws))
        worlds = worlds + across @ np.linalg.solve(among, found.errors[:, None] - measured)
        expected = across @ np.linalg.solve(among, found.errors[:, None])
    return np.concatenate([expected, worlds], axis=1)


def _scale(shared: Array, own_sd: Array, found: Found) -> float:
    """How many times as large as expected what parts have to themselves is, most likely, by those that were measured.

    Source: maximum a posteriori of the marginal likelihood, Rasmussen, Williams, equation 5.8.
    """

    def likelihood(scale: float) -> float:
        among = shared + np.diag((scale * own_sd) ** 2 + found.noise_sd**2)
        _, size = np.linalg.slogdet(among)
        fit = found.errors @ np.linalg.solve(among, found.errors)
        return float(-0.5 * (fit + size + (np.log(scale) / _SCALE_SD) ** 2))

    return float(max(_SCALES, key=likelihood)) if len(found.parts) else 1.0


def _covariance(some: Array, others: Array, prior: Prior) -> Array:
    """(n, m): of what parts share."""
    apart = ((some[:, None] - others[None]) ** 2).sum(axis=2)
    return np.asarray(prior.level**2 + prior.alike**2 * np.exp(-0.5 * apart / prior.length**2), dtype=np.float64)
