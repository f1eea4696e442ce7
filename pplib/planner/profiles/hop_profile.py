"""What a hop takes by itself, over a link that nothing shapes: a fixed time per message, and one per byte."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from pplib.planner.profiles.kept import Kept

_STEPS, _TUNING = 50, 1.345  # of reweighting; Huber's constant, 95 % efficient where errors are normal
_LEAST_SD = 0.01

Amount = TypeVar("Amount", float, NDArray[np.float64])


class Line(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """t(bytes) = fixed_s + per_byte_s x bytes; what was measured lies about it with `log_sd`, on the log scale."""

    fixed_s: float
    per_byte_s: float
    log_sd: float

    def at(self, num_bytes: Amount) -> Amount:
        """Seconds for a message of so many bytes, or for each of several."""
        return self.fixed_s + self.per_byte_s * num_bytes


class HopProfile(Kept, frozen=True, kw_only=True):
    """One hop, one backend, one wire type.

    Bytes are those of an activation as it is, whatever crosses; only of `transfer` and `back` they are what crosses, as
    `hop{i}_payload_bytes` has it.

    Attributes:
        transfer: `hop{i}_transfer_s` less the link's propagation.
        encode, decode: `hop{i}_encode_s` and `hop{i}_decode_s`; None where an activation crosses as it is.
        back: `return_transfer_s` of a result from the last device to the first.
        num_bytes, payload_bytes: of the messages that were sent.
        rounds_s: what transfer, encode, decode and back took: of each message, one time per round.
    """

    transfer: Line
    encode: Line | None
    decode: Line | None
    back: Line
    num_bytes: list[int]
    payload_bytes: list[float]
    rounds_s: dict[str, list[list[float]]]

    def crossing_bytes(self, num_bytes: NDArray[np.float64]) -> NDArray[np.float64]:
        """What crosses of activations of so many bytes, once they are encoded."""
        order = np.argsort(self.num_bytes)
        sizes, crossed = np.asarray(self.num_bytes, dtype=np.float64)[order], np.asarray(self.payload_bytes)[order]
        return np.asarray(np.interp(num_bytes, sizes, crossed), dtype=np.float64)


def fit_line(num_bytes: Sequence[float], rounds_s: Sequence[Sequence[float]]) -> Line:
    """The line through the medians of what messages took, by relative errors, with outliers weighing less.

    Args:
        num_bytes: of each message, 2 or more of them.
        rounds_s: what each took, one entry or more per round, above 0.

    Returns:
        A line neither of whose terms is below 0. Its `log_sd` is that of a median about it, at least 1 %.

    Source: iteratively reweighted least squares with Huber's weights.

    >>> line = fit_line([0, 1e6, 2e6], [[0.001], [0.003], [0.005]])
    >>> round(line.fixed_s, 6), round(line.per_byte_s * 1e6, 6), line.log_sd
    (0.001, 0.002, 0.01)
    """
    sizes = np.asarray(num_bytes, dtype=np.float64)
    times = np.array([np.median(one) for one in rounds_s])
    design = np.stack([np.ones_like(sizes), sizes], axis=1) / times[:, None]
    weights, found, scale = np.ones_like(times), np.zeros(2), 0.0
    for _ in range(_STEPS):
        found = _not_negative(design * weights[:, None], weights)
        off = np.abs(design @ found - 1)
        scale = 1.4826 * float(np.median(off))
        weights = np.sqrt(np.minimum(1.0, _TUNING * max(scale, 1e-9) / np.maximum(off, 1e-12)))
    return Line(fixed_s=float(found[0]), per_byte_s=float(found[1]), log_sd=max(_LEAST_SD, _log_sd(design @ found)))


def _log_sd(ratios: np.ndarray) -> float:
    """Of ratios of fit to measurement, two parameters having been fitted; outliers count."""
    logs = np.log(np.maximum(ratios, 1e-3))
    return float(np.sqrt((logs**2).sum() / max(1, len(logs) - 2)))


def _not_negative(design: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The least squares of two terms, neither below 0: where one would be, the other does it alone."""
    found: np.ndarray = np.linalg.lstsq(design, wanted, rcond=None)[0]
    if (found >= 0).all():
        return found
    alone = [float(column @ wanted / (column @ column)) for column in design.T]
    options = [np.array([alone[0], 0.0]), np.array([0.0, alone[1]])]
    return min(options, key=lambda one: float(((design @ one - wanted) ** 2).sum()))
