"""How sure the front is: the probability of being on it, and which points are as good as tied."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from pplib.analysis.estimated.estimates import Estimates, estimates, together
from pplib.analysis.estimated.stage_levels import HashedTrials
from pplib.analysis.pareto import DIRECTIONS, Mask, front_masks
from pplib.analysis.repeats import POINT_KEYS, Numbers, point_name
from pplib.analysis.required_columns import require_columns
from pplib.analysis.statistics import CONFIGURATION_KEYS
from pplib.errors import FrameError

CERTAINTY = 0.95
"""A difference seen in at least this share of the resamples counts as a difference."""

UNDECIDED = 0.01
"""A point that is as good as the front in at least this share of the resamples is not off it for certain: of twenty
that are equally good each is the best in one of twenty, and in the next sweep one of them is."""


def front_probability(
    summary: pd.DataFrame,
    objectives: Mapping[str, str],
    resamples: int = 2000,
    seed: int = 0,
    indifference: float = 0.0,
    within: Sequence[str] = CONFIGURATION_KEYS,
) -> pd.DataFrame:
    """For every point, in what share of resamples it is as good as its configuration's front.

    A resample is what another sweep might have found: see `estimates`, whose draws these are. Drift that is common to
    the points is in none of them, and the objectives of a trial stay together. With an indifference of 0 to be as good
    as the front is to be on it.

    **What it does not say.** Only the noise between the repeats at hand is in it. With one repeat of every point there
    is nothing to draw from: the configuration then has no probabilities (see `front_note`). The standard error from
    drawing is at most 0.5 / sqrt(resamples), 0.011 for 2000.

    Args:
        summary: one row per trial, the columns of `summary.csv`.
        objectives: column -> "min" or "max"; any number.
        resamples: drawn per configuration.
        seed: the same seed gives the same figures.
        indifference: what difference does not matter, as a share: see `front_masks`.
        within: fronts are those of configurations that are equal in these together, such as `GIVEN_KEYS`.

    Returns:
        One row per configuration and point: `POINT_KEYS`, the objectives' estimates, `on_front` (on the front of the
        estimates and as likely on it as not, or the likeliest of it where none is or the front would have a hole),
        `front_probability` (0..1; NaN where it is not known), `repeats_ok`, and `front_note` (None, or why it is not
        known).

    Raises:
        FrameError: a column is missing or holds no numbers, or an argument makes no sense.

    Source: `estimates`; the use for fronts is ours.
    """
    asked = tuple(objectives.items()), resamples, seed, indifference, tuple(within)
    return _remembered(HashedTrials(summary), *asked).copy()


@functools.lru_cache(maxsize=16)
def _remembered(
    of: HashedTrials,
    objectives: tuple[tuple[str, str], ...],
    resamples: int,
    seed: int,
    indifference: float,
    within: tuple[str, ...],
) -> pd.DataFrame:
    names, signs, rows = [name for name, _ in objectives], _signs(dict(objectives), indifference), []
    for one in together(estimates(of.trials, names, resamples, seed), within):
        on_front, share = _called(one, signs, indifference)
        for i, point in enumerate(one.points):
            row = {**point.keys, **dict(zip(names, one.values[i].tolist(), strict=True))}
            row["on_front"] = bool(on_front[i])
            row["front_probability"] = float(share[i]) if point.count and one.freedom > 0 else float("nan")
            row["repeats_ok"] = point.count
            unknown = None if one.freedom > 0 else "noise unknown: one repeat of every point"
            row["front_note"] = unknown if point.count else "no ok repeat"
            rows.append(row)
    added = [*names, "on_front", "front_probability", "repeats_ok", "front_note"]
    return pd.DataFrame(rows, columns=[*POINT_KEYS, *added]).astype({"on_front": bool})


def ties(
    summary: pd.DataFrame,
    objectives: Mapping[str, str],
    resamples: int = 2000,
    seed: int = 0,
    certainty: float = CERTAINTY,
    indifference: float = 0.0,
) -> pd.DataFrame:
    """Which points cannot be told from a point on the front: their difference is within noise, or does not matter.

    Two points are tied where, over the resamples of `front_probability`, neither dominates the other in
    `certainty` of them **and** neither is better on any one objective in `certainty` of them, by more than
    `indifference`. The second half keeps a trade-off (surely quicker, surely less throughput) from counting as a tie:
    there neither dominates either. Tied points may be swapped for reasons that were not measured. Being tied is not
    transitive.

    Args:
        summary: one row per trial, the columns of `summary.csv`.
        objectives: column -> "min" or "max"; any number.
        resamples: drawn per configuration.
        seed: as `front_probability`, whose draws these are.
        certainty: the share of resamples that makes a difference, in (0.5, 1].
        indifference: what difference does not matter, as a share of the value of the point on the front.

    Returns:
        One row per configuration and point: `POINT_KEYS`, `on_front`, and `tied_with`: labels of the
        points on the front (other than itself) it is tied with, in the model's order, "P4, P5"; ""
        where none; None where it is not known, as in `front_probability`. Points without an ok repeat are
        tied with nothing. `equal_to`: the point on the front in whose group it is: all of a group lie, in
        `certainty` of the resamples, within `indifference` of each other; "" where it is in none.

    Raises:
        FrameError: a column is missing or holds no numbers, or an argument makes no sense.
    """
    if not 0.5 < certainty <= 1:
        raise FrameError(f"certainty: expected a share above 0.5, at most 1, got {certainty}")
    signs = _signs(objectives, indifference)
    rows = []
    for one in estimates(summary, list(objectives), resamples, seed):
        on_front, _ = _called(one, signs, indifference)
        drawn = one.draws * signs
        labels: list[list[str]] = [[] for _ in one.points]
        for front in np.flatnonzero(on_front).tolist():
            for i in np.flatnonzero(_tied_with(drawn, front, certainty, indifference)).tolist():
                if i != front and one.points[i].count:
                    labels[i].append(str(one.points[front].keys["partition_label"]))
        groups = _equal_groups(drawn, np.flatnonzero(on_front).tolist(), certainty, indifference)
        for i, point in enumerate(one.points):
            tied = ", ".join(labels[i]) if one.freedom > 0 or not point.count else None
            equal = str(one.points[groups[i]].keys["partition_label"]) if i in groups else ""
            rows.append({**point.keys, "on_front": bool(on_front[i]), "tied_with": tied, "equal_to": equal})
    return pd.DataFrame(rows, columns=[*POINT_KEYS, "on_front", "tied_with", "equal_to"]).astype({"on_front": bool})


def with_fronts(points: pd.DataFrame, probability: pd.DataFrame) -> pd.DataFrame:
    """`points` with the columns `on_front` and `front_probability` of `probability`, see `front_probability`.

    Args:
        points: one row per configuration and partition point, see `point_estimates`.
        probability: of the same points.

    Raises:
        FrameError: a point of `points` is not in `probability`, or a column is missing.
    """
    for table, what in ((points, "the table of points"), (probability, "the front's probabilities")):
        require_columns(table, POINT_KEYS, what)
    added = ["on_front", "front_probability"]
    require_columns(probability, added, "the front's probabilities")
    found = probability[added].set_axis([point_name(row) for row in probability[POINT_KEYS].to_dict("records")])
    names = [point_name(row) for row in points[POINT_KEYS].to_dict("records")]
    if lacking := sorted(set(names) - set(found.index)):
        raise FrameError(
            f"the front's probabilities: nothing about {lacking[0]}: compute them from the trials that the points "
            "come from"
        )
    return points.assign(**{name: found.loc[names, name].to_numpy() for name in added})


def _called(one: Estimates, signs: Numbers, indifference: float) -> tuple[Mask, Numbers]:
    """Which points are called on the front, and in what share of resamples each is as good as it.

    A point on the front of the estimates that is more likely off it owes that to its luck: it is not called so. But
    where several are about equally good each may be off it more often than not, and the front would have a hole there:
    the likeliest of them is called too where, with `CERTAINTY`, no other that is called outdoes it.
    """
    front = front_masks(one.values[None] * signs, indifference)[0][0]
    share = np.asarray(front_masks(one.draws * signs, indifference)[1].mean(axis=0), dtype=np.float64)
    if one.freedom <= 0 or not front.any():
        return front, share
    called = front & (share >= min(0.5, share[front].max()))
    for i in sorted(np.flatnonzero(front & ~called).tolist(), key=lambda point: -share[point]):
        known = [*np.flatnonzero(called).tolist(), i]
        called[i] = front_masks(one.draws[:, known] * signs, indifference)[1][:, -1].mean() >= CERTAINTY
    return called, share


def _tied_with(drawn: Numbers, front: int, certainty: float, indifference: float) -> Mask:
    """Which points are tied with point `front`; `drawn` has shape (resamples, points, objectives), less is better."""
    reference = drawn[:, front, None, :]
    margin = indifference * np.abs(reference)
    less, more = reference < drawn - margin, reference > drawn + margin
    apart = np.maximum(less.mean(axis=0), more.mean(axis=0)).max(axis=1) >= certainty
    dominates = (less.any(axis=2) & ~more.any(axis=2)).mean(axis=0)
    dominated = (more.any(axis=2) & ~less.any(axis=2)).mean(axis=0)
    return np.asarray(~apart & (np.maximum(dominates, dominated) < certainty), dtype=np.bool_)


def _equal_groups(drawn: Numbers, fronts: list[int], certainty: float, indifference: float) -> dict[int, int]:
    """For points that are as good as equal to one on the front, that one; no two of its group are further apart.

    `drawn` has shape (resamples, points, objectives).
    """
    found: dict[int, int] = {}
    for front in (one for one in fronts if one not in found):
        margin = indifference * np.abs(drawn[:, front])
        low = high = drawn[:, front]
        near = (np.abs(drawn - low[:, None]) <= margin[:, None]).all(axis=2).mean(axis=0)
        for i in np.argsort(-near, kind="stable").tolist():
            lower, higher = np.minimum(low, drawn[:, i]), np.maximum(high, drawn[:, i])
            if i not in found and (higher - lower <= margin).all(axis=1).mean() >= certainty:
                found[i], low, high = front, lower, higher
    return found


def _signs(objectives: Mapping[str, str], indifference: float) -> Numbers:
    """+1 where less is better, -1 where more is; refuses arguments that make no sense."""
    if not 0 <= indifference < 1:
        raise FrameError(f"indifference: expected a share from 0 to below 1, such as 0.02, got {indifference}")
    if not objectives:
        raise FrameError("objectives: expected at least one, such as {'latency_s': 'min'}, got none")
    for name, direction in objectives.items():
        if direction not in DIRECTIONS:
            raise FrameError(f"objectives[{name!r}]: expected 'min' or 'max', got {direction!r}")
    return np.array([1.0 if direction == "min" else -1.0 for direction in objectives.values()])
