"""What a device takes for the stages of one model that were timed on it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from pplib.planner.profiles.kept import Kept

Array = NDArray[np.float64]
_SWEEPS = 20  # of a median polish: it settles in a few


class TimedStage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The units after point `first` up to point `last`, timed alone; one entry of a list per round.

    Attributes:
        first, last: equal for the empty stage.
        rounds_s: mean over a round's runs of what one microbatch takes, by the device's CLOCK_MONOTONIC, copies to
            and from an accelerator and the device's `slowdown` included: a trial's `stage{i}_compute_s`.
        copy_s: of that, the two copies; 0 where there are none.
        param_bytes: of the tensors that the stage holds.
        resident_bytes: of the worker's process while it ran, at its peak; None where the system does not tell.
    """

    first: int
    last: int
    rounds_s: list[float]
    copy_s: float = 0.0
    param_bytes: int = 0
    resident_bytes: int | None = None


class DeviceProfile(Kept, frozen=True, kw_only=True):
    """One device, one model, one runtime.

    Attributes:
        stages: the N units alone, in order; then the empty stages and the anchors.
        activation_bytes: what crosses at each point 0..N, as it is, for one microbatch.
        room_bytes: what the device's memory leaves for weights; None where that is not known.
        idle_w, busy_w: the device's power while it waits, and while it computes, from what trials have their energy
            from; None where there is nothing.
    """

    stages: list[TimedStage]
    activation_bytes: list[int]
    room_bytes: int | None = None
    idle_w: float | None = None
    busy_w: float | None = None

    @property
    def num_units(self) -> int:
        """N."""
        return len(self.activation_bytes) - 1


def levels(rounds_s: Sequence[Sequence[float]]) -> tuple[Array, Array, float]:
    """What each stage takes at the device's usual speed, freed of how fast the device was in each round.

    Args:
        rounds_s: of each stage, one time per round, in s; shape (stages, rounds).

    Returns:
        Levels in s; the device's slowness in each round, log, median 0; and the log-scale standard deviation of one
        round's time about both: what 68 % of them are within, for medians leave many at nothing.

    Source: median polish (Tukey 1977) of the logarithms.

    >>> levels_s, slowness, spread = levels([[1.0, 2.0, 1.0], [3.0, 6.0, 3.0]])
    >>> [round(float(one), 6) for one in levels_s], [round(float(np.exp(one)), 6) for one in slowness], round(spread, 6)
    ([1.0, 3.0], [1.0, 2.0, 1.0], 0.0)
    """
    table = np.log(np.asarray(rounds_s, dtype=np.float64))
    level, slowness = np.zeros(table.shape[0]), np.zeros(table.shape[1])
    for _ in range(_SWEEPS):
        level = np.median(table - slowness, axis=1)
        slowness = np.median(table - level[:, None], axis=0)
        slowness -= np.median(slowness)
    left = table - level[:, None] - slowness
    free = max(1, left.size - left.shape[0] - left.shape[1] + 1)
    spread = float(np.quantile(np.abs(left), 0.6827) * np.sqrt(left.size / free))
    return np.exp(level), slowness, spread


def powers_w(visits: Sequence[tuple[float | None, float, float]]) -> tuple[float, float] | None:
    """A device's power when idle and when computing, by least squares, neither below 0.

    Args:
        visits: of each, its energy in J, how long it was, and how long of that the device computed, in s.

    Returns:
        W; None where a visit has no energy, or where they are too few or too alike to tell the two apart.

    >>> powers_w([(3.0, 1.0, 0.5), (2.0, 1.0, 0.0), (4.0, 1.0, 1.0)])
    (2.0, 4.0)
    """
    if len(visits) < 3 or any(energy is None for energy, _, _ in visits):
        return None
    energy, whole_s, busy_s = np.array(visits, dtype=np.float64).T
    found, _, rank, _ = np.linalg.lstsq(np.stack([whole_s - busy_s, busy_s], axis=1), energy, rcond=1e-6)
    idle_w, busy_w = (round(max(0.0, float(one)), 9) for one in found)
    return (idle_w, busy_w) if rank == 2 else None
