"""Which cuts to measure next, and whether anything that is not measured may still matter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from pplib.planner.prediction import CutDraws

Array = NDArray[np.float64]
CERTAINTY = 0.95


def front_chances(cuts: CutDraws, objectives: Mapping[str, str], measured: Sequence[int], indifference: float) -> Array:
    """How likely each cut is to be better than all measured ones, by more than what does not matter: (cuts,).

    Better than a measured cut is what beats it by more than `indifference` in some objective. 0 for the measured ones.

    Args:
        cuts: what they may do.
        objectives: column -> "min" or "max", of those that are predicted.
        measured: which of them are measured.
        indifference: a share.
    """
    return np.asarray((_gains(_logs(cuts, objectives), measured) > indifference)[:, 1:].mean(axis=1))


def next_cuts(
    cuts: CutDraws, objectives: Mapping[str, str], measured: Sequence[int], indifference: float, most: int
) -> list[int]:
    """The cuts to measure next, best first; none where nothing unmeasured may matter any more.

    One after the other: the one from which most is to be gained over those that are measured or chosen before it, on
    average over what may be; the gain over a set is how much better a cut is than each of it, in the objective in which
    it is that by the most. None is taken any more that gains more than `indifference` with a probability below 5 %.

    Args:
        cuts, objectives, measured, indifference: as of `front_chances`.
        most: so many at most.

    Source: the gain is the additive epsilon indicator, of logarithms: Zitzler and others, IEEE Transactions on
    Evolutionary Computation 7, 2003; its expectation as in Emmerich, Giannakoglou, Naujoks, same 10, 2006.
    """
    logs, chosen = _logs(cuts, objectives), list[int]()
    if not measured and most:
        chosen.append(int(logs[:, 0, 0].argmin()))
    gains = _gains(logs, [*measured, *chosen])
    while len(chosen) < most:
        matters = gains[:, 1:] > indifference
        may = matters.mean(axis=1) > 1 - CERTAINTY
        if not may.any():
            break
        expected = np.where(may, np.where(matters, gains[:, 1:], 0.0).mean(axis=1), -np.inf)
        chosen.append(int(expected.argmax()))
        gains = np.minimum(gains, _gains(logs, chosen[-1:]))
    return chosen


def _logs(cuts: CutDraws, objectives: Mapping[str, str]) -> Array:
    """Logarithms, less is better: (cuts, 1 + draws, objectives)."""
    return np.stack([np.log(cuts.values[name]) * (1 if way == "min" else -1) for name, way in objectives.items()], 2)


def _gains(logs: Array, over: Sequence[int]) -> Array:
    """How much better each cut is than each of those, at least, in its best objective: (cuts, 1 + draws)."""
    gains = np.full(logs.shape[:2], np.inf)
    for one in over:
        gains = np.minimum(gains, (logs[one] - logs).max(axis=2))
    return gains
