"""Values that cannot be: a trial that shows one is wrong, however good it looks."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from pplib.errors import TrialError
from pplib.links import EARLY_S, TOLERANCE, UNSHAPED, LinkProfile
from pplib.records import StageTimeline

BURST_S = 0.001  # a shaper lets this much of its rate through at once, but at least two packets
BURST_BYTES = 3_200
ROUNDING_S = 1e-6


def check_plausible(
    timelines: Sequence[StageTimeline],
    measured: slice,
    payload_bytes: Sequence[int],
    link: LinkProfile = UNSHAPED,
) -> None:
    """Make sure that no transfer was faster than the link and the clocks allow.

    Args:
        timelines: of every stage, on one time base.
        measured: the microbatches that count.
        payload_bytes: what each hop carried per microbatch.
        link: what the hops are meant to be.

    Raises:
        TrialError: a transfer took less than the link's delay, or nothing, beyond the clocks' error; or
            a hop carried more than its rate allows.
    """
    for i, (before, after) in enumerate(itertools.pairwise(timelines)):
        sent, ready, received = (
            np.asarray(one, dtype=np.float64) for one in (before.send_start_s, after.ready_s, after.received_s)
        )
        error_s = before.clock_error_s + after.clock_error_s
        least_s = link.forward.delay_s - link.forward.jitter_s
        took_s = float((received - sent)[measured].min())
        if took_s < least_s - min(EARLY_S, least_s) - error_s - ROUNDING_S:
            raise TrialError(
                f"hop {i}: a transfer took {took_s:.6f} s, less than the link's delay of {least_s:.6f} s and the "
                f"clocks' error of {error_s:.6f} s allow: the clocks of the two devices have moved against each "
                "other, or the data did not cross the link"
            )
        if link.forward.rate_bit_s is not None:
            _check_rate(i, sent, ready, received, measured, payload_bytes[i], link.forward.rate_bit_s, least_s, error_s)


def _check_rate(
    hop: int,
    sent: np.ndarray,
    ready: np.ndarray,
    received: np.ndarray,
    measured: slice,
    payload_bytes: int,
    rate_bit_s: float,
    least_s: float,
    error_s: float,
) -> None:
    """Compare what a hop carried with its rate, over the microbatches whose receiver was ready in time."""
    in_time = ready <= sent
    in_time[1:] &= in_time[:-1]
    counted = np.zeros(len(sent), dtype=bool)
    counted[measured] = True
    counted &= in_time
    previous = np.concatenate([[-np.inf], received[:-1]])
    busy_s = (received - np.maximum(sent, previous - least_s))[counted] - least_s
    burst = max(BURST_BYTES, BURST_S * rate_bit_s / 8)
    carried_bits = max(0.0, payload_bytes - burst) * 8 * len(busy_s)
    possible_bits = (1 + TOLERANCE) * rate_bit_s * float(busy_s.sum() + error_s)
    if carried_bits > possible_bits:
        raise TrialError(
            f"hop {hop}: {len(busy_s)} transfers of {payload_bytes} bytes took {busy_s.sum():.6f} s beyond the delay, "
            f"more than {rate_bit_s / 1e6:.3f} Mbit/s carry: the data did not cross the link, or the times are wrong"
        )
