"""What a device takes for any stage of a model, with an interval: from a profile of its units and of some anchors.

A stage takes the sum of its units, each times a factor that all units between two neighbouring cuts of the anchors
share, and what it takes as a stage: a constant, and so much per byte that comes in and goes out. That is a call, the
first touch of what it needs, a conversion of layouts, a copy to an accelerator: every unit that is timed alone pays it,
a stage pays it once. What fuses across a cut is in the factors. All stages that were timed tell of all of these, each
as much as its noise allows; neighbouring factors differ little unless the anchors say so.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pplib.errors import FrameError
from pplib.planner.profiles.device_profile import DeviceProfile, levels

Array = NDArray[np.float64]

# What is expected before anything is known, as standard deviations: of the first factor about 1, of each about the one
# before it, and of what a stage takes as a stage about 0, by a usual unit.
FACTOR_SD, STEP_SD, STAGE_SD = 0.5, 0.3, 0.3
ALONE_SD = 0.5  # how far a unit alone may be from all that: how far they are is told by what they leave
LEAST_SD = 0.02  # no sum is better than that
_STEPS = 3
_MEDIAN = 1.2533  # standard error of a median by that of a mean, of normal values


class StageTime(NamedTuple):
    """Seconds of one microbatch, and the log-scale standard deviation of how far the truth may be from it."""

    seconds: float
    log_sd: float


class StageTimes:
    """Answers for one profile.

    What a trial finds is about these times by its own noise, too, and by how fast the device is then against its usual
    speed while it was profiled: neither is in the intervals.

    Attributes:
        name: of the device.
        powers_w: while it waits, and while it computes; None where that is not known.
        spread: log-scale standard deviation of one round's time of a stage.
        model_sd: how far the sums are off anchors that they were not fitted to, without the noise of both: log-scale,
            from leaving out each anchor in turn.

    Source: Bayesian linear regression of relative errors.
    """

    def __init__(self, profile: DeviceProfile) -> None:
        self.name = profile.name
        idle_w, busy_w = profile.idle_w, profile.busy_w
        self.powers_w = None if idle_w is None or busy_w is None else (idle_w, busy_w)
        self._count, self._bytes = profile.num_units, np.asarray(profile.activation_bytes, dtype=np.float64)
        self._room_bytes = np.inf if profile.room_bytes is None else profile.room_bytes
        level, _, self.spread = levels([one.rounds_s for one in profile.stages])
        known = {(one.first, one.last): (s, one) for one, s in zip(profile.stages, level, strict=True)}
        self._empty_s = [known[end, end][0] for end in (0, self._count)]
        weights = [known[i, i + 1][1].param_bytes for i in range(self._count)]
        self._weights_until = np.concatenate([[0], np.cumsum(weights)])
        self._places = [place for place in known if place[1] > place[0]]
        self._level = np.array([known[place][0] for place in self._places])
        alone = np.array([known[i, i + 1][0] for i in range(self._count)])
        self._alone = np.array([known[i, i + 1][0] - known[i, i + 1][1].copy_s for i in range(self._count)])
        self._is_anchor = np.array([last > first + 1 for first, last in self._places])
        ends = {end for place, anchor in zip(self._places, self._is_anchor, strict=True) if anchor for end in place}
        self._cuts = sorted({0, self._count, *ends})
        rounds = np.array([len(known[place][1].rounds_s) for place in self._places])
        self._noise = _MEDIAN * self.spread / np.sqrt(rounds)
        usual_s = float(alone.mean())
        crossing = float(np.mean(self._bytes[:-1] + self._bytes[1:]))
        self._scale = np.array([1.0] * (len(self._cuts) - 1) + [usual_s, usual_s / crossing])
        self.model_sd, self._alone_sd = LEAST_SD, ALONE_SD
        for _ in range(
            _STEPS
        ):  # how far units alone are off decides what they weigh, beside anchors that count in full
            self._terms, self._covariance, off = self._fitted()
            self._alone_sd = self._excess(off, ~self._is_anchor)
            self.model_sd = self._excess(off, self._is_anchor if self._is_anchor.any() else ~self._is_anchor)

    def at(self, first: int, last: int) -> StageTime:
        """The units after point `first` up to point `last`; equal ones are the empty stage.

        Raises:
            FrameError: there are no such points.
        """
        if not 0 <= first <= last <= self._count:
            raise FrameError(f"expected 0 <= first <= last <= {self._count}, got {first} and {last}")
        if first == last:
            share = first / self._count
            return StageTime(float((1 - share) * self._empty_s[0] + share * self._empty_s[1]), self.spread)
        row = self._row(first, last)
        seconds = max(float(row @ self._terms), 0.1 * float(self._alone[first:last].sum()))
        return StageTime(seconds, float(np.hypot(np.sqrt(row @ self._covariance @ row) / seconds, self.model_sd)))

    def fits(self, first: int, last: int) -> bool:
        """Whether the device's memory has room for the weights of a stage."""
        return bool(self._weights_until[last] - self._weights_until[first] <= self._room_bytes)

    def table(self) -> tuple[Array, Array]:
        """Of every stage: seconds, and log-scale standard deviations; shape (N + 1, N + 1), NaN where last < first.

        A stage that does not fit takes infinitely long.
        """
        seconds, log_sd = (np.full((self._count + 1, self._count + 1), np.nan) for _ in range(2))
        for first, last in itertools.combinations_with_replacement(range(self._count + 1), 2):
            seconds[first, last], log_sd[first, last] = self.at(first, last)
            if not self.fits(first, last):
                seconds[first, last] = np.inf
        return seconds, log_sd

    def _excess(self, off: Array, some: NDArray[np.bool_]) -> float:
        """How far some stages are off, without their noise."""
        return (
            max(LEAST_SD, float(np.sqrt(max(0.0, float((off**2 - self._noise**2)[some].mean())))))
            if some.any()
            else 0.0
        )

    def _row(self, first: int, last: int) -> Array:
        """What is multiplied by the terms: the time of its units alone in each segment; 1; what crosses its ends."""
        ends = [min(max(cut, first), last) for cut in self._cuts]
        parts = [self._alone[start:end].sum() for start, end in itertools.pairwise(ends)]
        return np.array([*parts, 1.0, self._bytes[first] + self._bytes[last]])

    def _fitted(self) -> tuple[Array, Array, Array]:
        """The terms by least squares; their covariance; and how far each stage is from what fits all others, as a share
        of it, without what that fit may be off.
        """
        rows = np.array([self._row(*place) for place in self._places]) / self._level[:, None] * self._scale
        sd = np.hypot(self._noise, np.where(self._is_anchor, LEAST_SD, self._alone_sd))
        size, factors = len(self._scale), len(self._scale) - 2
        before = np.eye(size)
        before[1:factors] -= np.eye(size)[: factors - 1]  # each factor less the one before it
        before_sd = np.array([FACTOR_SD, *[STEP_SD] * (factors - 1), STAGE_SD, STAGE_SD])
        design = np.vstack([rows / sd[:, None], before / before_sd[:, None]])
        wanted = np.concatenate([1 / sd, [1 / FACTOR_SD], np.zeros(size - 1)])
        covariance = np.linalg.inv(design.T @ design)
        terms = covariance @ design.T @ wanted
        leverage = np.einsum("ij,jk,ik->i", rows, covariance, rows) / sd**2
        off = (1 - rows @ terms) / np.sqrt(1 - leverage)
        return terms * self._scale, covariance * np.outer(self._scale, self._scale), off
